"""Clients that ask for everything at random, and record what they asked, what they heard, and when.

They run in processes of their own, a few threads in each, so that the requests overlap as they would from many
machines. A client whose connection dies does not know what became of its request; it records that, looks for the
server again (it may have another port now), and goes on.
"""

import itertools
import json
import multiprocessing
import random
import threading
import time

from api import element, grant, key_url, query
from harness import BASE, PATIENCE, Connection
from history_check import Op

KEYS = [f"a/{n}" for n in range(8)] + [f"b/{n}" for n in range(6)] + ["ключ/ß", "deep/er/still"]
SHORT = [f"short/{n}" for n in range(24)]  # kept for values that expire, which others would replace too soon
VISIBLE = "a/"  # what "narrow" has grants on
NO_ETAG = '"none-0"'

# Who asks, how often, and what for; the token of each is its name.
TOKENS = [
    element("writer", grant("*", application="app"), user="writer"),
    element("reader", grant("kv-namespace:read", "kv-entry:read", application="app"), user="reader"),
    element("narrow", grant("kv-namespace:read", "kv-entry:read", "kv-entry:write", "kv-entry:delete", application="app", keys=("a/**",)), user="narrow"),
    element("stranger", grant("*", application="elsewhere"), user="stranger"),
]
USERS = {"writer": 80, "reader": 8, "narrow": 8, "stranger": 2, "": 2}

KINDS = {
    "put": 20, "put_cas": 14, "put_match": 6, "put_new": 6, "put_short": 4, "get": 20, "get_old": 4, "versions": 2, "delete": 6, "delete_cas": 2,
    "rotate": 5, "rollback": 4, "patch": 5, "bulk_set": 4, "bulk_set_loose": 2, "bulk_get": 3, "bulk_delete": 2, "list": 3, "ns_get": 2, "ns_update": 2}


class Servers:
    """Where the servers listen, shared with the processes of the clients."""

    def __init__(self, count=1):
        self.ports = multiprocessing.Array("i", count)
        self.asked = multiprocessing.Value("i", 0)  # operations begun, by all clients
        self.is_over = multiprocessing.Value("b", 0)  # for clients that go on until they are told

    def set(self, number, port):
        self.ports[number] = port

    def connect(self, chance):
        """A connection to one of them, once one can be had."""
        deadline = time.monotonic() + PATIENCE
        while True:
            port = chance.choice(list(self.ports))
            try:
                return Connection(port)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)


class Recorder:
    """Sends operations over one connection at a time and keeps a record of each."""

    def __init__(self, servers, name, chance, record):
        self.servers = servers
        self.name = name
        self.chance = chance
        self.record = record
        self.connection = None
        self.count = 0

    def close(self):
        if self.connection is not None:
            self.connection.socket.close()
            self.connection = None

    def send(self, user, kind, ns, key, asked, method, path, body=None, headers=(), token=None):
        if self.connection is None:
            self.connection = self.servers.connect(self.chance)
        self.count += 1
        op = Op(f"{self.name}-{self.count}", user, kind, ns, key, asked)
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {BASE}{path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token or user or 'nobody'}", f"X-Request-Id: {op.id}", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(text)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self.record.append(op)
        op.start, op.wall_start = time.monotonic(), time.time()
        try:
            answer = self.connection.send(head.encode() + text).answer()
        except (OSError, AssertionError):  # it died before or within the answer
            answer = None
        end, wall_end = time.monotonic(), time.time()
        if answer is None or answer.headers.get("connection") == "close":
            self.close()
        if answer is None or answer.status == 504:
            return op
        op.end, op.wall_end, op.status = end, wall_end, answer.status
        op.answer = answer.json() if answer.body else {}
        if "etag" in answer.headers:
            op.answer["etag"] = answer.headers["etag"]
        assert answer.headers["x-request-id"] == op.id, answer
        return op


class WithClerk:
    """A test whose `clerk`, a Recorder, asks what must be answered."""

    def ask(self, kind, ns, key, method, path, body=None, asked=None):
        op = self.clerk.send("writer", kind, ns, key, asked or {}, method, path, body)
        self.assertTrue(op.is_known, op)
        return op

    def make_namespace(self, name, **members):
        op = self.ask("ns_create", "", "", "POST", "/namespaces", {"name": name, "applicationId": "app", "historyLimit": None, **members})
        op.ns = op.answer["id"]
        return op.ns


