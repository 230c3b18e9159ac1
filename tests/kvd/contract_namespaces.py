"""The contract of namespaces: settings, secrecy, locking, deletion and what comes after it."""

import json

from api import UNKNOWN_ID, ApiTestCase, element, grant, on_every_storage, query
from harness import BASE, main, until

DEFAULTS = {
    "description": "", "applicationId": "default", "isSecretNamespace": False, "defaultTtlSeconds": None, "keepsHistory": True,
    "historyLimit": 20, "deletionProtection": False, "sealing": False, "version": 1, "revision": 0, "createdBy": "root", "updatedBy": "root"}


def one(ns):
    return "/namespaces/" + ns["id"]


@on_every_storage
class Namespaces:
    def listed(self, **parameters):
        return [item["id"] for item in self.call("GET", "/namespaces" + query(**parameters), status=200).json()["items"]]

    # ---- creating ----

    def test_what_is_left_out_has_its_default(self):
        for secret in (False, True):
            answer = self.call("POST", "/namespaces", {"name": f"defaults-{secret}", "isSecretNamespace": secret}, status=201)
            body = answer.json()
            self.check_namespace(body)
            wanted = {**DEFAULTS, "name": f"defaults-{secret}", "isSecretNamespace": secret, "historyLimit": None if secret else 20}
            self.assertEqual({name: body[name] for name in wanted}, wanted)
            self.assertEqual(answer.headers["location"], f"{BASE}/namespaces/{body['id']}")
            self.assertEqual(answer.headers["etag"], self.call("GET", one(body)).headers["etag"])
            self.assertEqual(self.call("GET", one(body)).json(), body)
            self.assertEqual(self.call("GET", "/namespaces/default~" + body["name"]).json(), body)

    def test_every_setting_is_kept(self):
        given = {"name": "all", "description": "for\nall \u00e9", "applicationId": "app \u00e9", "isSecretNamespace": False, "defaultTtlSeconds": 3600,
                 "keepsHistory": False, "historyLimit": 5, "deletionProtection": True}
        body = self.call("POST", "/namespaces", given, status=201).json()
        self.assertEqual({name: body[name] for name in given}, given)

    def test_settings_that_are_none_are_refused(self):
        wrong = [({}, "name"), ({"name": ""}, "name"), ({"name": None}, "name"), ({"name": 1}, "name"), ({"name": "a~b"}, "name"), ({"name": "a/b"}, "name"),
                 ({"name": "a\nb"}, "name"), ({"name": "x" * 256}, "name"), ({"name": "\u00e9" * 128}, "name"), ({"name": "x", "applicationId": ""}, "applicationId"),
                 ({"name": "x", "applicationId": "a/b"}, "applicationId"), ({"name": "x", "applicationId": "a" * 256}, "applicationId"),
                 ({"name": "x", "applicationId": "a\0"}, "applicationId"), ({"name": "x", "applicationId": 1}, "applicationId"),
                 ({"name": "x", "description": "d" * 4097}, "description"), ({"name": "x", "description": 1}, "description"),
                 ({"name": "x", "isSecretNamespace": "true"}, "isSecretNamespace"), ({"name": "x", "isSecretNamespace": 1}, "isSecretNamespace"),
                 ({"name": "x", "keepsHistory": None}, "keepsHistory"), ({"name": "x", "deletionProtection": 0}, "deletionProtection"),
                 ({"name": "x", "version": 1}, "version"), ({"name": "x", "id": UNKNOWN_ID}, "id"), ({"name": "x", "isSecret": True}, "isSecret")]
        for member in ("defaultTtlSeconds", "historyLimit"):
            for value in (0, -1, 1.5, "1", True, 10**30):
                wrong.append(({"name": "x", member: value}, member))
        wrong.append(({"name": "x", "defaultTtlSeconds": 315360001}, "defaultTtlSeconds"))
        for body, field in wrong:
            with self.subTest(body=str(body)[:80]):
                self.call("POST", "/namespaces", body, code="invalid-request", field=field)
        self.assertEqual(self.listed(name="x"), [])

    def test_names_may_be_long_and_of_any_script(self):
        for name in ("x" * 255, "\u00e9" * 127, "sp ace", "..", "\U0001f511", "namespaces", "audit"):
            body = self.call("POST", "/namespaces", {"name": name, "description": "d" * 4096}, status=201).json()
            self.assertEqual(body["name"], name)
            self.assertEqual(self.listed(name=name), [body["id"]])

    def test_a_live_name_is_taken_within_its_application(self):
        self.call("POST", "/namespaces", {"name": "taken", "applicationId": "a"}, status=201)
        self.call("POST", "/namespaces", {"name": "taken", "applicationId": "a"}, code="namespace-exists", field="name")
        self.call("POST", "/namespaces", {"name": "taken", "applicationId": "b"}, status=201)
        self.call("POST", "/namespaces", {"name": "Taken", "applicationId": "a"}, status=201)

    def test_a_secret_namespace_keeps_its_history(self):
        self.call("POST", "/namespaces", {"name": "no-history", "isSecretNamespace": True, "keepsHistory": False}, code="history-required", field="keepsHistory")
        ns = self.namespace(isSecretNamespace=True)
        self.call("PUT", one(ns), {"keepsHistory": False}, code="history-required", field="keepsHistory")
        plain = self.namespace(keepsHistory=False)
        self.call("PUT", one(plain), {"isSecretNamespace": True}, code="history-required")
        self.call("PUT", one(plain), {"isSecretNamespace": True, "keepsHistory": True}, status=200)

    # ---- listing ----

    def test_lists_are_filtered_and_paged(self):
        ids = {}
        for application in ("list-a", "list-b"):
            for name in ("one", "two", "three"):
                ids[application, name] = self.namespace(name=name, applicationId=application)["id"]
        self.assertEqual(self.listed(applicationId="list-a"), [ids["list-a", n] for n in ("one", "three", "two")])
        self.assertEqual([i for i in self.listed(name="two") if i in ids.values()], [ids["list-a", "two"], ids["list-b", "two"]])
        self.assertEqual(self.listed(applicationId="list-a", name="two"), [ids["list-a", "two"]])
        self.assertEqual(self.listed(applicationId="list-c"), [])
        pages = self.pages("/namespaces", applicationId="list-a", limit=1)
        self.assertEqual([[ns["name"] for ns in page] for page in pages], [["one"], ["three"], ["two"]])
        self.assertEqual([len(page) for page in self.pages("/namespaces", applicationId="list-a", limit=2)], [2, 1])
        everything = self.call("GET", "/namespaces").json()
        self.assertEqual(set(everything), {"items", "nextCursor"})
        for item in everything["items"]:
            self.check_namespace(item)
        order = [(ns["applicationId"].encode(), ns["name"].encode()) for ns in everything["items"]]
        self.assertEqual(order, sorted(order))
        for name in ("deleted", "limit", "cursor", "sort"):
            self.call("GET", "/namespaces" + query(**{name: "x"}), status=400)

    # ---- updating ----

    def test_an_update_changes_what_it_names_and_clears_what_is_null(self):
        ns = self.namespace(description="d", defaultTtlSeconds=60, historyLimit=7)
        answer = self.call("PUT", one(ns), {"description": "e"}, status=200)
        body = answer.json()
        self.check_namespace(body)
        self.assertEqual({**body, "updatedAt": ns["updatedAt"]}, {**ns, "description": "e", "version": 2})
        self.assertEqual(self.call("GET", one(ns)).json(), body)
        self.assertEqual(answer.headers["etag"], self.call("GET", one(ns)).headers["etag"])
        body = self.call("PUT", one(ns), {"description": None, "defaultTtlSeconds": None, "historyLimit": None}).json()
        self.assertEqual((body["description"], body["defaultTtlSeconds"], body["historyLimit"]), ("", None, None))
        body = self.call("PUT", one(ns), {"defaultTtlSeconds": 5, "historyLimit": 3, "keepsHistory": False, "deletionProtection": True}).json()
        self.assertEqual((body["defaultTtlSeconds"], body["historyLimit"], body["keepsHistory"], body["deletionProtection"]), (5, 3, False, True))
        body = self.call("PUT", one(ns), {"isSecretNamespace": False, "applicationId": ns["applicationId"]}).json()
        self.assertEqual(body["version"], 5)

    def test_what_cannot_change_is_refused(self):
        ns = self.namespace()
        self.call("PUT", one(ns), {"applicationId": "other"}, code="immutable", field="applicationId")
        secret = self.namespace(isSecretNamespace=True)
        self.call("PUT", one(secret), {"isSecretNamespace": False}, code="immutable", field="isSecretNamespace")
        self.assertEqual(self.call("GET", one(secret)).json(), secret)
        for body, field in (({"name": None}, "name"), ({"name": ""}, "name"), ({"name": "a/b"}, "name"), ({"isSecretNamespace": None}, "isSecretNamespace"),
                            ({"unknown": 1}, "unknown"), ({"historyLimit": 0}, "historyLimit"), ({"defaultTtlSeconds": 0}, "defaultTtlSeconds"), ({"description": "x" * 4097}, "description")):
            self.call("PUT", one(ns), body, code="invalid-request", field=field)

    def test_a_namespace_can_be_renamed(self):
        ns, other = self.namespace(name="before"), self.namespace(name="other")
        self.put(ns, "a", 1)
        self.call("PUT", one(ns), {"name": "other"}, code="namespace-exists", field="name")
        self.assertEqual(self.call("PUT", one(ns), {"name": "before"}).json()["name"], "before")
        self.assertEqual(self.call("PUT", one(ns), {"name": "after"}).json()["name"], "after")
        self.assertEqual(self.call("GET", "/app~after/entries/a").json()["value"], 1)
        self.call("GET", "/app~before/entries/a", code="not-found")
        self.namespace(name="before")

    def test_a_namespace_that_was_got_can_be_put_back_once(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        edited = {**self.call("GET", one(ns)).json(), "description": "edited"}
        self.put(ns, "b", 1)  # which moves the revision, not the version
        self.assertEqual(self.call("PUT", one(ns), edited, status=200).json()["description"], "edited")
        answer = self.call("PUT", one(ns), edited, code="version-conflict")
        self.assertEqual(answer.json()["currentVersion"], 2)
        fresh = self.call("GET", one(ns)).json()
        for name in ("id", "createdAt", "createdBy", "updatedAt", "updatedBy", "sealing"):
            wrong = not fresh[name] if name == "sealing" else UNKNOWN_ID if name == "id" else "2024-01-15T10:00:00.000Z" if name.endswith("At") else "other"
            self.call("PUT", one(ns), {name: wrong}, code="read-only-field", field=name)

    def test_optimistic_locking_of_namespaces(self):
        ns = self.namespace()
        for name in ("version", "expectedVersion"):
            answer = self.call("PUT", one(ns), {"description": "x", name: 9}, code="version-conflict")
            self.assertEqual(answer.json()["currentVersion"], 1)
        self.call("PUT", one(ns), {"description": "x", "expectedVersion": 1}, status=200)
        self.call("PUT", one(ns), {"description": "x", "version": 2}, status=200)
        etag = self.call("GET", one(ns)).headers["etag"]
        self.call("PUT", one(ns), {"description": "y"}, headers={"If-Match": '"x"'}, code="precondition-failed")
        self.call("PUT", one(ns), {"description": "y"}, headers={"If-None-Match": "*"}, code="precondition-failed")
        self.call("PUT", one(ns), {"description": "y"}, headers={"If-Match": etag}, status=200)
        answer = self.call("PUT", one(ns), {"description": "y"}, headers={"If-Match": etag}, code="precondition-failed")
        self.assertEqual(answer.json()["currentVersion"], 4)
        self.call("PUT", one(ns), {"description": "y"}, headers={"If-Match": "*"}, status=200)
        self.call("DELETE", one(ns), headers={"If-Match": etag}, code="precondition-failed")
        self.call("DELETE", one(ns), {"expectedVersion": 1}, code="version-conflict")
        self.call("DELETE", one(ns), {"expectedVersion": 5}, status=204)

    def test_a_lower_history_limit_forgets(self):
        ns = self.namespace(historyLimit=None)
        for value in range(6):
            self.put(ns, "a", value)
        self.assertEqual(len(self.versions(ns, "a")), 6)
        self.call("PUT", one(ns), {"historyLimit": 2})
        self.assertEqual([v["version"] for v in self.versions(ns, "a")], [6, 5])
        self.call("GET", self.entry_path(ns, "a", "?version=4"), code="not-found")
        self.call("POST", self.entry_path(ns, "a", "/rollback"), {"version": 4}, code="not-found")

    # ---- from plain to secret ----

    def test_what_a_plain_namespace_held_is_sealed_when_it_becomes_secret(self):
        ns = self.namespace(historyLimit=None)
        values = {f"k/{i}": f"value {i} {'x' * (i % 7)}" for i in range(250)}
        self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": k, "value": "old"} for k in values]})
        self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": k, "value": v} for k, v in values.items()]})
        self.call("DELETE", self.entry_path(ns, "k/0"))
        body = self.call("PUT", one(ns), {"isSecretNamespace": True}, status=200).json()
        self.assertIs(body["isSecretNamespace"], True)
        # Meanwhile everything can be read and written.
        self.assertEqual(self.value(ns, "k/249"), values["k/249"])
        self.put(ns, "k/248", "written meanwhile")
        until(lambda: not self.call("GET", one(ns)).json()["sealing"], "everything is sealed")
        self.assertEqual(self.value(ns, "k/248"), "written meanwhile")
        listed = self.list(ns, includeValues=True)["items"]
        self.assertEqual(len(listed), 249)
        for item in listed:
            self.assertEqual(item["value"], values[item["keyPath"]] if item["keyPath"] != "k/248" else "written meanwhile")
            self.assertEqual(item["version"], 2 if item["keyPath"] != "k/248" else 3)
        self.assertEqual([v.get("value") for v in self.versions(ns, "k/5", includeValues=True)], [values["k/5"], "old"])
        self.assertEqual([v.get("value") for v in self.versions(ns, "k/0", includeValues=True)], [None, values["k/0"], "old"])
        self.call("POST", self.entry_path(ns, "k/0", "/rollback"), {})
        self.assertEqual(self.value(ns, "k/0"), values["k/0"])
        self.call("PUT", one(ns), {"isSecretNamespace": False}, code="immutable")
        self.assertEqual(self.call("PUT", one(ns), {"isSecretNamespace": True}).json()["sealing"], False)

    # ---- deleting ----

    def test_a_deleted_namespace_is_hidden_at_once_and_can_be_restored(self):
        ns = self.namespace(isSecretNamespace=True)
        self.put(ns, "a", "kept")
        self.call("DELETE", one(ns), status=204)
        for method, path, body in (("GET", one(ns), None), ("PUT", one(ns), {"description": "x"}), ("DELETE", one(ns), None), ("GET", f"/{ns['id']}/entries", None),
                                   ("GET", f"/{ns['id']}/entries/a", None), ("PUT", f"/{ns['id']}/entries/a", {"value": 1}), ("GET", f"/app~{ns['name']}/entries/a", None),
                                   ("POST", f"/{ns['id']}/bulk/get", {"keys": ["a"]}), ("GET", f"/{ns['id']}/export", None), ("GET", f"/{ns['id']}/entries/a/versions", None),
                                   ("POST", f"/{ns['id']}/entries/a/rotate", {"value": 1}), ("POST", f"/{ns['id']}/entries/a/rollback", {})):
            self.call(method, path, body, code="not-found")
        self.assertNotIn(ns["id"], self.listed())
        self.assertIn(ns["id"], self.listed(deleted=True))
        restored = self.call("POST", one(ns) + "/restore", status=200).json()
        self.check_namespace(restored)
        self.assertEqual((restored["id"], restored["name"]), (ns["id"], ns["name"]))
        self.assertGreater(restored["version"], ns["version"])
        self.assertEqual(self.value(ns, "a"), "kept")
        self.assertNotIn(ns["id"], self.listed(deleted=True))
        self.call("POST", one(ns) + "/restore", {}, code="not-found")
        self.call("POST", f"/namespaces/app~{ns['name']}/restore", code="not-found")
        self.call("POST", one(ns) + "/restore", {"x": 1}, code="invalid-request", field="x")

    def test_the_name_of_a_deleted_namespace_is_free(self):
        first = self.namespace(name="reused")
        self.put(first, "a", "first")
        self.call("DELETE", one(first))
        second = self.namespace(name="reused")
        self.assertNotEqual(second["id"], first["id"])
        self.call("GET", "/app~reused/entries/a", code="not-found")
        self.call("POST", one(first) + "/restore", code="namespace-exists")
        self.call("PUT", one(second), {"name": "renamed"})
        self.call("POST", one(first) + "/restore", status=200)
        self.assertEqual(self.call("GET", "/app~reused/entries/a").json()["value"], "first")

    def test_deletion_protection_stands_in_the_way(self):
        ns = self.namespace(deletionProtection=True)
        self.call("DELETE", one(ns), code="deletion-protected", field="deletionProtection")
        self.call("DELETE", one(ns) + "?purge=true", code="deletion-protected")
        self.call("PUT", one(ns), {"deletionProtection": False})
        self.call("DELETE", one(ns), status=204)

    def test_a_purge_destroys_at_once(self):
        for deleted_before in (False, True):
            ns = self.namespace()
            self.put(ns, "a", 1)
            if deleted_before:
                self.call("DELETE", one(ns), status=204)
            self.call("DELETE", one(ns) + "?purge=true", status=204)
            self.assertNotIn(ns["id"], self.listed(deleted=True))
            self.call("POST", one(ns) + "/restore", code="not-found")
            self.call("DELETE", one(ns) + "?purge=true", code="not-found")
            self.namespace(name=ns["name"])
        for text in ("1", "yes", ""):
            self.call("DELETE", one(self.namespace()) + "?purge=" + text, code="invalid-request", field="purge")

    def test_everything_about_namespaces_is_recorded(self):
        ns = self.call("POST", "/namespaces", {"name": "recorded"}, headers={"X-Request-Id": "nsrec-1"}).json()
        self.call("GET", one(ns), headers={"X-Request-Id": "nsrec-2"})
        self.call("PUT", one(ns), {"description": "x"}, headers={"X-Request-Id": "nsrec-3"})
        self.call("PUT", one(ns), {"description": "x", "version": 1}, headers={"X-Request-Id": "nsrec-4"}, code="version-conflict")
        self.call("DELETE", one(ns), headers={"X-Request-Id": "nsrec-5"})
        self.call("POST", one(ns) + "/restore", headers={"X-Request-Id": "nsrec-6"})
        rows = [row for row in self.audit(namespaceId=ns["id"]) if row["requestId"].startswith("nsrec-")]
        self.assertEqual([(r["action"], r["operation"], r["success"], r["reason"]) for r in rows], [
            ("WRITE", "namespace.create", True, None), ("READ", "namespace.get", True, None), ("WRITE", "namespace.update", True, None),
            ("WRITE", "namespace.update", False, "version-conflict"), ("DELETE", "namespace.delete", True, None), ("WRITE", "namespace.restore", True, None)])
        self.assertEqual({r["namespaceId"] for r in rows}, {ns["id"]})


class Retention(ApiTestCase):
    """A deleted namespace comes back only so long."""

    flags = ("--namespace-retention", "1s", "--maintenance-interval", "50ms")

    def test_a_namespace_is_gone_for_good_after_its_retention(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        self.call("DELETE", one(ns))
        def is_gone():
            return ns["id"] not in [item["id"] for item in self.call("GET", "/namespaces?deleted=true").json()["items"]]
        until(is_gone, "the namespace is destroyed")
        self.call("POST", one(ns) + "/restore", code="not-found")


if __name__ == "__main__":
    main()
