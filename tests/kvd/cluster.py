"""Several kvd on one PostgreSQL, and what may befall them."""

import concurrent.futures
import contextlib
import http.client
import os
import shutil
import signal
import tempfile
import time

import storages  # noqa: F401, it says where the next two are
from database import Database
from harness import SANITIZERS, Kvd, make_key, until
from postgres_server import PostgresServer

# Seconds from when the database is back until every kvd serves again: five are promised, on a machine that does nothing else.
RECOVERY = 30.0 if SANITIZERS else 10.0
TOKEN = "cluster-" + "t" * 32
OPTIONS = {"log_lock_waits": "on", "deadlock_timeout": "200ms"}


class Cluster:
    """A database and so many kvd on it, whose flags and tokens are the same. With a `standby` every commit waits for it.
    `between`: given the port of the server, says which kvd is to connect to instead."""

    def __init__(self, *flags, nodes=3, standby=False, tokens=None, options=None, environment=None, between=None):
        self.flags, self.tokens = flags, tokens
        self.folder = tempfile.mkdtemp(prefix="kvd-cluster-")
        self.key = make_key()
        self.nodes = [None] * nodes
        self.heard = {}  # what each node said last when it was tried
        self.listeners = []
        self.primary = self.standby = None
        try:
            self.primary = PostgresServer({**OPTIONS, **(options or {})}, durable=False, environment=environment)
            self.primary.create_database("kv")
            self.standby = self.primary.standby(synchronous=True) if standby else None
            self.url = self.primary.url("kv", *([self.standby] if standby else []))
            if between is not None:
                self.url = self.url.replace(f":{self.primary.port}/", f":{between(self.primary.port)}/")
            # All at once: they create the tables, and only one of them may.
            with concurrent.futures.ThreadPoolExecutor(nodes) as pool:
                list(pool.map(self.start, range(nodes)))
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.stop_nodes()
        finally:
            self.close()

    def close(self):
        for node in self.nodes:
            if node is not None:
                node.kill()
        if self.primary is not None:
            self.primary.close()
        if self.standby is not None:
            self.standby.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- nodes ----

    def start(self, number):
        folder = os.path.join(self.folder, f"node{number}")
        os.makedirs(folder, exist_ok=True)
        node = Kvd(*self.flags, storage=self.url, folder=folder, key=self.key, token=TOKEN, tokens=self.tokens)
        self.nodes[number] = node
        for listener in self.listeners:
            listener(number, node.port)
        return node

    def listen(self, listener):
        """Has listener(number, port) called now for every node, and whenever one is started again."""
        self.listeners.append(listener)
        for number, node in enumerate(self.nodes):
            listener(number, node.port)

    def kill_node(self, number):
        self.nodes[number].signal(signal.SIGKILL)
        self.nodes[number].wait()

    def stop_nodes(self):
        for node in self.nodes:
            node.stop()

    def ask(self, number, method, path, body=None, **options):
        return self.nodes[number].request(method, path, body, **options)

    def namespace(self, name, **members):
        answer = self.ask(0, "POST", "/namespaces", {"name": name, "applicationId": "app", **members})
        assert answer.status == 201, answer
        return answer.json()["id"]

    def serves(self, number, ns, key):
        """Whether the node takes a write, gives it back and says that it is ready."""
        path = f"/{ns}/entries/{key}"
        for method, where, body in (("PUT", path, {"value": "there"}), ("GET", path, None), ("GET", "/readyz", None)):
            try:
                self.heard[number] = answer = self.ask(number, method, where, body)
            except (OSError, http.client.HTTPException) as failure:
                self.heard[number] = failure
                return False
            if answer.status not in (200, 201):
                return False
        return True

    def await_service(self, ns, when, patience=RECOVERY):
        deadline = time.monotonic() + patience
        for number in range(len(self.nodes)):
            try:
                until(lambda: self.serves(number, ns, f"node/{number}"), f"node {number} serves {when}", max(0, deadline - time.monotonic()))
            except AssertionError as failure:
                raise AssertionError(f"{failure}; last: {self.heard[number]}; its log: {self.nodes[number].read('stderr')[-3000:]}") from None

    # ---- the database ----

    def backends(self):
        """The server's processes that serve kvd."""
        found = self.primary.ask("select pid from pg_stat_activity where datname = 'kv' and backend_type = 'client backend' and pid <> pg_backend_pid() order by pid")
        return [pid for pid, in found]

    def terminate(self, pids):
        for pid in pids:
            self.primary.ask("select pg_terminate_backend(?)", (pid,))

    def promote(self):
        """The primary is gone, as if its machine were; the standby takes over."""
        self.primary.kill()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def connect(self):
        return contextlib.closing(Database(self.primary.url("kv")))

    def server_logs(self):
        return self.primary.log() + (self.standby.log() if self.standby else "")


def each(count, work):
    """work(0), work(1)... at the same time: what they gave."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))

