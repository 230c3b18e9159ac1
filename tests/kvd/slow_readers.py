"""Readers who ask for large answers and do not take them: together they hold what the budget allows, and no more."""

import contextlib
import json
import re
import socket

from api import ApiTestCase
from harness import BASE, PATIENCE, main, until

MIB = 1 << 20
BUDGET = 32 * MIB
PAGE = 8 * MIB  # what a page with values holds at most
READERS = 60    # who would hold 480 MiB


class SlowReader:
    def __init__(self, kvd, path):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", kvd.port))
        self.socket.sendall(f"GET {BASE}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {kvd.token}\r\n\r\n".encode())

    def status(self):
        head = b""
        while len(head) < 12:
            head += self.socket.recv(12 - len(head))
        return int(head.split()[1])

    def close(self):
        self.socket.close()


class SlowReaders(ApiTestCase):
    flags = ("--body-bytes-in-flight-max", str(BUDGET), "--write-timeout", "1h", "--threads", "2")
    environment = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # what is free goes back to the system, so that what is held shows

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ns = cls.kvd.request("POST", "/namespaces", {"name": "large", "applicationId": "app"}).json()
        for number in range(9):
            answer = cls.kvd.request("PUT", f"/{cls.ns['id']}/entries/{number}", {"value": "x" * (MIB - 100)})
            assert answer.status == 201, answer
        cls.page = f"/{cls.ns['id']}/entries?includeValues=true"

    def memory(self):
        """What kvd holds; None where a sanitizer keeps what was freed."""
        with open(f"/proc/{self.kvd.process.pid}/status", encoding="ascii") as file:
            figures = {name: int(value) * 1024 for name, value in re.findall(r"(\w+):\s+(\d+) kB", file.read())}
        return figures["VmRSS"] if figures["VmSize"] < 1 << 40 else None

    def test_they_hold_the_budget_and_no_more(self):
        self.call("GET", self.page, status=200)
        until(lambda: self.kvd.metrics()["kvd_body_bytes_in_flight"] == 0, "nothing is under way")
        before = self.memory()
        with contextlib.ExitStack() as stack:
            readers = []
            for _ in range(READERS):
                readers.append(SlowReader(self.kvd, self.page))
                stack.callback(readers[-1].close)
            statuses = [reader.status() for reader in readers]
            # What the kernel has taken is not held any more, so that some more than the budget's worth get their answer.
            self.assertEqual(set(statuses), {200, 503})
            self.assertGreaterEqual(statuses.count(503), READERS // 4)
            self.assertLessEqual(self.kvd.metrics()["kvd_body_bytes_in_flight"], BUDGET + PAGE)
            if before is not None:
                until(lambda: self.memory() - before < 2 * BUDGET, "no more is held than the budget")
            self.assertEqual(self.call("GET", self.page, code="overloaded").headers["retry-after"], "1")
            # It is recorded as what it was: a read that was allowed.
            row = self.call("GET", "/audit?operation=entry.list&limit=1").json()["items"][0]
            self.assertEqual((row["success"], row["reason"]), (True, None))
            # Whoever asks for little is served.
            self.put(self.ns, "small", "v", status=201)
            self.assertEqual(self.value(self.ns, "small"), "v")
            self.call("DELETE", self.entry_path(self.ns, "small"), status=204)
            # Whoever runs it still sees how it does.
            self.assertEqual(self.kvd.request("GET", "/healthz", token=None).status, 200)
            self.assertEqual(self.kvd.request("GET", "/metrics", token=None, admin=True).status, 200)
        until(lambda: self.kvd.metrics()["kvd_body_bytes_in_flight"] == 0, "what they held is given back")
        self.assertGreaterEqual(len(self.call("GET", self.page, status=200).json()["items"]), 8)

    def test_a_reader_who_takes_it_in_the_end_gets_it_whole(self):
        reader = SlowReader(self.kvd, self.page)
        until(lambda: self.kvd.metrics()["kvd_body_bytes_in_flight"] > MIB, "the answer waits for its reader")
        data = b""
        while b"\r\n\r\n" not in data:
            data += reader.socket.recv(65536)
        head, body = data.split(b"\r\n\r\n", 1)
        size = int(re.search(rb"Content-Length: (\d+)", head).group(1))
        while len(body) < size:
            body += reader.socket.recv(65536)
        self.assertTrue(json.loads(body)["items"])
        reader.close()


if __name__ == "__main__":
    main()
