"""What the tests of the API share: requests whose answers are held against what every answer must be, and the members of bodies."""

import hashlib
import json
import re
import sys
import unittest
import urllib.parse

import storages
from harness import BASE, Kvd

NAMESPACE_MEMBERS = {
    "id", "name", "description", "applicationId", "isSecretNamespace", "defaultTtlSeconds", "keepsHistory", "historyLimit",
    "deletionProtection", "sealing", "version", "revision", "createdAt", "createdBy", "updatedAt", "updatedBy"}
ENTRY_MEMBERS = {
    "id", "namespaceId", "keyPath", "value", "valueType", "version", "revision", "ttlSeconds", "expiresAt", "metadata",
    "createdAt", "createdBy", "updatedAt", "updatedBy"}
WITHOUT_VALUE = ENTRY_MEMBERS - {"value"}
VERSION_MEMBERS = {
    "version", "valueType", "reason", "comment", "changedBy", "changedAt", "requestId", "current", "rolledBackFrom"}
AUDIT_MEMBERS = {
    "id", "stream", "sequence", "timestamp", "namespaceId", "entryId", "keyPath", "action", "operation", "userId", "credentialId",
    "applicationId", "peer", "requestId", "success", "reason", "version", "count"}
PROBLEM_MEMBERS = {
    "type", "title", "status", "detail", "code", "requestId", "field", "keyPath", "limit", "currentVersion", "errors"}
STATUS_OF = {
    "invalid-request": 400, "invalid-key": 400, "reserved-key-segment": 400, "invalid-value": 400, "read-only-field": 400,
    "invalid-cursor": 400, "malformed-body": 400, "unauthenticated": 401, "permission-denied": 403, "not-found": 404,
    "method-not-allowed": 405, "request-timeout": 408, "length-required": 411, "too-large": 413, "target-too-long": 414,
    "unsupported-media-type": 415, "expectation-failed": 417, "rate-limited": 429, "headers-too-large": 431,
    "version-conflict": 409, "namespace-exists": 409, "history-disabled": 409, "history-required": 409, "immutable": 409,
    "deletion-protected": 409, "current-version": 409, "name-conflict": 409, "bulk-failed": 409, "precondition-failed": 412,
    "internal": 500, "integrity": 500, "outcome-unknown": 504, "storage-full": 507, "unavailable": 503, "overloaded": 503,
    "audit-unavailable": 503, "shutting-down": 503, "clock-unsound": 503}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ETAG = re.compile(r'"[^"\s]+-\d+"')
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


class Literal(str):
    """A number as it stood in the text: equal to no other spelling of it."""

    def __repr__(self):
        return f"Literal({str(self)})"


def exact(text):
    """JSON with its numbers as Literals."""
    return json.loads(text, parse_int=Literal, parse_float=Literal, parse_constant=lambda name: 1 / 0)


def key_url(key):
    return urllib.parse.quote(key, safe="/")


def query(**parameters):
    """?a=b&c=d; True and False in lower case, None left out."""
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items() if value is not None}
    return "?" + urllib.parse.urlencode(texts) if texts else ""


def grant(*permissions, application="*", ns="*", keys=("*",)):
    return {"permissions": list(permissions), "applicationId": application, "namespaceId": ns, "keys": list(keys)}


def element(token, *grants, user="alice", **more):
    """One element of a tokens file."""
    return {"userId": user, "tokenSha256": hashlib.sha256(token.encode()).hexdigest(), "grants": list(grants), **more}


class Document:
    """What the API document says of routes: every answer is held against it."""

    def __init__(self, document):
        self.paths = []
        for pattern, operations in document["paths"].items():
            expression = re.escape(pattern).replace(r"\{key\}", ".*").replace(r"\{nsId\}", "[^/]*").replace(r"\{id\}", "[^/]*").replace(r"\{file\}", "[^/]*")
            self.paths.append((pattern, re.compile(expression), operations))

    def statuses(self, method, path):
        """The statuses that the route may answer with; None where the document has no such route."""
        path = path.split("?")[0]
        found = [(pattern, operations) for pattern, expression, operations in self.paths if expression.fullmatch(path) and method.lower() in operations]
        if not found:
            return None
        # Of two that fit, the one with the longer pattern says more: an operation on a key, not a key of that name.
        operation = max(found, key=lambda one: len(one[0]))[1][method.lower()]
        return set(operation["responses"])


def on_every_storage(tests):
    """Runs the tests of a mixin on SQLite and in memory: two classes beside it. Or on PostgreSQL, if that is asked for."""
    module = sys.modules[tests.__module__]
    every = (("OnPostgresql", "sqlite"),) if storages.IS_POSTGRESQL else (("OnSqlite", "sqlite"), ("InMemory", "memory:"))
    for suffix, storage in every:
        case = type(tests.__name__ + suffix, (tests, ApiTestCase), {"__module__": tests.__module__, "storage": storage})
        setattr(module, case.__name__, case)
    return tests


