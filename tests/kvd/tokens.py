"""Tokens that the store makes: who may, what they may give, what is shown, and that a revoked one is refused everywhere."""

import os
import re
import sqlite3
import tempfile
import unittest

from api import UNKNOWN_ID, ApiTestCase, element, grant, query
from harness import BASE, REVOKED_WITHIN, Kvd, main, make_key, run, until

SPECIFIC = grant("kv-entry:read", ns="app~one", keys=["config/**"])


class Tokens(ApiTestCase):
    tokens = [element("admin-of-app", grant("*", application="app"), user="app-admin"),
              element("admin-of-other", grant("*", application="other"), user="other-admin"),
              element("reader-and-giver", grant("kv-token:admin", "kv-entry:read", application="app"), user="giver"),
              element("no-giver", grant("kv-entry:read", "kv-entry:write", "kv-namespace:read"), user="no-giver")]
    flags = ("--denial-window", "0")

    def make(self, *grants, token=True, status=201, **members):
        body = {"name": "test", "userId": "made", "grants": list(grants), **members}
        answer = self.kvd.request("POST", "/tokens", body, token=token)
        self.assertEqual(answer.status, status, answer)
        return answer.json()

    def listed(self, token=True, **parameters):
        answer = self.kvd.request("GET", "/tokens" + query(**parameters), token=token)
        self.assertEqual(answer.status, 200, answer)
        return answer.json()["items"]

    def works(self, token):
        return self.kvd.request("GET", "/namespaces", token=token).status == 200

    def test_one_is_made_shown_once_used_listed_and_revoked(self):
        """Broken on purpose, and noticed: what was found once was not asked about again."""
        made = self.make(grant("kv-namespace:read"), name="first", userId="ann")
        self.assertRegex(made["token"], r"^kvt_[A-Za-z0-9_-]{43}$")
        self.assertTrue(self.works(made["token"]))
        shown = next(item for item in self.listed() if item["id"] == made["id"])
        self.assertEqual({k: v for k, v in made.items() if k not in ("token", "lastUsedAt")}, {k: v for k, v in shown.items() if k != "lastUsedAt"})
        self.assertEqual((shown["name"], shown["userId"], shown["createdBy"], shown["expiresAt"]), ("first", "ann", "root", None))
        self.assertNotIn(made["token"], str(self.listed()))
        until(lambda: next(item for item in self.listed() if item["id"] == made["id"])["lastUsedAt"], "its use is noted")
        self.assertEqual(self.kvd.request("DELETE", "/tokens/" + made["id"]).status, 204)
        until(lambda: not self.works(made["token"]), "it is refused", patience=REVOKED_WITHIN)
        self.assertEqual(self.kvd.request("DELETE", "/tokens/" + made["id"]).status, 404)
        self.assertNotIn(made["id"], str(self.listed()))

    def test_all_of_it_is_in_the_audit(self):
        made = self.make(grant("kv-namespace:read"), userId="audited")
        self.assertTrue(self.works(made["token"]))
        self.listed()
        self.kvd.request("DELETE", "/tokens/" + made["id"])
        records = self.kvd.request("GET", "/audit" + query(keyPath="tokens/" + made["id"])).json()["items"]
        self.assertEqual([(r["operation"], r["action"], r["userId"], r["success"]) for r in records],
                         [("token.revoke", "DELETE", "root", True), ("token.create", "WRITE", "root", True)])
        used = self.kvd.request("GET", "/audit" + query(userId="audited")).json()["items"]
        self.assertEqual((used[0]["operation"], used[0]["credentialId"]), ("namespace.list", "token:" + made["id"]))
        self.assertTrue(self.kvd.request("GET", "/audit" + query(operation="token.list")).json()["items"])

    def test_nobody_gives_grants_beyond_their_own(self):
        """Broken on purpose, and noticed: namespaces of other applications, keys above a folder, and other permissions were covered."""
        beyond = [grant("kv-entry:read"), grant("kv-entry:read", application="other"), grant("kv-entry:read", ns="other~one"), grant("*"),
                  grant("kv-admin"), grant("kv-entry:read", ns="other~one", application="app")]
        for one in beyond:
            refused = self.make(one, token="admin-of-app", status=403)
            self.assertEqual((refused["code"], refused["field"]), ("permission-denied", "grants[0]"), one)
        self.assertEqual(self.make(grant("kv-entry:read", application="app"), beyond[0], token="admin-of-app", status=403)["field"], "grants[1]")
        for one in (grant("*", application="app"), SPECIFIC, grant("kv-entry:read", application="app", keys=["a/b"]),
                    grant("kv-token:admin", application="app"), grant("kv-entry:read", application="app", ns=UNKNOWN_ID)):
            self.make(one, token="admin-of-app")
        self.make(grant("kv-entry:write", application="app"), token="reader-and-giver", status=403)
        narrow = self.make(grant("kv-token:admin", "kv-entry:read", ns="app~one", keys=["config/**", "exact"]))["token"]
        for keys, status in ((["config/**"], 201), (["config/a"], 201), (["config/a/**"], 201), (["exact"], 201), (["config/a", "exact"], 201),
                             (["*"], 403), (["config"], 403), (["conf/**"], 403), (["configs/a"], 403), (["exact/**"], 403), (["exact/a"], 403),
                             (["config/a", "other"], 403)):
            with self.subTest(keys=keys):
                self.make(grant("kv-entry:read", ns="app~one", keys=keys), token=narrow, status=status)
        self.make(grant("kv-entry:read", ns="app~two", keys=["config/a"]), token=narrow, status=403)
        self.make(grant("kv-entry:read", application="app", keys=["config/a"]), token=narrow, status=403)

    def test_a_namespace_by_its_id_is_not_one_by_its_name(self):
        """Whoever may give a name may not give an id, nor the other way round: either may come to mean something else."""
        ns = self.call("POST", "/namespaces", {"name": "by-id", "applicationId": "app"}, status=201).json()["id"]
        by_id = self.make(grant("kv-token:admin", "kv-entry:read", ns=ns))["token"]
        self.make(grant("kv-entry:read", ns=ns), token=by_id)
        self.make(grant("kv-entry:read", ns="app~by-id"), token=by_id, status=403)
        by_name = self.make(grant("kv-token:admin", "kv-entry:read", ns="app~by-id"))["token"]
        self.make(grant("kv-entry:read", ns="app~by-id"), token=by_name)
        self.make(grant("kv-entry:read", ns=ns), token=by_name, status=403)

    def test_those_beyond_ones_own_are_as_if_they_were_not_there(self):
        mine, theirs, all_of_it = self.make(grant("kv-entry:read", application="app")), self.make(grant("kv-entry:read", application="other")), self.make(grant("*"))
        seen = {item["id"] for item in self.listed(token="admin-of-app")}
        self.assertIn(mine["id"], seen)
        self.assertFalse({theirs["id"], all_of_it["id"]} & seen)
        missing = self.kvd.request("DELETE", "/tokens/" + UNKNOWN_ID, token="admin-of-app")
        for token in (theirs, all_of_it):
            refused = self.kvd.request("DELETE", "/tokens/" + token["id"], token="admin-of-app")
            strip = lambda answer: re.sub(r'"requestId":"[^"]*"', "", answer.body.decode())
            self.assertEqual((refused.status, strip(refused)), (404, strip(missing)))
            self.assertEqual(set(refused.headers), set(missing.headers))
        self.assertEqual(self.kvd.request("DELETE", "/tokens/" + mine["id"], token="admin-of-app").status, 204)

    def test_without_the_permission_there_is_nothing(self):
        for method, path, body in (("GET", "/tokens", None), ("POST", "/tokens", {"name": "n", "userId": "u", "grants": [grant("kv-entry:read")]}),
                                   ("DELETE", "/tokens/" + UNKNOWN_ID, None)):
            self.assertEqual(self.kvd.request(method, path, body, token="no-giver").status, 403, path)
            self.assertEqual(self.kvd.request(method, path, body, token=None).status, 401, path)

    def test_bad_requests_name_what_is_wrong(self):
        good = {"name": "n", "userId": "u", "grants": [grant("kv-entry:read")]}
        for change, field in (({"name": ""}, "name"), ({"name": "a\nb"}, "name"), ({"name": "x" * 256}, "name"), ({"userId": ""}, "userId"), ({"userId": 1}, "userId"),
                              ({"grants": []}, "grants"), ({"grants": "*"}, "grants"), ({"grants": [{}]}, "grants[0]"), ({"grants": [grant("kv-nothing")]}, "grants[0].permissions"),
                              ({"grants": [{**grant("kv-entry:read"), "keys": ["a//b"]}]}, "grants[0].keys"), ({"grants": [{**grant("kv-entry:read"), "namespaceId": "x"}]}, "grants[0].namespaceId"),
                              ({"grants": [grant("kv-entry:read")] * 101}, "grants"), ({"ttlSeconds": 0}, "ttlSeconds"), ({"ttlSeconds": -1}, "ttlSeconds"), ({"ttlSeconds": "1"}, "ttlSeconds"),
                              ({"unknown": 1}, "unknown")):
            answer = self.kvd.request("POST", "/tokens", {**good, **change})
            with self.subTest(change=str(change)[:80]):
                self.assertEqual((answer.status, answer.json().get("field")), (400, field), answer)
        for without in good:
            self.assertEqual(self.kvd.request("POST", "/tokens", {k: v for k, v in good.items() if k != without}).status, 400, without)
        self.assertEqual(self.kvd.request("DELETE", "/tokens/no-id").status, 404)

    def test_pages(self):
        made = {self.make(grant("kv-entry:read", ns="pages~one"))["id"] for _ in range(7)}
        seen, cursor = [], None
        while True:
            page = self.kvd.request("GET", "/tokens" + query(limit=3, **({"cursor": cursor} if cursor else {}))).json()
            self.assertLessEqual(len(page["items"]), 3)
            seen += [item["id"] for item in page["items"]]
            cursor = page["nextCursor"]
            if cursor is None:
                break
        self.assertEqual(seen, sorted(set(seen)))
        self.assertLessEqual(made, set(seen))

    def test_a_watch_ends_with_its_token(self):
        ns = self.call("POST", "/namespaces", {"name": "watched", "applicationId": "app"}, status=201).json()["id"]
        made = self.make(grant("kv-namespace:read", "kv-entry:read"))
        with self.kvd.connect() as connection:
            connection.send(f"GET {BASE}/{ns}/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {made['token']}\r\n\r\n")
            while b"id: " not in connection.buffer:
                connection.receive()
            self.assertEqual(self.kvd.request("DELETE", "/tokens/" + made["id"]).status, 204)
            connection.socket.settimeout(REVOKED_WITHIN)
            while b"event: end" not in connection.buffer:
                self.assertTrue(connection.receive())
            self.assertIn(b"unauthenticated", connection.buffer)

    def test_what_looks_like_one_and_is_none(self):
        for token in ("kvt_", "kvt_" + "a" * 43, "kvt_" + "a" * 5000):
            answer = self.kvd.request("GET", "/namespaces", token=token)
            self.assertEqual((answer.status, answer.headers.get("www-authenticate")), (401, "Bearer"))


