"""A kvd under measurement, and what wrk says about it."""

import http.client
import json
import os
import re
import signal
import subprocess
import time

LOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.lua")
PATIENCE = 60.0  # seconds until something that should happen counts as not happening
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A measurement that would mean nothing."""


def kvd_environment(key, token):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("KVD_", "KV_"))}
    return {**inherited, "KV_MASTER_KEY": key, "KVD_ROOT_TOKEN": token}


class Server:
    """A kvd on a database. `start_seconds`: from starting the program to its first 200 of /readyz."""

    def __init__(self, kvd, database, key, token, flags=(), storage=None):
        self.database = database  # where its log lies, too
        self.token = token
        arguments = [kvd, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--storage", storage or "sqlite:" + database, *flags]
        with open(database + ".log", "ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(arguments, env=kvd_environment(key, token), stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=log)
        try:
            self.port = self._read_port()
            self._await_ready()
        except BaseException:
            self.kill()
            raise
        self.start_seconds = time.perf_counter() - began

    def _read_port(self):
        line = self.process.stdout.readline().decode()
        found = re.fullmatch(r"kvd: listening on http://127\.0\.0\.1:(\d+)\n", line)
        if not found:
            raise BenchError(f"{self.process.args[0]} did not start: {self.log_end()}")
        return int(found.group(1))

    def _await_ready(self):
        deadline = time.monotonic() + PATIENCE
        while self.request("GET", "/readyz")[0] != 200:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.process.args[0]} is not ready: {self.log_end()}")
            time.sleep(0.001)

    def log_end(self):
        with open(self.database + ".log", encoding="utf-8", errors="replace") as file:
            return file.read()[-500:]

    def request(self, method, path, body=None):
        """(status, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Authorization": "Bearer " + self.token}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def check_entries(self, entries):
        """The last entry is there, and writable: what wrk is going to ask is what the database holds."""
        path = f"/api/v1/kv/bench~secret/entries/service-{(entries - 1) // 1000:04}/setting-{entries - 1:07}"
        status, body = self.request("GET", path)
        if status != 200 or len(json.loads(body)["value"]) != 128:
            raise BenchError(f"GET {path} answered {status}: {body[:200]!r}")
        status, body = self.request("PUT", path, json.dumps({"value": json.loads(body)["value"]}))
        if status != 200:
            raise BenchError(f"PUT {path} answered {status}: {body[:200]!r}")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self, name="VmRSS"):
        """`VmRSS`: resident now. `VmHWM`: at the most so far. `RssAnon`: without what maps a file."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return int(re.search(rf"^{name}:\s+(\d+) kB$", file.read(), re.MULTILINE).group(1)) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=PATIENCE)
        finally:
            self.kill()
        if code != 0:
            raise BenchError(f"{self.process.args[0]} ended with {code}: {self.log_end()}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def run_wrk(server, kind, connections, seconds, entries, seed, requests):
    """(its lines of JSON as one dict, CPU seconds it took)"""
    environment = {**os.environ, "BENCH_KIND": kind, "BENCH_ENTRIES": str(entries), "BENCH_SEED": str(seed),
                   "BENCH_REQUESTS": str(requests), "BENCH_TOKEN": server.token}
    arguments = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", LOAD, f"http://127.0.0.1:{server.port}"]
    wrk = subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output = wrk.stdout.read()
        _, status, usage = os.wait4(wrk.pid, 0)
        wrk.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if wrk.returncode is None:
            wrk.kill()
            wrk.wait()
        wrk.stdout.close()
    said = {}
    for line in output.split("\n"):
        if line.startswith("{"):
            said.update(json.loads(line))
    if wrk.returncode != 0 or "requests" not in said:
        raise BenchError(f"wrk ended with {wrk.returncode}: {output[-500:]}")
    return said, usage.ru_utime + usage.ru_stime


def load(server, kind, connections, seconds, entries, seed, requests=100_000):
    """What wrk and the kernel say of some seconds of load."""
    cpu_before = server.cpu_seconds()
    said, wrk_cpu = run_wrk(server, kind, connections, seconds, entries, seed, requests)
    cpu = server.cpu_seconds() - cpu_before
    if said["refused"] or said["unanswered"] or not said["requests"]:
        raise BenchError(f"{kind}, {connections} connections: {said['refused']} answers were errors, {said['unanswered']} requests "
                         f"went unanswered, of {said['requests']}: {server.log_end()}")
    taken = said["microseconds"] / 1e6
    return {
        "perSecond": said["requests"] / taken,
        "cpuMicroseconds": cpu / said["requests"] * 1e6,
        "wrkShare": (wrk_cpu - said["preparedCpuSeconds"]) / taken,
        "p50Microseconds": said["p50"],
        "p99Microseconds": said["p99"],
    }
