"""Every route of the table against every kind of caller, and callers who may touch some keys only."""

import json
import unittest

from api import UNKNOWN_ID, ApiTestCase, element, grant, query
from harness import BASE, Kvd, main, run

PERMISSIONS = ["kv-namespace:read", "kv-namespace:write", "kv-namespace:delete", "kv-entry:read", "kv-entry:write", "kv-entry:delete", "kv-secret:rotate", "kv-audit:read", "kv-token:admin",
               "kv-admin"]
ROUTES = json.loads(run("routes").stdout)

# How a plain request of each operation looks: the path below the base, and the body. {ns} is a namespace that holds the key "k" with
# two versions, {gone} one that was deleted, {token} a
# token.
REQUESTS = {
    "namespace.list": ("/namespaces", None),
    "namespace.create": ("/namespaces", {"name": "created", "applicationId": "app"}),
    "namespace.get": ("/namespaces/{ns}", None),
    "namespace.update": ("/namespaces/{ns}", {"description": "updated"}),
    "namespace.delete": ("/namespaces/{ns}", None),
    "namespace.restore": ("/namespaces/{gone}/restore", None),
    "entry.list": ("/{ns}/entries", None),
    "entry.watch": ("/{ns}/watch", None),
    "entry.get": ("/{ns}/entries/k", None),
    "entry.put": ("/{ns}/entries/k", {"value": "put"}),
    "entry.patch": ("/{ns}/entries/k", {"metadata": {"patched": True}}),
    "entry.delete": ("/{ns}/entries/k", None),
    "bulk.get": ("/{ns}/bulk/get", {"keys": ["k"]}),
    "bulk.set": ("/{ns}/bulk/set", {"entries": [{"keyPath": "k", "value": "set"}]}),
    "bulk.delete": ("/{ns}/bulk/delete", {"keys": ["k"]}),
    "entry.rotate": ("/{ns}/entries/k/rotate", {"value": "rotated"}),
    "entry.versions": ("/{ns}/entries/k/versions", None),
    "entry.rollback": ("/{ns}/entries/k/rollback", {}),
    "audit.list": ("/audit", None),
    "entry.export": ("/{ns}/export", None),
    "token.list": ("/tokens", None),
    "token.create": ("/tokens", {"name": "made", "userId": "made", "grants": [grant("kv-token:admin", application="app")]}),
    "token.revoke": ("/tokens/{token}", None),
    "document.openapi": ("/openapi.json", None),
    "document.viewer": ("/swagger-ui", None),
    "document.viewerFile": ("/swagger-ui/index.html", None),
    "admin.verify": ("/admin/verify", None),
    "admin.job": ("/admin/jobs/{job}", None),
    "admin.backup": ("/admin/backup", None),
    "namespace.rotate-key": ("/admin/rotate-data-key/{secret}", None),
    "admin.forget-master-key": ("/admin/forget-master-key", {"keyId": "0123456789abcdef"}),
}
# These look at many namespaces: whoever holds their permission somewhere sees what it covers.
COLLECTIONS = {"namespace.list", "audit.list", "token.list"}
# These are about the store as a whole: whoever may not is told so, there being nothing to hide.
WHOLE_STORE = {"admin.verify", "admin.job", "admin.backup", "admin.forget-master-key"}
# What a plain request of these answers to whoever may: there is no such master key.
ALLOWED_STATUS = {"admin.forget-master-key": 400}


def is_admin(path):
    return path.startswith("/admin/")


def in_a_namespace(path):
    return any(name in path for name in ("{ns}", "{gone}", "{secret}"))


def requests_of(route):
    """(method, path, body) for each method a route serves."""
    path, body = REQUESTS[route["operation"]]
    methods = [route["method"]] + (["HEAD"] if route["servesHead"] else [])
    return [(method, path, body) for method in methods]


