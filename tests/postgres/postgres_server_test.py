"""The PostgreSQL of the tests itself: it survives what it should, leaves nothing behind, and runs as root and as anybody."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from database import Database, Failure, ask, value
from postgres_server import PostgresServer, account, poll

HERE = os.path.dirname(os.path.abspath(__file__))
BYTES = bytes(range(256))
NOW = 1_790_000_000_123_456
OWNER = """
import os, signal
from postgres_server import PostgresServer
server = PostgresServer(durable=False)
print(server.folder, server.process.pid, os.getuid(), flush=True)
signal.pause()
"""


def state_of(pid):
    """One letter: T is stopped."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Server(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = PostgresServer(durable=False)
        cls.addClassCleanup(cls.server.close)
        cls.server.create_database("a")
        cls.server.ask("create table t (id uuid primary key, data bytea, word text, flag boolean, count bigint, at timestamptz)", name="a")

    def test_what_is_stored_comes_back_as_it_was(self):
        with Database(self.server.url("a")) as database:
            done = database.execute("insert into t values (?, ?, ?, ?, ?, ?)", (BYTES[:16], BYTES, "'é€𝄞\\", 1, None, NOW))
            self.assertEqual(done.rowcount, 1)
            self.assertEqual(database.execute("select * from t where id = ?", (BYTES[:16],)).fetchall(), [(BYTES[:16], BYTES, "'é€𝄞\\", 1, None, NOW)])
            database.rollback()
            self.assertEqual(database.execute("select * from t where id = ?", (BYTES[:16],)).fetchone(), None)
        with self.assertRaises(Failure) as raised:
            ask(self.server.url("a"), "select nothing_such")
        self.assertEqual(raised.exception.state, "42703")

    def test_it_is_back_after_every_way_to_end(self):
        for number, end in enumerate((self.server.stop, lambda: self.server.stop("immediate"), lambda: self.server.stop("smart"), self.server.kill)):
            ask(self.server.url("a"), "insert into t (id, count) values (gen_random_uuid(), ?)", (number,))
            end()
            self.assertFalse(self.server.is_running)
            with self.assertRaises(Failure):
                Database(self.server.url("a"))
            self.server.start()
            self.assertEqual(value(self.server.url("a"), "select max(count) from t"), number)

    def test_it_stands_still_and_goes_on(self):
        with Database(self.server.url("a"), autocommit=True) as database:
            pid = database.pid
            self.assertIn(pid, self.server.children())
            self.server.pause()
            try:
                for one in (self.server.process.pid, pid):
                    poll(lambda: state_of(one) == "T", "it stands still")
            finally:
                self.server.resume()
            self.assertEqual(database.execute("select 1").fetchone(), (1,))

    def test_a_wrong_password_is_refused(self):
        with self.assertRaises(Failure):
            Database(f"postgresql://postgres:wrong@127.0.0.1:{self.server.port}/a")

    def test_a_standby_has_what_was_confirmed_and_takes_over(self):
        with PostgresServer(durable=False) as primary:
            standby = primary.standby(synchronous=True)
            url = primary.url("postgres", standby)
            ask(url, "create table t (n int)")
            ask(url, "insert into t values (7)")
            primary.kill()
            standby.promote()
            self.assertEqual(value(url, "select n from t"), 7)
        self.assertFalse(os.path.exists(standby.folder))


class Owner(unittest.TestCase):
    """The server of a process that is killed goes with it."""

    def check(self, python=sys.executable, **options):
        with subprocess.Popen([python, "-B", "-c", OWNER], stdout=subprocess.PIPE, text=True, **options) as owner:
            folder, pid, user = owner.stdout.readline().split()
            self.assertTrue(is_alive(int(pid)))
            owner.send_signal(signal.SIGKILL)
            owner.wait()
        poll(lambda: not is_alive(int(pid)) and not os.path.exists(folder), "nothing is left")
        return int(user)

    def test_as_who_we_are(self):
        self.assertEqual(self.check(cwd=HERE), os.getuid())

    @unittest.skipUnless(account(), "we are nobody else already")
    def test_as_an_ordinary_user(self):
        user = account()
        folder = tempfile.mkdtemp(prefix="kv-postgres-test-")
        self.addCleanup(shutil.rmtree, folder)
        for name in ("postgres_server.py", "database.py"):
            shutil.copy(os.path.join(HERE, name), folder)
        for path in (folder, *(os.path.join(folder, name) for name in os.listdir(folder))):
            os.chown(path, user["user"], user["group"])
        # Ours may be where nobody else may look.
        self.assertEqual(self.check(python="/usr/bin/python3", cwd=folder, **user), user["user"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
