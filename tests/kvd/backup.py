"""Backup, restore and what must not come back from a future that a restore undid."""

import os
import shutil
import stat
import subprocess
import tempfile
import threading
import unittest

import storages
from api import ApiTestCase, Document
from harness import KVD, Kvd, clean_environment, main, make_key, run, until

EXIT_NOT_GOOD, EXIT_USAGE, EXIT_CONFIG = 1, 64, 78


class BackupCase(ApiTestCase):
    """A folder, a key, and a kvd that is started on files in it."""

    @classmethod
    def setUpClass(cls):
        cls.names_made = 0

    @classmethod
    def tearDownClass(cls):
        pass

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.key, self.kvd = make_key(), None
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(lambda: self.kvd and self.kvd.kill())

    def path(self, name):
        return os.path.join(self.folder, name)

    def storage(self, name):
        """What is restored is a file here, wherever it was backed up from. How a database is filled: cluster_restore.py."""
        is_file = name in ("copy.db", "second.db", "none.db")
        return "sqlite:" + self.path(name) if is_file else storages.place(self.folder, name)

    def serve(self, name="kv.db", *flags):
        folder = self.path("serving-" + name)
        os.makedirs(folder, exist_ok=True)
        token = {"token": self.kvd.token} if self.kvd else {}
        self.kvd = Kvd(*flags, storage=self.storage(name), folder=folder, key=self.key, **token)
        if not hasattr(self, "document"):
            type(self).document = Document(self.kvd.request("GET", "/openapi.json").json())
        return self.kvd

    def tool(self, *arguments, key=None, code=0, says=None):
        """Runs a tool, which must end with `code`; what it prints, or `says` on stderr."""
        done = run(*arguments, environment={"KV_MASTER_KEY": key or self.key}, folder=self.folder)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout} {done.stderr}")
        if code != 0:
            self.assertEqual(done.stdout, "")
            self.assertRegex(done.stderr, r"\Akvd: [^\n]+\n\Z")
        if says is not None:
            self.assertIn(says, done.stderr)
        return dict(line.split(":", 1) for line in done.stdout.splitlines()) if code == 0 else done.stderr

    def backup(self, name="b.kvb", storage="kv.db", **more):
        return self.tool("backup", "--storage", self.storage(storage), "--to", self.path(name), **more)

    def restore(self, name="b.kvb", storage="copy.db", **more):
        return self.tool("restore", "--from", self.path(name), "--storage", self.storage(storage), **more)

    def assert_only(self, *names):
        """Nothing but these files is there, and what belongs to a database that was served."""
        others = {"kv.db-wal", "kv.db-shm", "kv.db.lock", "kv.db.reserve", "serving-kv.db"}
        databases = {"kv.db"} if storages.IS_POSTGRESQL else set()  # which is no file there
        self.assertEqual(set(os.listdir(self.folder)) - others, set(names) - databases)


class Load:
    """Writers that count on in keys of their own, and know what was acknowledged."""

    def __init__(self, case, ns, threads=4):
        self.case, self.ns = case, ns
        self.acknowledged = {}
        self.is_ending = False
        self.failures = []
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        count = 0
        while not self.is_ending:
            count += 1
            key = f"w{number}/{count % 50}"
            answer = self.case.kvd.request("PUT", f"/{self.ns['id']}/entries/{key}", {"value": str(count)})
            if answer.status not in (200, 201):
                self.failures.append(answer)
                return
            self.acknowledged[key] = count

    def snapshot(self):
        return dict(self.acknowledged)

    def end(self):
        self.is_ending = True
        for thread in self.threads:
            thread.join()
        self.case.assertEqual(self.failures, [])