class Matrix(ApiTestCase):
    """A token is called by what it may do."""

    @classmethod
    def setUpClass(cls):
        cls.tokens = [element("none", user="none")]
        add = lambda token, *grants: cls.tokens.append(element(token, *grants, user=token))
        for permission in PERMISSIONS:
            add("only:" + permission, grant(permission))
        for route in ROUTES:
            needed = route["permissions"]
            if needed:
                add("needed:" + route["operation"], grant(*needed))
                add("needed-here:" + route["operation"], grant(*needed, application="app"))
                add("but:" + route["operation"], grant(*[p for p in PERMISSIONS if p not in needed]))
        add("all-elsewhere", grant("*", application="other"))
        add("all-next-door", grant("*", ns="app~next-door"))
        add("all-of-one-name-elsewhere", grant("*", ns="other~shared"))
        super().setUpClass()
        for name, application in (("next-door", "app"), ("shared", "other")):
            answer = cls.kvd.request("POST", "/namespaces", {"name": name, "applicationId": application})
            assert answer.status == 201, answer
        answer = cls.kvd.request("POST", "/admin/verify", admin=True)
        assert answer.status == 202, answer
        cls.job = answer.json()["id"]

    def ask(self, method, path, body=None, **options):
        """A request to the listener that serves it."""
        return self.call(method, path, body, admin=is_admin(path), **options)

    def scene(self):
        """A namespace to work in, a deleted one, and a secret one."""
        ns, gone, secret = self.namespace(), self.namespace(), self.namespace(isSecretNamespace=True)
        for value in ("one", "two"):
            self.put(ns, "k", value)
        self.call("DELETE", "/namespaces/" + gone["id"], status=204)
        token = self.call("POST", "/tokens", REQUESTS["token.create"][1], status=201).json()
        return {"ns": ns["id"], "gone": gone["id"], "secret": secret["id"], "job": self.job, "token": token["id"]}

    def state(self, scene):
        """All that a request could have changed."""
        listed = self.call("GET", f"/{scene['ns']}/entries?includeValues=true").json()
        versions = self.call("GET", f"/{scene['ns']}/entries/k/versions").json()
        deleted = [ns["id"] for ns in self.call("GET", "/namespaces?deleted=true").json()["items"]]
        names = [ns["name"] for ns in self.call("GET", "/namespaces?applicationId=app").json()["items"]]
        tokens = {token["id"]: token["grants"] for token in self.call("GET", "/tokens").json()["items"]}
        return listed, versions, tokens, self.call("GET", "/namespaces/" + scene["ns"]).json(), scene["gone"] in deleted, names

    def each(self):
        """(route, method, path pattern, body) of the whole table."""
        for route in ROUTES:
            self.assertIn(route["operation"], REQUESTS, "a route without a prepared request")
            for method, path, body in requests_of(route):
                with self.subTest(operation=route["operation"], method=method):
                    yield route, method, path, body

    def check_refused(self, status, token, allowed=()):
        """Every route answers `status` to the token, but those of `allowed`; nothing changes."""
        scene = self.scene()
        before = self.state(scene)
        for route, method, path, body in self.each():
            if route["needsCredential"] and route["operation"] not in allowed:
                answer = self.ask(method, path.format(**scene), body, token=token, status=status)
                if method != "HEAD" and status == 403:
                    self.assertEqual(answer.code, "permission-denied")
        self.assertEqual(self.state(scene), before)

    def test_neither_listener_serves_the_routes_of_the_other(self):
        scene = self.scene()
        for route, method, path, body in self.each():
            self.assertEqual(route["listener"] == "admin", is_admin(path))
            answer = self.kvd.request(method, path.format(**scene), body, admin=not is_admin(path))
            self.assertEqual(answer.status, 404, answer)

    def test_every_route_has_a_prepared_request_and_no_other(self):
        self.assertEqual({route["operation"] for route in ROUTES}, set(REQUESTS))
        for route in ROUTES:
            pattern = route["pattern"].removeprefix(BASE)
            path, body = REQUESTS[route["operation"]]
            self.assertEqual(len(path.split("/")), len(pattern.split("/")), route)
            self.assertEqual(route["needsCredential"], bool(route["permissions"]), route)
            self.assertTrue(body is None or route["hasBody"], route)

    def test_without_a_credential_everything_is_401_but_documents(self):
        self.check_refused(401, None)
        for route, method, path, body in self.each():
            if not route["needsCredential"]:
                self.ask(method, path, body, token=None, status=200)

    def test_an_unknown_token_is_401(self):
        for token in ("unknown", self.kvd.token[:-1], self.kvd.token + "x", "None", "x" * 4000):
            self.check_refused(401, token)

    def test_a_token_without_grants_sees_no_namespace(self):
        scene = self.scene()
        for route, method, path, body in self.each():
            if route["needsCredential"]:
                self.ask(method, path.format(**scene), body, token="none", status=404 if in_a_namespace(path) else 403)

    def test_each_permission_alone_allows_the_routes_that_need_it_and_no_other(self):
        for permission in PERMISSIONS:
            allowed = {route["operation"] for route in ROUTES if set(route["permissions"]) <= {permission}}
            with self.subTest(permission=permission):
                self.check_refused(403, "only:" + permission, allowed)
                for route, method, path, body in self.each():
                    if route["operation"] in allowed and route["needsCredential"]:
                        self.check_allowed(route, method, path, body, "only:" + permission)

    def check_allowed(self, route, method, path, body, token):
        scene = self.scene()
        status = ALLOWED_STATUS.get(route["operation"], 202 if is_admin(path) and method == "POST" else None)
        answer = self.ask(method, path.format(**scene), body, token=token, status=status)
        if answer.status == 201 and path == "/namespaces":
            self.call("DELETE", "/namespaces/" + answer.json()["id"])
        return answer

    def test_all_permissions_but_the_needed_ones_are_not_enough(self):
        for route, method, path, body in self.each():
            if route["permissions"]:
                scene = self.scene()
                before = self.state(scene)
                answer = self.ask(method, path.format(**scene), body, token="but:" + route["operation"], status=403)
                if method != "HEAD":
                    self.assertEqual(answer.code, "permission-denied")
                self.assertEqual(self.state(scene), before)

    def test_the_needed_permissions_are_enough(self):
        for route, method, path, body in self.each():
            if route["permissions"]:
                self.check_allowed(route, method, path, body, "needed:" + route["operation"])
                if route["operation"] not in WHOLE_STORE:
                    self.check_allowed(route, method, path, body, "needed-here:" + route["operation"])

    def test_the_whole_store_needs_a_grant_on_everything(self):
        scene = self.scene()
        for route, method, path, body in self.each():
            if route["operation"] in WHOLE_STORE:
                for token in ("needed-here:" + route["operation"], "all-elsewhere", "all-next-door", "none"):
                    self.ask(method, path.format(**scene), body, token=token, code="permission-denied")

    def test_the_root_token_may_do_everything(self):
        for route, method, path, body in self.each():
            self.check_allowed(route, method, path, body, True)

    def test_grants_elsewhere_find_no_namespace_here(self):
        for token in ("all-elsewhere", "all-next-door", "all-of-one-name-elsewhere"):
            self.check_refused(404, token, allowed={"namespace.create", "token.create", *COLLECTIONS, *WHOLE_STORE})
            scene = self.scene()
            # A namespace may be made only where the grant reaches.
            self.call("POST", "/namespaces", {"name": "made", "applicationId": "app"}, token=token, code="permission-denied")
            listed = self.call("GET", "/namespaces", token=token).json()["items"]
            self.assertEqual({ns["name"] for ns in listed}, {"shared"} if token != "all-next-door" else {"next-door"})
            for row in self.call("GET", "/audit?limit=1000", token=token).json()["items"]:
                self.assertNotEqual(row["namespaceId"], scene["ns"])
                self.assertNotIn(row["keyPath"], ("k",))

    def test_a_namespace_one_may_not_see_looks_like_one_that_is_not(self):
        scene = self.scene()
        missing = {"ns": UNKNOWN_ID, "gone": UNKNOWN_ID, "secret": UNKNOWN_ID}
        for route, method, path, body in self.each():
            if in_a_namespace(path) and method != "HEAD" and route["needsCredential"]:
                answers = [self.ask(method, path.format(**ids), body, token="all-elsewhere", status=404) for ids in (scene, missing)]
                hidden, absent = ({**answer.json(), "requestId": ""} for answer in answers)
                self.assertEqual(hidden, absent)
                hidden, absent = ({**answer.headers, "x-request-id": "", "date": ""} for answer in answers)
                self.assertEqual(hidden, absent)

    def test_refusals_are_recorded_under_the_caller(self):
        scene = self.scene()
        for route, method, path, body in self.each():
            if route["permissions"]:
                token = "but:" + route["operation"]
                self.ask(method, path.format(**scene), body, token=token, status=403, headers={"X-Request-Id": "refused-" + route["operation"]})
                rows = [r for r in self.audit(userId=token) if r["operation"] == route["operation"]]
                self.assertTrue(rows)
                self.assertEqual({(r["success"], r["reason"], r["action"]) for r in rows}, {(False, "permission-denied", route["action"])})