class Client:
    """One of the clients: draws operations and remembers what it saw, so that it can compare and set."""

    def __init__(self, recorder, namespaces, chance):
        self.recorder = recorder
        self.namespaces = namespaces
        self.chance = chance
        self.seen = {}  # (ns, key) -> version, ETag
        self.ns_versions = {}

    def draw(self, weights):
        return self.chance.choices(list(weights), list(weights.values()))[0]

    def step(self):
        user = self.draw(USERS)
        kind = self.draw(KINDS)
        ns = self.chance.choice(self.namespaces)
        key = self.chance.choice(SHORT if kind == "put_short" or self.chance.random() < 0.15 else KEYS)
        op = getattr(self, kind)(user, ns, key)
        self.learn(op)
        return op

    def learn(self, op):
        if not op.is_known:
            return
        if op.kind == "ns_get" and op.is_done:
            self.ns_versions[op.ns] = op.answer["version"]
        elif op.is_done and "version" in op.answer and "keyPath" in op.answer and op.asked.get("version") is None:
            self.seen[op.ns, op.key] = (op.answer["version"], op.answer["etag"])
        elif "currentVersion" in op.answer and op.key:
            self.seen[op.ns, op.key] = (op.answer["currentVersion"], NO_ETAG)

    def send(self, user, kind, ns, key, asked, method, path, body=None, headers=()):
        if user == "stranger":
            asked = dict(asked, blind=True)
        return self.recorder.send(user, kind, ns, key, asked, method, path, body, headers)

    def entry(self, ns, key, suffix=""):
        return f"/{ns}/entries/{key_url(key)}{suffix}"

    def value(self):
        """One that nobody else writes, mostly text."""
        mark = f"{self.recorder.name}/{self.recorder.count}"
        shape = self.chance.random()
        if shape < 0.08:
            return int.from_bytes(mark.encode()[-6:], "big")
        if shape < 0.16:
            return {"by": mark, "list": [1, 2.5, None]}
        return mark + "x" * self.chance.choice((0, 10, 300))

    def version_of(self, ns, key):
        """As this client last saw it, or a little beside it."""
        version, _ = self.seen.get((ns, key), (0, NO_ETAG))
        return max(0, version + (self.chance.choice((-1, 1)) if self.chance.random() < 0.1 else 0))

    # ---- the operations ----

    def put(self, user, ns, key, etag=None, **demand):
        asked = {"value": self.value(), **demand}
        body = {"value": asked["value"], "metadata": {"by": self.recorder.name}}
        headers = []
        if "expected" in demand:
            body["expectedVersion"] = demand["expected"]
        if "ttl" in demand:
            body["ttlSeconds"] = demand["ttl"]
        if etag is not None:
            asked["if_match"] = int(etag.strip('"').split("-")[1])
            headers.append("If-Match: " + etag)
        if "if_absent" in demand:
            headers.append("If-None-Match: *")
        suffix = "?includeValue=true" if self.chance.random() < 0.1 else ""
        return self.send(user, "put", ns, key, asked, "PUT", self.entry(ns, key, suffix), body, headers)

    def put_cas(self, user, ns, key):
        return self.put(user, ns, key, expected=self.version_of(ns, key))

    def put_match(self, user, ns, key):
        _, etag = self.seen.get((ns, key), (0, NO_ETAG))
        return self.put(user, ns, key, etag)

    def put_new(self, user, ns, key):
        return self.put(user, ns, key, if_absent=True)

    def put_short(self, user, ns, key):
        return self.put(user, ns, key, ttl=1)

    def get(self, user, ns, key):
        return self.send(user, "get", ns, key, {}, "GET", self.entry(ns, key))

    def get_old(self, user, ns, key):
        version = max(1, self.version_of(ns, key) - self.chance.choice((0, 1, 1, 2, 5)))
        return self.send(user, "get", ns, key, {"version": version}, "GET", self.entry(ns, key, f"?version={version}"))

    def versions(self, user, ns, key):
        shows = self.chance.random() < 0.5
        return self.send(user, "versions", ns, key, {}, "GET", self.entry(ns, key, "/versions" + query(includeValues=shows)))

    def delete(self, user, ns, key):
        return self.send(user, "delete", ns, key, {}, "DELETE", self.entry(ns, key))

    def delete_cas(self, user, ns, key):
        version = self.version_of(ns, key) or 1
        return self.send(user, "delete", ns, key, {"expected": version}, "DELETE", self.entry(ns, key), {"expectedVersion": version})

    def rotate(self, user, ns, key):
        asked = {"value": self.value()}
        body = dict(asked)
        if self.chance.random() < 0.4:
            asked["expected"] = body["expectedVersion"] = self.version_of(ns, key) or 1
        return self.send(user, "rotate", ns, key, asked, "POST", self.entry(ns, key, "/rotate"), body)

    def rollback(self, user, ns, key):
        version = self.version_of(ns, key) - 1
        asked = {"version": version} if version > 0 and self.chance.random() < 0.6 else {}
        return self.send(user, "rollback", ns, key, asked, "POST", self.entry(ns, key, "/rollback"), asked)

    def patch(self, user, ns, key):
        asked, body = {}, {"metadata": {"touched": self.recorder.count}}
        if self.chance.random() < 0.3:
            asked["expected"] = body["expectedVersion"] = self.version_of(ns, key) or 1
        return self.send(user, "patch", ns, key, asked, "PATCH", self.entry(ns, key), body)

    def some(self):
        return self.chance.sample(KEYS, self.chance.randint(2, 6))

    def bulk_set(self, user, ns, _, atomic=True):
        items = [{"key": key, "value": self.value()} for key in self.some()]
        for item in items:
            if self.chance.random() < 0.15:
                item["expected"] = self.version_of(ns, item["key"])
        entries = [{"keyPath": i["key"], "value": i["value"], **({"expectedVersion": i["expected"]} if "expected" in i else {})} for i in items]
        return self.send(user, "bulk_set", ns, "", {"items": items, "atomic": atomic}, "POST", f"/{ns}/bulk/set", {"entries": entries, "atomic": atomic})

    def bulk_set_loose(self, user, ns, key):
        return self.bulk_set(user, ns, key, atomic=False)

    def bulk_get(self, user, ns, _):
        keys = self.some()
        return self.send(user, "bulk_get", ns, "", {"keys": keys}, "POST", f"/{ns}/bulk/get", {"keys": keys})

    def bulk_delete(self, user, ns, _):
        keys = self.some()[:3]
        return self.send(user, "bulk_delete", ns, "", {"keys": keys}, "POST", f"/{ns}/bulk/delete", {"keys": keys})

    def list(self, user, ns, _):
        asked = {"prefix": self.chance.choice(("", "", "a/", "b/")), "visible": VISIBLE if user == "narrow" else ""}
        shows = self.chance.random() < 0.5
        return self.send(user, "list", ns, "", asked, "GET", f"/{ns}/entries" + query(prefix=asked["prefix"] or None, includeValues=shows))

    def ns_get(self, user, ns, _):
        return self.send(user, "ns_get", ns, "", {}, "GET", f"/namespaces/{ns}")

    def ns_update(self, user, ns, _):
        asked, body = {}, {"description": f"by {self.recorder.name}"}
        if ns in self.ns_versions and self.chance.random() < 0.7:
            asked["version"] = body["version"] = self.ns_versions[ns]
        return self.send(user, "ns_update", ns, "", asked, "PUT", f"/namespaces/{ns}", body)


