"""Thousands who watch one namespace: what they cost while nothing happens, and how soon they hear of a change."""

import os
import resource
import selectors
import socket
import time

import report
from servers import PATIENCE, BenchError

WATCHERS = 10_000
CHANGES = 5
CHANGES_ALONE = 500  # told to one who watches
MEMORY_MIB = 300


class Watchers:
    """Connections that ask for the events of one namespace."""

    def __init__(self, server, path, count):
        self.selector = selectors.DefaultSelector()
        self.heard = {}  # socket -> the end of what it heard last
        request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
        fresh = []
        for number in range(count):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
            one.sendall(request)
            self.heard[one] = b""
            self.selector.register(one, selectors.EVENT_READ)
            fresh.append(one)
            if len(fresh) == 100 or number + 1 == count:
                self.hear(b"\nid: ", fresh)
                fresh.clear()

    def hear(self, wanted, who=None):
        """Reads until all of them, or these, heard it: after how many seconds each did."""
        began = time.perf_counter()
        missing = set(self.heard if who is None else who)
        times = []
        while missing:
            ready = self.selector.select(PATIENCE)
            if not ready:
                raise BenchError(f"{len(missing)} watchers were not told")
            for key, _ in ready:
                data = key.fileobj.recv(65536)
                if not data:
                    raise BenchError("a watcher was closed")
                text = self.heard[key.fileobj] + data
                if wanted in text and key.fileobj in missing:
                    missing.discard(key.fileobj)
                    times.append(time.perf_counter() - began)
                self.heard[key.fileobj] = text[-len(wanted) + 1:]
        return times

    def pass_time(self, seconds):
        """Reads what comes for so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            for key, _ in self.selector.select(left):
                key.fileobj.recv(65536)

    def close(self):
        for one in self.heard:
            one.close()
        self.selector.close()


def raise_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < WATCHERS + 100:
        raise BenchError(f"{WATCHERS} watchers need as many descriptors, and the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, WATCHERS + 100), hard))


def tell(server, watchers, key):
    """A change: after how many seconds from its answer on each of them had heard of it, sorted."""
    if server.request("PUT", f"/api/v1/kv/bench~watched/entries/{key}", '{"value": 1}')[0] != 201:
        raise BenchError("a change was refused")
    return sorted(watchers.hear(f'"keyPath":"{key}"'.encode()))


def measure(bench):
    raise_limit()
    flags = [f"--connections-max={WATCHERS + 100}"]
    with bench.serve(os.path.join(bench.folder, "watchers"), storage="memory:", flags=flags) as server:
        status, body = server.request("POST", "/api/v1/kv/namespaces", '{"name": "watched", "applicationId": "bench"}')
        if status != 201:
            raise BenchError(f"no namespace: {status} {body[:200]!r}")
        server.request("PUT", "/api/v1/kv/bench~watched/entries/first", '{"value": 0}')
        one = Watchers(server, "/api/v1/kv/bench~watched/watch", 1)
        alone = sorted(tell(server, one, f"alone-{number}")[0] for number in range(CHANGES_ALONE))
        one.close()
        before = server.memory_mib()
        watchers = Watchers(server, "/api/v1/kv/bench~watched/watch", WATCHERS)
        begun = server.memory_mib()
        # A heartbeat each: what is needed once for each is there then.
        watchers.hear(b": heartbeat")
        cpu = server.cpu_seconds()
        seconds = 15 if bench.arguments.quick else 30
        watchers.pass_time(seconds)
        idle_cpu = (server.cpu_seconds() - cpu) / seconds
        idle = server.memory_mib()
        changes = []
        for number in range(CHANGES):
            cpu = server.cpu_seconds()
            key = f"changed-{number}"
            times = tell(server, watchers, key)
            changes.append({"firstSeconds": times[0], "medianSeconds": times[len(times) // 2], "lastSeconds": times[-1],
                            "cpuMicroseconds": (server.cpu_seconds() - cpu) / WATCHERS * 1e6})
        told = server.memory_mib()
        watchers.close()
        server.stop()
    memory = {"before": before, "begun": begun, "idle": idle, "told": told, "forEachKib": (idle - before) * 1024 / WATCHERS}
    return {"watchers": WATCHERS, "memoryMib": memory, "idleCpu": idle_cpu, "changes": changes,
            "alone": {"medianSeconds": alone[len(alone) // 2], "worstSeconds": alone[-1]}}


def run(bench, targets):
    measured = measure(bench)
    memory, changes = measured["memoryMib"], measured["changes"]
    print(f"\n{measured['watchers']} watchers of one namespace, who listen in one Python process on the same machine")
    rows = [["memory of kvd without them, MiB", f"{memory['before']:.0f}"], ["with them", f"{memory['idle']:.0f}"],
            ["after some changes", f"{memory['told']:.0f}"], ["for each, KiB", f"{memory['forEachKib']:.1f}"],
            ["processor time while nothing happens, of one core", report.percent(measured["idleCpu"])],
            ["until half of them heard of a change, ms", f"{report.median(report.column(changes, 'medianSeconds')) * 1000:.0f}"],
            ["until all of them did", f"{report.median(report.column(changes, 'lastSeconds')) * 1000:.0f}"],
            ["processor time of kvd for telling one of them, us", f"{report.median(report.column(changes, 'cpuMicroseconds')):.1f}"]]
    print(report.table(["", ""], rows))
    targets.at_most(f"memory with {measured['watchers']} watchers", [max(memory["idle"], memory["told"])], MEMORY_MIB, " MiB")
    targets.at_most("one watcher alone has heard of a change, median", [measured["alone"]["medianSeconds"] * 1000], 10, " ms")
    targets.at_most("the longest", [measured["alone"]["worstSeconds"] * 1000], 100, " ms")
    return measured
