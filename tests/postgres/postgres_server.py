"""Runs a PostgreSQL for tests: Debian's, in a folder of its own, on loopback, with a password, gone without a trace afterwards.

PostgreSQL refuses to run as root: then it runs as an unprivileged user, who owns the folder. Nothing is killed by name, and
nothing is waited for by sleeping: every wait polls until a deadline.
"""

import atexit
import glob
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse

import database
from database import Database

# Seconds until something that should happen counts as not happening. Recovery after a crash may read much.
PATIENCE = 60.0
USER = "postgres"  # its superuser; the account that the process runs under is another matter
SOCKET_PATH_MAX = 107  # of the kernel
SOCKET_NAME = "/s/.s.PGSQL.65535"
UNDURABLE = {"fsync": "off", "full_page_writes": "off"}
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %a@%d ",
    "log_error_verbosity": "default",
    "lc_messages": "C",
    "timezone": "UTC",
    "wal_level": "replica",
    "wal_keep_size": "512MB",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",  # until a standby looks for its primary again
    "max_wal_senders": "8",
    "autovacuum_naptime": "10s",
}


def program(name):
    """The newest of Debian's."""
    found = glob.glob(f"/usr/lib/postgresql/*/bin/{name}")
    if not found:
        raise FileNotFoundError(f"no {name} below /usr/lib/postgresql: cmake/install-deps.sh --tests installs it")
    return max(found, key=lambda path: int(path.split("/")[4]))


def account():
    """Whom the processes run as: nobody else than we, unless we are root. A keyword for subprocess."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL does not run as root, and there is no unprivileged user")


def free_port():
    """One below those that the kernel hands out: nobody takes it while the server is stopped for a moment."""
    for port in random.SystemRandom().sample(range(15000, 32000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def poll(condition, what, patience=PATIENCE):
    """Until condition() is true, and gives what it gave."""
    deadline = time.monotonic() + patience
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} s: {what}")
        time.sleep(0.01)


def tool_environment():
    """Without anybody's settings for libpq or for a locale."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG") and not name.startswith("LC_")}
    return {**environment, "LANG": "C.UTF-8"}