class MoreThanOnePermission(ApiTestCase):
    """Requests that ask for more than their plain form."""

    CASES = [
        ("GET", "/{ns}/entries?includeValues=true", None, ["kv-namespace:read", "kv-entry:read"]),
        ("PUT", "/{ns}/entries/k?includeValue=true", {"value": 1}, ["kv-entry:write", "kv-entry:read"]),
        ("POST", "/{ns}/entries/k/rotate?includeValue=true", {"value": "new"}, ["kv-secret:rotate", "kv-entry:read"]),
        ("POST", "/{ns}/entries/k/rollback?includeValue=true", {}, ["kv-secret:rotate", "kv-entry:read"]),
        ("DELETE", "/{ns}/entries/k?purge=true", None, ["kv-entry:delete", "kv-secret:rotate"]),
        ("POST", "/{ns}/bulk/delete", {"keys": ["k"], "purge": True}, ["kv-entry:delete", "kv-secret:rotate"]),
        ("DELETE", "/namespaces/{ns}?purge=true", None, ["kv-namespace:delete", "kv-entry:delete"]),
        ("PUT", "/namespaces/{ns}", {"historyLimit": 5}, ["kv-namespace:write", "kv-entry:delete"]),
        ("PUT", "/namespaces/{ns}", {"keepsHistory": False}, ["kv-namespace:write", "kv-entry:delete"]),
    ]
    tokens = [element(p, grant(p), user=p) for p in PERMISSIONS] + \
             [element("+".join(needed), grant(*needed)) for needed in {tuple(n) for *_, n in CASES}]

    def test_both_are_needed(self):
        for method, path, body, needed in self.CASES:
            with self.subTest(path=path, body=body):
                ns = self.namespace()
                for value in ("one", "two"):
                    self.put(ns, "k", value)
                for permission in needed:
                    self.call(method, path.format(ns=ns["id"]), body, token=permission, code="permission-denied")
                self.assertEqual(self.get(ns, "k").json()["version"], 2)
                self.call(method, path.format(ns=ns["id"]), body, token="+".join(needed))

    def test_a_higher_history_limit_destroys_nothing_and_needs_no_more(self):
        ns = self.namespace(historyLimit=5)
        self.call("PUT", "/namespaces/" + ns["id"], {"historyLimit": 6}, token="kv-namespace:write", status=200)
        self.call("PUT", "/namespaces/" + ns["id"], {"historyLimit": None}, token="kv-namespace:write", status=200)
        self.call("PUT", "/namespaces/" + ns["id"], {"historyLimit": 100}, token="kv-namespace:write", code="permission-denied")

    def test_a_purge_of_a_key_without_history_needs_the_right_to_delete_alone(self):
        ns = self.namespace()
        self.put(ns, "k", 1)
        self.call("DELETE", self.entry_path(ns, "k", "?purge=true"), token="kv-entry:delete", status=204)


