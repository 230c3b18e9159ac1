"""What a group costs: statements, counted in the log of the server, which is told to write down each, and round trips, counted
between kvd and the server.

Broken on purpose, and noticed: three statements more before the lock; a commit that waits for the answer to the changes.
"""

import contextlib
import math
import re
import socket
import threading
import unittest
from collections import Counter

from cluster import Cluster, each
from harness import main, until

SIZES = (1, 2, 10, 100)
BEGIN = re.compile(r"begin\b", re.I)
COMMIT = re.compile(r"commit\b", re.I)
WRITE_MAX = 6  # the first is asked for the time together with what begins the transaction, and costs no round trip
TRIPS_MAX = 2
CHUNK = 32  # keys that a bulk is read by at once: what is read is held in memory
LINE = re.compile(r"^\S+ \S+ UTC \[(\d+)\] \S*@kv LOG:  (?:statement|execute [^:]*): (.*)$")


def statements(log):
    """(process, statement) in the order in which the server ran them, of the connections to the database of kvd."""
    found = []
    for line in log.splitlines():
        match = LINE.match(line)
        if match:
            found.append((match.group(1), match.group(2)))
        elif line.startswith("\t") and found:  # the statement goes on
            found[-1] = (found[-1][0], found[-1][1] + " " + line.strip())
    return found


def groups(log):
    """Transactions as lists of statements, and what ran outside of any, each a list of one."""
    open_ones, done = {}, []
    for process, text in statements(log):
        if BEGIN.match(text):
            open_ones[process] = [text]
        elif process in open_ones:
            open_ones[process].append(text)
            if COMMIT.match(text):
                done.append(open_ones.pop(process))
        else:
            done.append([text])
    return done


class Between:
    """Stands between kvd and the server and counts how often kvd speaks after it was answered. The connection for hints to other
    kvd does not count: nobody waits for it."""

    def __init__(self, port):
        self.port = port
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def trips(self):
        return sum(one["trips"] for one in self.connections if not one["hints"])

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                state = {"answered": True, "trips": 0, "hints": False}
                self.connections.append(state)
                for source, target, is_client in ((client, server, True), (server, client, False)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self.relay, args=(source, target, is_client, state), daemon=True).start()

    def relay(self, source, target, is_client, state):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_client and state["answered"]:
                    state["trips"] += 1
                if is_client and b"pg_notify" in data:
                    state["hints"] = True
                state["answered"] = not is_client
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()


class Statements(unittest.TestCase):
    def setUp(self):
        # Maintenance and relays stay away meanwhile: what is counted is of the requests.
        self.cluster = Cluster("--maintenance-interval", "1h", nodes=1, options={"log_statement": "all"}, between=self.between)
        self.addCleanup(self.cluster.close)
        self.ns = self.cluster.namespace("n", isSecretNamespace=True)
        # What is prepared once is prepared now, and the connection for hints, which is opened in its own time, is there.
        for _ in range(3):
            self.set(3)
            self.get(3)
        until(lambda: "kv_hints_" in self.cluster.primary.log(), "the connection for hints")

    def between(self, port):
        self.wire = Between(port)
        self.addCleanup(self.wire.close)
        return self.wire.listener.getsockname()[1]

    def set(self, size, path="bulk"):
        entries = [{"keyPath": f"{path}/{number}", "value": "v"} for number in range(size)]
        self.assertEqual(self.cluster.ask(0, "POST", f"/{self.ns}/bulk/set", {"entries": entries}).status, 200)

    def get(self, size):
        keys = [f"bulk/{number}" for number in range(size)]
        self.assertEqual(self.cluster.ask(0, "POST", f"/{self.ns}/bulk/get", {"keys": keys}).status, 200)

    def counted(self, work):
        """The groups that the log got from the work, and the round trips it took."""
        before, trips = len(self.cluster.primary.log()), self.wire.trips
        work()
        return groups(self.cluster.primary.log()[before:]), self.wire.trips - trips

    def test_a_write_group_is_as_many_statements_whatever_its_size(self):
        for size in SIZES:
            with self.subTest(size=size):
                found, trips = self.counted(lambda: self.set(size))
                self.assertEqual(len(found), 1, found)
                self.assertLessEqual(len(found[0]), WRITE_MAX, found)
                self.assertRegex(found[0][-1], COMMIT)
                self.assertLessEqual(trips, TRIPS_MAX)

    def test_a_read_is_a_query_and_its_audit_rows(self):
        """Before the query of a bulk stands the one for the namespace, which says how its values are to be weighed."""
        self.set(max(SIZES))
        for size in SIZES:
            with self.subTest(size=size):
                found, trips = self.counted(lambda: self.get(size))
                queries = [group for group in found if len(group) == 1]
                audits = [group for group in found if len(group) > 1]
                self.assertLessEqual(len(queries), 1 + math.ceil(size / CHUNK), found)
                self.assertTrue(all(text.startswith(("select", "with n as materialized (select")) for text, in queries))
                self.assertEqual(len(audits), 1, found)
                self.assertLessEqual(len(audits[0]), 4, found)
                self.assertIn("insert into audit", audits[0][-2])
                self.assertLessEqual(trips, len(queries) + 3)

    def together(self, work):
        """Many clients at the same time, several times over: what was counted of them."""
        clients, rounds = 32, 8
        barrier = threading.Barrier(clients)

        def client(number):
            for turn in range(rounds):
                barrier.wait()
                self.assertIn(work(f"/{self.ns}/entries/k{number}", turn).status, (200, 201))
        found, trips = self.counted(lambda: each(clients, client))
        return clients * rounds, found, trips

    def test_writes_at_the_same_time_share_groups(self):
        count, found, trips = self.together(lambda path, turn: self.cluster.ask(0, "PUT", path, {"value": turn}))
        writes = [group for group in found if len(group) > 1]
        print(f"{count} writes in {len(writes)} groups, {trips} round trips; statements: {dict(Counter(map(len, writes)))}")
        self.assertLess(len(writes), count / 2)
        self.assertLessEqual(max(map(len, writes)), WRITE_MAX)
        self.assertLessEqual(trips, TRIPS_MAX * len(found))

    def test_reads_at_the_same_time_share_groups(self):
        self.together(lambda path, turn: self.cluster.ask(0, "PUT", path, {"value": turn}))
        count, found, trips = self.together(lambda path, turn: self.cluster.ask(0, "GET", path))
        audits = [group for group in found if len(group) > 1]
        print(f"{count} reads in {len(found) - len(audits)} queries and {len(audits)} groups of audit rows, {trips} round trips")
        self.assertLess(len(audits), count / 2)
        self.assertLessEqual(len(found) - len(audits), count)


if __name__ == "__main__":
    main()
