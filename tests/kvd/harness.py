"""Runs a kvd for tests: starts it on free ports in a folder of its own, speaks HTTP with it politely or byte by byte, stops it.

Nothing here sleeps for luck: whatever takes time is polled until a deadline.
"""

import atexit
import base64
import concurrent.futures
import contextlib
import glob
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import storages

KVD = os.environ.get("KVD", "kvd")
BASE = "/api/v1/kv"
SANITIZERS = [name for name in ("ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS") if name in os.environ]
# Seconds until something that should happen counts as not happening.
PATIENCE = 60.0 if SANITIZERS else 20.0
# Within these a credential that was taken away is refused everywhere: what kvd promises, where nothing slows it down.
REVOKED_WITHIN = PATIENCE if SANITIZERS else 5.0
# Whether long tests do less, because a sanitizer makes them many times slower.
IS_THIN = bool(os.environ.get("KV_TEST_THIN"))


def until(condition, what, patience=PATIENCE):
    """Polls until condition() is true, and gives what it gave."""
    deadline = time.monotonic() + patience
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} s: {what}")
        time.sleep(0.01)


def collect_reports():
    """Has every program that a test starts write what a sanitizer finds into one folder: not everybody reads its stderr."""
    if not SANITIZERS:
        return None
    folder = os.environ.get("KVD_TEST_REPORTS")  # set where a test goes on in a process of its own
    if folder is None:
        folder = os.environ["KVD_TEST_REPORTS"] = tempfile.mkdtemp(prefix="kvd-test-reports-")
        for name in SANITIZERS:
            os.environ[name] += f":log_path={folder}/report"
    atexit.register(shutil.rmtree, folder, True)
    return folder


REPORTS = collect_reports()


def reports(pid="*"):
    """What sanitizers reported, of one process or of all."""
    found = []
    for path in sorted(glob.glob(f"{REPORTS}/report.{pid}")) if REPORTS else ():
        with open(path, encoding="utf-8", errors="replace") as file:
            found.append(file.read())
    return "\n".join(found)


def make_key():
    return base64.b64encode(secrets.token_bytes(32)).decode()


def clean_environment(extra=None):
    """The environment without any setting of kvd's or of libpq's, and `extra`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KVD_", "KV_", "PG"))}
    environment.update(extra or {})
    return environment


def run(*arguments, environment=None, folder=None, patience=PATIENCE):
    """Runs kvd to its end: a CompletedProcess with text."""
    return subprocess.run([KVD, *arguments], env=clean_environment(environment), cwd=folder, capture_output=True,
                          text=True, timeout=patience, stdin=subprocess.DEVNULL)


def first_event(response):
    """What has no end is read up to its first empty line."""
    lines = []
    while not lines or lines[-1] not in (b"\n", b""):
        lines.append(response.readline())
    return b"".join(lines)


class Answer:
    """A response: status, headers (names in lower case), body, and json()."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        return self.json()["code"]

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


class Connection:
    """A connection to write bytes to, as wrong as they may be."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))
        return self

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def receive(self):
        """More bytes into the buffer; False at the end."""
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def line_block(self):
        """Up to the next empty line; None if the connection ends before."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.receive():
                if self.buffer:
                    raise AssertionError(f"ended within a header: {self.buffer!r}")
                return None
        block, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        return block.decode("latin-1")

    def answer(self, is_head=False):
        """The next response, read exactly; None if the connection ends instead."""
        block = self.line_block()
        if block is None:
            return None
        first, *lines = block.split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", first).group(1))
        headers = {}
        for line in lines:
            name, value = line.split(": ", 1)
            if name.lower() in headers:
                raise AssertionError(f"{name} twice")
            headers[name.lower()] = value
        size = 0 if is_head or status in (100, 204, 304) else int(headers["content-length"])
        while len(self.buffer) < size:
            if not self.receive():
                raise AssertionError("ended within a body")
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Answer(status, headers, body)

    def ends(self):
        """True if the server closes and sends nothing more."""
        if self.buffer:
            return False
        try:
            return not self.receive()
        except ConnectionResetError:
            return True


def exchange(connection, method, path, body=None, headers=None):
    """One request and its answer on a connection of http.client's, which is closed then."""
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        headers = {k.lower(): v for k, v in response.getheaders()}
        return Answer(response.status, headers, first_event(response) if headers.get("content-type") == "text/event-stream" else response.read())
    finally:
        connection.close()