def run_client(servers, namespaces, seed, number, steps, record):
    chance = random.Random(f"{seed}/{number}")
    recorder = Recorder(servers, f"c{number}", chance, record)
    client = Client(recorder, namespaces, chance)
    for _ in itertools.count() if steps is None else range(steps):
        if servers.is_over.value:
            break
        with servers.asked.get_lock():
            servers.asked.value += 1
        op = client.step()
        if op.status == 503:  # as the answer asks, but sooner: what comes in between is what is to be tested
            time.sleep(chance.uniform(0, 0.05))
    recorder.close()


def run_process(servers, namespaces, seed, numbers, steps, pipe):
    records, failures = [[] for _ in numbers], []

    def guarded(number, record):
        try:
            run_client(servers, namespaces, seed, number, steps, record)
        except BaseException as failure:
            failures.append(f"client {number}: {failure!r}")

    threads = [threading.Thread(target=guarded, args=(number, record)) for number, record in zip(numbers, records)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((sum(records, []), failures))
    pipe.close()


class Load:
    """So many clients that take so many steps each, or go on until the servers are said to be over. `wait()` gives all that
    they recorded."""

    def __init__(self, servers, namespaces, seed, clients=32, steps=100, processes=4):
        context = multiprocessing.get_context("fork")
        self.workers = []
        for process in range(processes):
            numbers = range(process, clients, processes)
            here, there = context.Pipe(duplex=False)
            worker = context.Process(target=run_process, args=(servers, namespaces, seed, numbers, steps, there))
            worker.start()
            there.close()
            self.workers.append((worker, here))

    def wait(self):
        ops = []
        for worker, pipe in self.workers:
            record, failures = pipe.recv()
            worker.join()
            if failures:
                raise AssertionError("; ".join(failures))
            ops += record
        return ops

    def end(self):
        for worker, _ in self.workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
