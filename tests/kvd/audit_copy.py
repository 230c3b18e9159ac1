"""The copy of the audit log: complete while somebody takes it, and nobody's delay when nobody does."""

import json
import os
import shutil
import signal
import tempfile
import time
import unittest
import urllib.parse

from api import AUDIT_MEMBERS
from harness import Kvd, main, run, until

KEYS = 1000  # of a bulk read, each a row


class AuditCopy(unittest.TestCase):
    def audit(self, kvd):
        """All rows of the log but those of its own reading, oldest first."""
        rows, cursor = [], ""
        while cursor is not None:
            page = kvd.request("GET", f"/audit?order=asc&cursor={cursor}" if cursor else "/audit?order=asc").json()
            rows += page["items"]
            cursor = page["nextCursor"]
        return [row for row in rows if row["operation"] != "audit.list"]

    def lines(self, path):
        """What is copied, without the reading of the log; the last line may not be whole yet."""
        with open(path, encoding="utf-8") as file:
            whole = [line for line in file if line.endswith("\n") and line.startswith("{")]
        return [row for row in map(json.loads, whole) if row["operation"] != "audit.list"]

    def work(self, kvd, count):
        ns = kvd.request("POST", "/namespaces", {"name": f"n{time.monotonic_ns()}", "applicationId": "app"}).json()["id"]
        for number in range(count):
            self.assertEqual(kvd.request("PUT", f"/{ns}/entries/folder/" + urllib.parse.quote(f"k\u00e9y-{number}"), {"value": "s3cret"}).status, 201)
            kvd.request("GET", f"/{ns}/entries/nothing", headers={"X-Request-Id": f"missing-{number}"})
        kvd.request("GET", "/namespaces", token=None)
        return ns

    def flood(self, kvd, ns, rounds):
        """Many rows, none of which waits for the copy. Gives the longest time that a request took."""
        kvd.request("POST", f"/{ns}/bulk/set", {"entries": [{"keyPath": f"many/{n}", "value": n} for n in range(KEYS)]})
        longest = 0
        for _ in range(rounds):
            began = time.monotonic()
            self.assertEqual(kvd.request("POST", f"/{ns}/bulk/get", {"keys": [f"many/{n}" for n in range(KEYS)]}).status, 200)
            longest = max(longest, time.monotonic() - began)
        return longest

    def make(self, *flags, **options):
        kvd = Kvd(*flags, storage="sqlite", **options)
        self.addCleanup(kvd.kill)
        return kvd

    def folder(self):
        folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, folder)
        return folder

    def pipe(self):
        """A named pipe, and its end that is not read unless somebody does."""
        path = os.path.join(self.folder(), "pipe")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        return path, reader

    def test_every_row_is_a_line_with_all_that_the_log_has(self):
        kvd = self.make("--audit-copy", "file:copy.jsonl")
        path = kvd.path("copy.jsonl")
        self.work(kvd, 20)
        logged = self.audit(kvd)
        until(lambda: len(self.lines(path)) >= len(logged), "the copy has every row")
        self.assertEqual(self.lines(path)[:len(logged)], logged)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        for row in self.lines(path):
            self.assertEqual(set(row), AUDIT_MEMBERS)
        self.assertNotIn("s3cret", kvd.read("copy.jsonl"))
        kvd.stop()

    def test_what_waits_at_the_stop_is_written(self):
        folder = self.make("--audit-copy", "file:copy.jsonl")
        self.flood(folder, self.work(folder, 1), 3)
        folder.owns_folder = False
        folder.stop()
        rows = self.lines(folder.path("copy.jsonl"))
        self.assertGreater(len(rows), 3 * KEYS)
        self.assertEqual(rows[-1]["operation"], "audit.close")
        # A storage that several write at once has a stream for each who does.
        for stream in {row["stream"] for row in rows}:
            own = [row for row in rows if row["stream"] == stream]
            self.assertEqual([row["sequence"] for row in own], list(range(1, len(own) + 1)))
            self.assertEqual(own[-1]["operation"], "audit.close")
        folder.owns_folder = True

    def test_after_a_restart_lines_are_appended(self):
        first = self.make("--audit-copy", "file:copy.jsonl")
        first.owns_folder = False
        self.work(first, 3)
        first.stop()
        before = self.lines(first.path("copy.jsonl"))
        second = self.make("--audit-copy", "file:copy.jsonl", folder=first.folder, key=first.key)
        second.owns_folder = True
        self.work(second, 3)
        until(lambda: len(self.lines(first.path("copy.jsonl"))) > len(before) + 6, "more lines")
        self.assertEqual(self.lines(first.path("copy.jsonl"))[:len(before)], before)

    def test_a_file_that_is_moved_away_is_begun_anew_on_sighup(self):
        kvd = self.make("--audit-copy", "file:copy.jsonl")
        path, old = kvd.path("copy.jsonl"), kvd.path("copy.jsonl.1")
        self.work(kvd, 5)
        until(lambda: len(self.lines(path)) >= len(self.audit(kvd)), "the copy has every row")
        os.rename(path, old)
        kvd.signal(signal.SIGHUP)
        until(lambda: os.path.exists(path), "a new file")
        self.work(kvd, 5)
        logged = self.audit(kvd)
        until(lambda: len(self.lines(old)) + len(self.lines(path)) >= len(logged), "the copies have every row")
        self.assertEqual((self.lines(old) + self.lines(path))[:len(logged)], logged)
        kvd.stop()

    def test_on_stdout_the_first_line_stays_the_first(self):
        kvd = self.make("--audit-copy", "stdout")
        self.work(kvd, 5)
        logged = self.audit(kvd)
        until(lambda: len(self.lines(kvd.path("stdout"))) >= len(logged), "the copy has every row")
        self.assertEqual(self.lines(kvd.path("stdout"))[:len(logged)], logged)
        self.assertTrue(kvd.read("stdout").startswith("kvd: listening on http://127.0.0.1:"))
        kvd.stop()

    def test_a_reader_who_stalls_delays_no_request_and_what_is_dropped_is_counted(self):
        pipe, _ = self.pipe()
        kvd = self.make("--audit-copy", "file:" + pipe)
        ns = self.work(kvd, 1)
        calm = max(self.flood(kvd, ns, 3), 0.05)
        rounds = 0
        while kvd.metrics()["kvd_audit_copy_dropped_total"] == 0:
            self.assertLess(rounds, 400, "the queue never fills")
            self.assertLess(self.flood(kvd, ns, 5), 20 * calm)
            rounds += 5
        self.assertLess(kvd.metrics()["kvd_audit_copy_waiting_bytes"], 16 << 20)
        until(lambda: kvd.logged("audit rows are not copied: too many wait"), "the log tells")
        # The log itself lacks nothing: its rows are numbered without a gap.
        self.assertEqual(kvd.request("GET", "/readyz", token=None).status, 200)
        began = time.monotonic()
        kvd.stop()
        self.assertLess(time.monotonic() - began, 10)

    def test_a_reader_who_comes_back_gets_what_waited(self):
        pipe, reader = self.pipe()
        kvd = self.make("--audit-copy", "file:" + pipe)
        self.flood(kvd, self.work(kvd, 1), 3)
        logged = self.audit(kvd)
        text = b""

        def read():
            nonlocal text
            try:
                text += os.read(reader, 1 << 20)
            except BlockingIOError:
                pass
            return text.count(b"\n") > len(logged)
        until(read, "all that waited")
        rows = [json.loads(line) for line in text.split(b"\n")[:-1]]
        self.assertEqual([row for row in rows if row["operation"] != "audit.list"][:len(logged)], logged)
        self.assertEqual(kvd.metrics()["kvd_audit_copy_dropped_total"], 0)
        kvd.stop()

    def test_a_copy_that_fails_is_said_and_goes_on_when_it_can(self):
        folder = self.folder()
        sub = os.path.join(folder, "sub")
        os.mkdir(sub)
        kvd = self.make("--audit-copy", f"file:{sub}/copy.jsonl")
        self.work(kvd, 2)
        os.rename(sub, sub + ".away")
        kvd.signal(signal.SIGHUP)
        self.work(kvd, 2)
        until(lambda: kvd.metrics()["kvd_audit_copy_failures_total"] > 0, "the failure is counted")
        until(lambda: kvd.logged("the copy of the audit log cannot be written") or kvd.logged("the copy of the audit log could not be opened again"), "the log tells")
        os.mkdir(sub)
        self.work(kvd, 2)
        logged = self.audit(kvd)
        until(lambda: os.path.exists(f"{sub}/copy.jsonl") and len(self.lines(f"{sub}.away/copy.jsonl")) + len(self.lines(f"{sub}/copy.jsonl")) >= len(logged), "the copies have every row")
        self.assertEqual((self.lines(f"{sub}.away/copy.jsonl") + self.lines(f"{sub}/copy.jsonl"))[:len(logged)], logged)
        kvd.stop()

    def test_syslog_that_is_not_there_is_nobodys_trouble(self):
        kvd = self.make("--audit-copy", "syslog:")
        self.work(kvd, 5)
        until(lambda: kvd.metrics()["kvd_audit_copy_rows_total"] > 10, "rows are given to syslog")
        kvd.stop()

    def test_what_cannot_be_copied_to_stops_the_start(self):
        for target, code in (("file:/nowhere/at/all", 78), ("file:", 64), ("tcp:1", 64), ("", 64)):
            with self.subTest(target=target):
                done = run("serve", "--storage", "memory:", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--audit-copy", target,
                           environment={"KV_MASTER_KEY": "a" * 64, "KVD_ROOT_TOKEN": "t" * 32})
                self.assertEqual(done.returncode, code, done)


if __name__ == "__main__":
    main()
