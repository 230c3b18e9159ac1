"""The wall clock is wrong by ten years, while kvd serves and when it starts: nothing expired is shown, nothing is destroyed, and /readyz says so."""

import contextlib
import glob
import os
import shutil
import tempfile
import unittest

import storages
from harness import Kvd, main, until

LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
KEEP = {"short": 2, "long": 36000}


@unittest.skipUnless(LIBRARIES, "libfaketime is not there")
class Clock(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.offset_file = os.path.join(self.folder, "offset")
        self.kvd = None

    def start(self, offset, *flags):
        """kvd whose wall clock, and no other, is what the offset file says."""
        self.set(offset)
        again = {"key": self.kvd.key, "token": self.kvd.token} if self.kvd else {}
        environment = {"LD_PRELOAD": LIBRARIES[0], "FAKETIME_TIMESTAMP_FILE": self.offset_file, "FAKETIME_NO_CACHE": "1",
                       "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
        self.kvd = Kvd("--maintenance-interval", "20ms", "--expiry-grace", "0", *flags, storage="sqlite", folder=self.folder,
                       environment=environment, **again)
        self.addCleanup(self.kvd.kill)

    def set(self, offset):
        with open(self.offset_file + ".new", "w", encoding="ascii") as file:
            file.write(offset + "\n")
        os.replace(self.offset_file + ".new", self.offset_file)

    def fill(self):
        ns = self.kvd.request("POST", "/namespaces", {"name": "n", "isSecretNamespace": True}).json()["id"]
        for key, seconds in KEEP.items():
            self.assertEqual(self.kvd.request("PUT", f"/{ns}/entries/{key}", {"value": key, "ttlSeconds": seconds}).status, 201)
        self.assertEqual(self.kvd.request("PUT", f"/{ns}/entries/ever", {"value": "ever", "ttlSeconds": None}).status, 201)
        return ns

    def status(self, ns, key):
        return self.kvd.request("GET", f"/{ns}/entries/{key}").status

    def ready(self):
        return self.kvd.request("GET", "/readyz", token=None)

    def await_unsound(self):
        answer = until(lambda: (a := self.ready()).status == 503 and a, "/readyz says that the clock is unsound")
        self.assertEqual(answer.code, "clock-unsound")
        self.assertIn("clock", answer.json()["detail"])

    def stored(self, ns):
        """Keys whose value is still there, from the storage itself."""
        with contextlib.closing(storages.connect(self.kvd.storage, reads_only=True)) as database:
            rows = database.execute("select key_path from entries where is_tombstone = 0 and length(value) > 0")
            return {key for key, in rows}

    def rounds(self, count=3):
        """Lets maintenance come round."""
        def commits():
            return self.kvd.metrics()["kv_operations_total"]
        before = commits()
        for _ in range(count):
            self.kvd.request("GET", "/namespaces")
        until(lambda: commits() >= before + count, "operations are counted")

    def test_while_serving(self):
        for jump in ("+10y", "-10y"):
            with self.subTest(jump=jump):
                self.start("+0")
                ns = self.fill() if jump == "+10y" else self.ns
                self.ns = ns
                self.assertEqual(self.ready().status, 200)
                self.set(jump)
                self.await_unsound()
                self.assertEqual(self.kvd.request("PUT", f"/{ns}/entries/during", {"value": "x", "ttlSeconds": 1}).status in (200, 201), True)
                self.assertEqual(self.status(ns, "long"), 200)
                self.assertEqual(self.status(ns, "ever"), 200)
                # It expires at its time by the steady clock, is shown no more, and is not destroyed.
                until(lambda: self.status(ns, "during") == 404, "the entry expires")
                self.rounds()
                self.assertIn("during", self.stored(ns))
                self.assertGreater(abs(self.kvd.metrics()["kv_clock_skew_seconds"]), 9 * 365 * 86400)
                self.set("+0")
                until(lambda: self.ready().status == 200, "the clock is right again")
                until(lambda: "during" not in self.stored(ns), "what expired is destroyed")
                self.kvd.stop()

    def test_ahead_at_the_start(self):
        self.start("+0")
        ns = self.fill()
        self.kvd.stop()
        for _ in range(2):
            self.start("+10y")
            self.await_unsound()
            self.assertEqual(self.status(ns, "long"), 404)
            self.assertEqual(self.status(ns, "ever"), 200)
            self.rounds()
            self.assertLessEqual({"long", "ever"}, self.stored(ns))
            self.kvd.stop()
        self.assertLessEqual({"long", "ever"}, self.stored(ns))
        # Said to be right: now what has expired goes.
        self.start("+10y", "--trust-clock")
        self.assertEqual(self.ready().status, 200)
        until(lambda: self.stored(ns) == {"ever"}, "what expired is destroyed")
        self.kvd.stop()

    def test_behind_at_the_start(self):
        self.start("+0")
        ns = self.fill()
        until(lambda: self.status(ns, "short") == 404, "the short one expires")
        until(lambda: "short" not in self.stored(ns), "and is destroyed")
        self.kvd.stop()
        self.start("-10y")
        self.await_unsound()
        self.assertEqual(self.status(ns, "short"), 404)
        self.assertEqual(self.status(ns, "long"), 200)
        self.assertEqual(self.kvd.request("PUT", f"/{ns}/entries/new", {"value": "x", "ttlSeconds": 1}).status, 201)
        self.assertEqual(self.status(ns, "new"), 200)
        until(lambda: self.status(ns, "new") == 404, "time goes on from where it was")
        self.rounds()
        self.assertIn("new", self.stored(ns))
        times = [item["timestamp"] for item in self.kvd.request("GET", "/audit?limit=1000&order=asc").json()["items"]]
        self.assertEqual(times, sorted(times))
        self.kvd.stop()


if __name__ == "__main__":
    main()