class Expiry(unittest.TestCase):
    def test_one_that_expires_is_refused_and_forgotten(self):
        with Kvd("--expiry-grace", "0ms", "--maintenance-interval", "50ms") as kvd:
            made = kvd.request("POST", "/tokens", {"name": "short", "userId": "u", "grants": [grant("kv-namespace:read")], "ttlSeconds": 2}).json()
            self.assertEqual(kvd.request("GET", "/namespaces", token=made["token"]).status, 200)
            until(lambda: kvd.request("GET", "/namespaces", token=made["token"]).status == 401, "it expires")
            until(lambda: not kvd.request("GET", "/tokens").json()["items"], "it is forgotten")
            record = kvd.request("GET", "/audit" + query(operation="token.expire")).json()["items"][0]
            self.assertEqual((record["userId"], record["keyPath"]), ("system", "tokens/" + made["id"]))


class OnDisk(unittest.TestCase):
    """What is stored, and what becomes of it."""

    def make(self, kvd, **members):
        answer = kvd.request("POST", "/tokens", {"name": "n", "userId": "u", "grants": [grant("kv-namespace:read", "kv-token:admin")], **members})
        self.assertEqual(answer.status, 201, answer)
        return answer.json()

    def test_kvd_starts_with_nothing_but_them(self):
        with tempfile.TemporaryDirectory() as folder:
            key, file = make_key(), os.path.join(folder, "kv.db")
            with Kvd(storage="sqlite:" + file, key=key, folder=folder) as kvd:
                made = self.make(kvd)
            with Kvd(storage="sqlite:" + file, key=key, folder=folder, environment={"KVD_ROOT_TOKEN": ""}) as kvd:
                self.assertEqual(kvd.request("GET", "/namespaces", token=made["token"]).status, 200)
                self.assertEqual(kvd.request("DELETE", "/tokens/" + made["id"], token=made["token"]).status, 204)
            done = run("serve", "--storage", "sqlite:" + file, "--listen", "127.0.0.1:0", environment={"KV_MASTER_KEY": key}, folder=folder)
            self.assertEqual(done.returncode, 78, done.stderr)
            self.assertIn("nobody could log in", done.stderr)

    def test_a_row_that_was_edited_counts_as_none_and_is_reported(self):
        """Broken on purpose, and noticed: the MAC was not looked at."""
        edits = {"user_id": "root", "name": "other", "grants": '[{"permissions":["*"],"applicationId":"*","namespaceId":"*","keys":["*"]}]', "created_by": "x",
                 "created_at": 5, "expires_at": 4102444800000000, "mac": b"\0" * 32, "hash": b"\1" * 32}
        with tempfile.TemporaryDirectory() as folder:
            key, file = make_key(), os.path.join(folder, "kv.db")
            with Kvd(storage="sqlite:" + file, key=key, folder=folder) as kvd:
                made = {column: self.make(kvd) for column in edits}
                good = self.make(kvd)
            with sqlite3.connect(file) as database:
                for column, value in edits.items():
                    changed = database.execute(f"update tokens set {column} = ? where id = ?", (value, bytes.fromhex(made[column]["id"].replace("-", ""))))
                    self.assertEqual(changed.rowcount, 1)
                # A copy under another's id, and one that was never made.
                database.execute("insert into tokens select x'000102030405860788090a0b0c0d0e0f', hash, name, user_id, grants, created_at, created_by, expires_at, last_used_at, mac"
                                 " from tokens where id = ?", (bytes.fromhex(good["id"].replace("-", "")),))
            done = run("verify", "--storage", "sqlite:" + file, "--json", environment={"KV_MASTER_KEY": key}, folder=folder)
            self.assertEqual(done.returncode, 1, done.stderr)
            for column in edits:
                self.assertIn(made[column]["id"], done.stdout)
            self.assertIn("00010203-0405-8607", done.stdout)
            self.assertNotIn(good["id"], done.stdout)
            with Kvd(storage="sqlite:" + file, key=key, folder=folder) as kvd:
                for column in edits:
                    self.assertEqual(kvd.request("GET", "/namespaces", token=made[column]["token"]).status, 401, column)
                self.assertEqual(kvd.request("GET", "/namespaces", token=good["token"]).status, 200)
                self.assertEqual([item["id"] for item in kvd.request("GET", "/tokens").json()["items"]], [good["id"]])
                self.assertTrue([line for line in kvd.log() if "its row was changed outside the store" in line["message"]])
                self.assertEqual(kvd.request("DELETE", "/tokens/" + made["user_id"]["id"]).status, 204)  # by who may do anything

    def test_the_token_itself_is_nowhere(self):
        with tempfile.TemporaryDirectory() as folder:
            with Kvd("--access-log", storage="sqlite:" + os.path.join(folder, "kv.db"), folder=folder) as kvd:
                made = self.make(kvd)
                self.assertEqual(kvd.request("GET", "/namespaces", token=made["token"]).status, 200)
                until(lambda: kvd.request("GET", "/tokens").json()["items"][0]["lastUsedAt"], "its use is noted")
            for name in os.listdir(folder):
                with open(os.path.join(folder, name), "rb") as file:
                    self.assertNotIn(made["token"][4:].encode(), file.read(), name)

    def test_a_backup_has_them(self):
        with tempfile.TemporaryDirectory() as folder:
            key, file, backup = make_key(), os.path.join(folder, "kv.db"), os.path.join(folder, "b")
            with Kvd(storage="sqlite:" + file, key=key, folder=folder) as kvd:
                made = self.make(kvd)
            for arguments in (("backup", "--storage", "sqlite:" + file, "--to", backup), ("restore", "--storage", "sqlite:" + file + "2", "--from", backup)):
                done = run(*arguments, environment={"KV_MASTER_KEY": key}, folder=folder)
                self.assertEqual(done.returncode, 0, done.stderr)
            with Kvd(storage="sqlite:" + file + "2", key=key, folder=folder) as kvd:
                self.assertEqual(kvd.request("GET", "/namespaces", token=made["token"]).status, 200)


if __name__ == "__main__":
    main()
