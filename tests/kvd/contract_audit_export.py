"""The contract of the audit log and of exports, and of what stands around them."""

import base64
import json
import os
import subprocess
import tempfile

from api import AUDIT_MEMBERS, TIME, UNKNOWN_ID, UUID, ApiTestCase, element, grant, on_every_storage, query
from harness import BASE, main, until

MIB = 1 << 20


@on_every_storage
class Audit:
    tokens = [element("auditor", grant("kv-audit:read"), user="auditor"), element("app-auditor", grant("kv-audit:read", application="audit-a"), user="app-auditor"),
              element("ns-auditor", grant("kv-audit:read", ns="audit-a~one"), user="ns-auditor"),
              element("key-auditor", grant("kv-audit:read", keys=["mine/**"]), user="key-auditor"), element("writer", grant("kv-entry:write", "kv-entry:read"), user="writer"),
              element("nobody", user="nobody")]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        make = lambda **body: cls.kvd.request("POST", "/namespaces", body).json()
        cls.one, cls.two, cls.other = make(name="one", applicationId="audit-a"), make(name="two", applicationId="audit-a"), make(name="one", applicationId="audit-b")
        for ns in (cls.one, cls.two, cls.other):
            for key in ("mine/a", "other"):
                cls.kvd.request("PUT", f"/{ns['id']}/entries/{key}", {"value": 1})

    def rows(self, token=True, **parameters):
        return self.call("GET", "/audit" + query(**parameters), token=token, status=200).json()["items"]

    def test_a_row_has_all_its_members(self):
        self.put(self.one, "members", 1, headers={"X-Request-Id": "members-1"})
        row = self.rows(keyPath="members", namespaceId=self.one["id"])[0]
        self.assertEqual(set(row), AUDIT_MEMBERS)
        self.assertRegex(row["stream"], UUID)
        self.assertIs(type(row["sequence"]), int)
        self.assertRegex(row["timestamp"], TIME)
        self.assertRegex(row["entryId"], UUID)
        self.assertEqual({n: row[n] for n in ("namespaceId", "keyPath", "action", "operation", "userId", "applicationId", "requestId", "success", "reason", "version", "count")},
                         {"namespaceId": self.one["id"], "keyPath": "members", "action": "WRITE", "operation": "entry.put", "userId": "root", "applicationId": "audit-a",
                          "requestId": "members-1", "success": True, "reason": None, "version": 1, "count": 1})
        self.assertEqual(row["credentialId"], "root")
        self.assertIn("127.0.0.1", row["peer"])
        self.assertEqual(len({r["id"] for r in self.audit()}), len(self.audit()) - 1)  # ids are unique; asking again made one more row

    def test_rows_are_numbered_without_gaps(self):
        rows = self.audit()
        for stream in {r["stream"] for r in rows}:
            sequences = [r["sequence"] for r in rows if r["stream"] == stream]
            self.assertEqual(sequences, list(range(sequences[0], sequences[0] + len(sequences))))

    def test_every_request_makes_at_least_one_row(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        path = "/" + ns["id"]
        requests = [("GET", "/namespaces", None, "READ"), ("GET", "/namespaces/" + ns["id"], None, "READ"), ("GET", path + "/entries", None, "READ"),
                    ("GET", path + "/entries/a", None, "READ"), ("HEAD", path + "/entries/a", None, "READ"), ("GET", path + "/entries/missing", None, "READ"),
                    ("PUT", path + "/entries/a", {"value": 2}, "WRITE"), ("PUT", path + "/entries/a", {"value": None}, "WRITE"), ("PUT", path + "/entries/a", b"{", "WRITE"),
                    ("PUT", path + "/entries/a%00", {"value": 1}, "WRITE"), ("PATCH", path + "/entries/a", {"ttlSeconds": 60}, "WRITE"), ("POST", path + "/bulk/get", {"keys": ["a"]}, "READ"),
                    ("POST", path + "/bulk/set", {"entries": [{"keyPath": "a", "value": 1}]}, "WRITE"), ("POST", path + "/bulk/delete", {"keys": ["zz"]}, "DELETE"),
                    ("POST", path + "/entries/a/rotate", {"value": 5}, "ROTATE"), ("GET", path + "/entries/a/versions", None, "READ"), ("POST", path + "/entries/a/rollback", {}, "ROLLBACK"),
                    ("GET", path + "/export", None, "READ"), ("GET", "/audit?limit=1", None, "READ"), ("GET", "/audit?limit=x", None, "READ"), ("DELETE", path + "/entries/a", None, "DELETE"),
                    ("DELETE", path + "/entries/a", None, "DELETE"), ("GET", "/" + UNKNOWN_ID + "/entries/a", None, "READ"), ("PUT", "/namespaces/" + ns["id"], {"description": "x"}, "WRITE"),
                    ("POST", "/namespaces", {"name": ns["name"], "applicationId": "app"}, "WRITE"), ("DELETE", "/namespaces/" + ns["id"], None, "DELETE"),
                    ("POST", f"/namespaces/{ns['id']}/restore", None, "WRITE")]
        statuses = {}
        for number, (method, where, body, _) in enumerate(requests):
            statuses[f"each-{number}"] = self.kvd.request(method, where, body, headers={"X-Request-Id": f"each-{number}"}).status
        rows = self.audit()
        for number, (method, where, _, action) in enumerate(requests):
            with self.subTest(method=method, path=where):
                made = [r for r in rows if r["requestId"] == f"each-{number}"]
                self.assertTrue(made)
                self.assertEqual({r["action"] for r in made}, {action})
                # Deleting a key that was not there, in bulk, is no failure of the request, though its row says nothing was found.
                if "bulk" not in where:
                    self.assertEqual({r["success"] for r in made}, {statuses[f"each-{number}"] < 400})

    def test_who_is_not_known_is_recorded_too(self):
        for token, number in ((None, 1), ("no-such-token", 2)):
            self.call("GET", self.entry_path(self.one, "mine/a"), token=token, code="unauthenticated", headers={"X-Request-Id": f"unknown-{number}"})
            rows = self.rows_of(f"unknown-{number}")
            # Equal denials within seconds are folded into one row.
            for row in rows:
                self.assertEqual((row["success"], row["reason"], row["userId"], row["operation"]), (False, "unauthenticated", None, "entry.get"))
        self.assertTrue(self.rows_of("unknown-1"))

    def test_rows_are_filtered(self):
        ns = self.namespace()
        self.put(ns, "f/a", 1, token="writer")
        self.put(ns, "f/b", 1)
        self.get(ns, "f/a")
        self.get(ns, "f/c", code="not-found", token="writer")
        everything = self.rows(namespaceId=ns["id"])
        self.assertEqual({r["namespaceId"] for r in everything}, {ns["id"]})
        self.assertEqual([r["id"] for r in self.rows(namespaceId=f"app~{ns['name']}", order="desc") if r["operation"] != "audit.list"],
                         [r["id"] for r in everything if r["operation"] != "audit.list"])
        about = lambda **p: [(r["operation"], r["keyPath"]) for r in self.rows(namespaceId=ns["id"], order="asc", **p) if r["operation"] != "audit.list"]
        self.assertEqual(about(keyPath="f/a"), [("entry.put", "f/a"), ("entry.get", "f/a")])
        self.assertEqual(about(userId="writer"), [("entry.put", "f/a"), ("entry.get", "f/c")])
        self.assertEqual(about(action="WRITE"), [("namespace.create", None), ("entry.put", "f/a"), ("entry.put", "f/b")])
        self.assertEqual(about(operation="entry.get"), [("entry.get", "f/a"), ("entry.get", "f/c")])
        self.assertEqual(about(success=False), [("entry.get", "f/c")])
        self.assertEqual(about(success=True, operation="entry.get"), [("entry.get", "f/a")])
        self.assertEqual(about(userId="nobody-at-all"), [])
        credential = next(r["credentialId"] for r in everything if r["userId"] == "writer")
        self.assertEqual(about(credentialId=credential), about(userId="writer"))
        for action in ("READ", "WRITE", "DELETE", "ROTATE", "ROLLBACK"):
            self.assertEqual({r["action"] for r in self.rows(action=action)} | {action}, {action})
        for name, texts in {"action": ("read", "GET", ""), "success": ("1", "yes", ""), "from": ("now", "2024-01-01", ""), "to": ("x",), "order": ("up", ""), "limit": ("0", "1001")}.items():
            for text in texts:
                self.call("GET", "/audit" + query(**{name: text}), code="invalid-request", field=name)
        self.call("GET", "/audit?namespaceId=nonsense", status=400, field="namespaceId")
        self.call("GET", "/audit" + query(namespaceId=UNKNOWN_ID), code="not-found")

    def test_a_time_range_includes_its_beginning_and_not_its_end(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        stamp_of = lambda key: self.rows(namespaceId=ns["id"], keyPath=key, operation="entry.put")[0]["timestamp"]
        first = stamp_of("a")
        until(lambda: self.put(ns, "b", 1) and stamp_of("b") > first, "time goes on")
        stamp = stamp_of("b")
        keys = lambda **p: {r["keyPath"] for r in self.rows(namespaceId=ns["id"], operation="entry.put", **p)}
        self.assertIn("a", keys(to=stamp))
        self.assertIn("b", keys(**{"from": "2000-01-01T00:00:00Z"}) - keys(to=first))
        self.assertIn("b", keys(**{"from": stamp}))
        self.assertNotIn("a", keys(**{"from": stamp}))
        self.assertEqual(keys(**{"from": "2999-01-01T00:00:00Z"}), set())
        self.assertEqual(keys(to="2000-01-01T00:00:00Z"), set())
        self.assertIn("a", keys(**{"from": "2000-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}))

    def test_rows_are_paged_in_both_directions(self):
        ns = self.namespace()
        for number in range(7):
            self.put(ns, f"k{number}", 1)
        for order, wanted in (("asc", [f"k{n}" for n in range(7)]), ("desc", [f"k{n}" for n in range(6, -1, -1)])):
            for limit in (1, 3, 1000):
                rows, cursor = [], None
                while True:
                    page = self.call("GET", "/audit" + query(namespaceId=ns["id"], operation="entry.put", order=order, limit=limit, cursor=cursor)).json()
                    self.assertLessEqual(len(page["items"]), limit)
                    rows += page["items"]
                    cursor = page["nextCursor"]
                    if cursor is None:
                        break
                self.assertEqual([r["keyPath"] for r in rows], wanted)
        self.assertEqual([r["keyPath"] for r in self.rows(namespaceId=ns["id"], operation="entry.put")], wanted)  # newest first by default

    def test_what_the_caller_may_not_see_is_not_shown(self):
        self.call("GET", "/audit", token="writer", code="permission-denied")
        self.call("GET", "/audit", token="nobody", code="permission-denied")
        rows = lambda token, **p: self.rows(token=token, operation="entry.put", limit=1000, **p)
        self.assertLessEqual({self.one["id"], self.two["id"], self.other["id"]}, {r["namespaceId"] for r in rows("auditor")})
        self.assertEqual({r["namespaceId"] for r in rows("app-auditor")}, {self.one["id"], self.two["id"]})
        self.assertEqual({r["applicationId"] for r in self.rows(token="app-auditor", limit=1000)}, {"audit-a"})
        self.assertEqual({r["namespaceId"] for r in rows("ns-auditor")}, {self.one["id"]})
        self.assertEqual({r["keyPath"] for r in rows("key-auditor")}, {"mine/a"})
        self.assertEqual({r["keyPath"] for r in self.rows(token="key-auditor", limit=1000)}, {"mine/a"})
        self.call("GET", "/audit" + query(namespaceId=self.other["id"]), token="ns-auditor", code="not-found")
        self.call("GET", "/audit" + query(namespaceId=self.other["id"]), token="app-auditor", code="not-found")
        self.call("GET", "/audit" + query(namespaceId=self.one["id"]), token="app-auditor", status=200)
        self.call("GET", "/audit" + query(namespaceId="audit-b~one"), token="app-auditor", code="not-found")

    def test_reading_the_audit_log_is_recorded(self):
        self.call("GET", "/audit?limit=1", headers={"X-Request-Id": "audit-read"}, token="auditor")
        self.assertEqual([(r["action"], r["operation"], r["userId"], r["success"]) for r in self.rows_of("audit-read")], [("READ", "audit.list", "auditor", True)])

    def test_what_happened_in_a_deleted_namespace_stays_on_record(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        self.call("DELETE", "/namespaces/" + ns["id"])
        self.assertEqual([r["operation"] for r in self.rows(namespaceId=ns["id"], order="asc")], ["namespace.create", "entry.put", "namespace.delete"])

    def test_no_value_is_on_record(self):
        ns = self.namespace(isSecretNamespace=True)
        self.put(ns, "a", "s3cr3t-on-record")
        self.put(ns, "a", "s3cr3t-on-record", valueType="NUMBER", code="invalid-value")
        self.assertNotIn("s3cr3t-on-record", json.dumps(self.audit()))


@on_every_storage
class Export:
    VALUES = {"plain": "text", "empty": "", "space": "a b", "quote": "it's", "double": 'say "x"', "dollar": "$HOME ${HOME} `id` $(id)", "back": "a\\b\\n", "trail": "end\\",
              "line": "one\ntwo\n", "cr": "a\rb", "tab": "a\tb", "hash": "a # b", "equals": "a=b", "bang": "!!", "unicode": "\u00e9\U0001f511\u2028\ufeff", "percent": "%s", "yes": "yes",
              "all": "'\"\\$`\n\r\t!#", "control": "\x01\x1b\x7f\x85", "quote-end": "a'\\'"}

    def export(self, ns, **parameters):
        options = {name: parameters.pop(name) for name in ("status", "code", "field", "headers", "token") if name in parameters}
        options.setdefault("status", None if "code" in options else 200)
        return self.call("GET", f"/{ns['id']}/export" + query(**parameters), **options)

    def filled(self, **members):
        ns = self.namespace(**members)
        entries = [{"keyPath": key, "value": value} for key, value in self.VALUES.items()]
        self.call("POST", f"/{ns['id']}/bulk/set", {"entries": entries}, status=200)
        return ns, {key.upper().replace("-", "_"): value for key, value in self.VALUES.items()}

    def test_names_and_native_forms(self):
        ns = self.namespace()
        for key, value in (("database/host", "localhost"), ("database/port", 5432), ("debug.mode", True), ("a-b", {"j": 1}), ("_x", "u"), ("number", "")):
            self.put(ns, key, value)
        self.call("PUT", self.entry_path(ns, "big"), '{"value": 1E400}')
        self.put(ns, "bytes", "AP8=", valueType="BINARY")
        answer = self.export(ns)
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.body.decode().splitlines(),
                         ["_X='u'", "A_B='{\"j\": 1}'", "BIG='1E400'", "BYTES='AP8='", "DATABASE_HOST='localhost'", "DATABASE_PORT='5432'", "DEBUG_MODE='true'", "NUMBER=''"])
        answer = self.export(ns, format="json")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.json(), {"_X": "u", "A_B": '{"j": 1}', "BIG": "1E400", "BYTES": "AP8=", "DATABASE_HOST": "localhost", "DATABASE_PORT": "5432", "DEBUG_MODE": "true", "NUMBER": ""})
        self.assertRegex(answer.headers["etag"], '^".+"$')

    def test_a_prefix_is_a_folder_and_cut_off(self):
        ns = self.namespace()
        for key in ("app/db/host", "app/db/port", "app/x", "apple", "other", "app"):
            self.put(ns, key, key)
        for prefix in ("app", "app/"):
            self.assertEqual(self.export(ns, prefix=prefix, format="json").json(), {"DB_HOST": "app/db/host", "DB_PORT": "app/db/port", "X": "app/x"})
        self.assertEqual(self.export(ns, prefix="app/db", format="json").json(), {"HOST": "app/db/host", "PORT": "app/db/port"})
        self.assertEqual(self.export(ns, prefix="none", format="json").json(), {})
        for prefix in ("/", "a//b", "/a", "a/../b", "a\0", "x" * 1025):
            self.export(ns, prefix=prefix, code="invalid-request", field="prefix")
        for text in ("toml", "", "JSON"):
            self.export(ns, format=text, code="invalid-request", field="format")

    def test_a_shell_gets_every_byte_back(self):
        for format_name in ("shell", "dotenv"):
            ns, wanted = self.filled(isSecretNamespace=format_name == "shell")
            if format_name == "dotenv":
                # There is no way to write a carriage return that every reader of dotenv files takes; a shell takes it for \r.
                for key in ("cr", "all"):
                    self.call("DELETE", self.entry_path(ns, key))
                    del wanted[key.upper()]
            text = self.export(ns, format=format_name).body
            with tempfile.NamedTemporaryFile() as file:
                file.write(text)
                file.flush()
                script = f"set -a; . {file.name}; env -0"
                out = subprocess.run(["sh", "-c", script], capture_output=True, env={"PATH": os.environ["PATH"], "HOME": "/nowhere"}, check=True)
            self.assertEqual(out.stderr, b"")
            got = dict(item.split(b"=", 1) for item in out.stdout.split(b"\0") if item)
            self.assertEqual({name: got[name.encode()].decode() for name in wanted}, wanted, format_name)

    def test_json_gets_every_byte_back(self):
        ns, wanted = self.filled()
        self.assertEqual(self.export(ns, format="json").json(), wanted)

    def test_yaml_gets_every_byte_back(self):
        # A double-quoted scalar of YAML, as written here, differs from JSON's only in \x: enough to read it without a library.
        ns, wanted = self.filled()
        got = {}
        for line in self.export(ns, format="yaml").body.decode().split("\n")[:-1]:
            name, text = line.split(": ", 1)
            got[name.strip('"')] = json.loads(text.replace("\\x", "\\u00"), strict=False)
        self.assertEqual(got, wanted)
        self.assertEqual(self.export(self.namespace(), format="yaml").body, b"{}\n")

    def test_keys_that_cannot_be_variables_are_listed(self):
        for entries, listed in (({"1st": "x", "ok": "x"}, ["1st"]), ({"a b": "x", "caf\u00e9": "x", "ok": "x"}, ["a b", "caf\u00e9"]), ({"a/b": 1, "a.b": 2, "a-b": 3, "c": 4}, ["a-b", "a.b", "a/b"]),
                                ({"A": 1, "a": 2}, ["A", "a"]), ({"nul": "a\0b", "ok": 1}, ["nul"])):
            ns = self.namespace()
            for key, value in entries.items():
                self.put(ns, key, value)
            for format_name in ("dotenv", "json", "shell", "yaml"):
                answer = self.export(ns, format=format_name, code="name-conflict")
                self.assertEqual([e["keyPath"] for e in answer.json()["errors"]], listed)
                self.assertEqual({e["code"] for e in answer.json()["errors"]}, {"name-conflict"})

    def test_an_export_is_recorded_for_each_key(self):
        ns = self.namespace()
        for key in ("a", "b"):
            self.put(ns, key, 1)
        self.export(ns, headers={"X-Request-Id": "export"})
        rows = self.rows_of("export")
        self.assertEqual({(r["action"], r["operation"], r["success"]) for r in rows}, {("READ", "entry.export", True)})
        self.assertLessEqual({"a", "b"}, {r["keyPath"] for r in rows})
        self.put(ns, "A", 1)
        self.export(ns, code="name-conflict", headers={"X-Request-Id": "export-refused"})
        self.assertEqual([(r["action"], r["success"], r["reason"]) for r in self.rows_of("export-refused")], [("READ", False, "name-conflict")])

    def test_an_export_beyond_16_mib_is_too_large(self):
        ns = self.namespace()
        for number in range(16):
            self.put(ns, f"v{number:02}", "x" * MIB)
        self.assertGreater(len(self.export(ns).body), 16 * MIB)
        self.put(ns, "v16", "x")
        answer = self.export(ns, code="too-large")
        self.assertEqual(answer.json()["limit"], 16 * MIB)
        self.put(ns, "small/a", 1)
        self.assertEqual(self.export(ns, prefix="small").body, b"A='1'\n")


class ExportLimit(ApiTestCase):
    flags = ("--export-keys-max", "20")

    def test_an_export_of_too_many_keys_is_too_large(self):
        ns = self.namespace()
        self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": f"k{i}", "value": i} for i in range(20)]})
        self.assertEqual(len(self.call("GET", f"/{ns['id']}/export").body.splitlines()), 20)
        self.put(ns, "one-more", 1)
        answer = self.call("GET", f"/{ns['id']}/export", code="too-large")
        self.assertEqual(answer.json()["limit"], 20)


class Around(ApiTestCase):
    """Documents, health, metrics."""

    def test_documents_need_no_credential(self):
        answer = self.call("GET", "/openapi.json", token=None, status=200)
        self.assertEqual(answer.headers["content-type"], "application/json")
        document = answer.json()
        self.assertTrue(document["openapi"].startswith("3.1"))
        self.assertIn("/api/v1/kv/{nsId}/entries/{key}", document["paths"])
        page = self.call("GET", "/swagger-ui", token=None, status=200)
        self.assertTrue(page.headers["content-type"].startswith("text/html"))
        text = page.body.decode()
        self.assertNotIn("http://", text)
        self.assertNotIn("https://", text)
        self.call("GET", "/swagger-ui/no-such-file", token=None, code="not-found")
        for path in ("/openapi.json", "/swagger-ui"):
            self.call("GET", path + "?x=1", token=None, code="invalid-request", field="x")

    def test_health_is_at_the_root_and_needs_no_credential(self):
        for path in ("/healthz", "/readyz"):
            for admin in (False, True):
                self.call("GET", path, token=None, status=200, admin=admin)
                self.call("HEAD", path, token=None, status=200, admin=admin)
                self.call("POST", path, b"", token=None, code="method-not-allowed", admin=admin)

    def test_metrics_are_on_the_admin_listener_alone_and_name_nobody(self):
        ns = self.namespace(name="metrics-namespace-name")
        self.put(ns, "metrics-key-name", "metrics-value")
        self.get(ns, "metrics-key-name")
        text = self.call("GET", "/metrics", token=None, status=200, admin=True).body.decode()
        self.assertIn('kvd_requests_total{operation="entry.put",status="201"} 1', text)
        for word in ("metrics-key-name", "metrics-namespace-name", "metrics-value", "root", ns["id"]):
            self.assertNotIn(word, text)
        self.assertEqual(self.kvd.request("GET", "/metrics").status, 404)

    def test_everything_else_needs_a_credential(self):
        ns = self.namespace()
        for method, path in (("GET", "/namespaces"), ("GET", f"/{ns['id']}/entries/a"), ("GET", "/audit")):
            for authorization in (None, "", "Bearer", "Bearer ", "Basic " + base64.b64encode(b"root:x").decode(), "Bearer " + self.kvd.token[:-1], "Bearer " + self.kvd.token + "x",
                                  self.kvd.token, "Bearer: " + self.kvd.token):
                self.call(method, path, token=None, headers={"Authorization": authorization} if authorization is not None else None, code="unauthenticated")
            for authorization in ("bearer " + self.kvd.token, "BEARER  " + self.kvd.token):
                answer = self.kvd.request(method, path, token=None, headers={"Authorization": authorization})
                self.assertNotEqual(answer.status, 401)

    def test_a_caller_who_is_not_known_hears_nothing_else(self):
        ns = self.namespace()
        for path, body in ((f"/{ns['id']}/entries/a%00", {"value": 1}), (f"/{ns['id']}/entries/a?x=1", {"value": 1}), (f"/{UNKNOWN_ID}/entries/a", {"value": None}), (f"/nonsense/entries/a", b"{")):
            self.call("PUT", path, body, token=None, code="unauthenticated")


if __name__ == "__main__":
    main()
