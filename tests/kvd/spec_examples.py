"""Every example of the specification of the service works as it is written there."""

import json
import unittest

from api import AUDIT_MEMBERS, TIME, UUID, ApiTestCase, element, grant
from harness import BASE, Kvd, main

CREATE = b"""{
  "name": "production-secrets",
  "description": "Production environment secrets",
  "applicationId": "app-123",
  "isSecretNamespace": true,
  "defaultTtlSeconds": null
}"""

STORE = b"""{
  "value": "postgresql://user:pass@host:5432/db",
  "valueType": "STRING",
  "ttlSeconds": 3600
}"""

ROTATE = b"""{
  "value": "new-api-key-value"
}"""

PERMISSIONS = ["kv-namespace:read", "kv-namespace:write", "kv-namespace:delete", "kv-entry:read", "kv-entry:write", "kv-entry:delete",
               "kv-secret:rotate"]

HIERARCHY = [
    ("config/database/host", b'"localhost"', "STRING"),
    ("config/database/port", b"5432", "NUMBER"),
    ("config/database/credentials", b'{"user": "admin", "pass": "secret"}', "JSON"),
    ("config/api/timeout", b"30000", "NUMBER"),
]


class SpecExamples(ApiTestCase):
    tokens = [element(permission, grant(permission), user=permission) for permission in PERMISSIONS]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        answer = cls.kvd.request("POST", BASE + "/namespaces", CREATE, headers={"Content-Type": "application/json"})
        assert answer.status == 201, answer
        cls.created = answer
        cls.ns = answer.json()

    def send(self, method, path, body, **options):
        """The bytes of an example as they are, without a content type: the specification shows none."""
        return self.call(method, f"{BASE}/{self.ns['id']}/{path}", body, **options)

    def test_a_namespace_is_created(self):
        self.check_namespace(self.ns)
        for name, value in json.loads(CREATE).items():
            self.assertEqual(self.ns[name], value, name)
        self.assertEqual(self.created.headers["location"], f"{BASE}/namespaces/{self.ns['id']}")

    def test_a_namespace_is_created_without_a_content_type(self):
        body = CREATE.replace(b"production-secrets", b"no-content-type")
        self.call("POST", BASE + "/namespaces", body, status=201)

    def test_the_routes_of_namespaces(self):
        listed = self.call("GET", BASE + "/namespaces", status=200).json()["items"]
        self.assertIn(self.ns["id"], [ns["id"] for ns in listed])
        one = f"{BASE}/namespaces/{self.ns['id']}"
        got = self.call("GET", one, status=200).json()
        self.assertEqual(got, {**self.ns, "revision": got["revision"]})  # which counts the writes of the other tests
        gone = self.call("POST", BASE + "/namespaces", {"name": "short-lived"}, status=201).json()
        updated = self.call("PUT", f"{BASE}/namespaces/{gone['id']}", {"description": "changed"}, status=200).json()
        self.assertEqual(updated["description"], "changed")
        self.call("DELETE", f"{BASE}/namespaces/{gone['id']}", status=204)
        self.call("GET", f"{BASE}/namespaces/{gone['id']}", code="not-found")

    def test_a_value_is_stored_and_retrieved(self):
        stored = self.send("PUT", "entries/database/connection-string", STORE, status=201)
        self.assertEqual(stored.json()["version"], 1)
        answer = self.send("GET", "entries/database/connection-string", None, status=200)
        self.assertEqual(answer.headers["content-type"], "application/json")
        body = answer.json()
        self.assertRegex(body["id"], UUID)
        self.assertEqual(body["keyPath"], "database/connection-string")
        self.assertEqual(body["value"], "postgresql://user:pass@host:5432/db")
        self.assertEqual(body["valueType"], "STRING")
        self.assertIs(type(body["version"]), int)
        self.assertEqual(body["version"], 1)
        self.assertRegex(body["expiresAt"], TIME)
        self.assertEqual(body["ttlSeconds"], 3600)
        self.send("DELETE", "entries/database/connection-string", None, status=204)

    def test_the_types_of_values(self):
        for value, value_type in (('"localhost"', "STRING"), ('{"port": 5432}', "JSON"), ("3306", "NUMBER"), ("true", "BOOLEAN"),
                                  ('"SGVsbG8gV29ybGQ="', "BINARY")):
            with self.subTest(value_type):
                body = '{"value": %s, "valueType": "%s"}' % (value, value_type)
                self.send("PUT", "entries/types/" + value_type, body, status=201)
                answer = self.send("GET", "entries/types/" + value_type, None, status=200)
                self.assertIn(b'"value":' + value.encode(), answer.body)
                self.assertEqual(answer.json()["valueType"], value_type)

    def test_a_secret_is_rotated_in_four_steps(self):
        self.send("PUT", "entries/api-key", b'{"value": "old-api-key-value"}', status=201)
        rotated = self.send("POST", "entries/api-key/rotate", ROTATE, status=200, headers={"X-Request-Id": "rotation-1"}).json()
        # 1. the value before is in the history
        versions = self.send("GET", "entries/api-key/versions?includeValues=true", None, status=200).json()["items"]
        self.assertEqual([(v["version"], v["value"], v["reason"], v["current"]) for v in versions],
                         [(2, "new-api-key-value", "ROTATION", True), (1, "old-api-key-value", "CREATE", False)])
        self.assertEqual({v["changedBy"] for v in versions}, {"root"})
        # 2. the new one is stored
        self.assertEqual(self.send("GET", "entries/api-key", None).json()["value"], "new-api-key-value")
        # 3. the version went up by one
        self.assertEqual(rotated["version"], 2)
        # 4. and all is on record
        rows = self.rows_of("rotation-1")
        self.assertEqual([(row["action"], row["keyPath"], row["success"]) for row in rows], [("ROTATE", "api-key", True)])
        # and back again
        back = self.send("POST", "entries/api-key/rollback", b'{"version": 1}', status=200).json()
        self.assertEqual(back["version"], 3)
        self.assertEqual(self.send("GET", "entries/api-key", None).json()["value"], "old-api-key-value")
        newest = self.send("GET", "entries/api-key/versions", None).json()["items"][0]
        self.assertEqual((newest["reason"], newest["rolledBackFrom"]), ("ROLLBACK", 1))

    def test_keys_are_hierarchical_and_listed_by_prefix(self):
        for key, value, _ in HIERARCHY:
            self.send("PUT", "entries/" + key, b'{"value": ' + value + b"}", status=201)
        for key, value, value_type in HIERARCHY:
            answer = self.send("GET", "entries/" + key, None, status=200)
            self.assertIn(b'"value":' + value, answer.body)
            self.assertEqual(answer.json()["valueType"], value_type)
        listed = self.send("GET", "entries?prefix=config/database", None, status=200).json()["items"]
        self.assertEqual([item["keyPath"] for item in listed],
                         ["config/database/credentials", "config/database/host", "config/database/port"])
        for item in listed:
            self.check_entry(item, with_value=False)

    def test_the_bulk_routes(self):
        answer = self.send("POST", "bulk/set", b'{"entries": [{"keyPath": "bulk/a", "value": 1}, {"key": "bulk/b", "value": true}]}', status=200)
        self.assertEqual([r["status"] for r in answer.json()["results"]], ["created", "created"])
        answer = self.send("POST", "bulk/get", b'{"keys": ["bulk/b", "bulk/a", "bulk/c"]}', status=200).json()
        self.assertEqual([(e["keyPath"], e["value"]) for e in answer["entries"]], [("bulk/b", True), ("bulk/a", 1)])
        self.assertEqual(answer["missing"], ["bulk/c"])
        answer = self.send("POST", "bulk/delete", b'{"keys": ["bulk/a", "bulk/c"]}', status=200).json()
        self.assertEqual((answer["deleted"], answer["missing"]), (["bulk/a"], ["bulk/c"]))

    def test_everything_is_audited_with_the_fields_of_the_table(self):
        requests = [
            ("PUT", "entries/audited", b'{"value": 1}', "WRITE"),
            ("GET", "entries/audited", None, "READ"),
            ("POST", "entries/audited/rotate", b'{"value": 2}', "ROTATE"),
            ("POST", "entries/audited/rollback", b"{}", "ROLLBACK"),
            ("DELETE", "entries/audited", None, "DELETE"),
        ]
        for number, (method, path, body, _) in enumerate(requests):
            self.send(method, path, body, headers={"X-Request-Id": f"audited-{number}"})
        rows = self.audit(keyPath="audited")
        self.assertEqual([row["action"] for row in rows], [action for *_, action in requests])
        for number, row in enumerate(rows):
            self.assertEqual(set(row), AUDIT_MEMBERS)
            self.assertEqual(row["namespaceId"], self.ns["id"])
            self.assertRegex(row["entryId"], UUID)
            self.assertEqual(row["userId"], "root")
            self.assertIs(row["success"], True)
            self.assertRegex(row["timestamp"], TIME)
            self.assertEqual(row["requestId"], f"audited-{number}")

    def test_each_permission_allows_what_the_table_says(self):
        ns = self.namespace()
        one, entries = "/namespaces/" + ns["id"], f"/{ns['id']}/entries"
        self.put(ns, "a", "1")
        allowed = {
            "kv-namespace:read": [("GET", one, None), ("GET", entries, None)],
            "kv-namespace:write": [("PUT", one, {"description": "by permission"}), ("POST", "/namespaces", {"name": "made"})],
            "kv-entry:read": [("GET", entries + "/a", None)],
            "kv-entry:write": [("PUT", entries + "/a", {"value": "2"}), ("PUT", entries + "/b", {"value": "2"})],
            "kv-secret:rotate": [("POST", entries + "/a/rotate", {"value": "3"}), ("POST", entries + "/a/rollback", {})],
            "kv-entry:delete": [("DELETE", entries + "/b", None)],
            "kv-namespace:delete": [("DELETE", one, None)],
        }
        self.assertEqual(set(allowed), set(PERMISSIONS))
        for needed, requests in allowed.items():
            for method, path, body in requests:
                for permission in PERMISSIONS:
                    if permission != needed:
                        with self.subTest(method=method, path=path, permission=permission):
                            self.call(method, path, body, token=permission, code="permission-denied")
                with self.subTest(method=method, path=path, permission=needed):
                    self.call(method, path, body, token=needed)

    def test_the_documentation_is_where_the_specification_says(self):
        answer = self.call("GET", "/api/v1/kv/swagger-ui", token=None, status=200)
        self.assertTrue(answer.headers["content-type"].startswith("text/html"), answer.headers)


if __name__ == "__main__":
    main()