class ApiTestCase(unittest.TestCase):
    """Tests that share one kvd. `tokens` are elements of its tokens file."""

    storage = "sqlite"
    flags = ()
    tokens = None
    admin = True
    environment = None

    @classmethod
    def setUpClass(cls):
        cls.kvd = Kvd(*cls.flags, storage=cls.storage, tokens=cls.tokens, admin=cls.admin, environment=cls.environment)
        cls.names_made = 0
        cls.document = Document(cls.kvd.request("GET", "/openapi.json").json())

    @classmethod
    def tearDownClass(cls):
        cls.kvd.stop()

    # ---- requests ----

    def call(self, method, path, body=None, status=None, code=None, field=None, **options):
        """A request; its answer is held against what every answer must be, and against what is given here."""
        answer = self.kvd.request(method, path, body, **options)
        self.check_common(method, answer, options.get("headers") or {})
        self.check_documented(method, path, answer)
        what = f"{method} {path}: {answer}"
        if code is not None:
            self.assertEqual((answer.status, self.code_of(method, answer)), (STATUS_OF[code], code), what)
        elif status is None:
            self.assertIn(answer.status, (200, 201, 202, 204), what)
        if status is not None:
            self.assertEqual(answer.status, status, what)
        if field is not None:
            self.assertEqual(answer.json().get("field"), field, what)
        return answer

    def code_of(self, method, answer):
        return answer.code if method != "HEAD" and answer.status >= 400 else None

    def check_common(self, method, answer, sent):
        headers = answer.headers
        self.assertEqual(headers.get("cache-control"), "no-store", answer)
        self.assertEqual(headers.get("x-content-type-options"), "nosniff", answer)
        self.assertTrue(headers.get("x-request-id"), answer)
        if "X-Request-Id" in sent:
            self.assertEqual(headers["x-request-id"], sent["X-Request-Id"])
        if answer.status in (204, 304):
            self.assertEqual(answer.body, b"")
        if answer.status >= 400:
            self.check_problem(method, answer)

    def check_documented(self, method, path, answer):
        if path.startswith(("/healthz", "/readyz", "/metrics")):
            return
        statuses = self.document.statuses(method, path if path.startswith(BASE) else BASE + path)
        if statuses is not None:
            self.assertIn(str(answer.status), statuses, f"{method} {path}: a status that the API document does not know: {answer}")

    def check_problem(self, method, answer):
        self.assertEqual(answer.headers["content-type"], "application/problem+json", answer)
        if answer.status == 401:
            self.assertEqual(answer.headers["www-authenticate"], "Bearer")
        if answer.status == 405:
            self.assertTrue(answer.headers["allow"])
        self.assertEqual("retry-after" in answer.headers, answer.status in (429, 503), answer)
        if method == "HEAD":
            return
        problem = answer.json()
        self.assertLessEqual(set(problem), PROBLEM_MEMBERS)
        self.assertEqual(STATUS_OF[problem["code"]], answer.status)
        self.assertEqual(problem["type"], "urn:kvd:problem:" + problem["code"])
        self.assertEqual(problem["status"], answer.status)
        self.assertTrue(problem["title"] and problem["detail"], problem)
        self.assertEqual(problem["requestId"], answer.headers["x-request-id"])

    # ---- what stands in answers ----

    def check_namespace(self, body):
        self.assertEqual(set(body), NAMESPACE_MEMBERS)
        self.assertRegex(body["id"], UUID)
        self.check_times(body)

    def check_entry(self, body, with_value=True):
        self.assertEqual(set(body), ENTRY_MEMBERS if with_value else WITHOUT_VALUE, body)
        self.assertRegex(body["id"], UUID)
        self.assertRegex(body["namespaceId"], UUID)
        self.assertIsInstance(body["metadata"], dict)
        self.check_times(body)
        self.assertEqual(body["ttlSeconds"] is None, body["expiresAt"] is None)
        if body["expiresAt"] is not None:
            self.assertRegex(body["expiresAt"], TIME)

    def check_times(self, body):
        for name in ("createdAt", "updatedAt"):
            self.assertRegex(body[name], TIME)
        self.assertLessEqual(body["createdAt"], body["updatedAt"])

    # ---- shorthands ----

    def namespace(self, **members):
        """A new namespace: its body."""
        type(self).names_made += 1
        members.setdefault("name", f"ns-{self.names_made}")
        members.setdefault("applicationId", "app")
        return self.call("POST", "/namespaces", members, status=201).json()

    def entry_path(self, ns, key, suffix=""):
        ns = ns["id"] if isinstance(ns, dict) else ns
        return f"/{ns}/entries/{key_url(key)}{suffix}"

    def put(self, ns, key, value="v", status=None, code=None, field=None, parameters="", headers=None, token=True, **members):
        return self.call("PUT", self.entry_path(ns, key, parameters), {"value": value, **members}, status=status, code=code,
                         field=field, headers=headers, token=token)

    def get(self, ns, key, **options):
        return self.call("GET", self.entry_path(ns, key), **options)

    def value(self, ns, key, **options):
        return self.get(ns, key, status=200, **options).json()["value"]

    def list(self, ns, **parameters):
        return self.call("GET", f"/{ns['id']}/entries" + query(**parameters), status=200).json()

    def keys(self, ns, **parameters):
        return [item["keyPath"] for item in self.list(ns, **parameters)["items"]]

    def pages(self, path, **parameters):
        """All items of a list, page by page."""
        items, cursor = [], None
        while True:
            page = self.call("GET", path + query(cursor=cursor, **parameters), status=200).json()
            self.assertEqual(set(page) - {"prefixes", "revision"}, {"items", "nextCursor"})
            items.append(page["items"])
            cursor = page["nextCursor"]
            if cursor is None:
                return items

    def versions(self, ns, key, **parameters):
        return self.call("GET", self.entry_path(ns, key, "/versions") + query(**parameters), status=200).json()["items"]

    def audit(self, **parameters):
        """Audit rows of all pages, oldest first."""
        pages = self.pages("/audit", order="asc", **parameters)
        return [row for page in pages for row in page]

    def rows_of(self, request_id, **parameters):
        """The audit rows that the request with this id made."""
        return [row for row in self.audit(**parameters) if row["requestId"] == request_id]
