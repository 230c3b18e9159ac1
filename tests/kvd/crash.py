"""kvd is killed at every call with which an operation changes its files: before the call, half-way through a write, and after
it. Started again it has every acknowledged change whole, and the one that was under way either whole or not at all.

The calls are those that io_fault.c sees; what strace sees is held against them, and kills once more on its own account.

Broken on purpose, and found: audit rows in a transaction of their own; a rollback journal in memory instead of the WAL.
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import tempfile
import unittest

import io_fault
from harness import IS_THIN, Jobs, Kvd, main, make_key, run
from io_fault import IoFault

AT_A_TIME = 3
CALLS_MAX = 400  # of one operation: more are a mistake of the test
NO_ANSWER = (http.client.HTTPException, ConnectionError)
# What a process leaves when it is killed is the same on every file system, and this one is quick.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
SEED = int(os.environ.get("KV_TEST_SEED", random.randrange(1 << 32)))


DONE, NOT_DONE = True, False


class Unanswered(AssertionError):
    """The connection ended instead."""


class Site:
    """A folder with a database, and the kvd that has it open or had."""

    def __init__(self, *flags):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-", dir=IN_MEMORY)
        self.data = self.path("data")
        os.mkdir(self.data)
        self.key, self.token = make_key(), "t" * 40
        self.flags = ("--disk-free-min", "0", *flags)
        self.fault = IoFault(self.data, self.path("control"))
        self.kvd = None
        self.known = {}  # what was acknowledged: key -> (version, value)
        self.requests = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.kvd:
            self.kvd.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def database(self):
        return os.path.join(self.data, "kv.db")

    def start(self, wrapper=(), environment=None):
        environment = self.fault.environment if environment is None else environment
        self.kvd = Kvd(*self.flags, storage="sqlite:" + self.database, folder=self.folder, key=self.key, token=self.token,
                       environment=environment, admin=False, wrapper=wrapper)

    def starts(self, **options):
        """False if kvd was killed before it could listen."""
        try:
            self.start(**options)
            return True
        except AssertionError as error:
            assert "ended with -9" in str(error), error
            return False

    def was_killed(self):
        return self.kvd.wait() == -9

    def request(self, method, path, body=None):
        """The answer, and None if there came none; and the id under which the request is recorded."""
        self.requests += 1
        name = f"request-{self.requests}"
        try:
            return self.kvd.request(method, path, body, headers={"X-Request-Id": name}), name
        except NO_ANSWER:
            return None, name

    def must(self, method, path, body=None):
        answer, _ = self.request(method, path, body)
        if answer is None:
            raise Unanswered(f"{method} {path}")
        assert answer.status < 300, f"{method} {path}: {answer}"
        return answer.json() if answer.body else None

    def make_namespace(self):
        self.ns = self.must("POST", "/namespaces", {"name": "n", "isSecretNamespace": True})["id"]

    def entry(self, key, suffix=""):
        return f"/{self.ns}/entries/{key}{suffix}"

    def put(self, key, value):
        entry = self.must("PUT", self.entry(key), {"value": value})
        self.known[key] = (entry["version"], value)
        return entry["version"]

    def rows(self, sql, *parameters):
        """What the database itself says. The connection is another process's, and only reads."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as connection:
            return connection.execute(sql, parameters).fetchall()

    # ---- what is there ----

    def state(self, key):
        """The history of a key, oldest first: [(version, reason, value)]; and what is its value now."""
        answer, _ = self.request("GET", self.entry(key, "/versions?includeValues=true"))
        if answer.status == 404:
            return [], None
        history = [(one["version"], one["reason"], one.get("value")) for one in reversed(answer.json()["items"])]
        answer, _ = self.request("GET", self.entry(key))
        if answer.status == 404:
            return history, None
        return history, (answer.json()["version"], answer.json()["value"])

    def records(self, request):
        """The audit rows of what a request did: [(operation, key, version)]."""
        return sorted(self.rows("select operation, key_path, version from audit where request_id = ? and success = 1", request))

    def events(self, key):
        """The kinds of the events of a key, in order, with their versions."""
        return self.rows("select kind, version from outbox where key_path = ? order by revision", key)

    def check_whole(self):
        """What holds at any time: no revision without its event, nothing that `kvd verify` finds fault with."""
        for ns, revision, events, last in self.rows(
                "select n.id, n.revision, count(o.revision), coalesce(max(o.revision), 0) from namespaces n"
                " left join outbox o on o.namespace_id = n.id group by n.id"):
            assert revision == events == last, f"revision {revision}, {events} events, the last of {last} in {ns.hex()}"
        verified = run("verify", "--storage", "sqlite:" + self.database, environment={"KV_MASTER_KEY": self.key})
        assert verified.returncode == 0, verified.stdout + verified.stderr

    def check_known(self):
        """Every acknowledged value is there, under its version."""
        items = {}
        cursor = ""
        while cursor is not None:
            page = self.must("GET", f"/{self.ns}/entries?includeValues=true" + (f"&cursor={cursor}" if cursor else ""))
            items.update({item["keyPath"]: (item["version"], item["value"]) for item in page["items"]})
            cursor = page["nextCursor"]
        for key, expected in self.known.items():
            assert items.get(key) == expected, f"{key}: {items.get(key)} instead of {expected}"