class OrderOfJudgement(ApiTestCase):
    """401, then 400, then 404 or 403 by grant, then what the state says."""

    tokens = [element("reader", grant("kv-entry:read", application="app")), element("writer", grant("kv-entry:write", application="app"))]

    def test_what_is_wrong_with_a_request_is_told_before_what_its_caller_may(self):
        ns = self.namespace()
        self.put(ns, "k", 1)
        one = self.entry_path(ns, "k")
        for method, path, body, field in (("PUT", one, {"value": 1, "x": 1}, "x"), ("PUT", one, {"value": None}, "value"), ("PUT", one, {"value": "x", "valueType": "NUMBER"}, "value"),
                                          ("PUT", one + "?x=1", {"value": 1}, "x"), ("PATCH", one, {"ttlSeconds": 0}, "ttlSeconds"), ("POST", one + "/rotate", {}, "value"),
                                          ("POST", one + "/rollback", {"version": 0}, "version"), ("DELETE", one, {"expectedVersion": -1}, "expectedVersion"),
                                          ("GET", f"/{ns['id']}/entries?limit=0", None, "limit"), ("POST", f"/{ns['id']}/bulk/set", {"entries": 1}, "entries"),
                                          ("PUT", "/namespaces/" + ns["id"], {"historyLimit": 0}, "historyLimit"), ("POST", "/namespaces", {}, "name"), ("GET", "/audit?order=up", None, "order")):
            with self.subTest(path=path, body=body):
                self.call(method, path, body, token=None, code="unauthenticated")
                self.call(method, path, body, token="reader", status=400, field=field)
                self.call(method, path, body, status=400, field=field)

    def test_what_a_caller_may_is_told_before_the_state(self):
        ns = self.namespace()
        self.put(ns, "k", 1)
        off = self.namespace(keepsHistory=False)
        self.put(off, "k", 1)
        for method, path, body, headers, status in (("PUT", self.entry_path(ns, "k"), {"value": 1, "expectedVersion": 9}, None, 409), ("PUT", self.entry_path(ns, "k"), {"value": 1}, {"If-Match": '"x"'}, 412),
                                                    ("PUT", self.entry_path(ns, "k"), {"value": 1, "id": UNKNOWN_ID}, None, 400), ("PATCH", self.entry_path(ns, "nothing"), {}, None, 404),
                                                    ("DELETE", self.entry_path(ns, "nothing"), None, None, 404), ("DELETE", self.entry_path(ns, "k"), None, {"If-None-Match": "*"}, 412),
                                                    ("POST", self.entry_path(off, "k", "/rotate"), {"value": 1}, None, 409), ("POST", self.entry_path(ns, "k", "/rollback"), {"version": 1}, None, 409),
                                                    ("PUT", "/namespaces/" + ns["id"], {"applicationId": "x"}, None, 409), ("PUT", "/namespaces/" + ns["id"], {"version": 7}, None, 409)):
            with self.subTest(method=method, path=path, body=body):
                self.call(method, path, body, token="reader", headers=headers, code="permission-denied")
                self.call(method, path, body, headers=headers, status=status)
        self.call("GET", self.entry_path(ns, "nothing"), token="writer", code="permission-denied")
        self.call("GET", self.entry_path(ns, "nothing"), token="reader", code="not-found")