class BackUpAndRestore(BackupCase):
    def test_a_backup_under_load_holds_every_value_acknowledged_before_it_began(self):
        self.serve()
        ns = self.namespace(isSecretNamespace=True)
        plain = self.namespace(name="plain")
        self.put(plain, "shown", "in the clear")
        load = Load(self, ns)
        until(lambda: len(load.acknowledged) == 200, "every key was written")
        for number in range(3):
            before = load.snapshot()
            told = self.backup(f"{number}.kvb", says="1 namespaces that are not secret")
            self.assertEqual(int(told["namespaces"]), 2)
            self.assertEqual(int(told["entries"]), 201)
            self.assertEqual(int(told["bytes"]), os.path.getsize(self.path(f"{number}.kvb")))
            self.assertEqual(stat.S_IMODE(os.stat(self.path(f"{number}.kvb")).st_mode), 0o600)
        load.end()
        after = load.snapshot()
        self.kvd.stop()

        told = self.restore("2.kvb")
        self.assertNotEqual(told["epoch"], told["new epoch"])
        self.assertEqual(stat.S_IMODE(os.stat(self.path("copy.db")).st_mode), 0o600)
        self.serve("copy.db")
        self.assertEqual(self.value(plain, "shown"), "in the clear")
        for key, count in before.items():
            value = int(self.value(ns, key))
            self.assertGreaterEqual(value, count, key)
            self.assertLessEqual(value, after[key], key)
        for key in before:
            self.put(ns, key, "again")
        self.kvd.stop()

    def test_a_backup_goes_through_pipes_too(self):
        self.serve()
        ns = self.namespace()
        self.put(ns, "k", "v")
        self.kvd.stop()
        environment = {"KV_MASTER_KEY": self.key, "KVD_STORAGE": self.storage("kv.db")}
        with open(self.path("b.kvb"), "wb") as out:
            done = subprocess.run([KVD, "backup", "--to", "-"], env=clean_environment(environment), stdout=out, stderr=subprocess.PIPE, check=True)
            self.assertIn(b"taken at:", done.stderr)
        environment["KVD_STORAGE"] = self.storage("copy.db")
        with open(self.path("b.kvb"), "rb") as backup:
            subprocess.run([KVD, "restore", "--from", "-"], env=clean_environment(environment), stdin=backup, stdout=subprocess.DEVNULL, check=True)
        self.serve("copy.db")
        self.assertEqual(self.value(ns, "k"), "v")
        self.kvd.stop()


