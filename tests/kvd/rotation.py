"""Master keys and data keys change one after another while clients write and read, and kvd is killed again and again."""

import collections
import contextlib
import http.client
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

import storages
from api import element, grant
from harness import BASE, IS_THIN, KVD, Kvd, clean_environment, main, make_key, run, until

KILLS = int(os.environ.get("ROTATION_KILLS", "8" if IS_THIN else "50"))
SEED = int(os.environ.get("ROTATION_SEED", random.SystemRandom().randrange(1 << 32)))
CLIENTS = 3
KEYS_EACH = 8
TOKEN = "a-token-of-somebody-from-the-tokens-file"
# A data key is worn after so many seals, a replaced one goes soon, and what is due is looked for often.
FLAGS = ("--seals-per-key", "150", "--key-retirement", "500ms", "--maintenance-interval", "10ms", "--log-level", "info")


class Service:
    """Where the kvd of the moment listens; empty while there is none."""

    def __init__(self):
        self.lock = threading.Lock()
        self.port = None
        self.is_over = False

    def set(self, port):
        with self.lock:
            self.port = port


class Client(threading.Thread):
    """Writes and reads its own keys on a connection that it keeps, and notes whatever is not as it was told.

    A write that was not answered may have happened or not: the value read next says which."""

    def __init__(self, service, ns, token, number, seed):
        super().__init__()
        self.service, self.ns, self.token, self.number = service, ns, token, number
        self.random = random.Random(seed)
        self.known = {}      # key -> the values it may have
        self.history = {}    # key -> version -> value, of what was acknowledged
        self.faults = []
        self.counts = collections.Counter()
        self.connection = None

    def run(self):
        made = 0
        while not self.service.is_over and not self.faults:
            port = self.service.port
            if port is None:
                time.sleep(0.002)  # polled: until kvd is there again
                continue
            made += 1
            try:
                self.step(port, f"client {self.number} value {made} " + "x" * self.random.randrange(200))
            except (OSError, http.client.HTTPException):
                self.hang_up()
            except Exception as error:  # noqa: BLE001: whatever it is, the test must hear of it
                self.faults.append(repr(error))
        self.hang_up()

    def hang_up(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def step(self, port, value):
        key = f"{self.number}/key-{self.random.randrange(KEYS_EACH)}"
        kind = self.random.random()
        if kind < 0.4:
            self.put(port, key, value)
        elif kind < 0.8 or not self.history.get(key):
            self.get(port, key)
        else:
            self.get_version(port, key)

    def ask(self, port, method, path, body=None):
        if self.connection is None or self.connection.port != port:
            self.hang_up()
            self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Authorization": "Bearer " + self.token}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self.connection.request(method, f"{BASE}/{self.ns}/entries/{path}", body=body, headers=headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def put(self, port, key, value):
        before = self.known.get(key, {None})
        self.known[key] = before | {value}
        status, body = self.ask(port, "PUT", key, json.dumps({"value": value}))
        if status in (200, 201):
            self.known[key] = {value}
            self.history.setdefault(key, {})[body["version"]] = value
            self.counts["written"] += 1
        elif body["code"] == "shutting-down":
            self.known[key] = before
        else:
            self.faults.append(f"PUT {key}: {status} {body}")

    def get(self, port, key):
        may_be = self.known.get(key, {None})
        status, body = self.ask(port, "GET", key)
        if status == 200:
            found = body["value"]
        elif status == 404:
            found = None
        elif body["code"] == "shutting-down":
            return
        else:
            self.faults.append(f"GET {key}: {status} {body}")
            return
        if found not in may_be:
            self.faults.append(f"GET {key}: read {found!r}, which is none of {may_be}")
        self.known[key] = {found}
        self.counts["read"] += 1

    def get_version(self, port, key):
        version = self.random.choice(list(self.history[key]))
        status, body = self.ask(port, "GET", f"{key}?version={version}")
        if status == 200 and body["value"] == self.history[key][version]:
            self.counts["past versions read"] += 1
        elif status == 200 or body["code"] != "shutting-down":
            self.faults.append(f"GET {key} version {version}: {status} {body}")


class Operator:
    """Changes the master key as the book says: new with old, until all is wrapped; old forgotten; new alone; again."""

    def __init__(self, folder, rng):
        self.folder, self.random = folder, rng
        self.current, self.previous = make_key(), None
        self.forgotten = []

    @property
    def storage(self):
        return storages.place(self.folder)

    def environment(self):
        keys = {"KV_MASTER_KEY": self.current}
        if self.previous is not None:
            keys["KV_MASTER_KEY_PREVIOUS"] = self.previous
        return keys

    def turn(self, kvd):
        """While kvd is down, sometimes: the next step of the change."""
        if self.previous is None:
            if self.random.random() < 0.5:
                self.previous, self.current = self.current, make_key()
            return
        if self.random.random() < 0.15:
            # Somebody has second thoughts: the old one is in charge again, and both open everything.
            self.previous, self.current = self.current, self.previous
            return
        if self.random.random() < 0.5:
            return
        checked = run("check-key", "--storage", self.storage, environment={"KV_MASTER_KEY": self.current})
        if checked.returncode == 1:
            return  # not all is wrapped yet
        if checked.returncode != 0:
            raise AssertionError(f"check-key: {checked.returncode} {checked.stderr}")
        self.forget(self.previous)
        self.previous = None

    def forget(self, key):
        old = run("key-id", environment={"KV_MASTER_KEY": key}).stdout.strip()
        command = [KVD, "forget-master-key", old, "--storage", self.storage]
        environment = clean_environment({"KV_MASTER_KEY": self.current})
        # Cut short first, wherever that is.
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as cut:
            with contextlib.suppress(subprocess.TimeoutExpired):
                cut.wait(self.random.random() * 0.03)
            cut.kill()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        is_gone = done.returncode == 78 and "No stored key is wrapped" in done.stderr
        if done.returncode != 0 and not is_gone:
            raise AssertionError(f"forget-master-key: {done.returncode} {done.stderr}")
        self.forgotten.append(key)


class Rotation(unittest.TestCase):
    def setUp(self):
        print(f"ROTATION_SEED={SEED} ROTATION_KILLS={KILLS}", flush=True)
        self.random = random.Random(SEED)
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.operator = Operator(self.folder, self.random)
        self.service = Service()
        self.root = "r" * 40
        self.tokens = [element(TOKEN, grant("*"))]

    def start(self):
        kvd = Kvd(*FLAGS, storage="sqlite", tokens=self.tokens, token=self.root, folder=self.folder,
                  key=self.operator.current, environment=self.operator.environment())
        self.addCleanup(kvd.kill)
        self.service.set(kvd.port)
        return kvd

    def namespace(self, kvd, name):
        answer = kvd.request("POST", "/namespaces", {"name": name, "applicationId": "app", "isSecretNamespace": True})
        self.assertEqual(answer.status, 201, answer)
        return answer.json()["id"]

    def keys(self):
        """(namespace, generation, wrap ids) of every stored key, the store's own first."""
        with contextlib.closing(storages.connect(self.operator.storage, reads_only=True)) as database:
            return database.execute("select purpose, namespace_id, generation, wrap_key_id, second_wrap_key_id from data_keys"
                                    " order by purpose, namespace_id, generation").fetchall()

    def test_no_value_is_ever_lost_or_closed_while_keys_change_and_kvd_is_killed(self):
        kvd = self.start()
        first_key = self.operator.current
        # A value from the beginning, which nobody touches.
        quiet = self.namespace(kvd, "quiet")
        self.assertEqual(kvd.request("PUT", f"/{quiet}/entries/k", {"value": "from the beginning"}).status, 201)
        clients = []
        for number in range(CLIENTS):
            ns = self.namespace(kvd, f"busy-{number % 2}") if number < 2 else clients[0].ns
            clients.append(Client(self.service, ns, TOKEN if number % 2 else self.root, number, self.random.random()))
        for client in clients:
            client.start()
        self.addCleanup(lambda: setattr(self.service, "is_over", True))
        masters = 0
        for kill in range(KILLS):
            deadline = time.monotonic() + self.random.expovariate(1 / 0.6)
            until(lambda: time.monotonic() > deadline or any(client.faults for client in clients), "time passes")
            self.service.set(None)
            kvd.kill()
            before = self.operator.current
            self.operator.turn(kvd)
            masters += before != self.operator.current
            kvd = self.start()
            answer = kvd.request("GET", f"/{quiet}/entries/k", token=TOKEN)
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual(answer.json()["value"], "from the beginning")
            self.assertEqual([fault for client in clients for fault in client.faults], [], f"after kill {kill}")
        self.finish(kvd, clients)
        kvd = self.end_of_the_change(kvd, quiet)
        self.every_value_is_there(kvd, clients)
        self.operator.forgotten.append(first_key) if first_key != self.operator.current else None
        self.until_jobs_are_done()
        kvd.stop()
        self.what_is_stored()
        self.verify("at the end")
        counts = sum((client.counts for client in clients), collections.Counter())
        generations = max(row[2] for row in self.keys())
        print(f"{dict(counts)}, {masters} changes of the master key, data keys of generation {generations}", flush=True)
        for kind in ("written", "read", "past versions read"):
            self.assertGreater(counts[kind], KILLS)
        if KILLS >= 50:
            self.assertGreater(masters, 5)
            self.assertGreater(generations, 5)

    def finish(self, kvd, clients):
        self.service.is_over = True
        for client in clients:
            client.join(60)
            self.assertFalse(client.is_alive())
            self.assertEqual(client.faults, [])

    def end_of_the_change(self, kvd, quiet):
        """One more change of the master key, to its end and without a kill."""
        kvd.stop()
        if self.operator.previous is None:
            self.operator.previous, self.operator.current = self.operator.current, make_key()
        # Rows of both ages, whose change was cut short somewhere.
        self.verify("before the last change")
        kvd = self.start()
        old = run("key-id", environment={"KV_MASTER_KEY": self.operator.previous}).stdout.strip()
        until(lambda: any(f"kvd forget-master-key {old}" in entry["message"] for entry in kvd.log()), "every key is wrapped")
        kvd.stop()
        self.operator.forget(self.operator.previous)
        self.operator.previous = None
        return self.start()

    def every_value_is_there(self, kvd, clients):
        for client in clients:
            for key, values in client.known.items():
                answer = kvd.request("GET", f"/{client.ns}/entries/{key}", token=TOKEN)
                found = answer.json()["value"] if answer.status == 200 else None
                self.assertIn(found, values, answer)
            for key, versions in client.history.items():
                for version, value in versions.items():
                    answer = kvd.request("GET", f"/{client.ns}/entries/{key}?version={version}")
                    self.assertEqual((answer.status, answer.json().get("value")), (200, value))

    def until_jobs_are_done(self):
        def one_generation_each():
            generations = collections.Counter(row[1] for row in self.keys() if row[0] == 6)
            return len(generations) == 3 and set(generations.values()) == {1}
        until(one_generation_each, "one key to a namespace", 60)

    def verify(self, when):
        verified = run("verify", "--storage", self.operator.storage, environment=self.operator.environment(), patience=120)
        self.assertEqual(verified.returncode, 0, f"{when}: {verified.stdout} {verified.stderr}")

    def what_is_stored(self):
        wraps = {(row[3], row[4]) for row in self.keys()}
        current = run("key-id", environment={"KV_MASTER_KEY": self.operator.current}).stdout.strip()
        self.assertEqual(wraps, {(current, "")})
        with contextlib.closing(storages.connect(self.operator.storage, reads_only=True)) as database:
            stale = database.execute(
                "select count(*) from (select namespace_id, key_generation from entries where is_tombstone = 0 union all"
                " select namespace_id, key_generation from versions where is_tombstone = 0) as v"
                " join namespaces n on n.id = v.namespace_id where v.key_generation <> n.key_generation").fetchone()[0]
        self.assertEqual(stale, 0)
        self.assertEqual(run("check-key", "--storage", self.operator.storage,
                             environment={"KV_MASTER_KEY": self.operator.current}).returncode, 0)
        for key in self.operator.forgotten:
            self.assertEqual(run("check-key", "--storage", self.operator.storage, environment={"KV_MASTER_KEY": key}).returncode, 1)


if __name__ == "__main__":
    main()