ENTRY_PERMISSIONS = ["kv-namespace:read", "kv-entry:read", "kv-entry:write", "kv-entry:delete", "kv-secret:rotate", "kv-audit:read"]


class KeyPatterns(ApiTestCase):
    """Callers who may touch some keys see and touch those only."""

    KEYS = ["app", "app/db", "app/db/host", "app/db/port", "app/dbx", "app/web", "other", "one/key", "one/key/below", "zz"]
    PATTERNS = {
        "exact": (["one/key"], {"one/key"}),
        "folder": (["app/db/**"], {"app/db/host", "app/db/port"}),
        "several": (["app/db/**", "one/key", "app/web", "app/db/host"], {"app/db/host", "app/db/port", "one/key", "app/web"}),
        "all": (["*"], set(KEYS)),
        "missing": (["not/there"], set()),
    }
    tokens = [element(name, grant(*ENTRY_PERMISSIONS, application="app", keys=keys), user=name) for name, (keys, _) in PATTERNS.items()] + [
        element("mixed", grant("kv-namespace:read", application="app", keys=["app/**", "one/key"]), grant("kv-entry:read", application="app", keys=["app/db/**", "zz"]), user="mixed")]

    def setUp(self):
        self.ns = self.namespace()
        for round_number in (1, 2):
            entries = [{"keyPath": key, "value": f"{key} {round_number}"} for key in self.KEYS]
            self.call("POST", f"/{self.ns['id']}/bulk/set", {"entries": entries})

    def callers(self):
        for name, (_, visible) in self.PATTERNS.items():
            with self.subTest(caller=name):
                yield name, visible

    def path(self, suffix):
        return f"/{self.ns['id']}/{suffix}"

    def test_lists_show_only_what_is_theirs(self):
        for name, visible in self.callers():
            for parameters in ({}, {"limit": 1}, {"limit": 2, "includeValues": True}, {"includeValues": True}):
                items, cursor = [], None
                while True:
                    page = self.call("GET", self.path("entries") + query(cursor=cursor, **parameters), token=name, status=200).json()
                    items += page["items"]
                    cursor = page["nextCursor"]
                    if cursor is None:
                        break
                self.assertEqual([i["keyPath"] for i in items], sorted(visible))
            listed = self.call("GET", self.path("entries?prefix=app/"), token=name).json()
            self.assertEqual([i["keyPath"] for i in listed["items"]], sorted(k for k in visible if k.startswith("app/")))

    def test_folders_show_only_where_something_in_them_is_theirs(self):
        for name, folders, items in (("exact", ["one/"], []), ("folder", ["app/"], []), ("several", ["app/", "one/"], []), ("missing", [], []), ("all", ["app/", "one/"], ["app", "other", "zz"])):
            body = self.call("GET", self.path("entries?delimiter=/"), token=name).json()
            self.assertEqual((body["prefixes"], [i["keyPath"] for i in body["items"]]), (folders, items), name)

    def test_a_list_with_values_shows_what_is_both_visible_and_readable(self):
        keys = lambda suffix: [i["keyPath"] for i in self.call("GET", self.path(suffix), token="mixed").json()["items"]]
        self.assertEqual(keys("entries"), ["app/db", "app/db/host", "app/db/port", "app/dbx", "app/web", "one/key"])
        self.assertEqual(keys("entries?includeValues=true"), ["app/db/host", "app/db/port"])

    def test_single_keys(self):
        for name, visible in self.callers():
            for key in self.KEYS:
                one = self.entry_path(self.ns, key)
                for method, path, body in (("GET", one, None), ("HEAD", one, None), ("GET", one + "?version=1", None), ("GET", one + "/versions?includeValues=true", None),
                                           ("PUT", one, {"value": "put"}), ("PATCH", one, {"metadata": {"p": 1}}), ("POST", one + "/rotate", {"value": "r"}), ("POST", one + "/rollback", {}),
                                           ("DELETE", one, None), ("PUT", one, {"value": "again"}), ("DELETE", one + "?purge=true", None)):
                    answer = self.call(method, path, body, token=name, status=None if key in visible else 403)
                    if key not in visible and method != "HEAD":
                        self.assertEqual(answer.code, "permission-denied")
            self.assertEqual(self.keys(self.ns), sorted(set(self.KEYS) - visible))
            self.setUp()

    def test_a_key_that_is_not_there_is_denied_before_it_is_missing(self):
        for key in ("nowhere", "app/nowhere"):
            self.call("GET", self.entry_path(self.ns, key), token="folder", code="permission-denied")
            self.call("DELETE", self.entry_path(self.ns, key), token="folder", code="permission-denied")
        self.call("GET", self.entry_path(self.ns, "app/db/nowhere"), token="folder", code="not-found")
        self.call("PUT", self.entry_path(self.ns, "app/db"), {"value": 1}, token="folder", code="permission-denied")
        self.call("PUT", self.entry_path(self.ns, "app/db/new"), {"value": 1}, token="folder", status=201)

    def test_bulks(self):
        for name, visible in self.callers():
            hidden = sorted(set(self.KEYS) - visible)
            if hidden:
                answer = self.call("POST", self.path("bulk/get"), {"keys": self.KEYS}, token=name, code="permission-denied")
                self.assertEqual(sorted(e["keyPath"] for e in answer.json()["errors"]), hidden)
                entries = [{"keyPath": key, "value": "bulk"} for key in self.KEYS]
                answer = self.call("POST", self.path("bulk/set"), {"entries": entries}, token=name, code="permission-denied")
                if "errors" in answer.json():
                    self.assertEqual(sorted(e["keyPath"] for e in answer.json()["errors"]), hidden)
                self.call("POST", self.path("bulk/delete"), {"keys": self.KEYS}, token=name, code="permission-denied")
                self.call("POST", self.path("bulk/delete"), {"keys": self.KEYS, "purge": True}, token=name, code="permission-denied")
                self.assertEqual(self.keys(self.ns), sorted(self.KEYS))
            if visible:
                got = self.call("POST", self.path("bulk/get"), {"keys": sorted(visible)}, token=name).json()
                self.assertEqual([(e["keyPath"], e["value"]) for e in got["entries"]], [(k, k + " 2") for k in sorted(visible)])
            results = self.call("POST", self.path("bulk/set"), {"entries": [{"keyPath": key, "value": "bulk"} for key in self.KEYS], "atomic": False}, token=name, status=200).json()["results"]
            self.assertEqual({r["keyPath"] for r in results if r["status"] == "updated"}, visible)
            self.assertEqual({r["keyPath"] for r in results if r["status"] == "failed"}, set(hidden))
            body = self.call("POST", self.path("bulk/delete"), {"keys": self.KEYS, "atomic": False}, token=name, status=200).json()
            self.assertEqual((set(body["deleted"]), {e["keyPath"] for e in body["failed"]}), (visible, set(hidden)))
            self.assertEqual(self.keys(self.ns), hidden)
            self.setUp()

    def test_exports(self):
        for name, visible in self.callers():
            body = self.call("GET", self.path("export?format=json"), token=name, status=200).json()
            self.assertEqual(set(body.values()), {key + " 2" for key in visible})
            self.assertEqual(set(body), {key.upper().replace("/", "_") for key in visible})
            body = self.call("GET", self.path("export?format=json&prefix=app/db"), token=name, status=200).json()
            self.assertEqual(set(body), {key[len("app/db/"):].upper() for key in visible if key.startswith("app/db/")})

    def test_audit_rows(self):
        for key in self.KEYS:
            self.get(self.ns, key)
        for name, visible in self.callers():
            rows = self.call("GET", "/audit" + query(namespaceId=self.ns["id"], limit=1000), token=name, status=200).json()["items"]
            seen = {r["keyPath"] for r in rows if r["operation"] == "entry.get"}
            self.assertEqual(seen, visible)
            if name != "all":
                self.assertLessEqual({r["keyPath"] for r in rows}, visible)

    def test_what_is_about_the_namespace_itself_needs_all_its_keys(self):
        for name, _ in self.callers():
            self.call("GET", "/namespaces/" + self.ns["id"], token=name, status=200 if name == "all" else 403)
            listed = [ns["id"] for ns in self.call("GET", "/namespaces", token=name, status=200).json()["items"]]
            self.assertEqual(self.ns["id"] in listed, name == "all")


