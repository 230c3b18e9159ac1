"""32 clients at once, everything recorded, and the whole history judged: see history_check.py.

HISTORY_SEED repeats a run, as far as the clients' choices go; HISTORY_STEPS makes it longer.

Broken on purpose, and noticed each time: expectedVersion let older writers in; every fiftieth version of a key made no
event; one folded denial in seven was not counted; entries could be read 0.4 s beyond their time; point reads were answered
from a cache of 5 ms; writes were answered before their commit.
"""

import os
import random
import secrets
import signal
import unittest

from harness import Kvd, main, until
from history_check import check, read_storage, report
from history_load import KEYS, SHORT, TOKENS, Client, Load, Recorder, Servers, WithClerk

SEED = os.environ.get("HISTORY_SEED") or secrets.token_hex(4)
STEPS = int(os.environ.get("HISTORY_STEPS", "110"))
CLIENTS = 32
FLAGS = ("--denial-window", "1s", "--maintenance-interval", "300ms")


class History(WithClerk, unittest.TestCase):
    def setUp(self):
        print(f"HISTORY_SEED={SEED}", flush=True)
        self.servers, self.ops, self.kvd = Servers(), [], None
        self.start()
        self.addCleanup(lambda: self.kvd.kill())
        self.clerk = Recorder(self.servers, "clerk", random.Random(SEED), self.ops)
        self.namespaces = [self.make_namespace("plain"), self.make_namespace("secret", isSecretNamespace=True)]

    def start(self):
        """A kvd, or another one on what the one before left."""
        again = {"folder": self.kvd.folder, "key": self.kvd.key, "token": self.kvd.token} if self.kvd else {}
        if self.kvd:
            self.kvd.owns_folder = False
        self.kvd = Kvd(*FLAGS, storage="sqlite", tokens=TOKENS, **again)
        self.kvd.owns_folder = True
        self.servers.set(0, self.kvd.port)

    # ---- the end ----

    def look_at_all(self):
        """What a client sees once nobody writes any more and nothing is left to expire."""
        self.clerk.close()
        for ns in self.namespaces:
            until(lambda: not self.expiring(ns), "everything with a time to live has expired", 30)
            self.ask("list", ns, "", "GET", f"/{ns}/entries?includeValues=true", asked={"prefix": "", "visible": ""})
            for key in KEYS + SHORT:
                self.ask("versions", ns, key, "GET", Client.entry(self, ns, key, "/versions?includeValues=true"))
        self.clerk.close()

    def expiring(self, ns):
        items = self.ask("list", ns, "", "GET", f"/{ns}/entries", asked={"prefix": "", "visible": ""}).answer["items"]
        return [item for item in items if item["expiresAt"]]

    def judge(self, losses=False):
        self.look_at_all()
        self.kvd.owns_folder = False
        self.kvd.stop()
        self.kvd.owns_folder = True
        final = read_storage(self.kvd.storage)
        violations = check(self.ops, final, losses)
        if violations:
            self.fail(report(violations, self.ops, final, SEED))
        self.check_that_much_happened(final)

    def check_that_much_happened(self, final):
        """A history in which nothing meets proves nothing."""
        heard = {(op.kind, op.status) for op in self.ops}
        for kind, status in (("put", 200), ("put", 201), ("put", 409), ("put", 412), ("put", 403), ("put", 404), ("put", 401), ("get", 200), ("get", 404), ("delete", 204), ("rotate", 200), ("rollback", 200),
                             ("patch", 200), ("bulk_set", 200), ("bulk_set", 409), ("bulk_get", 200), ("bulk_delete", 200), ("list", 200), ("versions", 200), ("ns_update", 200), ("ns_update", 409)):
            self.assertIn((kind, status), heard)
        self.assertIn("EXPIRY", {row.reason for row in final.rows})
        self.assertTrue(any(row.count > 1 for row in final.audit), "some denials were folded")

    # ---- the runs ----

    def test_what_32_clients_saw_has_one_order(self):
        load = Load(self.servers, self.namespaces, SEED, CLIENTS, STEPS)
        self.addCleanup(load.end)
        self.ops += load.wait()
        self.assertEqual([op for op in self.ops if not op.is_known], [])
        self.judge()

    def test_what_clients_saw_of_a_server_that_was_stopped_and_one_that_was_killed(self):
        load = Load(self.servers, self.namespaces, SEED + "r", CLIENTS, STEPS)
        self.addCleanup(load.end)
        for number, how in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGKILL), 1):
            until(lambda: self.servers.asked.value > CLIENTS * STEPS * number // 4, "the clients are under way", 60)
            self.kvd.signal(how)
            self.assertEqual(self.kvd.wait(), 0 if how == signal.SIGTERM else -how)
            self.start()
        self.ops += load.wait()
        self.assertTrue([op for op in self.ops if not op.is_known], "something was under way when the server died")
        self.judge(losses=True)


if __name__ == "__main__":
    main()