# ---- operations ----

KIND = {"CREATE": 1, "UPDATE": 2, "ROTATION": 3, "ROLLBACK": 4, "DELETE": 5}


class Operation:
    """One request that changes `keys`. The history that each of them has before and after it is what the rest follows from."""

    def __init__(self, name, ask, before, after, records=None):
        self.name = name
        self.ask = ask        # (site, keys) -> method, path, body
        self.before = before  # one history per key: [(reason, value)]
        self.after = after    # what is added to it
        self.operation = records

    def keys(self, number):
        return [f"{self.name}/{number}/{i}" for i in range(len(self.before))]

    def prepare(self, site, keys):
        for key, history in zip(keys, self.before):
            for reason, value in history:
                if reason == "DELETE":
                    site.must("DELETE", site.entry(key))
                else:
                    site.put(key, value)

    def expected(self, index, is_done):
        history = self.before[index] + ([self.after[index]] if is_done else [])
        versions = [(version, reason, value) for version, (reason, value) in enumerate(history, 1)]
        is_there = bool(versions) and versions[-1][1] != "DELETE"
        return versions, (versions[-1][0], versions[-1][2]) if is_there else None

    def check(self, site, keys, request, outcomes):
        """All of it is there or nothing of it: value, history, events and audit rows of every key. `outcomes`: which of
        them may be, DONE and NOT_DONE."""
        seen = [(site.state(key), site.events(key)) for key in keys]
        records = site.records(request)
        for is_done in (True, False):
            if seen == [self.all_of(index, is_done) for index in range(len(keys))] and records == self.records_of(keys, is_done):
                assert is_done in outcomes, f"{self.name}: answered otherwise, and done: {is_done}"
                return is_done
        raise AssertionError(f"{self.name}: neither whole nor absent: {seen}, recorded as {records}")

    def all_of(self, index, is_done):
        state = self.expected(index, is_done)
        return state, [(KIND[reason], version) for version, reason, _ in state[0]]

    def records_of(self, keys, is_done):
        if not is_done:
            return []
        return sorted((self.operation, key, len(self.before[i]) + 1) for i, key in enumerate(keys))

    def go_on(self, site, keys):
        """The next change of each key takes the next version, and none that was used already."""
        for key in keys:
            versions = [version for version, _, _ in site.state(key)[0]]
            after = site.put(key, "after")
            assert after == max(versions, default=0) + 1, f"{key}: version {after} after {versions}"


ONE, TWO, GONE = ("CREATE", "one"), ("UPDATE", "two"), ("DELETE", None)


def set_many(is_atomic):
    def ask(site, keys):
        entries = [{"keyPath": key, "value": "new"} for key in keys]
        return "POST", f"/{site.ns}/bulk/set", {"entries": entries, "atomic": is_atomic}
    return ask


def delete_many(site, keys):
    return "POST", f"/{site.ns}/bulk/delete", {"keys": keys}


