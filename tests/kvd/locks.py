"""Others at the database: a second kvd, programs that hold its locks; and a kvd that has no file descriptors left. Requests are
told clearly, nothing acknowledged is lost, and service comes back by itself.

Broken on purpose, and found: no lock file; the full wait for a foreign lock for every group; no pause when accepting fails;
readers that do not make do with the connections that are open.
"""

import concurrent.futures
import contextlib
import errno
import http.client
import json
import os
import select
import socket
import subprocess
import sys

import io_fault
from faults import DONE, REFUSED, UNKNOWN, is_back, outcomes_of, processor_seconds, quick_site, restart
from harness import Jobs, main, run, until

# Where SQLite locks a file in WAL mode: bytes of the -shm file. Write, checkpoint, recover.
SHM_LOCKS, SHM_LOCK_COUNT = 120, 3

# Another process, because a process is never in its own way. It holds what it is told to until its input ends.
HOLDER = """
import fcntl, sqlite3, sys
kind, path = sys.argv[1:3]
if kind == "shm":
    file = open(path + "-shm", "r+b")
    fcntl.lockf(file, fcntl.LOCK_EX, int(sys.argv[4]), int(sys.argv[3]))
else:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.execute(kind)
    connection.execute("select count(*) from entries").fetchall()
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(site, *what):
    """Held by another program meanwhile."""
    kind, *more = what
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, kind, site.database, *map(str, more)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def open_site():
    site = quick_site()
    site.start()
    site.make_namespace()
    site.put("key", "before")
    return site


# ---- a second kvd ----

def second_kvd():
    with open_site() as site:
        link = site.path("link.db")
        os.symlink(site.database, link)
        for path in (site.database, link):
            for command in (("serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"), ("new-epoch",)):
                second = run(*command, "--storage", "sqlite:" + path,
                             environment={"KV_MASTER_KEY": site.key, "KVD_ROOT_TOKEN": site.token})
                assert second.returncode == 78, second
                assert f"process {site.kvd.process.pid}" in second.stderr, second
        site.put("key", "after")
        # One that was killed leaves its lock file and not its lock.
        restart(site)
        site.kvd.stop()
    return "refused"


# ---- locks of others ----

ASKED = (("PUT", {"value": "during"}), ("DELETE", None), ("GET", None))


def ask_all(site):
    """At the same time, because each may wait as long as SQLite does: the codes."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(site.request, method, site.entry("key"), body) for method, body in ASKED]
        # Each of these is written alone, and must not wait its full time after the others have.
        asked += [pool.submit(site.request, "POST", "/namespaces", {"name": f"during-{i}"}) for i in range(5)]
        answers = [one.result()[0] for one in asked]
    for answer in answers:
        assert answer.status >= 500 and DONE not in outcomes_of(answer), answer
    return [answer.code for answer in answers]


def foreign_lock(*what):
    """Longer than kvd waits: nothing is done, and all is said. Gone: service is back, and nothing was done later."""
    with open_site() as site:
        with held(site, *what):
            codes = ask_all(site)
            ready, _ = site.request("GET", "/readyz")
            assert (ready.status, ready.code) == (503, "unavailable"), ready
        until(lambda: is_back(site), "service is back")
        site.check_known()
        assert site.state("key")[0] == [(1, "CREATE", "before")]
        restart(site)
        site.kvd.stop()
    return codes


def short_lock():
    """Shorter than kvd waits: nobody notices."""
    with open_site() as site:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with held(site, "begin immediate"):
                asked = pool.submit(site.request, "PUT", site.entry("key"), {"value": "after"})
                assert not concurrent.futures.wait([asked], 0.3).done
            answer = asked.result()[0]
        assert answer.status == 200, answer
        site.known["key"] = (2, "after")
        restart(site)
        site.kvd.stop()
    return "waited for"


