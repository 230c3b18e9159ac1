"""A disk of 64 MiB, and one of 16: filled by reads alone the archive makes room and service never stops; filled by writes or by somebody else,
writes are refused, reads go on, and writes come back when there is room, without a restart."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

from harness import Kvd, main, until

MIB = 1 << 20
IN_NAMESPACE = "KVD_TEST_OWN_MOUNTS"


def enter_own_mounts():
    """Goes on in a mount namespace of its own, so that what is mounted goes with the process. Exit code 77 where that may not be."""
    if os.environ.get(IN_NAMESPACE):
        return
    way = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    probe = subprocess.run([*way, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"], capture_output=True, check=False)
    if probe.returncode != 0:
        print("no file system can be mounted here: " + probe.stderr.decode().strip())
        sys.exit(77)
    os.environ[IN_NAMESPACE] = "1"
    os.execvp(way[0], [*way, sys.executable, "-B", *sys.argv])


class DiskFull(unittest.TestCase):
    disk_bytes = 64 * MIB
    log_is_small = True  # beside the disk: what the write-ahead log takes and gives back makes no difference

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.disk = os.path.join(self.folder, "disk")
        self.archive = os.path.join(self.folder, "archive")
        os.mkdir(self.disk)
        os.mkdir(self.archive)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.disk_bytes}", "tmpfs", self.disk], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.disk], check=False)

    def start(self, *flags):
        self.kvd = Kvd("--maintenance-interval", "50ms", *flags, storage=f"sqlite:{self.disk}/kv.db", folder=self.folder)
        self.addCleanup(self.kvd.kill)
        self.ns = self.kvd.request("POST", "/namespaces", {"name": "n", "isSecretNamespace": False, "historyLimit": 1}).json()["id"]
        self.put("small", "value")

    def put(self, key, value):
        return self.kvd.request("PUT", f"/{self.ns}/entries/{key}", {"value": value})

    def get(self, key):
        return self.kvd.request("GET", f"/{self.ns}/entries/{key}")

    def purge(self, key):
        """Deleting takes a little room as well, which on a small disk a quiet moment must give back first."""
        answer = self.kvd.request("DELETE", f"/{self.ns}/entries/{key}?purge=true")
        if not self.log_is_small and answer.status == 507:
            return False
        self.assertEqual(answer.status, 204, answer)
        return True

    def free(self):
        status = os.statvfs(self.disk)
        return status.f_bavail * status.f_frsize

    def read_bulk(self, keys):
        answer = self.kvd.request("POST", f"/{self.ns}/bulk/get", {"keys": keys})
        # On a small disk reads may be quicker than what makes room for them.
        if not self.log_is_small and answer.status == 503:
            self.assertEqual(answer.code, "audit-unavailable")
            return 0
        self.assertEqual(answer.status, 200, answer)
        return len(answer.json()["entries"])

    def ready(self):
        return self.kvd.request("GET", "/readyz", token=None)

    def fill_by_writes(self):
        """Until one is refused, which is not before the disk is nearly full. Every acknowledged one is counted."""
        value = "x" * (256 << 10)
        for number in range(10 * self.disk_bytes // len(value)):
            answer = self.put(f"big/{number}", value)
            if answer.status != 201:
                self.assertEqual((answer.status, answer.code), (507, "storage-full"))
                return number
        self.fail("the disk was never full")

    def test_filled_by_reads_alone(self):
        self.start("--audit-archive", self.archive)
        keys = [f"folder-with-a-rather-long-name-to-fill-rows/{'k' * 100}/{i}" for i in range(500)]
        entries = [{"keyPath": key, "value": "v"} for key in keys]
        self.assertEqual(self.kvd.request("POST", f"/{self.ns}/bulk/set", {"entries": entries}).status, 200)
        # Rows of about 400 bytes: more than the disk holds.
        rows = 0
        while rows * 400 < 1.5 * self.disk_bytes:
            rows += until(lambda: self.read_bulk(keys), "reads are recorded")
            if self.log_is_small:
                self.assertGreater(self.free(), 0)
        self.assertEqual(self.put("small", "after").status, 200)
        self.assertEqual(self.ready().status, 200)
        self.kvd.stop()
        # Nothing was lost: what is not in the log any more is in the archive, every position once.
        archived = []
        for name in sorted(os.listdir(self.archive)):
            with open(os.path.join(self.archive, name), encoding="utf-8") as file:
                archived += [json.loads(line)["position"] for line in file]
        self.assertEqual(archived, list(range(1, len(archived) + 1)))
        self.assertGreater(len(archived), rows / 3)

    def test_filled_by_writes(self):
        self.start()
        written = self.fill_by_writes()
        self.assertGreater(written, self.disk_bytes * 0.6 / (256 << 10))
        self.assertEqual(until(lambda: (a := self.ready()).status == 503 and a, "not ready").code, "storage-full")
        for number in range(written):
            self.assertEqual(self.get(f"big/{number}").status, 200)
        for _ in range(500):
            self.assertEqual(self.get("small").status, 200)
        if self.log_is_small:
            self.assertEqual(self.put("small", "no").code, "storage-full")
        # Room comes from deleting for good.
        for number in range(0, written, 2):
            until(lambda n=number: self.purge(f"big/{n}"), "there is room to delete in")
        until(lambda: self.put("small", "yes").status == 200, "writes come back")
        until(lambda: self.ready().status == 200, "ready again")
        self.assertEqual(self.get("small").json()["value"], "yes")
        self.assertEqual(self.get(f"big/{written - 1 - (written - 1) % 2 - 1}").status, 200)
        self.kvd.stop()

    def test_filled_by_somebody_else(self):
        self.start("--audit-archive", self.archive)
        self.assertTrue(os.path.exists(f"{self.disk}/kv.db.reserve"))
        ballast = os.path.join(self.disk, "ballast")
        room = self.free()  # and not what kvd lets go of meanwhile
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while room > 0:
                room -= file.write(b"\0" * 4096)
        # A write that fits into what is allocated already is none too many; from the next look on none is taken.
        until(lambda: (a := self.put("small", "no")).status == 507 and a.code == "storage-full", "writes are refused")
        until(lambda: not os.path.exists(f"{self.disk}/kv.db.reserve"), "what was held back is let go of")
        # Many readers at a time, from what is left.
        failures = []

        def read():
            for _ in range(500):
                answer = self.get("small")
                if answer.status != 200:
                    failures.append(answer)
        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.put("small", "no").code, "storage-full")
        os.remove(ballast)
        until(lambda: self.put("small", "yes").status == 200, "writes come back")
        until(lambda: os.path.exists(f"{self.disk}/kv.db.reserve"), "room is held back again")
        self.kvd.stop()


class SmallDiskFull(DiskFull):
    disk_bytes = 16 * MIB
    log_is_small = False


if __name__ == "__main__":
    enter_own_mounts()
    main()
