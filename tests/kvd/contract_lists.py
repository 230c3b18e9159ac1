"""The contract of lists: prefixes, folders, pages, cursors."""

import base64
import json

from api import UNKNOWN_ID, ApiTestCase, element, grant, key_url, on_every_storage, query
from harness import main

MIB = 1 << 20


@on_every_storage
class Lists:
    tokens = [element("reader-1", grant("kv-namespace:read", "kv-entry:read", "kv-audit:read"), user="one"),
              element("reader-2", grant("kv-namespace:read", "kv-entry:read", "kv-audit:read"), user="two"),
              element("reader-3", grant("kv-namespace:read", "kv-entry:read", "kv-audit:read"), user="one"),
              element("names", grant("kv-namespace:read"))]

    TREE = ["a", "a-b", "a/b", "a/b/c", "a/b/d", "a/c", "a0", "b/x", "b/y/z", "\u00e9", "\U0001f511/k"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tree = cls.kvd.request("POST", "/namespaces", {"name": "tree", "applicationId": "app"}).json()
        answer = cls.kvd.request("POST", f"/{cls.tree['id']}/bulk/set", {"entries": [{"keyPath": k, "value": k} for k in reversed(cls.TREE)]})
        assert answer.status == 200, answer

    def path(self, ns=None, **parameters):
        return f"/{(ns or self.tree)['id']}/entries" + query(**parameters)

    def test_keys_are_sorted_by_their_bytes(self):
        keys = self.keys(self.tree)
        self.assertEqual(keys, sorted(self.TREE, key=lambda k: k.encode()))
        body = self.list(self.tree)
        self.assertEqual(set(body), {"items", "nextCursor", "revision"})
        self.assertEqual(body["revision"], len(self.TREE))
        for item in body["items"]:
            self.check_entry(item, with_value=False)

    def test_a_prefix_is_a_plain_string(self):
        for prefix in ("", "a", "a/", "a/b", "a/b/", "b", "zzz", "\u00e9", "\U0001f511", "/", "a//", "..", "A"):
            self.assertEqual(self.keys(self.tree, prefix=prefix), sorted([k for k in self.TREE if k.startswith(prefix)], key=str.encode), prefix)
        for prefix in ("a\0", "a\n", "x" * 1025):
            self.call("GET", self.path(prefix=prefix), code="invalid-request", field="prefix")
        self.call("GET", f"/{self.tree['id']}/entries?prefix=%FF", code="invalid-request", field="prefix")
        self.call("GET", f"/{self.tree['id']}/entries?prefix=%zz", code="invalid-request", field="prefix")

    def test_in_a_query_a_plus_is_a_space(self):
        ns = self.namespace()
        self.put(ns, "a b", 1)
        self.put(ns, "a+b", 1)
        path = f"/{ns['id']}/entries?prefix="
        for spelling, wanted in (("a+b", "a b"), ("a%20b", "a b"), ("a%2Bb", "a+b")):
            self.assertEqual([i["keyPath"] for i in self.call("GET", path + spelling).json()["items"]], [wanted])

    def test_a_delimiter_folds_deeper_keys_into_prefixes(self):
        for prefix, items, prefixes in (("", ["a", "a-b", "a0", "\u00e9"], ["a/", "b/", "\U0001f511/"]), ("a/", ["a/b", "a/c"], ["a/b/"]), ("a/b/", ["a/b/c", "a/b/d"], []),
                                        ("a", ["a", "a-b", "a0"], ["a/"]), ("b/", ["b/x"], ["b/y/"]), ("none", [], [])):
            body = self.list(self.tree, prefix=prefix, delimiter="/")
            self.assertEqual(set(body), {"items", "prefixes", "nextCursor", "revision"})
            self.assertEqual(([i["keyPath"] for i in body["items"]], body["prefixes"]), (items, prefixes), prefix)
        for delimiter in ("", "//", "-", "."):
            self.call("GET", self.path(delimiter=delimiter), code="invalid-request", field="delimiter")

    def test_folded_lists_are_paged_without_telling_a_folder_twice(self):
        for limit in range(1, 8):
            seen, folders, cursor = [], [], None
            while True:
                body = self.list(self.tree, delimiter="/", limit=limit, cursor=cursor)
                self.assertLessEqual(len(body["items"]) + len(body["prefixes"]), limit)
                seen += [i["keyPath"] for i in body["items"]]
                folders += body["prefixes"]
                cursor = body["nextCursor"]
                if cursor is None:
                    break
            self.assertEqual((seen, folders), (["a", "a-b", "a0", "\u00e9"], ["a/", "b/", "\U0001f511/"]), limit)

    def test_pages_tell_everything_once(self):
        everything = self.list(self.tree)["items"]
        for limit in (1, 2, 3, len(everything) - 1, len(everything), len(everything) + 1):
            pages = self.pages(self.path().split("?")[0], limit=limit)
            self.assertEqual([item for page in pages for item in page], everything)
            self.assertTrue(all(len(page) == limit for page in pages[:-1]))
        self.assertEqual(len(self.pages(self.path(), limit=len(everything))), 1)

    def test_a_page_has_1_to_1000_items(self):
        ns = self.namespace()
        self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": f"{i:04}", "value": i} for i in range(1000)]})
        self.put(ns, "1000", 1)
        body = self.list(ns)
        self.assertEqual(len(body["items"]), 1000)
        self.assertEqual([i["keyPath"] for i in self.list(ns, cursor=body["nextCursor"])["items"]], ["1000"])
        self.assertEqual(len(self.list(ns, limit=1000)["items"]), 1000)
        for limit in ("0", "1001", "-1", "x", "", "1.0", "1e3", "18446744073709551617", " 1"):
            for path in (f"/{ns['id']}/entries", "/namespaces", "/audit", f"/{ns['id']}/entries/1000/versions"):
                self.call("GET", path + query(limit=limit), code="invalid-request", field="limit")

    def test_pages_go_on_while_keys_come_and_go(self):
        ns = self.namespace()
        for key in "bdfh":
            self.put(ns, key, 1)
        body = self.list(ns, limit=2)
        self.assertEqual([i["keyPath"] for i in body["items"]], ["b", "d"])
        for key in "acg":
            self.put(ns, key, 1)
        self.call("DELETE", self.entry_path(ns, "f"))
        self.assertEqual([i["keyPath"] for i in self.list(ns, limit=5, cursor=body["nextCursor"])["items"]], ["g", "h"])

    def test_values_are_shown_where_asked_for_and_each_is_recorded(self):
        ns = self.namespace(isSecretNamespace=True)
        for key in ("a", "b"):
            self.put(ns, key, key.upper())
        items = self.call("GET", self.path(ns, includeValues=True), headers={"X-Request-Id": "list-values"}).json()["items"]
        self.assertEqual([(i["keyPath"], i["value"]) for i in items], [("a", "A"), ("b", "B")])
        for item in items:
            self.check_entry(item)
        rows = self.rows_of("list-values")
        self.assertEqual({(r["action"], r["operation"]) for r in rows}, {("READ", "entry.list")})
        self.assertLessEqual({"a", "b"}, {r["keyPath"] for r in rows if r["entryId"]})
        self.call("GET", self.path(ns), headers={"X-Request-Id": "list-names"})
        self.assertEqual([(r["operation"], r["entryId"], r["success"]) for r in self.rows_of("list-names")], [("entry.list", None, True)])
        self.call("GET", self.path(ns), token="names", status=200)
        self.call("GET", self.path(ns, includeValues=True), token="names", code="permission-denied")
        for text in ("1", "yes", ""):
            self.call("GET", self.path(ns, includeValues=text), code="invalid-request", field="includeValues")

    def test_a_page_with_values_ends_early_at_8_mib(self):
        ns = self.namespace()
        for number in range(10):
            self.put(ns, f"v{number}", "x" * MIB)
        self.put(ns, "w", "small")
        sizes = [len(page) for page in self.pages(f"/{ns['id']}/entries", includeValues=True)]
        self.assertEqual(sum(sizes), 11)
        self.assertIn(sizes[0], (8, 9))  # it ends after the value that crosses the line
        self.assertEqual(len(self.list(ns)["items"]), 11)
        for number in range(12):
            self.call("PUT", self.entry_path(ns, "h"), {"value": "y" * MIB})
        sizes = [len(page) for page in self.pages(self.entry_path(ns, "h", "/versions"), includeValues=True)]
        self.assertEqual(sum(sizes), 12)
        self.assertLessEqual(max(sizes), 9)

    def test_a_cursor_is_bound_to_its_route_its_query_and_its_user(self):
        cursor = self.list(self.tree, limit=2, prefix="a")["nextCursor"]
        self.list(self.tree, limit=2, prefix="a", cursor=cursor)
        self.list(self.tree, limit=3, prefix="a", cursor=cursor)  # the size of the pages may change
        other = self.namespace()
        self.put(other, "a", 1)
        for path in (self.path(prefix="b", cursor=cursor), self.path(cursor=cursor), self.path(prefix="a", delimiter="/", cursor=cursor),
                     self.path(prefix="a", includeValues=True, cursor=cursor), self.path(prefix="a", expiringBefore="2999-01-01T00:00:00Z", cursor=cursor),
                     self.path(other, prefix="a", cursor=cursor), "/namespaces" + query(cursor=cursor), "/audit" + query(cursor=cursor),
                     self.entry_path(self.tree, "a", "/versions") + query(cursor=cursor)):
            with self.subTest(path=path):
                self.call("GET", path, code="invalid-cursor")
        self.call("GET", self.path(prefix="a", cursor=cursor), token="reader-1", code="invalid-cursor")
        mine = self.call("GET", self.path(limit=1), token="reader-1").json()["nextCursor"]
        self.call("GET", self.path(cursor=mine), token="reader-2", code="invalid-cursor")
        self.call("GET", self.path(cursor=mine), token="reader-3", status=200)  # the same user by another credential

    def test_a_cursor_that_was_tampered_with_is_refused(self):
        for path in (f"/{self.tree['id']}/entries", "/namespaces", "/audit", ):
            cursor = self.call("GET", path + "?limit=1").json()["nextCursor"]
            self.assertIsNotNone(cursor, path)
            self.assertRegex(cursor, r"^[A-Za-z0-9_-]+$")
            raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            for position in range(len(raw)):
                raw[position] ^= 1
                changed = base64.urlsafe_b64encode(raw).decode().rstrip("=")
                raw[position] ^= 1
                self.call("GET", path + query(limit=1, cursor=changed), code="invalid-cursor")
            for text in (cursor[:-1], cursor + "A", cursor + "=", "x", "A" * 1000, "a b", "\u00e9", cursor.swapcase()):
                self.call("GET", path + query(limit=1, cursor=text), code="invalid-cursor")

    def test_a_cursor_does_not_show_where_it_stands(self):
        ns = self.namespace()
        self.put(ns, "private-key-name", 1)
        self.put(ns, "q", 1)
        cursor = self.list(ns, limit=1)["nextCursor"]
        self.assertNotIn(b"private", base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))

    def test_queries_are_strict(self):
        for path in (f"/{self.tree['id']}/entries", "/namespaces", "/audit", f"/{self.tree['id']}/export", f"/{self.tree['id']}/entries/a", f"/{self.tree['id']}/entries/a/versions",
                     "/namespaces/" + self.tree["id"]):
            self.call("GET", path + "?nonsense=1", code="invalid-request", field="nonsense")
            self.call("GET", path + "?Limit=1", code="invalid-request", field="Limit")
            self.call("GET", path + "?%FF=1", code="invalid-request")
            for nothing in ("?", "?&&"):
                self.call("GET", path + nothing, status=409 if path.endswith("/export") else 200)
        self.call("GET", f"/{self.tree['id']}/entries?limit=1&limit=1", code="invalid-request", field="limit")


if __name__ == "__main__":
    main()