def foreign_reader():
    """One that goes on reading what was is in nobody's way, not even of a kvd that is killed and starts again."""
    with open_site() as site:
        with held(site, "begin"):
            for i in range(300):
                site.put(f"key-{i % 10}", i)
            restart(site)
            site.put("key", "during")
            site.kvd.stop()
            site.start()
            site.check_known()
        restart(site)
        site.kvd.stop()
    return "not noticed"


def locked_at_start():
    """kvd says why it does not start, and starts when it may."""
    with open_site() as site:
        site.kvd.kill()
        with held(site, "begin immediate"):
            try:
                site.start()
                raise RuntimeError("started")
            except AssertionError as failure:
                assert "another program is using the database" in str(failure), failure
                assert not str(failure).startswith("kvd ended with -"), failure
        site.start()
        site.check_known()
        site.check_whole()
        site.kvd.stop()
    return "said"


# ---- descriptors ----

LIMIT = 48


class Client:
    """A connection that stays."""

    def __init__(self, site):
        self.site = site
        self.connection = http.client.HTTPConnection("127.0.0.1", site.kvd.port, timeout=20)

    def ask(self, method, key, body=None):
        self.connection.request(method, f"/api/v1/kv/{self.site.ns}/entries/{key}", body and json.dumps(body),
                                {"Authorization": "Bearer " + self.site.token, "Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None

    def close(self):
        self.connection.close()


def no_descriptors():
    with quick_site() as site:
        site.start(wrapper=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
        site.make_namespace()
        site.put("key", 0)
        clients = [Client(site) for _ in range(4)]
        for client in clients:
            assert client.ask("GET", "key")[0] == 200
        # More than there are descriptors: the kernel accepts them for kvd, which cannot.
        crowd = [socket.create_connection(("127.0.0.1", site.kvd.port)) for _ in range(2 * LIMIT)]
        pid = site.kvd.process.pid
        until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= LIMIT - 1, "no descriptor is left")
        codes = {}
        with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
            for turn in range(1, 51):
                done = list(pool.map(lambda pair, n=turn: pair[1].ask("PUT", f"key-{pair[0]}", {"value": n}), enumerate(clients)))
                done += pool.map(lambda client: client.ask("GET", "key"), clients)
                for status, body in done:
                    codes[status] = codes.get(status, 0) + 1
                    assert status in (200, 201), body
        for i in range(len(clients)):
            site.known[f"key-{i}"] = (50, 50)
        used = processor_seconds(pid)
        quiet = clients[0].connection.sock  # nothing is asked there, and nothing comes
        assert not select.select([quiet], [], [], 1.0)[0]
        used = processor_seconds(pid) - used
        print(f"{used:.2f} s of processor time in a second without a descriptor")
        assert used < 0.1, f"{used} s of processor time in a second in which nothing could be done"
        # A failure that makes kvd open its files again frees descriptors, and others are quicker to take them.
        site.fault.arm(io_fault.FAIL, 1, error=errno.EIO)
        for client in clients:
            status, body = client.ask("PUT", "key", {"value": 1})
            assert status == 200 or body["code"] in REFUSED | UNKNOWN, body
        assert site.fault.hits == 1
        site.fault.disarm()
        del site.known["key"]
        for one in crowd:
            one.close()
        until(lambda: is_back(site), "service is back")
        site.check_known()
        for client in clients:
            assert client.ask("GET", "key")[0] == 200
            client.close()
        restart(site)
        site.kvd.stop()
    return codes


class Others(Jobs):
    def test_all_at_a_time(self):
        """Because most of it is waiting."""
        jobs = {"second": (second_kvd,), "short": (short_lock,), "reader": (foreign_reader,), "start": (locked_at_start,),
                "immediate": (foreign_lock, "begin immediate"), "exclusive": (foreign_lock, "begin exclusive"),
                "bytes": (foreign_lock, "shm", SHM_LOCKS, SHM_LOCK_COUNT),
                "descriptors": (no_descriptors,)}
        self.each(jobs, len(jobs))


if __name__ == "__main__":
    main()