class UnixConnection(http.client.HTTPConnection):
    """One through a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Kvd:
    """A running kvd. `stop()` sends SIGTERM and checks that it ends well; leaving a `with` block does it too.

    Without `storage` it keeps everything in memory; "sqlite" makes a file in its folder, or what stands for one:
    storages.py. `wrapper` is a command that runs it.
    """

    def __init__(self, *flags, storage="memory:", environment=None, tokens=None, key=None, token=None, folder=None, admin=True,
                 wrapper=()):
        self.owns_folder = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="kvd-test-")
        self.key = make_key() if key is None else key
        self.token = token or secrets.token_urlsafe(32)
        if storage == "sqlite":
            storage = storages.place(self.folder)
        self.storage = storage
        arguments = [*wrapper, KVD, "serve", *flags]
        if "--listen" not in flags:  # else it begins with an address whose port is 0
            arguments += ["--listen", "127.0.0.1:0"]
        if "--log-format" not in flags:
            arguments += ["--log-format", "json"]
        if "--storage" not in flags and storage:
            arguments += ["--storage", storage]
        if tokens is not None:
            self.write_tokens(tokens)
            arguments += ["--tokens", self.path("tokens.json")]
        if "--admin-listen" not in flags:
            arguments += ["--admin-listen", "127.0.0.1:0" if admin else "off"]
        secret = {"KV_MASTER_KEY": self.key, "KVD_ROOT_TOKEN": self.token}
        secret.update(environment or {})
        if arguments[0] == "strace" and SANITIZERS:  # leaks cannot be looked for in a process that is traced
            secret["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"
        with open(self.path("stderr"), "wb") as log, open(self.path("stdout"), "wb") as out:
            self.process = subprocess.Popen(arguments, env=clean_environment(secret), cwd=self.folder, stdout=out,
                                            stderr=log, stdin=subprocess.DEVNULL)
        self.port = self.admin_port = None
        try:
            self.await_start("off" not in arguments)
        except BaseException:
            self.kill()
            raise

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as file:
            return file.read()

    def last_words(self):
        return self.read("stderr") + reports(self.process.pid)

    def write_tokens(self, tokens):
        """Replaces the tokens file: a list of its elements, or text as it is."""
        text = tokens if isinstance(tokens, str) else json.dumps(tokens)
        with open(self.path("tokens.new"), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(text)
        os.replace(self.path("tokens.new"), self.path("tokens.json"))

    def await_start(self, has_admin):
        def listening():
            if self.process.poll() is not None:
                raise AssertionError(f"kvd ended with {self.process.returncode}: {self.last_words()}")
            return re.match(r"kvd: listening on https?://127\.0\.0\.1:(\d+)\n", self.read("stdout"))
        self.port = int(until(listening, "kvd says where it listens").group(1))
        if has_admin:
            said = r"metrics and health.*http://127\.0\.0\.1:(\d+)"  # in either format
            found = until(lambda: re.search(said, self.read("stderr")), "kvd logs where its metrics are")
            self.admin_port = int(found.group(1))

    def log(self):
        """The lines logged so far. What is no JSON (a sanitizer, --dev) is left out."""
        entries = []
        for line in self.read("stderr").splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return entries

    def logged(self, message):
        return next((entry for entry in self.log() if isinstance(entry, dict) and entry["message"] == message), None)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def connect(self, admin=False):
        return Connection(self.admin_port if admin else self.port)

    def request(self, method, path, body=None, token=True, headers=None, admin=False):
        """One request on a connection of its own. `path` without the base is below it; a dict or list is sent as JSON.
        `token`: True is the root token, None no credential."""
        sent = dict(headers or {})
        if token:
            sent.setdefault("Authorization", "Bearer " + (self.token if token is True else token))
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        if isinstance(body, str):
            body = body.encode()
        if not path.startswith((BASE, "/healthz", "/readyz", "/metrics")):
            path = BASE + path
        return exchange(self.dial(admin), method, path, body, sent)

    def dial(self, admin=False):
        """A connection of http.client's for one request."""
        return http.client.HTTPConnection("127.0.0.1", self.admin_port if admin else self.port, timeout=PATIENCE)

    def metrics(self):
        """Name with labels -> value."""
        text = self.request("GET", "/metrics", admin=True, token=None).body.decode()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, patience=PATIENCE):
        return self.process.wait(timeout=patience)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, patience=PATIENCE):
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            code = self.wait(patience)
            if code != 0:
                raise AssertionError(f"kvd ended with {code}: {self.last_words()}")
        finally:
            self.kill()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.kill()


@contextlib.contextmanager
def running(*flags, **options):
    """(url, root token) of a kvd that runs meanwhile."""
    with Kvd(*flags, **options) as kvd:
        yield kvd.url, kvd.token


class KvdTestCase(unittest.TestCase):
    """Tests that share one kvd, `self.kvd`, started with `flags`."""

    flags = ()
    options = {}

    @classmethod
    def setUpClass(cls):
        cls.kvd = Kvd(*cls.flags, **cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.kvd.stop()


class Jobs(unittest.TestCase):
    """A test that is made of jobs which mostly wait."""

    def each(self, jobs, at_a_time):
        """name -> a function and its arguments. Prints what each of them returns; one that fails keeps no other from its turn."""
        with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
            running = {pool.submit(*job): name for name, job in jobs.items()}
            for done in concurrent.futures.as_completed(running):
                with self.subTest(running[done]):
                    print(f"{running[done]}: {done.result()}")


def main():
    """Runs the tests of the program. A report of a sanitizer fails them, whatever they themselves saw."""
    result = unittest.main(verbosity=2, exit=False).result
    found = reports()
    if found:
        print("A sanitizer reported:\n" + found, file=sys.stderr)
    sys.exit(0 if result.wasSuccessful() and not found else 1)
