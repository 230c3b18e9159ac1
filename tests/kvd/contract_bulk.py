"""The contract of bulk operations: order, all or nothing, each on its own."""

import json

from api import ApiTestCase, element, grant, on_every_storage
from harness import main

MIB = 1 << 20


@on_every_storage
class Bulk:
    def bulk(self, ns, operation, body, **options):
        return self.call("POST", f"/{ns['id']}/bulk/{operation}", body, **options)

    def set(self, ns, *entries, **more):
        options = {name: more.pop(name) for name in ("status", "code", "field", "headers", "token") if name in more}
        return self.bulk(ns, "set", {"entries": list(entries), **more}, **options)

    def state(self, ns):
        return [(e["keyPath"], e["version"], e["value"]) for e in self.list(ns, includeValues=True)["items"]]

    # ---- get ----

    def test_a_get_answers_in_the_order_asked(self):
        ns = self.namespace()
        for key in ("a", "b", "c"):
            self.put(ns, key, key.upper())
        body = self.bulk(ns, "get", {"keys": ["c", "x", "a", "y", "b"]}, status=200).json()
        self.assertEqual(set(body), {"entries", "missing", "remaining"})
        self.assertEqual([(e["keyPath"], e["value"]) for e in body["entries"]], [("c", "C"), ("a", "A"), ("b", "B")])
        self.assertEqual((body["missing"], body["remaining"]), (["x", "y"], []))
        for entry in body["entries"]:
            self.check_entry(entry)
        self.assertEqual(body["entries"][0], self.get(ns, "c").json())

    def test_a_get_is_recorded_once_for_each_key(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        self.bulk(ns, "get", {"keys": ["a", "nothing"]}, headers={"X-Request-Id": "bulk-get"})
        rows = self.rows_of("bulk-get", namespaceId=ns["id"])
        self.assertEqual([(r["action"], r["operation"], r["keyPath"], r["success"]) for r in rows],
                         [("READ", "bulk.get", "a", True), ("READ", "bulk.get", "nothing", False)])

    def test_a_get_beyond_16_mib_lists_the_rest(self):
        ns = self.namespace()
        keys = [f"big/{i:02}" for i in range(20)]
        for key in keys:
            self.put(ns, key, key + "x" * (MIB - len(key)))
        self.put(ns, "small", 1)
        body = self.bulk(ns, "get", {"keys": [*keys, "nothing", "small"]}).json()
        got = [e["keyPath"] for e in body["entries"]]
        self.assertEqual(got, keys[:len(got)])
        self.assertEqual(len(got), 16)
        # In order: what comes after the first that did not fit remains, too.
        self.assertEqual([key for key in body["remaining"] if key != "nothing"], [*keys[len(got):], "small"])
        self.assertEqual(len(got) + len(body["remaining"]) + len(body["missing"]), 22)
        for entry in body["entries"]:
            self.assertEqual(entry["value"], entry["keyPath"] + "x" * (MIB - len(entry["keyPath"])))
        rest = self.bulk(ns, "get", {"keys": body["remaining"]}).json()
        self.assertEqual([e["keyPath"] for e in rest["entries"]], [*keys[16:], "small"])

    # ---- set ----

    def test_a_set_creates_and_updates(self):
        ns = self.namespace(defaultTtlSeconds=600)
        self.put(ns, "b", 1)
        body = self.set(ns, {"keyPath": "a", "value": "A", "metadata": {"m": 1}, "comment": "why", "ttlSeconds": None},
                        {"key": "b", "value": {"j": 1.50}}, {"keyPath": "c", "key": "c", "value": "SGVsbG8=", "valueType": "BINARY"}, status=200).json()
        self.assertEqual(body, {"results": [{"keyPath": "a", "status": "created", "version": 1}, {"keyPath": "b", "status": "updated", "version": 2},
                                            {"keyPath": "c", "status": "created", "version": 1}]})
        a = self.get(ns, "a").json()
        self.assertEqual((a["value"], a["metadata"], a["ttlSeconds"]), ("A", {"m": 1}, None))
        self.assertEqual(self.versions(ns, "a")[0]["comment"], "why")
        self.assertEqual(self.get(ns, "b").json()["ttlSeconds"], 600)
        self.assertEqual(self.get(ns, "c").json()["valueType"], "BINARY")

    def test_a_set_without_a_word_is_all_or_nothing(self):
        ns = self.namespace()
        self.put(ns, "b", 1)
        before = self.state(ns)
        for atomic in ({}, {"atomic": True}):
            answer = self.set(ns, {"keyPath": "a", "value": 1}, {"keyPath": "b", "value": 2, "expectedVersion": 9}, {"keyPath": "c", "value": 3, "version": 4},
                              code="bulk-failed", **atomic)
            errors = answer.json()["errors"]
            self.assertEqual([(e["code"], e["keyPath"], e["currentVersion"]) for e in errors], [("version-conflict", "b", 1), ("version-conflict", "c", 0)])
            self.assertEqual(self.state(ns), before)
        self.set(ns, {"keyPath": "a", "value": 1, "expectedVersion": 0}, {"keyPath": "b", "value": 2, "version": 1}, status=200)
        self.assertEqual(self.state(ns), [("a", 1, 1), ("b", 2, 2)])

    def test_every_invalid_item_is_named(self):
        ns = self.namespace()
        entries = [{"keyPath": "ok", "value": 1}, {"keyPath": "a//b", "value": 1}, {"keyPath": "n", "value": "x", "valueType": "NUMBER"},
                   {"keyPath": "x/rotate", "value": 1}, {"keyPath": "t", "value": 1, "ttlSeconds": 0}]
        answer = self.set(ns, *entries, status=400)
        errors = answer.json()["errors"]
        self.assertLessEqual({"a//b", "x/rotate", "t"}, {e["keyPath"] for e in errors})
        self.assertNotIn("ok", {e["keyPath"] for e in errors})
        self.assertEqual(self.state(ns), [])
        answer = self.set(ns, {"keyPath": "ok", "value": 1}, {"keyPath": "n", "value": "x", "valueType": "NUMBER"}, {"keyPath": "b", "value": 1, "id": ns["id"]}, status=400)
        self.assertEqual([(e["keyPath"], e["code"]) for e in answer.json()["errors"]], [("n", "invalid-value"), ("b", "read-only-field")])
        self.assertEqual(self.state(ns), [])

    def test_what_is_malformed_is_named_by_its_place(self):
        ns = self.namespace()
        for atomic in (True, False):
            for item, field in (({"value": 1}, "keyPath"), ({"keyPath": "a"}, "value"), ({"keyPath": "a", "value": None}, "value"), ({"keyPath": "a", "value": 1, "x": 1}, "x"),
                                ({"keyPath": 1, "value": 1}, "keyPath"), ({"keyPath": "a", "key": "b", "value": 1}, "key"), ({"keyPath": "a", "value": 1, "valueType": "T"}, "valueType"),
                                ({"keyPath": "a", "value": 1, "version": 1, "expectedVersion": 2}, "expectedVersion"), ({"keyPath": "a", "value": 1, "metadata": []}, "metadata")):
                with self.subTest(item=item, atomic=atomic):
                    answer = self.set(ns, {"keyPath": "ok", "value": 1}, item, atomic=atomic, status=400)
                    self.assertEqual([e["field"] for e in answer.json()["errors"]], ["entries[1]." + field])
            for item in (None, 1, "a", ["a"]):
                self.assertEqual(self.set(ns, item, atomic=atomic, status=400).json()["errors"][0]["field"], "entries[0]")
        self.assertEqual(self.state(ns), [])

    def test_a_set_that_is_not_atomic_does_each_on_its_own(self):
        ns = self.namespace()
        self.put(ns, "b", 1)
        body = self.set(ns, {"keyPath": "a", "value": 1}, {"keyPath": "b", "value": 2, "expectedVersion": 9}, {"keyPath": "a//b", "value": 1},
                        {"keyPath": "n", "value": "x", "valueType": "NUMBER"}, {"keyPath": "b/versions", "value": 1}, {"keyPath": "c", "value": 3},
                        {"keyPath": "t", "value": 1, "ttlSeconds": 315360001}, atomic=False, status=200, headers={"X-Request-Id": "each"}).json()
        results = body["results"]
        self.assertEqual([(r["keyPath"], r["status"], r["version"]) for r in results],
                         [("a", "created", 1), ("b", "failed", None), ("a//b", "failed", None), ("n", "failed", None), ("b/versions", "failed", None),
                          ("c", "created", 1), ("t", "failed", None)])
        self.assertEqual([r["error"]["code"] if "error" in r else None for r in results],
                         [None, "version-conflict", "invalid-key", "invalid-value", "reserved-key-segment", None, "invalid-request"])
        self.assertEqual(results[1]["error"]["currentVersion"], 1)
        self.assertEqual(self.state(ns), [("a", 1, 1), ("b", 1, 1), ("c", 1, 3)])
        rows = self.rows_of("each", namespaceId=ns["id"])
        self.assertEqual([(r["keyPath"], r["success"]) for r in rows if r["keyPath"] in "abct"], [("a", True), ("b", False), ("c", True), ("t", False)])
        self.assertEqual({r["action"] for r in rows}, {"WRITE"})

    def test_what_a_bulk_get_answered_can_be_edited_and_set(self):
        ns = self.namespace(isSecretNamespace=True)
        for key in ("a", "b"):
            self.put(ns, key, key, ttlSeconds=600)
        entries = self.bulk(ns, "get", {"keys": ["a", "b"]}).json()["entries"]
        edited = [{**entry, "value": entry["value"] * 2} for entry in entries]
        self.set(ns, *edited, status=200)
        self.assertEqual([(k, v) for k, _, v in self.state(ns)], [("a", "aa"), ("b", "bb")])
        answer = self.set(ns, *edited, code="bulk-failed")
        self.assertEqual([e["code"] for e in answer.json()["errors"]], ["version-conflict"] * 2)

    # ---- delete ----

    def test_a_delete_says_what_was_there(self):
        ns = self.namespace()
        for key in ("a", "b"):
            self.put(ns, key, 1)
        body = self.bulk(ns, "delete", {"keys": ["b", "x", "a"]}, status=200).json()
        self.assertEqual(body, {"deleted": ["b", "a"], "missing": ["x"], "failed": []})
        self.assertEqual(self.state(ns), [])
        self.assertEqual([v["reason"] for v in self.versions(ns, "a")], ["DELETE", "CREATE"])

    def test_a_delete_with_purge_destroys_history_also_of_deleted_keys(self):
        ns = self.namespace()
        for key in ("a", "b"):
            self.put(ns, key, 1)
        self.call("DELETE", self.entry_path(ns, "a"))
        body = self.bulk(ns, "delete", {"keys": ["a", "b", "x"], "purge": True}, status=200).json()
        self.assertEqual(body, {"deleted": ["a", "b"], "missing": ["x"], "failed": []})
        for key in ("a", "b"):
            self.call("GET", self.entry_path(ns, key, "/versions"), code="not-found")

    def test_invalid_keys_of_a_delete(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        answer = self.bulk(ns, "delete", {"keys": ["a", "b//c", "x/rotate"]}, status=400)
        self.assertEqual([(e["code"], e["keyPath"]) for e in answer.json()["errors"]], [("invalid-key", "b//c"), ("reserved-key-segment", "x/rotate")])
        self.assertEqual(self.keys(ns), ["a"])
        body = self.bulk(ns, "delete", {"keys": ["a", "b//c", "x/rotate", "y"], "atomic": False}, status=200).json()
        self.assertEqual((body["deleted"], body["missing"]), (["a"], ["y"]))
        self.assertEqual([(e["code"], e["keyPath"]) for e in body["failed"]], [("invalid-key", "b//c"), ("reserved-key-segment", "x/rotate")])

    # ---- all of them ----

    def test_the_same_key_twice_is_refused(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        for atomic in ({}, {"atomic": False}):
            answer = self.set(ns, {"keyPath": "a", "value": 1}, {"keyPath": "b", "value": 1}, {"key": "a", "value": 2}, code="invalid-request", **atomic)
            self.assertEqual(answer.json()["keyPath"], "a")
            self.bulk(ns, "delete", {"keys": ["a", "a"], **atomic}, code="invalid-request")
        self.bulk(ns, "get", {"keys": ["a", "b", "a"]}, code="invalid-request")
        self.assertEqual(self.state(ns), [("a", 1, 1)])

    def test_a_bulk_has_1_to_1000_items(self):
        ns = self.namespace()
        keys = [f"k{i}" for i in range(1001)]
        for count, status in ((0, 400), (1000, 200), (1001, 400)):
            for operation, body in (("set", {"entries": [{"keyPath": k, "value": i} for i, k in enumerate(keys[:count])]}), ("get", {"keys": keys[:count]}),
                                    ("delete", {"keys": keys[:count]})):
                with self.subTest(count=count, operation=operation):
                    answer = self.bulk(ns, operation, body, status=status)
                    if count == 1001:
                        self.assertEqual(answer.json()["limit"], 1000)
        self.assertEqual(self.state(ns), [])

    def test_bodies_that_are_none(self):
        ns = self.namespace()
        for operation, name in (("set", "entries"), ("get", "keys"), ("delete", "keys")):
            for body, field in (({}, name), ({name: None}, name), ({name: {}}, name), ({name: "a"}, name), ({name: [1]}, None), ({name: [], "x": 1}, "x"), ([], None), (1, None), ("x", None)):
                with self.subTest(operation=operation, body=body):
                    self.bulk(ns, operation, json.dumps(body), status=400, field=field)
        for body, field in (({"keys": ["a"], "atomic": 1}, "atomic"), ({"keys": ["a"], "purge": "x"}, "purge"), ({"keys": ["a"], "atomic": None}, "atomic")):
            self.bulk(ns, "delete", body, code="invalid-request", field=field)
        self.bulk(ns, "get", {"keys": ["a"], "atomic": True}, code="invalid-request", field="atomic")
        self.set(ns, {"keyPath": "a", "value": 1}, purge=True, code="invalid-request", field="purge")
        self.bulk(ns, "get?limit=1", {"keys": ["a"]}, code="invalid-request", field="limit")

    def test_a_bulk_body_may_have_16_mib(self):
        ns = self.namespace()
        entries = [{"keyPath": f"v{i}", "value": "x" * (MIB - 200)} for i in range(15)]
        body = json.dumps({"entries": entries}).encode()
        body += b" " * (16 * MIB - len(body))
        self.bulk(ns, "set", body, status=200)
        answer = self.bulk(ns, "set", body + b" ", code="too-large")
        self.assertEqual(answer.json()["limit"], 16 * MIB)
        # An item may not be larger than any value.
        answer = self.set(ns, {"keyPath": "a", "value": "x" * (MIB + 1)}, status=400)
        self.assertEqual(answer.json()["errors"][0]["code"], "too-large")


class BulkPermissions(ApiTestCase):
    flags = ("--denial-window", "0")  # each denial is looked for in the audit log
    tokens = [element("half", grant("kv-entry:read", "kv-entry:write", "kv-entry:delete", keys=["mine/**", "one"])),
              element("no-rotate", grant("kv-entry:read", "kv-entry:write", "kv-entry:delete"))]

    def setUp(self):
        self.ns = self.namespace()
        self.put(self.ns, "mine/a", 1)
        self.put(self.ns, "other", 1)
        self.before = self.list(self.ns, includeValues=True)

    def bulk(self, operation, body, **options):
        return self.call("POST", f"/{self.ns['id']}/bulk/{operation}", body, **options)

    def test_one_denied_key_denies_a_get_and_names_the_denied(self):
        answer = self.bulk("get", {"keys": ["mine/a", "other", "third"]}, token="half", code="permission-denied", headers={"X-Request-Id": "denied-get"})
        self.assertEqual([(e["code"], e["keyPath"]) for e in answer.json()["errors"]], [("permission-denied", "other"), ("permission-denied", "third")])
        self.assertEqual({(r["keyPath"], r["success"], r["reason"]) for r in self.rows_of("denied-get")},
                         {("other", False, "permission-denied"), ("third", False, "permission-denied")})
        self.assertEqual(self.bulk("get", {"keys": ["mine/a", "one"]}, token="half").json()["missing"], ["one"])

    def test_denied_comes_before_invalid_comes_before_conflict(self):
        denied = {"keyPath": "other", "value": 1}
        invalid = {"keyPath": "mine/n", "value": "x", "valueType": "NUMBER"}
        bad_key = {"keyPath": "mine//n", "value": "x"}
        conflict = {"keyPath": "mine/a", "value": 1, "expectedVersion": 7}
        fine = {"keyPath": "mine/ok", "value": 1}
        for items, code, keys in (([fine, conflict, invalid, denied], "permission-denied", ["other"]), ([bad_key, denied], "permission-denied", ["other"]),
                                  ([fine, conflict, invalid], "invalid-request", ["mine/n"]), ([bad_key, conflict], "invalid-key", ["mine//n"]),
                                  ([fine, conflict], "bulk-failed", ["mine/a"])):
            with self.subTest(code=code):
                answer = self.bulk("set", {"entries": items}, token="half", code=code)
                self.assertEqual([e["keyPath"] for e in answer.json()["errors"]], keys)
                self.assertEqual(self.list(self.ns, includeValues=True), self.before)
        answer = self.bulk("delete", {"keys": ["mine/a", "mine//n", "other"]}, token="half", code="permission-denied")
        self.assertEqual([e["keyPath"] for e in answer.json()["errors"]], ["other"])
        self.assertEqual(self.list(self.ns, includeValues=True), self.before)

    def test_each_on_its_own_does_what_it_may(self):
        results = self.bulk("set", {"entries": [{"keyPath": "mine/a", "value": 2}, {"keyPath": "other", "value": 2}, {"keyPath": "one", "value": 2}], "atomic": False}, token="half", status=200).json()["results"]
        self.assertEqual([(r["keyPath"], r["status"], r.get("error", {}).get("code")) for r in results],
                         [("mine/a", "updated", None), ("other", "failed", "permission-denied"), ("one", "created", None)])
        body = self.bulk("delete", {"keys": ["mine/a", "other"], "atomic": False}, token="half", status=200).json()
        self.assertEqual((body["deleted"], body["missing"], [(e["keyPath"], e["code"]) for e in body["failed"]]), (["mine/a"], [], [("other", "permission-denied")]))

    def test_a_purge_of_history_needs_the_right_to_rotate(self):
        answer = self.bulk("delete", {"keys": ["other"], "purge": True}, token="no-rotate", status=200)
        self.assertEqual(answer.json()["deleted"], ["other"])  # it had no history
        self.put(self.ns, "mine/a", 2)
        self.bulk("delete", {"keys": ["mine/a"], "purge": True}, token="no-rotate", code="permission-denied")
        body = self.bulk("delete", {"keys": ["mine/a"], "purge": True, "atomic": False}, token="no-rotate", status=200).json()
        self.assertEqual([e["code"] for e in body["failed"]], ["permission-denied"])
        self.call("DELETE", self.entry_path(self.ns, "mine/a", "?purge=true"), token="no-rotate", code="permission-denied")
        self.assertEqual(self.value(self.ns, "mine/a"), 2)


if __name__ == "__main__":
    main()
