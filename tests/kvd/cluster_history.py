"""Three kvd on one PostgreSQL with a standby, 64 clients that ask for everything, and meanwhile the database is restarted,
connections are cut, kvd are killed and at last the standby takes over. The whole recorded history is judged: history_check.py.

Broken on purpose, and noticed: a commit whose connection was cut was answered as done; kvd that began together each kept the
keys that it had drawn.

CLUSTER_SEED repeats what befalls the cluster, and the clients' choices; CLUSTER_SECONDS makes the load longer.
"""

import collections
import os
import random
import secrets
import time
import unittest

from api import key_url
from cluster import Cluster
from harness import IS_THIN, main, until
from history_check import check, read_storage, report
from history_load import KEYS, SHORT, TOKENS, Load, Recorder, Servers, WithClerk

SEED = os.environ.get("CLUSTER_SEED") or secrets.token_hex(4)
SECONDS = float(os.environ.get("CLUSTER_SECONDS") or (6 if IS_THIN else 12))
CLIENTS = 64
FLAGS = ("--denial-window", "1s", "--maintenance-interval", "300ms")


class ClusterHistory(WithClerk, unittest.TestCase):
    def setUp(self):
        print(f"CLUSTER_SEED={SEED} CLUSTER_SECONDS={SECONDS:g}", flush=True)
        self.chance = random.Random(SEED)
        self.cluster = Cluster(*FLAGS, standby=True, tokens=TOKENS)
        self.addCleanup(self.cluster.close)
        self.servers, self.ops = Servers(len(self.cluster.nodes)), []
        self.cluster.listen(self.servers.set)
        self.clerk = Recorder(self.servers, "clerk", random.Random(SEED), self.ops)
        self.namespaces = [self.make_namespace("plain"), self.make_namespace("secret", isSecretNamespace=True)]
        self.probe = self.cluster.namespace("probe")  # what is asked here is not recorded

    # ---- what befalls the cluster ----

    def restart_fast(self):
        self.cluster.primary.restart("fast")

    def restart_immediate(self):
        self.cluster.primary.restart("immediate")

    def cut_connections(self):
        pids = self.cluster.backends()
        self.cluster.terminate(self.chance.sample(pids, self.chance.randint(1, len(pids))) if pids else [])

    def kill_node(self):
        number = self.chance.randrange(len(self.cluster.nodes))
        self.cluster.kill_node(number)
        self.cluster.start(number)

    def promote(self):
        self.cluster.promote()

    def plan(self):
        before = [self.restart_fast, self.restart_immediate, self.cut_connections, self.cut_connections, self.kill_node, self.kill_node]
        after = [self.cut_connections, self.kill_node, self.restart_fast, self.restart_immediate]
        self.chance.shuffle(before)
        self.chance.shuffle(after)
        return [*before, self.promote, *after]

    def befall(self, seconds):
        """All that the plan has, evenly over the time; each once the one before is got over."""
        plan = self.plan()
        begun = time.monotonic()
        for number, event in enumerate(plan, 1):
            at = begun + seconds * number / (len(plan) + 1)
            until(lambda: time.monotonic() > at, "time passes", seconds + 1)
            event()
            back = time.monotonic()
            self.cluster.await_service(self.probe, f"after {event.__name__}")
            print(f"{event.__name__}: every kvd serves {time.monotonic() - back:.2f} s later", flush=True)

    # ---- the end ----

    def look_at_all(self):
        """What a client sees once nobody writes any more and nothing is left to expire."""
        self.clerk.close()
        for ns in self.namespaces:
            until(lambda: not self.expiring(ns), "everything with a time to live has expired", 30)
            for key in KEYS + SHORT:
                self.ask("versions", ns, key, "GET", f"/{ns}/entries/{key_url(key)}/versions?includeValues=true")
        self.clerk.close()

    def expiring(self, ns):
        items = self.ask("list", ns, "", "GET", f"/{ns}/entries?includeValues=true", asked={"prefix": "", "visible": ""}).answer["items"]
        return [item for item in items if item["expiresAt"]]

    def check_that_much_happened(self, final):
        """A history in which nothing meets proves nothing."""
        heard = {(op.kind, op.status) for op in self.ops}
        for kind, status in (("put", 200), ("put", 201), ("put", 409), ("put", 412), ("put", 503), ("get", 200), ("get", 404), ("delete", 204), ("rotate", 200), ("rollback", 200), ("patch", 200),
                             ("bulk_set", 200), ("bulk_set", 409), ("bulk_get", 200), ("list", 200), ("versions", 200), ("ns_update", 200)):
            self.assertIn((kind, status), heard)
        self.assertIn("EXPIRY", {row.reason for row in final.rows})
        self.assertTrue([op for op in self.ops if not op.is_known], "something was under way when a kvd died")

    def test_whatever_befalls_the_cluster_what_was_acknowledged_is_there_once(self):
        load = Load(self.servers, self.namespaces, SEED, CLIENTS, steps=None)
        self.addCleanup(load.end)
        try:
            self.befall(SECONDS)
        finally:
            self.servers.is_over.value = 1
        self.ops += load.wait()
        self.look_at_all()
        self.cluster.stop_nodes()
        self.assertNotIn("deadlock detected", self.cluster.server_logs())
        final = read_storage(self.cluster.primary.url("kv"))
        final.set_apart(self.probe)
        outcomes = dict(sorted(collections.Counter(op.status or 0 for op in self.ops).items()))
        print(f"{len(self.ops)} operations, by status (0: unknown) {outcomes}; {len(final.rows)} versions, {len(final.audit)} audit rows", flush=True)
        violations = check(self.ops, final, losses=True)
        if violations:
            self.fail(report(violations, self.ops, final, SEED))
        self.check_that_much_happened(final)


if __name__ == "__main__":
    main()
