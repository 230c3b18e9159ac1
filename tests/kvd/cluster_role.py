"""kvd as a role that may only do what `kvd migrate --print --role` grants: it makes and changes no table, serves everything, keeps
house, and leaves the audit log to whoever owns it, unless it was granted that, too.

The API itself is tried as such a role by spec_examples.py and others, with KVD_TEST_STORAGE=postgresql-role.

Broken on purpose, and noticed: removal tried although it is not granted; the grant always printed; a warning every time.
"""

import os
import shutil
import tempfile
import unittest

import storages
from database import Database, Failure, value
from harness import Kvd, main, make_key, run, until
from postgres_server import PostgresServer

FLAGS = ("--maintenance-interval", "20ms", "--expiry-grace", "0", "--namespace-retention", "1s", "--audit-bytes-max", "1")
LACKS = "may not remove them"


def setUpModule():
    global SERVER
    SERVER = PostgresServer(durable=False)


def tearDownModule():
    SERVER.close()


class Role(unittest.TestCase):
    def begin(self, *flags):
        self.folder, self.key = tempfile.mkdtemp(prefix="kvd-test-"), make_key()
        self.addCleanup(shutil.rmtree, self.folder)
        self.owner = SERVER.create_database(self._testMethodName[:40])
        self.role = storages.serving_role(self.owner, *flags, role="serving")
        self.kvd = Kvd(*FLAGS, storage=self.role, folder=self.folder, key=self.key)
        self.addCleanup(self.kvd.kill)
        self.ns = self.call("POST", "/namespaces", {"name": "n", "applicationId": "app", "isSecretNamespace": True})["id"]

    def call(self, method, path, body=None, **options):
        answer = self.kvd.request(method, path, body, **options)
        self.assertIn(answer.status, (200, 201, 202, 204), answer)
        return answer.json() if answer.body else None

    def tool(self, *arguments, storage, code=0):
        done = run(*arguments, "--storage", storage, environment={"KV_MASTER_KEY": self.key}, folder=self.folder)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout if code == 0 else done.stderr

    def lines(self, path):
        with open(path, encoding="utf-8") as file:
            return len(file.readlines())

    def rows(self, table):
        return value(self.owner, f"select count(*) from {table}")

    def complaints(self):
        return [line for line in self.kvd.log() if line["level"] in ("warning", "error")]

    def fill_log(self, rows=1000):
        for first in range(0, rows, 100):
            self.call("POST", f"/{self.ns}/bulk/set", {"entries": [{"keyPath": f"k/{number}", "value": "v"} for number in range(first, first + 100)]})

    def test_it_keeps_house_and_can_change_nothing_that_was_recorded(self):
        self.begin()
        self.fill_log(300)
        path = f"/{self.ns}/entries/"
        self.call("PUT", path + "short", {"value": "v", "ttlSeconds": 1})
        self.call("POST", path + "k/1/rotate", {"value": "w"})
        self.call("POST", path + "k/1/rollback", {"version": 1})
        self.call("DELETE", path + "k/2")
        self.call("DELETE", path + "k/3?purge=true")
        plain = self.call("POST", "/namespaces", {"name": "plain", "applicationId": "app"})["id"]
        self.call("PUT", f"/{plain}/entries/k", {"value": "v"})
        self.call("PUT", f"/namespaces/{plain}", {"isSecretNamespace": True})
        gone = self.call("POST", "/namespaces", {"name": "gone", "applicationId": "app"})["id"]
        self.call("PUT", f"/{gone}/entries/k", {"value": "v"})
        self.call("DELETE", f"/namespaces/{gone}")
        until(lambda: value(self.owner, "select count(*) from entries where key_path = 'short' and is_tombstone") == 1, "it expires")
        until(lambda: value(self.owner, "select count(*) from namespaces where name = 'gone'") == 0, "what was deleted is erased")
        until(lambda: value(self.owner, "select count(*) from namespaces where sealing") == 0, "what was in the clear is sealed")
        self.tool("backup", "--to", os.path.join(self.folder, "b.kvb"), storage=self.role)
        self.assertIn("sound", self.tool("verify", storage=self.role))
        with Database(self.role, autocommit=True) as database:
            for text in ("create table mine (id int)", "update audit set success = not success", "delete from audit", "truncate audit",
                         "drop table entries", "alter table entries add column mine int"):
                with self.assertRaises(Failure) as refused:
                    database.execute(text)
                self.assertEqual(refused.exception.state, "42501", text)
        self.kvd.stop()

    def test_retention_is_left_to_the_owner_and_said_once(self):
        self.begin()
        self.fill_log()
        until(lambda: self.kvd.metrics()["kv_audit_removals_forbidden_total"] == 1, "it finds that it may remove nothing")
        rows = self.rows("audit")
        self.call("PUT", f"/{self.ns}/entries/short", {"value": "v", "ttlSeconds": 1})
        until(lambda: value(self.owner, "select count(*) from entries where key_path = 'short' and is_tombstone") == 1, "it goes on keeping house")
        self.assertGreater(self.rows("audit"), rows)
        complaints = self.complaints()
        self.assertEqual(len(complaints), 1, complaints)
        self.assertIn(LACKS, complaints[0]["message"])
        self.assertEqual(self.kvd.request("GET", "/readyz", token=None).status, 200)

        # The role itself may not, the owner may, while kvd serves.
        self.assertIn("whoever owns the tables", self.tool("trim-audit", "--audit-bytes-max", "1", storage=self.role, code=78))
        archive = os.path.join(self.folder, "archive")
        os.mkdir(archive)
        self.assertEqual(self.tool("trim-audit", storage=self.owner), "audit rows removed: 0\n")
        said = self.tool("trim-audit", "--audit-bytes-max", "1", "--audit-archive", archive, storage=self.owner)
        removed = int(said.removeprefix("audit rows removed: "))
        self.assertGreater(removed, 500)
        self.assertLess(self.rows("audit"), rows)
        self.assertEqual(sum(self.lines(os.path.join(archive, name)) for name in os.listdir(archive)), removed)
        self.call("PUT", f"/{self.ns}/entries/k/1", {"value": "w"})
        self.assertIn("sound", self.tool("verify", storage=self.role))
        self.assertEqual(len(self.complaints()), 1)
        self.kvd.stop()
        self.assertIn("sound", self.tool("verify", storage=self.role))

    def test_retention_that_is_granted_is_kept(self):
        self.begin("--audit-removal")
        self.fill_log()
        until(lambda: self.kvd.metrics()["kv_audit_rows_removed_total"] > 500, "old rows go")
        self.assertEqual(self.kvd.metrics()["kv_audit_removals_forbidden_total"], 0)
        self.assertEqual(self.complaints(), [])
        self.kvd.stop()
        self.assertIn("sound", self.tool("verify", storage=self.role))


if __name__ == "__main__":
    main()