OPERATIONS = [
    Operation("put-new", lambda site, keys: ("PUT", site.entry(keys[0]), {"value": "new"}), [[]], [("CREATE", "new")], "entry.put"),
    Operation("put", lambda site, keys: ("PUT", site.entry(keys[0]), {"value": "new"}), [[ONE]], [("UPDATE", "new")], "entry.put"),
    Operation("put-again", lambda site, keys: ("PUT", site.entry(keys[0]), {"value": "new"}), [[ONE, GONE]], [("CREATE", "new")], "entry.put"),
    Operation("delete", lambda site, keys: ("DELETE", site.entry(keys[0]), None), [[ONE]], [GONE], "entry.delete"),
    Operation("rotate", lambda site, keys: ("POST", site.entry(keys[0], "/rotate"), {"value": "new"}), [[ONE]], [("ROTATION", "new")], "entry.rotate"),
    Operation("rollback", lambda site, keys: ("POST", site.entry(keys[0], "/rollback"), {"version": 1}), [[ONE, TWO]],
              [("ROLLBACK", "one")], "entry.rollback"),
    Operation("undelete", lambda site, keys: ("POST", site.entry(keys[0], "/rollback"), {"version": 1}), [[ONE, GONE]],
              [("ROLLBACK", "one")], "entry.rollback"),
    Operation("bulk-set", set_many(True), [[], [ONE], [ONE, GONE]], [("CREATE", "new"), ("UPDATE", "new"), ("CREATE", "new")], "bulk.set"),
    Operation("bulk-set-each", set_many(False), [[], [ONE]], [("CREATE", "new"), ("UPDATE", "new")], "bulk.set"),
    Operation("bulk-delete", delete_many, [[ONE], [ONE, TWO]], [GONE, GONE], "bulk.delete"),
]


class ThroughCheckpoint(Operation):
    """The same where the write-ahead log has grown so long that the operation begins with a checkpoint."""

    log_bytes = 32 + 1024 * (24 + 4096)

    def prepare(self, site, keys):
        super().prepare(site, keys)
        connection = http.client.HTTPConnection("127.0.0.1", site.kvd.port)
        while os.path.getsize(site.database + "-wal") < self.log_bytes:
            connection.request("PUT", f"/api/v1/kv/{site.ns}/entries/often", '{"value": 1}',
                               {"Authorization": "Bearer " + site.token, "Content-Type": "application/json"})
            connection.getresponse().read()
        connection.close()


class NamespaceOperation:
    """Of a namespace, which has its row, its data key and its audit row; gone for good, nothing of it stays but the last."""

    def __init__(self, name, ask, is_there_before, operation):
        self.name = name
        self.ask = ask
        self.is_there_before = is_there_before
        self.operation = operation

    def keys(self, number):
        return [f"{self.name}-{number}"]

    def prepare(self, site, keys):
        if not self.is_there_before:
            return
        self.made = site.must("POST", "/namespaces", {"name": keys[0], "isSecretNamespace": True})["id"]
        for value in "ab":
            site.must("PUT", f"/{self.made}/entries/a/b", {"value": value})

    def check(self, site, keys, request, outcomes):
        answer, _ = site.request("GET", f"/namespaces/default~{keys[0]}")
        is_there = answer.status == 200
        is_done = is_there != self.is_there_before
        assert is_done in outcomes, f"{self.name}: answered otherwise, and done: {is_done}"
        records = [row[0] for row in site.records(request)]
        assert records == ([self.operation] if is_done else []), f"{self.name}: done {is_done}, recorded {records}"
        ids = [row[0] for row in site.rows("select id from namespaces where name = ? and deleted_at is null", keys[0])]
        assert len(ids) == is_there
        if self.is_there_before:
            value, _ = site.request("GET", f"/{self.made}/entries/a/b")
            assert (value.status, is_there) in ((200, True), (404, False)), value
        # A data key for each secret namespace that has a row, and none for another.
        assert site.rows("select count(*) from data_keys where purpose = 6 and namespace_id not in (select id from namespaces)") == [(0,)]
        assert site.rows("select count(*) from namespaces where id not in (select namespace_id from data_keys)") == [(0,)]

    def go_on(self, site, keys):
        site.request("DELETE", f"/namespaces/default~{keys[0]}?purge=true")
        site.must("POST", "/namespaces", {"name": keys[0], "isSecretNamespace": True})