class Refusals(BackupCase):
    def setUp(self):
        super().setUp()
        self.serve()
        self.ns = self.namespace(isSecretNamespace=True)
        for number in range(300):
            self.put(self.ns, f"k{number}", "v" * 1000)
        self.kvd.stop()
        self.backup()
        with open(self.path("b.kvb"), "rb") as file:
            self.bytes = file.read()
        self.there = ("kv.db", "b.kvb")
        self.assert_only(*self.there)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def test_what_exists_is_not_replaced(self):
        self.restore(storage="kv.db", code=EXIT_CONFIG, says="There is a store in this storage" if storages.IS_POSTGRESQL else "exists")
        self.backup(code=EXIT_CONFIG, says="exists")
        self.write("copy.db-wal", b"of another database")
        self.restore(code=EXIT_CONFIG, says="copy.db-wal exists")
        self.assert_only(*self.there, "copy.db-wal")
        with open(self.path("b.kvb"), "rb") as file:
            self.assertEqual(file.read(), self.bytes)

    def test_a_wrong_key_is_named(self):
        other = make_key()
        for said in (self.restore(key=other, code=EXIT_CONFIG), self.backup("c.kvb", key=other, code=EXIT_CONFIG),
                     self.tool("new-epoch", "--storage", self.storage("kv.db"), key=other, code=EXIT_CONFIG)):
            self.assertRegex(said, r"the master key [0-9a-f]{16} does not open this store, whose keys are wrapped by [0-9a-f]{16}")
        self.assert_only(*self.there)

    def test_a_newer_format_and_a_newer_schema_are_left_alone(self):
        self.write("newer.kvb", self.bytes.replace(b"kv-backup 2\n", b"kv-backup 3\n", 1))
        self.restore("newer.kvb", code=EXIT_CONFIG, says="newer version")
        storages.make_newer(self.storage("kv.db"))
        self.assertIn("newer", self.backup("c.kvb", code=EXIT_CONFIG))
        self.assertIn("newer", self.tool("new-epoch", "--storage", self.storage("kv.db"), code=EXIT_CONFIG))
        self.assert_only(*self.there, "newer.kvb")

    def test_a_damaged_backup_leaves_no_target(self):
        size = len(self.bytes)
        places = [0, 5, 40, 400, size // 3, size // 2, size - 60, size - 1]
        damaged = [self.bytes[:place] + bytes([self.bytes[place] ^ 4]) + self.bytes[place + 1:] for place in places]
        damaged += [self.bytes[:place] for place in places] + [self.bytes + b"x"]
        for data in damaged:
            self.write("damaged.kvb", data)
            said = self.restore("damaged.kvb", code=EXIT_NOT_GOOD)
            self.assertRegex(said, "damaged|no backup")
            self.assert_only(*self.there, "damaged.kvb")

    def test_what_a_run_that_was_killed_left_is_replaced(self):
        for name in ("copy.db.restoring", "copy.db.restoring-wal", "copy.db.restoring-shm", "copy.db.restoring.lock", "c.kvb.partial"):
            self.write(name, b"rubbish")
        self.restore()
        self.backup("c.kvb")
        self.assert_only(*self.there, "copy.db", "c.kvb")
        self.serve("copy.db")
        self.assertEqual(self.value(self.ns, "k7"), "v" * 1000)
        self.kvd.stop()

    def test_other_mistakes(self):
        self.tool("backup", "--storage", self.storage("none.db"), "--to", self.path("c.kvb"), code=EXIT_CONFIG, says="no database")
        self.tool("new-epoch", "--storage", self.storage("none.db"), code=EXIT_CONFIG, says="no database")
        self.tool("restore", "--storage", "memory:", "--from", self.path("b.kvb"), code=EXIT_CONFIG, says="sqlite:PATH")
        self.restore("none.kvb", code=EXIT_CONFIG, says="No such file")
        self.backup("no/folder/b.kvb", code=EXIT_CONFIG, says="No such file")
        self.tool("backup", "--storage", self.storage("kv.db"), code=EXIT_USAGE, says="--to")
        self.tool("restore", code=EXIT_USAGE, says="--from")
        self.assert_only(*self.there)

    def test_a_new_epoch_needs_a_storage_that_nobody_serves(self):
        self.serve()
        self.tool("new-epoch", "--storage", self.storage("kv.db"), code=EXIT_CONFIG, says="the database is in use" if storages.IS_POSTGRESQL else "in use by process")
        self.kvd.stop()
        said = self.tool("new-epoch", "--storage", self.storage("kv.db"))
        self.assertRegex(said["new epoch"].strip(), "^[0-9a-f]{16}$")
        self.serve()
        self.assertEqual(self.value(self.ns, "k1"), "v" * 1000)
        self.assertTrue(self.get(self.ns, "k1").headers["etag"].startswith('"' + said["new epoch"].strip()))
        self.kvd.stop()


class LostFuture(BackupCase):
    """A store is backed up, goes on, and is set back: nothing of what it gave out meanwhile may mean anything any more."""

    def storage(self, name):
        return storages.place(self.folder, name)

    def state(self):
        """What a client may have noted of a key, a namespace and lists."""
        entry = self.get(self.ns, "k")
        ns = self.call("GET", "/" + "namespaces/" + self.ns["id"])
        return {
            "version": entry.json()["version"], "etag": entry.headers["etag"], "ns_version": ns.json()["version"],
            "ns_etag": ns.headers["etag"],
            "list_etag": self.call("GET", f"/{self.ns['id']}/entries?includeValues=true").headers["etag"],
            "cursors": [(path, self.call("GET", path + "limit=1").json()["nextCursor"]) for path in self.lists()],
        }

    def lists(self):
        ns = self.ns["id"]
        return [f"/{ns}/entries?", f"/{ns}/entries/k/versions?", "/namespaces?", "/audit?"]

    def go_on(self):
        noted = []
        for number in range(20):
            self.put(self.ns, "k", f"lost {number}")
            self.put(self.ns, f"new{number}", "lost")
            self.call("PUT", "/namespaces/" + self.ns["id"], {"description": f"lost {number}"})
            noted.append(self.state())
        return noted

    def check_refused(self, noted):
        for old in noted:
            self.put(self.ns, "k", "x", code="version-conflict", expectedVersion=old["version"])
            self.put(self.ns, "k", "x", code="precondition-failed", headers={"If-Match": old["etag"]})
            self.call("DELETE", self.entry_path(self.ns, "k"), code="precondition-failed", headers={"If-Match": old["etag"]})
            self.call("PUT", "/namespaces/" + self.ns["id"], {"description": "x"}, code="precondition-failed", headers={"If-Match": old["ns_etag"]})
            self.call("PUT", "/namespaces/" + self.ns["id"], {"description": "x", "expectedVersion": old["ns_version"]}, code="version-conflict")
            self.get(self.ns, "k", status=200, headers={"If-None-Match": old["etag"]})
            self.call("GET", f"/{self.ns['id']}/entries?includeValues=true", status=200, headers={"If-None-Match": old["list_etag"]})
            self.call("GET", "/namespaces/" + self.ns["id"], status=200, headers={"If-None-Match": old["ns_etag"]})
            for path, cursor in old["cursors"]:
                self.call("GET", path + "limit=1&cursor=" + cursor, code="invalid-cursor")

    def begin(self):
        self.serve()
        self.ns = self.namespace(isSecretNamespace=True)
        self.namespace()
        self.put(self.ns, "k", "kept one")
        self.put(self.ns, "k", "kept two")
        self.put(self.ns, "other", "kept")

    def check_epoch(self, noted):
        self.check_refused(noted)
        given = {old["version"] for old in noted}
        self.assertEqual(self.value(self.ns, "k"), "kept two")
        self.assertEqual(self.call("GET", self.entry_path(self.ns, "k", "?version=1")).json()["value"], "kept one")
        for number in range(25):
            for key in ("k", f"new{number}"):
                version = self.put(self.ns, key, f"again {number}").json()["version"]
                self.assertGreater(version, max(given))
                self.assertLess(version, 2 ** 53)
        self.check_refused(noted)
        self.assertEqual(self.value(self.ns, "k"), "again 24")
        self.assertEqual([v["version"] for v in self.versions(self.ns, "k")][-2:], [2, 1])
        self.call("POST", self.entry_path(self.ns, "k", "/rollback"), {"version": 1}, status=200)
        self.assertEqual(self.value(self.ns, "k"), "kept one")
        rows = [row for row in self.audit(operation="store.new-epoch")]
        self.assertTrue(rows and all(row["userId"] == "system" and row["success"] for row in rows))
        self.assertLess(rows[-1]["version"], version)

    def test_after_a_restore(self):
        self.begin()
        self.backup()
        noted = self.go_on()
        self.kvd.stop()
        self.restore()
        self.serve("copy.db")
        self.check_epoch(noted)
        # The same backup once more: what the first copy gave out is lost now, too.
        again = self.go_on()
        self.kvd.stop()
        self.restore(storage="second.db")
        self.serve("second.db")
        self.check_epoch(noted + again)
        self.kvd.stop()

    def test_after_the_file_itself_was_set_back(self):
        self.begin()
        self.kvd.stop()
        storages.copy(self.storage("kv.db"), self.storage("old.db"))
        self.serve()
        noted = self.go_on()
        self.kvd.stop()
        storages.copy(self.storage("old.db"), self.storage("kv.db"))
        self.tool("new-epoch", "--storage", self.storage("kv.db"))
        self.serve()
        self.check_epoch(noted)
        self.kvd.stop()


if __name__ == "__main__":
    main()