def with_database(url, name):
    """The URL with another database."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(path="/" + name))


def create_database(url, name):
    """On the server of `url`: the URL of a database of that name, which is new or is there already."""
    with Database(url, autocommit=True) as database:
        if not database.execute("select from pg_database where datname = ?", (name,)).rowcount:
            database.script(f"create database {name} template template0 encoding 'UTF8' locale 'C'")
    return with_database(url, name)


class PostgresServer:
    """A running PostgreSQL. `options` are settings by name. Without `durable` a crash of the machine may lose data, a
    crash of the server's processes still loses nothing that was written out, and everything is much faster. `environment` is for the server alone."""

    def __init__(self, options=None, durable=True, primary=None, environment=None):
        self.account = account()
        self.folder = self.make_folder()
        self.data = self.path("data")
        self.port = free_port()
        self.options = {**SETTINGS, **({} if durable else UNDURABLE), **(options or {})}
        self.environment = environment or {}
        self.process = None
        self.standbys = []
        self.guard = self.start_guard()
        atexit.register(self.close)
        try:
            if primary is None:
                self.password = secrets.token_urlsafe(24)
                self.write_passfile()
                self.initialize()
            else:
                self.password = primary.password
                self.write_passfile()
                self.copy_of(primary)
            self.start()
        except BaseException:
            self.close()
            raise

    # ---- its folder ----

    def make_folder(self):
        parent = tempfile.gettempdir()
        if len(parent) + len("/kv-postgres-12345678" + SOCKET_NAME) > SOCKET_PATH_MAX:
            parent = "/tmp"
        folder = tempfile.mkdtemp(prefix="kv-postgres-", dir=parent)
        os.mkdir(folder + "/s", 0o700)
        for path in (folder, folder + "/s"):
            self.hand_over(path)
        return folder

    def hand_over(self, path):
        if self.account:
            os.chown(path, self.account["user"], self.account["group"])

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(text)
        self.hand_over(self.path(name))

    def write_passfile(self):
        self.write("passfile", f"*:*:*:*:{self.password}\n")

    def start_guard(self):
        """Ends the server and removes the folder if we are killed before we can: the pipe that it reads from then ends."""
        script = 'cat >/dev/null; pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid"; rm -rf "$1"'
        return subprocess.Popen(["sh", "-c", script, "guard", self.folder], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)

    def tool(self, name, *arguments):
        done = subprocess.run([program(name), *arguments], cwd=self.folder, env=tool_environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, **self.account)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stdout.strip()}")

    def initialize(self):
        self.write("password", self.password + "\n")
        self.tool("initdb", "--no-sync", "-D", self.data, "-U", USER, "--pwfile", self.path("password"), "-A", "scram-sha-256",
                  "-E", "UTF8", "--locale", "C")
        os.unlink(self.path("password"))

    # ---- copies ----

    def standby(self, synchronous=False, options=None):
        """Another server that follows this one. A synchronous one confirms every commit from now on."""
        other = PostgresServer({**self.options, **(options or {})}, primary=self)
        self.standbys.append(other)
        poll(lambda: self.value("select count(*) from pg_stat_replication where state = 'streaming'"), "the standby follows")
        if synchronous:
            self.set_synchronous("*")
        return other

    def set_synchronous(self, names):
        self.ask(f"alter system set synchronous_standby_names = '{names}'")
        self.ask("select pg_reload_conf()")
        if names:
            poll(lambda: self.value("select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"), "the standby confirms")

    def copy_of(self, primary):
        source = f"host=127.0.0.1 port={primary.port} user={USER} passfile={self.path('passfile')}"
        self.tool("pg_basebackup", "--no-sync", "-D", self.data, "-d", source, "-X", "stream", "-c", "fast", "-R")

    def promote(self):
        self.ask("select pg_promote(true)")

    # ---- start and stop ----

    def start(self):
        # A backend of a server that was killed may hold its memory for a moment.
        poll(self.try_start, "PostgreSQL starts")

    def try_start(self):
        settings = {**self.options, "port": str(self.port), "unix_socket_directories": self.path("s")}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.path("log"), "ab") as log:
            self.process = subprocess.Popen([program("postgres"), "-D", self.data, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
                                            env={**tool_environment(), **self.environment}, stdout=log, stderr=log, start_new_session=True, **self.account)
        poll(lambda: self.process.poll() is not None or self.answers(), "PostgreSQL answers")
        if self.process.poll() is None:
            return True
        if "still in use" not in self.log()[-2000:]:
            raise RuntimeError(f"PostgreSQL ended with {self.process.returncode}: {self.log()[-2000:]}")
        return False

    def answers(self):
        """Whether it takes connections, on TCP as well."""
        return subprocess.run([program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"],
                              env=tool_environment(), timeout=PATIENCE).returncode == 0

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, how="fast"):
        """fast: connections are cut, everything is written out. immediate: as after a crash. smart: waits for the clients."""
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how]
        if self.is_running:
            self.process.send_signal(number)
            self.process.wait(timeout=PATIENCE)

    def restart(self, how="fast"):
        self.stop(how)
        self.start()

    def kill(self):
        """SIGKILL for it and all its processes."""
        if not self.is_running:
            return
        pids = self.children()
        self.process.kill()
        self.process.wait()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        poll(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "its processes are gone")

    def children(self):
        """The ids of the processes that it started."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def pause(self):
        """Stands still: the processes are stopped, the connections stay. The first is stopped first: it starts no other then."""
        self.process.send_signal(signal.SIGSTOP)
        for pid in self.children():
            os.kill(pid, signal.SIGSTOP)

    def resume(self):
        if not self.is_running:
            return
        for pid in self.children():
            os.kill(pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        for other in self.standbys:
            other.close()
        self.kill()
        if self.guard is not None:
            self.guard.stdin.close()
            self.guard.wait()
            self.guard = None
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- what is in it ----

    def url(self, database="postgres", *others):
        """For this server, or for whichever of it and the others takes writes."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self, *others))
        parameters = {"passfile": self.path("passfile")}
        if others:
            parameters["target_session_attrs"] = "read-write"
        return f"postgresql://{USER}@{hosts}/{database}?{urllib.parse.urlencode(parameters)}"

    def create_database(self, name):
        return create_database(self.url(), name)

    def ask(self, text, parameters=(), name="postgres"):
        """One statement, committed at once: its rows."""
        return database.ask(self.url(name), text, parameters)

    def value(self, text, parameters=(), name="postgres"):
        return database.value(self.url(name), text, parameters)

    def log(self):
        with open(self.path("log"), encoding="utf-8", errors="replace") as file:
            return file.read()