CHAIN = len(OPERATIONS)
OPERATIONS += [
    ThroughCheckpoint("put-checkpoint", lambda site, keys: ("PUT", site.entry(keys[0]), {"value": "new"}), [[ONE]],
                      [("UPDATE", "new")], "entry.put"),
    NamespaceOperation("create", lambda site, keys: ("POST", "/namespaces", {"name": keys[0], "isSecretNamespace": True}), False,
                       "namespace.create"),
    NamespaceOperation("purge", lambda site, keys: ("DELETE", f"/namespaces/default~{keys[0]}?purge=true", None), True,
                       "namespace.delete"),
]


def is_killed_in(site, operation, action, number, keys):
    """Does the operation while a kill waits for its number-th call, and looks at what is left. False if it has fewer calls."""
    operation.prepare(site, keys)
    site.fault.arm(action, number)
    answer, request = site.request(*operation.ask(site, keys))
    was_hit = site.fault.hits > 0
    assert was_hit or answer is not None, f"{operation.name}: no answer"
    if was_hit:
        assert site.was_killed()
        site.fault.disarm()
        site.start()
    site.fault.disarm()
    look(site, operation, keys, request, answer, f"action {action} at call {number} ({site.fault.call(number)})")
    return was_hit


def look(site, operation, keys, request, answer, how):
    """At what an operation left, killed or not."""
    try:
        operation.check(site, keys, request, (DONE,) if answer else (DONE, NOT_DONE))
        operation.go_on(site, keys)
        site.check_whole()
    except AssertionError as error:
        raise AssertionError(f"{operation.name}, {how}: {error}") from error


def kill_at_every_call(operation):
    """How often kvd was killed."""
    kills = 0
    with Site() as site:
        site.start()
        site.make_namespace()
        for action in (io_fault.KILL_HALF, io_fault.KILL_AFTER):
            number = 1
            while is_killed_in(site, operation, action, number, operation.keys(f"{action}-{number}")):
                number += 1
                assert number < CALLS_MAX
            assert number > 10, f"{operation.name}: only {number} calls"
            kills += number - 1
        if isinstance(operation, ThroughCheckpoint):
            assert kills > 60, "no checkpoint among what was killed"
        site.check_known()
        site.kvd.stop()
    return kills


# ---- opening and closing ----

def kill_while_opening():
    """What a kill left is opened, and that is killed at every call; then it is opened for good."""
    number = 1
    with Site() as site:
        site.start()
        site.make_namespace()
        while True:
            for i in range(5):
                site.put(f"key-{i}", f"value-{number}")
            site.kvd.kill()
            site.fault.arm(io_fault.KILL_AFTER if number % 2 else io_fault.KILL_HALF, number)
            is_open = site.starts()
            site.fault.disarm()
            if is_open:
                break
            site.start()
            site.check_known()
            site.check_whole()
            number += 1
        site.kvd.stop()
    return number - 1


def kill_while_closing():
    number = 1
    with Site() as site:
        site.start()
        site.make_namespace()
        while True:
            site.put("key", f"value-{number}")
            site.fault.arm(io_fault.KILL_HALF if number % 2 else io_fault.KILL_AFTER, number)
            site.kvd.signal(15)
            code = site.kvd.wait()
            site.fault.disarm()
            site.start()
            site.check_known()
            site.check_whole()
            if code == 0:
                break
            number += 1
        site.kvd.stop()
    return number - 1


def kill_while_creating(offset):
    """A new database: every second call, because there are many."""
    number = 1 + offset
    while True:
        with Site() as site:
            site.fault.arm(io_fault.KILL_AFTER if offset else io_fault.KILL_HALF, number)
            if site.starts():
                return number // 2
            site.fault.disarm()
            site.start()
            site.make_namespace()
            site.put("key", "value")
            site.check_known()
            site.check_whole()
            site.kvd.stop()
        number += 2


# ---- under load ----

