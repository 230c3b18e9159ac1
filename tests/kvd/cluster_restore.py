"""A backup is restored into PostgreSQL, and a new epoch begun there, by the rules that hold for a file: into what is empty alone,
while nobody else uses it, and a restore that is killed leaves nothing that serves or is in the way of the next.

Broken on purpose, and noticed: no lock on the connections that serve; a lock, and no number beside it; the mark of a restore not
looked at by the next; what a restore left not erased.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import unittest

import storages  # noqa: F401, it says where the next ones are
import database
from database import Database
from harness import KVD, Kvd, clean_environment, main, make_key, run, until
from postgres_server import PostgresServer, create_database, with_database

EXIT_NOT_GOOD, EXIT_CONFIG = 1, 78
TABLES = ("namespaces", "entries", "versions", "outbox", "data_keys", "audit_heads")


def setUpModule():
    global SERVER
    SERVER = PostgresServer(durable=False)


def tearDownModule():
    SERVER.close()


class RestoreCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.key, self.made, self.nodes = make_key(), 0, []
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(lambda: [node.kill() for node in self.nodes])

    def path(self, name):
        return os.path.join(self.folder, name)

    def file(self, name):
        return "sqlite:" + self.path(name)

    def new_database(self, name):
        url = create_database(SERVER.url(), f"{name}_{self.id().rsplit('.', 1)[1][:40]}")
        self.addCleanup(SERVER.ask, f"drop database if exists \"{url.split('/')[3].split('?')[0]}\" with (force)")
        return url

    def tool(self, *arguments, key=None, code=0, says=()):
        done = run(*arguments, environment={"KV_MASTER_KEY": key or self.key}, folder=self.folder, patience=120)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout} {done.stderr}")
        for text in says:
            self.assertIn(text, done.stderr)
        self.assertNotIn("passfile", done.stderr)
        return dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line) if code == 0 else done.stderr

    def backup(self, storage, name="b.kvb"):
        return self.tool("backup", "--storage", storage, "--to", self.path(name))

    def restore(self, storage, name="b.kvb", **more):
        return self.tool("restore", "--storage", storage, "--from", self.path(name), **more)

    def serve(self, storage, *flags):
        folder = self.path(f"node{len(self.nodes)}")
        os.mkdir(folder)
        node = Kvd(*flags, storage=storage, folder=folder, key=self.key, token=self.nodes[0].token if self.nodes else None)
        self.nodes.append(node)
        return node

    def call(self, node, method, path, body=None, status=(200, 201)):
        answer = node.request(method, path, body)
        self.assertIn(answer.status, status, answer)
        return answer.json()

    def fill(self, node, entries=300, size=1000):
        """A secret and a plain namespace with history; the id of the first."""
        ids = [self.call(node, "POST", "/namespaces", {"name": name, "applicationId": "app", "isSecretNamespace": name == "secret"})["id"]
               for name in ("secret", "plain")]
        for ns in ids:
            for turn in range(2):
                for first in range(0, entries, 100):
                    items = [{"keyPath": f"k/{number}", "value": f"{turn} {number} " + "v" * size} for number in range(first, first + 100)]
                    self.call(node, "POST", f"/{ns}/bulk/set", {"entries": items})
        self.assertEqual(node.request("DELETE", f"/{ids[0]}/entries/k/7").status, 204)
        return ids[0]

    def rows(self, storage):
        """Every row that a restore must bring back, in columns that both databases write alike."""
        queries = {
            "entries": "select id, namespace_id, key_path, version, revision, value, metadata, request_id from entries order by 1",
            "versions": "select entry_id, version, revision, value, request_id from versions order by 1, 2",
            "outbox": "select namespace_id, revision, key_path, kind, version from outbox order by 1, 2",
            "keys": "select purpose, namespace_id, generation, wrap, commitment from data_keys order by 1, 2, 3",
            "audit": "select stream, sequence, key_path, operation, request_id, mac from audit order by 1, 2",
        }
        if storage.startswith("sqlite:"):
            connection = sqlite3.connect(f"file:{storage.removeprefix('sqlite:')}?mode=ro", uri=True)
        else:
            connection = Database(storage)
        try:
            return {name: [tuple(row) for row in connection.execute(query).fetchall()] for name, query in queries.items()}
        finally:
            connection.close()

    def assert_sound(self, storage):
        done = run("verify", "--storage", storage, environment={"KV_MASTER_KEY": self.key}, folder=self.folder, patience=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def assert_restored(self, before, after):
        """The same rows; the epoch adds some to the audit log, behind."""
        old, new = self.rows(before), self.rows(after)
        for name in old:
            if name == "audit":
                self.assertLessEqual(set(old[name]), set(new[name]))
            else:
                self.assertEqual(old[name], new[name], name)
        return new


class ThereAndBack(RestoreCase):
    def test_from_a_file_to_postgresql_and_back(self):
        origin = self.file("origin.db")
        node = self.serve(origin)
        ns = self.fill(node)
        node.stop()
        there, back = self.new_database("there"), self.file("back.db")
        self.backup(origin)
        told = self.restore(there)
        self.assertNotEqual(told["epoch"], told["new epoch"])
        self.assertGreater(len(self.assert_restored(origin, there)["versions"]), 500)
        self.assert_sound(there)
        self.backup(there, "there.kvb")
        self.restore(back, "there.kvb")
        self.assert_restored(there, back)
        self.assert_sound(back)
        for storage in (there, back):
            node = self.serve(storage)
            self.assertEqual(node.request("GET", "/readyz", token=None).status, 200)
            self.assertEqual(self.call(node, "GET", f"/{ns}/entries/k/5")["value"], "1 5 " + "v" * 1000)
            self.assertEqual(self.call(node, "GET", f"/{ns}/entries/k/5?version=1")["value"], "0 5 " + "v" * 1000)
            written = self.call(node, "PUT", f"/{ns}/entries/k/5", {"value": "new"})
            self.assertGreater(written["version"], 10 ** 15, "versions count on from the time of the restore")
            node.stop()
            self.assert_sound(storage)

    def test_a_database_that_was_migrated_and_holds_no_store_is_empty(self):
        origin, there = self.file("origin.db"), self.new_database("there")
        node = self.serve(origin)
        self.fill(node, 100, 10)
        node.stop()
        self.backup(origin)
        self.tool("migrate", "--storage", there)
        self.restore(there)
        self.assert_restored(origin, there)


class Refusals(RestoreCase):
    def setUp(self):
        super().setUp()
        self.origin = self.file("origin.db")
        node = self.serve(self.origin)
        self.ns = self.fill(node, 100, 10)
        node.stop()
        self.backup(self.origin)

    def test_a_store_that_is_there_stays_as_it_is(self):
        there = self.new_database("there")
        self.restore(there)
        before = self.rows(there)
        self.restore(there, code=EXIT_CONFIG, says=["postgresql://127.0.0.1", "There is a store in this storage already"])
        self.assertEqual(self.rows(there), before)

    def test_a_wrong_key_and_a_damaged_backup_are_named_and_a_right_one_comes_in_afterwards(self):
        there = self.new_database("there")
        self.assertRegex(self.restore(there, key=make_key(), code=EXIT_CONFIG), r"the master key [0-9a-f]{16} does not open this store")
        for table in TABLES:
            self.assertEqual(database.value(there, f"select count(*) from {table}"), 0, table)
        with open(self.path("b.kvb"), "rb") as file:
            whole = file.read()
        for name, data in (("cut.kvb", whole[:-20]), ("changed.kvb", whole[:-500] + bytes([whole[-500] ^ 1]) + whole[-499:])):
            with open(self.path(name), "wb") as file:
                file.write(data)
            self.restore(there, name, code=EXIT_NOT_GOOD, says=[name, "damaged"])
            self.assert_serves_not(there)
        self.restore(there)
        self.assert_restored(self.origin, there)
        self.assert_sound(there)

    def assert_serves_not(self, storage):
        done = run("serve", "--storage", storage, "--listen", "127.0.0.1:0", "--admin-listen", "off", folder=self.folder,
                   environment={"KV_MASTER_KEY": self.key, "KVD_ROOT_TOKEN": "t" * 32})
        self.assertEqual(done.returncode, EXIT_CONFIG, done.stderr)
        self.assertIn("A restore into this storage did not come to its end", done.stderr)
        self.tool("backup", "--storage", storage, "--to", self.path("never.kvb"), code=EXIT_CONFIG)

    def test_a_newer_schema_and_another_programs_database_are_left_alone(self):
        there = self.new_database("there")
        self.tool("migrate", "--storage", there)
        with Database(there) as connection:
            connection.execute("update meta set value = '1000' where name = 'storage.schema_version'")
        self.restore(there, code=EXIT_CONFIG, says=["newer"])
        other = self.new_database("other")
        with Database(other) as connection:
            connection.execute("create table meta (name text primary key, value text); insert into meta values ('a', 'b')")
        self.restore(other, code=EXIT_NOT_GOOD, says=["of another program"])
        self.assertEqual(database.value(other, "select count(*) from meta"), 1)

    def test_what_is_no_storage_to_restore_into_is_said(self):
        self.restore("memory:", code=EXIT_CONFIG, says=["an empty database"])
        self.restore(with_database(SERVER.url(), "nowhere"), code=70, says=["no such database"])

    def test_a_restore_that_is_killed_half_way_serves_nobody_and_is_begun_anew(self):
        there = self.new_database("there")
        large = self.file("large.db")
        node = self.serve(large)
        self.fill(node, 2000, 3000)
        node.stop()
        self.backup(large, "large.kvb")
        with open(self.path("large.kvb"), "rb") as file:
            whole = file.read()
        for part in (3, 2):
            process = subprocess.Popen([KVD, "restore", "--storage", there, "--from", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, env=clean_environment({"KV_MASTER_KEY": self.key}))
            process.stdin.write(whole[:len(whole) // part])
            process.stdin.flush()
            counted = "select (select count(*) from entries) + (select count(*) from versions)"
            until(lambda: self.there(there) and database.value(there, counted) > 500, "a part is restored")
            self.restore(there, code=EXIT_CONFIG, says=["in use", "1 connections that write", "127.0.0.1", "pg_terminate_backend"])
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdin.close()
            process.stderr.close()
            self.assert_serves_not(there)
            self.assertGreater(database.value(there, counted), 500)
        # A smaller one now: nothing of the larger may be left.
        self.restore(there)
        self.assert_restored(self.origin, there)
        self.assert_sound(there)
        node = self.serve(there)
        self.call(node, "PUT", f"/{self.ns}/entries/k/1", {"value": "new"})
        node.stop()

    def there(self, storage):
        return database.value(storage, "select to_regclass('entries') is not null")


class Others(RestoreCase):
    """What must be alone notices who else is there."""

    def test_neither_restore_nor_new_epoch_while_kvd_serves(self):
        there = self.new_database("there")
        nodes = [self.serve(there), self.serve(there)]
        ns = self.fill(nodes[0], 100, 10)
        self.backup(there)
        for command in (("new-epoch", "--storage", there), ("restore", "--storage", there, "--from", self.path("b.kvb"))):
            self.tool(*command, code=EXIT_CONFIG, says=["the database is in use", "from 127.0.0.1", "Stop every kvd", "pg_terminate_backend"])
        nodes[0].stop()
        self.tool("new-epoch", "--storage", there, code=EXIT_CONFIG, says=["the database is in use"])
        # The tools that only look are not in the way, nor is kvd disturbed.
        self.assert_sound(there)
        self.call(nodes[1], "PUT", f"/{ns}/entries/k/1", {"value": "still served"})
        nodes[1].stop()
        told = self.tool("new-epoch", "--storage", there)
        node = self.serve(there)
        etag = node.request("GET", f"/{ns}/entries/k/1").headers["etag"]
        self.assertTrue(etag.startswith('"' + told["new epoch"].strip()))
        node.stop()

    def test_a_kvd_that_comes_back_after_a_new_epoch_serves_the_old_one_no_more(self):
        """As one does that was cut off from the database, so that nothing told of it there."""
        there = self.new_database("there")
        node = self.serve(there)
        ns = self.fill(node, 100, 10)
        os.kill(node.process.pid, signal.SIGSTOP)
        try:
            name = there.split("/")[3].split("?")[0]
            SERVER.ask("select pg_terminate_backend(pid) from pg_stat_activity where datname = ?", (name,))
            self.tool("new-epoch", "--storage", there)
        finally:
            os.kill(node.process.pid, signal.SIGCONT)
        answer = until(lambda: (a := node.request("GET", "/readyz", token=None)).status == 503 and a, "it says that it is not ready")
        self.assertIn("start this program anew", answer.json()["detail"])
        for method, path, body in (("PUT", f"/{ns}/entries/k/1", {"value": "lost"}), ("GET", f"/{ns}/entries/k/1", None)):
            self.assertEqual(node.request(method, path, body).status, 503)
        node.stop()
        node = self.serve(there)
        self.assertEqual(node.request("GET", "/readyz", token=None).status, 200)
        self.call(node, "PUT", f"/{ns}/entries/k/1", {"value": "served"})
        node.stop()


if __name__ == "__main__":
    main()