class PrintedTokens(unittest.TestCase):
    """What `kvd token` prints is what the tokens file takes."""

    def test_a_printed_line_logs_in_with_its_grants_until_it_ends(self):
        def printed(*arguments):
            lines = run("token", "--user", "printed", *arguments).stdout.splitlines()
            return lines[0], json.loads(lines[1])
        everything, reader = printed("--grant", "*"), printed("--grant", "permissions=kv-entry:read,kv-namespace:read;applicationId=app;namespaceId=app~one;keys=config/**,x")
        json_grant = printed("--grant", json.dumps(grant("kv-entry:read", keys=["y"])))
        ended = printed("--grant", "*", "--expires-at", "2001-01-01T00:00:00Z")
        with Kvd(tokens=[line for _, line in (everything, reader, json_grant, ended)]) as kvd:
            self.assertEqual(kvd.request("POST", "/namespaces", {"name": "one", "applicationId": "app"}, token=everything[0]).status, 201)
            for key in ("config/a", "x", "y"):
                self.assertEqual(kvd.request("PUT", f"/app~one/entries/{key}", {"value": key}, token=everything[0]).status, 201)
            for token, statuses in ((everything[0], (200, 200, 200)), (reader[0], (200, 200, 403)), (json_grant[0], (403, 403, 200)), (ended[0], (401, 401, 401))):
                self.assertEqual(tuple(kvd.request("GET", f"/app~one/entries/{key}", token=token).status for key in ("config/a", "x", "y")), statuses)
            self.assertEqual(kvd.request("PUT", "/app~one/entries/x", {"value": 1}, token=reader[0]).status, 403)
            rows = kvd.request("GET", "/audit?operation=entry.put").json()["items"]
            self.assertEqual({r["userId"] for r in rows}, {"printed"})


if __name__ == "__main__":
    main()