class Writer:
    """Writes one key again and again, and knows what was acknowledged and what was asked for last."""

    def __init__(self, site, name):
        self.site = site
        self.name = name
        self.acknowledged = 0
        self.asked = 0
        site.put(name, 0)

    def write_until_killed(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.site.kvd.port)
        with contextlib.suppress(*NO_ANSWER):
            while True:
                self.asked += 1
                connection.request("PUT", f"/api/v1/kv/{self.site.ns}/entries/{self.name}", json.dumps({"value": self.asked}),
                                   {"Authorization": "Bearer " + self.site.token, "Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                self.acknowledged += 1
        connection.close()

    def check(self):
        history, now = self.site.state(self.name)
        assert [one[0] for one in history] == list(range(1, len(history) + 1))
        assert [one[2] for one in history] == list(range(len(history)))
        assert now == (len(history), len(history) - 1)
        assert self.acknowledged <= now[1] <= self.asked, f"{self.acknowledged} acknowledged, {now[1]} there, {self.asked} asked for"
        self.site.known[self.name] = now


def kill_under_load(rounds):
    numbers = random.Random(SEED)
    with Site() as site:
        site.start()
        site.make_namespace()
        for turn in range(rounds):
            writers = [Writer(site, f"{turn}/{i}") for i in range(8)]
            site.fault.arm(numbers.choice((io_fault.KILL_HALF, io_fault.KILL_AFTER)), numbers.randrange(1, 4000))
            with concurrent.futures.ThreadPoolExecutor(len(writers)) as pool:
                for done in [pool.submit(writer.write_until_killed) for writer in writers]:
                    done.result()
            assert site.was_killed()
            site.fault.disarm()
            site.start()
            for writer in writers:
                writer.check()
            site.check_known()
            site.check_whole()
        site.kvd.stop()
    return rounds


# ---- the files beside the database ----

def kill_while_archiving():
    """Audit rows leave the database for the archive: every one is in the one or the other, and none is twice in the archive."""
    with Site() as site:
        archive = os.path.join(site.data, "archive")
        os.mkdir(archive)
        site.flags += ("--audit-archive", archive, "--audit-bytes-max", "4000", "--maintenance-interval", "20ms")
        site.start()
        site.make_namespace()
        number = 1
        kills = 0
        while kills < 12:
            site.fault.arm(io_fault.KILL_AFTER if number % 2 else io_fault.KILL_HALF, number)
            write_until_killed(site)
            site.fault.disarm()
            site.start()
            check_archive(site, archive)
            kills += 1
            number += 5
        site.kvd.stop()
    return kills


def write_until_killed(site):
    for i in range(10_000):
        answer, _ = site.request("PUT", site.entry(f"key-{i % 10}"), {"value": i})
        if answer is None:
            assert site.was_killed()
            return
    raise AssertionError("not killed")


def check_archive(site, archive):
    positions = []
    for name in sorted(os.listdir(archive)):
        with open(os.path.join(archive, name), encoding="utf-8") as file:
            lines = file.read().split("\n")
        positions += [json.loads(line)["position"] for line in lines[:-1]]  # the last may be torn until it is written to again
    assert positions == list(range(1, len(positions) + 1)), "a row is missing in the archive, or twice there"
    first = site.rows("select min(position) from audit where operation <> 'audit.checkpoint'")[0][0]
    assert first is None or first <= len(positions) + 1, f"archived up to {len(positions)}, the log begins at {first}"
    site.check_whole()


def kill_while_backing_up():
    """A backup is there whole or not at all, and one that was killed is in nobody's way."""
    number = 1
    with Site() as site:
        site.start()
        site.make_namespace()
        for i in range(20):
            site.put(f"key-{i}", f"value-{i}")
        target = os.path.join(site.data, "backups")
        os.mkdir(target)
        backup = os.path.join(target, "backup")
        fault = IoFault(target, site.path("control-backup"))
        environment = {"KV_MASTER_KEY": site.key, **fault.environment}
        storage = "sqlite:" + site.database
        while True:
            fault.arm(io_fault.KILL_AFTER if number % 2 else io_fault.KILL_HALF, number)
            made = run("backup", "--storage", storage, "--to", backup, environment=environment)
            fault.disarm()
            if os.path.exists(backup):
                check_backup(site, backup, number)
                os.remove(backup)
            elif made.returncode == 0:
                raise AssertionError("no backup, and no word of it")
            if made.returncode == 0:
                break
            assert made.returncode == -9, made.stderr
            number += 1
        site.kvd.stop()
    return number - 1


def check_backup(site, backup, number):
    restored = site.path(f"restored-{number}.db")
    for command in (("restore", "--storage", "sqlite:" + restored, "--from", backup), ("verify", "--storage", "sqlite:" + restored)):
        done = run(*command, environment={"KV_MASTER_KEY": site.key})
        assert done.returncode == 0, done.stderr + done.stdout


# ---- what strace sees ----

FILE_CALLS = "pwrite64,pwritev,pwritev2,fdatasync,fsync,ftruncate,fallocate,unlink,unlinkat,rename,renameat,renameat2,sync_file_range,truncate"


def strace(*arguments):
    return ("strace", "-f", "-qq", "-e", "trace=" + FILE_CALLS, "-e", "signal=none", *arguments)


def why_no_strace():
    """Empty if a process can be traced here."""
    if shutil.which("strace") is None:
        return "there is no strace"
    tried = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else "a process cannot be traced here: " + tried.stderr.strip()


class EveryCall(Jobs):
    def test_of_every_operation(self):
        operations = OPERATIONS[::4] if IS_THIN else OPERATIONS
        self.each({operation.name: (kill_at_every_call, operation) for operation in operations}, AT_A_TIME)

    def test_of_opening_closing_and_the_files_beside(self):
        print("seed", SEED)
        self.each({"opening": (kill_while_opening,), "closing": (kill_while_closing,), "creating": (kill_while_creating, 0),
                   "creating on": (kill_while_creating, 1), "load": (kill_under_load, 6), "archive": (kill_while_archiving,),
                   "backup": (kill_while_backing_up,)}, AT_A_TIME)


class Traced(unittest.TestCase):
    """strace counts the calls of each thread and of each kind by itself, and kills on entering them: before their effect."""

    def setUp(self):
        if reason := why_no_strace():
            self.skipTest(reason)

    @unittest.skipIf(IS_THIN, "a sanitizer makes calls of its own")
    def test_no_call_goes_around_what_the_kills_count(self):
        with Site() as site:
            site.fault.count()
            site.start(strace("-o", site.path("trace")))
            site.make_namespace()
            for operation in OPERATIONS[:CHAIN]:
                keys = operation.keys(0)
                operation.prepare(site, keys)
                site.must(*operation.ask(site, keys))
            end_traced(site)
            with open(site.path("trace"), encoding="utf-8", errors="replace") as file:
                seen = [line for line in file if re.match(r"\d+ +\w+\(", line)]
            self.assertEqual(len(seen), site.fault.calls)
            self.assertGreater(len(seen), 300)

    def test_every_so_many_of_all_operations(self):
        """One run is a chain of all operations; where it is killed moves on from run to run."""
        numbers = random.Random(SEED)
        with Site() as site:
            site.start(environment={})
            site.make_namespace()
            site.kvd.stop()
            for call in ("fdatasync", "pwrite64"):
                step = (1 if call == "fdatasync" else int(os.environ.get("KV_CRASH_STEP", "40"))) * (10 if IS_THIN else 1)
                when = 1 + numbers.randrange(step)
                while self.is_killed(site, call, when):
                    when += step
            site.start(environment={})
            site.check_known()
            site.kvd.stop()

    def is_killed(self, site, call, when):
        wrapper = strace("-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={when}")
        asked = []
        is_open = site.starts(wrapper=wrapper, environment={})
        was_killed = not is_open or self.is_killed_in_chain(site, f"{call}-{when}", asked)
        if not was_killed:
            end_traced(site)
        site.start(environment={})
        site.check_whole()
        for operation, keys, answer, request in asked:
            if request is None:
                operation.go_on(site, keys)
            else:
                look(site, operation, keys, request, answer, f"{call} {when} under strace")
        site.kvd.stop()
        return was_killed

    def is_killed_in_chain(self, site, name, asked):
        """Fills `asked` with what was asked for and answered; without a request where the kill came while preparing."""
        for operation in OPERATIONS[:CHAIN]:
            keys = operation.keys(name)
            try:
                operation.prepare(site, keys)
            except Unanswered:
                asked.append((operation, keys, None, None))
                return site.was_killed()
            answer, request = site.request(*operation.ask(site, keys))
            asked.append((operation, keys, answer, request))
            if answer is None:
                return site.was_killed()
        return False


def end_traced(site):
    """What strace runs is not its child's child: the lock file names it."""
    with open(site.database + ".lock", encoding="ascii") as file:
        os.kill(int(file.read()), 15)
    site.kvd.wait()


if __name__ == "__main__":
    main()
