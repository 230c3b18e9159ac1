"""The contract of rotation, history and rollback."""

import re
import string

from api import TIME, UNKNOWN_ID, VERSION_MEMBERS, ApiTestCase, Literal, element, grant, exact, on_every_storage, query
from harness import main

ALPHABETS = {
    "alphanumeric": string.ascii_letters + string.digits, "hex": "0123456789abcdef", "base64url": string.ascii_letters + string.digits + "-_",
    "ascii": "".join(chr(c) for c in range(33, 127))}


@on_every_storage
class History:
    """In a secret namespace and in a plain one."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.both = [cls.kvd.request("POST", "/namespaces", {"name": f"history-{secret}", "isSecretNamespace": secret}).json() for secret in (True, False)]
        cls.off = cls.kvd.request("POST", "/namespaces", {"name": "off", "keepsHistory": False}).json()

    def rotate(self, ns, key, body, parameters="", **options):
        return self.call("POST", self.entry_path(ns, key, "/rotate" + parameters), body, **options)

    def roll_back(self, ns, key, body=None, parameters="", **options):
        return self.call("POST", self.entry_path(ns, key, "/rollback" + parameters), body, **options)

    # ---- rotate ----

    def test_a_rotation_keeps_type_and_metadata(self):
        for ns in self.both:
            first = self.put(ns, "keep", 1, metadata={"team": "x"}).json()
            answer = self.rotate(ns, "keep", {"value": 2, "comment": "leak"}, status=200, headers={"X-Request-Id": "rot"})
            body = answer.json()
            self.check_entry(body, with_value=False)
            self.assertEqual((body["id"], body["version"], body["valueType"], body["metadata"], body["createdAt"]), (first["id"], 2, "NUMBER", {"team": "x"}, first["createdAt"]))
            self.assertEqual(answer.headers["etag"], self.get(ns, "keep").headers["etag"])
            self.assertEqual(self.value(ns, "keep"), 2)
            newest = self.versions(ns, "keep")[0]
            self.assertEqual((newest["reason"], newest["comment"], newest["requestId"], newest["rolledBackFrom"]), ("ROTATION", "leak", "rot", None))

    def test_a_rotated_value_must_fit_the_type(self):
        ns = self.both[0]
        values = {"STRING": ["text", "1"], "NUMBER": [1, "2"], "BOOLEAN": [True, "false"], "JSON": [{"a": 1}, "[1]"], "BINARY": ["QQ==", "Qg=="]}
        wrong = {"STRING": [1, True, {}, []], "NUMBER": ["x", True, {}], "BOOLEAN": [1, "yes", []], "JSON": ["x", 1, "1"], "BINARY": ["Q", 1, "@@@@"]}
        for value_type, (first, second) in values.items():
            self.put(ns, value_type, first, valueType=value_type)
            for value in wrong[value_type]:
                self.rotate(ns, value_type, {"value": value}, code="invalid-value", field="value")
            for other in values:
                if other != value_type:
                    self.rotate(ns, value_type, {"value": second, "valueType": other}, code="invalid-value", field="valueType")
            self.assertEqual(self.get(ns, value_type).json()["version"], 1)
            self.rotate(ns, value_type, {"value": second, "valueType": value_type}, status=200)
            self.assertEqual(self.get(ns, value_type).json()["valueType"], value_type)

    def test_a_rotation_needs_an_entry(self):
        for ns in self.both:
            self.rotate(ns, "missing", {"value": 1}, code="not-found")
            self.put(ns, "deleted", 1)
            self.call("DELETE", self.entry_path(ns, "deleted"))
            self.rotate(ns, "deleted", {"value": 1}, code="not-found")

    def test_what_is_no_rotation_is_refused(self):
        ns = self.both[0]
        self.put(ns, "bad", "x")
        for body, field in (({}, "value"), ({"value": None}, "value"), ({"value": "x", "generate": {}}, "generate"), ({"generate": {}, "valueType": "STRING"}, "valueType"),
                            ({"value": "x", "metadata": {}}, "metadata"), ({"value": "x", "version": 1}, "version"), ({"generate": None}, "generate"), ({"generate": 32}, "generate"),
                            ({"generate": {"length": 15}}, "length"), ({"generate": {"length": 1025}}, "length"), ({"generate": {"length": -1}}, "length"),
                            ({"generate": {"length": "32"}}, "length"), ({"generate": {"length": 32.5}}, "length"), ({"generate": {"length": 4294967328}}, "length"),
                            ({"generate": {"alphabet": "emoji"}}, "alphabet"), ({"generate": {"alphabet": None}}, "alphabet"), ({"generate": {"size": 3}}, "size"),
                            ({"value": "x", "expectedVersion": -1}, "expectedVersion"), ({"value": "x", "comment": None}, "comment")):
            with self.subTest(body=body):
                self.rotate(ns, "bad", body, status=400, field=field)
        self.rotate(ns, "bad", b"", status=400)
        self.assertEqual(self.get(ns, "bad").json()["version"], 1)

    def test_a_value_can_be_generated(self):
        for ns in self.both:
            self.put(ns, "generated", "x")
            for alphabet, letters in ALPHABETS.items():
                for length in (16, 32, 1024):
                    answer = self.rotate(ns, "generated", {"generate": {"length": length, "alphabet": alphabet}}, "?includeValue=true", status=200)
                    value = answer.json()["value"]
                    self.assertEqual(len(value), length)
                    self.assertLessEqual(set(value), set(letters), alphabet)
                    self.assertEqual(self.value(ns, "generated"), value)
                    if length == 1024:
                        # Of so many letters nearly every one occurs.
                        self.assertGreater(len(set(value)), len(letters) * 3 // 4, alphabet)
            made = set()
            for _ in range(10):
                self.assertNotIn("value", self.rotate(ns, "generated", {"generate": {}}, status=200).json())
                made.add(self.value(ns, "generated"))
            self.assertEqual(len(made), 10)
            for value in made:
                self.assertRegex(value, "^[A-Za-z0-9]{32}$")

    # ---- versions ----

    def test_every_change_is_a_version_newest_first(self):
        for ns in self.both:
            key = "story"
            self.put(ns, key, 1, comment="c1", headers={"X-Request-Id": "story-1"})
            self.put(ns, key, "two", comment="c2", headers={"X-Request-Id": "story-2"})
            self.rotate(ns, key, {"value": "three", "comment": "c3"}, headers={"X-Request-Id": "story-3"})
            self.roll_back(ns, key, {"version": 1, "comment": "c4"}, headers={"X-Request-Id": "story-4"})
            self.call("DELETE", self.entry_path(ns, key), headers={"X-Request-Id": "story-5"})
            versions = self.versions(ns, key)
            self.assertEqual([(v["version"], v["reason"], v["rolledBackFrom"], v["current"], v["requestId"]) for v in versions], [
                (5, "DELETE", None, True, "story-5"), (4, "ROLLBACK", 1, False, "story-4"), (3, "ROTATION", None, False, "story-3"),
                (2, "UPDATE", None, False, "story-2"), (1, "CREATE", None, False, "story-1")])
            self.assertEqual([v["comment"] for v in versions], ["", "c4", "c3", "c2", "c1"])
            self.assertEqual([v["valueType"] for v in versions[1:]], ["NUMBER", "STRING", "STRING", "NUMBER"])
            times = [v["changedAt"] for v in versions]
            self.assertEqual(times, sorted(times, reverse=True))
            for version in versions:
                self.assertEqual(set(version), VERSION_MEMBERS)
                self.assertEqual(version["changedBy"], "root")
                self.assertRegex(version["changedAt"], TIME)
            shown = self.versions(ns, key, includeValues=True)
            self.assertEqual([v.get("value") for v in shown], [None, 1, "three", "two", 1])
            self.assertEqual([set(v) - VERSION_MEMBERS for v in shown], [set()] + [{"value"}] * 4)
            # Values, deleted or not, are found by their version.
            for version, value in ((1, 1), (2, "two"), (3, "three"), (4, 1)):
                self.assertEqual(self.call("GET", self.entry_path(ns, key, f"?version={version}")).json()["value"], value)
            self.call("GET", self.entry_path(ns, key, "?version=5"), code="not-found")

    def test_versions_are_paged(self):
        for ns in self.both:
            for value in range(7):
                self.put(ns, "paged", value)
            path = self.entry_path(ns, "paged", "/versions")
            for limit, sizes in ((3, [3, 3, 1]), (7, [7]), (1, [1] * 7), (6, [6, 1])):
                pages = self.pages(path, limit=limit, includeValues=True)
                self.assertEqual([len(p) for p in pages if p], sizes)
                self.assertEqual([(v["version"], v["value"]) for p in pages for v in p], [(n, n - 1) for n in range(7, 0, -1)])
            for limit in ("0", "1001", "x", "-1", ""):
                self.call("GET", path + query(limit=limit), code="invalid-request", field="limit")

    def test_versions_with_values_are_recorded_each(self):
        ns = self.both[0]
        self.put(ns, "recorded", 1)
        self.put(ns, "recorded", 2)
        self.call("GET", self.entry_path(ns, "recorded", "/versions"), headers={"X-Request-Id": "without"})
        self.call("GET", self.entry_path(ns, "recorded", "/versions?includeValues=true"), headers={"X-Request-Id": "with"})
        self.assertEqual([(r["action"], r["operation"], r["keyPath"]) for r in self.rows_of("without")], [("READ", "entry.versions", "recorded")])
        self.assertEqual({r["version"] for r in self.rows_of("with") if r["version"]}, {1, 2})

    def test_a_key_that_never_was_has_no_versions(self):
        for ns in [*self.both, self.off]:
            self.call("GET", self.entry_path(ns, "never-was", "/versions"), code="not-found")

    def test_the_history_limit_keeps_that_many_versions(self):
        ns = self.namespace(historyLimit=3)
        for value in range(6):
            self.put(ns, "a", value)
        self.assertEqual([v["version"] for v in self.versions(ns, "a")], [6, 5, 4])
        self.assertEqual(self.call("GET", self.entry_path(ns, "a", "?version=4")).json()["value"], 3)
        for version in (1, 2, 3):
            self.call("GET", self.entry_path(ns, "a", f"?version={version}"), code="not-found")
            self.roll_back(ns, "a", {"version": version}, code="not-found")
        self.roll_back(ns, "a", {"version": 4}, status=200)
        plain = self.namespace()
        for value in range(25):
            self.put(plain, "a", value)
        self.assertEqual(len(self.versions(plain, "a")), 20)
        secret = self.namespace(isSecretNamespace=True)
        for value in range(25):
            self.put(secret, "a", value)
        self.assertEqual(len(self.versions(secret, "a")), 25)

    # ---- without history ----

    def test_a_namespace_without_history_has_the_current_version_only(self):
        ns = self.off
        self.put(ns, "a", 1)
        self.assertEqual(self.put(ns, "a", 2).json()["version"], 2)
        self.assertEqual([(v["version"], v["reason"], v["current"]) for v in self.versions(ns, "a")], [(2, "UPDATE", True)])
        self.call("GET", self.entry_path(ns, "a", "?version=1"), code="not-found")
        self.assertEqual(self.call("GET", self.entry_path(ns, "a", "?version=2")).json()["value"], 2)
        for key in ("a", "missing"):
            self.rotate(ns, key, {"value": 3}, code="history-disabled")
            self.roll_back(ns, key, {}, code="history-disabled")
        self.call("DELETE", self.entry_path(ns, "a"))
        self.call("GET", self.entry_path(ns, "a", "/versions"), code="not-found")
        self.assertEqual(self.put(ns, "a", 4, status=201).json()["version"], 4)

    # ---- rollback ----

    def test_a_rollback_without_a_version_goes_to_the_value_before(self):
        for ns in self.both:
            self.put(ns, "back", {"one": 1}, metadata={"m": 1})
            self.put(ns, "back", "two", metadata={"m": 2})
            for body in (None, {}):
                answer = self.roll_back(ns, "back", body, status=200)
                self.check_entry(answer.json(), with_value=False)
                self.assertEqual(answer.headers["etag"], self.get(ns, "back").headers["etag"])
            # The first went back to version 1, the second back from there.
            got = self.get(ns, "back").json()
            self.assertEqual((got["value"], got["version"], got["metadata"], got["valueType"]), ("two", 4, {"m": 2}, "STRING"))
            got = self.roll_back(ns, "back", {"version": 1}).json()
            self.assertEqual((got["valueType"], got["metadata"], got["version"]), ("JSON", {"m": 1}, 5))
            self.assertEqual([v["rolledBackFrom"] for v in self.versions(ns, "back")], [1, 2, 1, None, None])

    def test_a_rollback_undeletes(self):
        for ns in self.both:
            self.put(ns, "undelete", "one")
            self.put(ns, "undelete", "two")
            self.call("DELETE", self.entry_path(ns, "undelete"))
            self.assertEqual(self.roll_back(ns, "undelete", status=200).json()["version"], 4)
            self.assertEqual(self.value(ns, "undelete"), "two")
            self.call("DELETE", self.entry_path(ns, "undelete"))
            self.roll_back(ns, "undelete", {"version": 1}, status=200)
            self.assertEqual(self.value(ns, "undelete"), "one")
            self.assertIn("undelete", self.keys(ns))

    def test_there_must_be_something_to_go_back_to(self):
        for ns in self.both:
            self.roll_back(ns, "nowhere", code="not-found")
            self.put(ns, "nowhere", 1)
            self.roll_back(ns, "nowhere", code="not-found")
            answer = self.roll_back(ns, "nowhere", {"version": 1}, code="current-version")
            self.assertEqual(answer.json()["currentVersion"], 1)
            self.roll_back(ns, "nowhere", {"version": 2}, code="not-found")
            self.call("DELETE", self.entry_path(ns, "nowhere"))
            self.roll_back(ns, "nowhere", {"version": 2}, code="not-found")  # a DELETE is no value
            self.roll_back(ns, "nowhere", {"version": 1})
            self.roll_back(ns, "nowhere", {"version": 2}, code="not-found")
            for version in ("0", "-1", "1.0", '"1"', "null", "9223372036854775808", "1e30", "true"):
                self.roll_back(ns, "nowhere", '{"version": %s}' % version, code="invalid-request", field="version")
            for body, field in (({"value": 1}, "value"), ({"metadata": {}}, "metadata"), ({"versions": 1}, "versions")):
                self.roll_back(ns, "nowhere", body, code="invalid-request", field=field)

    def test_a_rollback_gives_back_numbers_and_bytes_exactly(self):
        ns = self.both[0]
        self.call("PUT", self.entry_path(ns, "exact"), '{"value": 1E400}')
        self.call("PUT", self.entry_path(ns, "exact"), b"\0\xff", headers={"Content-Type": "application/octet-stream"})
        self.roll_back(ns, "exact")
        self.assertEqual(exact(self.get(ns, "exact").body)["value"], Literal("1E400"))
        self.roll_back(ns, "exact")
        self.assertEqual(self.get(ns, "exact", headers={"Accept": "application/octet-stream"}).body, b"\0\xff")
        listed = self.call("GET", self.entry_path(ns, "exact", "/versions?includeValues=true")).body
        self.assertEqual([v["value"] for v in exact(listed)["items"]], ["AP8=", Literal("1E400"), "AP8=", Literal("1E400")])

    def test_everything_is_recorded_with_its_action(self):
        ns = self.both[0]
        self.put(ns, "acts", 1)
        for number, (suffix, body, code) in enumerate((("/rotate", {"value": 2}, None), ("/rotate", {"value": 2, "expectedVersion": 1}, "version-conflict"),
                                                       ("/rollback", {}, None), ("/rollback", {"version": 99}, "not-found"), ("/rotate", {"valu": 1}, "invalid-request"))):
            self.call("POST", self.entry_path(ns, "acts", suffix), body, code=code, headers={"X-Request-Id": f"acts-{number}"})
            rows = self.rows_of(f"acts-{number}")
            self.assertEqual([(r["action"], r["operation"], r["keyPath"], r["success"], r["reason"]) for r in rows],
                             [(suffix[1:].upper(), "entry." + suffix[1:], "acts", code is None, code)])


if __name__ == "__main__":
    main()
