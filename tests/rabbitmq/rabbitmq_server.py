"""Runs a RabbitMQ for tests: Debian's, in a folder of its own, on loopback, with a node name, a cookie, an epmd and a password of
its own, gone without a trace afterwards.

As root it runs as an unprivileged user, who owns the folder. Nothing is killed by name, and nothing is waited for by
sleeping: every wait polls until a deadline.
"""

import atexit
import contextlib
import glob
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

try:
    import pika
except ImportError:  # Debian's is Python alone, so that another Python than Debian's can use it
    sys.path.append("/usr/lib/python3/dist-packages")
    import pika

# Seconds until something that should happen counts as not happening: an Erlang that starts on a busy machine takes its time.
PATIENCE = 90.0
USER = "kvd"
OTHER_ADDRESS = "127.0.0.3"  # of the loopback device as well
SETTINGS = {
    "loopback_users": "none",
    "disk_free_limit.absolute": "1MB",
    "vm_memory_high_watermark.absolute": "4GB",
    "log.console": "true",
    "log.console.level": "info",
    "log.file": "false",
    "heartbeat": "60",
    "collect_statistics_interval": "30000",
    "queue_master_locator": "client-local",
}
# A small machine's worth of Erlang, which starts faster.
EMULATOR = "+S 2:2 +SDio 2 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none"


def program(name):
    """The newest of Debian's: not its wrapper, which changes folder and user."""
    found = glob.glob(f"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/{name}")
    if not found:
        raise FileNotFoundError(f"no {name} below /usr/lib/rabbitmq: cmake/install-deps.sh --tests installs it")
    return max(found, key=os.path.getmtime)


def account():
    """Whom the processes run as: nobody else than we, unless we are root. A keyword for subprocess."""
    if os.getuid() != 0:
        return {}
    for name in ("rabbitmq", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("there is no unprivileged user for RabbitMQ")


def free_ports(count):
    """Different ones below those that the kernel hands out: nobody takes them while the server is stopped for a moment."""
    found = []
    for port in random.SystemRandom().sample(range(15000, 32000), 400):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
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
        time.sleep(0.02)


def answers(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Certificates:
    """A certificate authority in a folder, and what it vouches for: made with the openssl command."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self.name = name
        self.ca = self.path(f"{name}.pem")
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj",
                 f"/CN=kv test {name}", "-addext", "keyUsage=critical,keyCertSign", "-keyout", self.path(f"{name}.key"), "-out", self.ca)

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *arguments):
        done = subprocess.run(["openssl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")

    def issue(self, name, alternative):
        """(certificate, key) for a server or client of that name."""
        key, request, extensions, certificate = (self.path(f"{name}.{suffix}") for suffix in ("key", "csr", "ext", "pem"))
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        with open(extensions, "w", encoding="ascii") as file:
            file.write(f"subjectAltName={alternative}\n")
        self.run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.path(f"{self.name}.key"), "-CAcreateserial", "-days", "30",
                 "-extfile", extensions, "-out", certificate)
        return certificate, key


class RabbitmqServer:
    """A running RabbitMQ. `settings` are lines of rabbitmq.conf by name. With `tls` it listens for TLS as well, with a
    certificate by `certificates` for localhost and OTHER_ADDRESS, but none for 127.0.0.1; "required" asks clients for one.
    `starts`: at once."""

    def __init__(self, settings=None, tls=None, starts=True):
        self.account = account()
        self.folder = tempfile.mkdtemp(prefix="kv-rabbitmq-")
        for name in ("home", "mnesia", "log"):
            os.mkdir(self.path(name), 0o700)
        self.port, self.tls_port, self.distribution_port, self.epmd_port = free_ports(4)
        self.node = f"kv{self.port}@localhost"
        self.password = secrets.token_urlsafe(24)
        self.certificates = None
        self.process = self.epmd = None
        self.guard = self.start_guard()
        atexit.register(self.close)
        try:
            self.write("home/.erlang.cookie", secrets.token_hex(20), 0o400)
            self.write("enabled_plugins", "[].\n")
            self.write("environment", "")
            self.write("rabbitmq.conf", "".join(f"{name} = {value}\n" for name, value in
                                                {**SETTINGS, **self.listeners(tls), **(settings or {})}.items()))
            self.hand_over()
            self.start_epmd()
            if starts:
                self.start()
        except BaseException:
            self.close()
            raise

    # ---- its folder ----

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text, mode=0o600):
        with open(self.path(name), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as file:
            file.write(text)

    def hand_over(self):
        if not self.account:
            return
        for folder, _, files in os.walk(self.folder):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                os.chown(path, self.account["user"], self.account["group"])

    def listeners(self, tls):
        lines = {"listeners.tcp.1": f"127.0.0.1:{self.port}", "default_user": USER, "default_pass": self.password, "default_vhost": "/"}
        if tls:
            self.certificates = Certificates(self.folder)
            certificate, key = self.certificates.issue("server", f"DNS:localhost,IP:{OTHER_ADDRESS}")
            lines |= {"listeners.ssl.1": f"127.0.0.1:{self.tls_port}", "listeners.ssl.2": f"{OTHER_ADDRESS}:{self.tls_port}",
                      "ssl_options.cacertfile": self.certificates.ca,
                      "ssl_options.certfile": certificate, "ssl_options.keyfile": key,
                      "ssl_options.verify": "verify_peer" if tls == "required" else "verify_none",
                      "ssl_options.fail_if_no_peer_cert": "true" if tls == "required" else "false"}
        return lines

    def start_guard(self):
        """Ends what runs and removes the folder if we are killed before we can: the pipe that it reads from then ends."""
        script = 'cat >/dev/null; for pid in $(cat "$1"/*.pid 2>/dev/null); do kill -KILL "$pid"; done; rm -rf "$1"'
        return subprocess.Popen(["sh", "-c", script, "guard", self.folder], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)

    # ---- start and stop ----

    def environment(self):
        """Nobody else's settings, and every place and port that would otherwise be the machine's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_", "LC_"))}
        return {**kept, "LANG": "C.UTF-8", "HOME": self.path("home"), "ERL_EPMD_PORT": str(self.epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": self.node, "RABBITMQ_CONF_ENV_FILE": self.path("environment"),
                "RABBITMQ_CONFIG_FILE": self.path("rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE": self.path("enabled_plugins"),
                "RABBITMQ_MNESIA_BASE": self.path("mnesia"), "RABBITMQ_LOG_BASE": self.path("log"), "RABBITMQ_LOGS": "-",
                "RABBITMQ_DIST_PORT": str(self.distribution_port), "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": EMULATOR}

    def launch(self, name, arguments, **environment):
        """A process of ours, whose id the guard finds."""
        with open(self.path("output"), "ab") as output:
            process = subprocess.Popen(arguments, cwd=self.folder, env={**self.environment(), **environment}, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=output, start_new_session=True, **self.account)
        self.write(f"{name}.pid", f"{process.pid}\n")
        return process

    def start_epmd(self):
        """Erlang would start one by itself, for all nodes of the machine, and leave it running."""
        self.epmd = self.launch("epmd", ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"])
        poll(lambda: answers(self.epmd_port), "epmd listens")

    def start(self):
        # As if systemd had started it: then the process is Erlang's own, and no shell waits for it.
        self.process = self.launch("server", [program("rabbitmq-server")], NOTIFY_SOCKET=self.path("nobody-listens"))
        poll(self.is_ready, "RabbitMQ answers")

    def is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"RabbitMQ ended with {self.process.returncode}: {self.log()[-3000:]}")
        if not answers(self.port) or (self.certificates and not answers(self.tls_port)):
            return False
        try:
            self.connect().close()
        except pika.exceptions.AMQPError:
            return False
        return True

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """In order: what is durable is on the disk, clients are told."""
        if self.is_running:
            self.resume()
            self.process.terminate()
            self.process.wait(timeout=PATIENCE)

    def kill(self):
        if self.is_running:
            self.process.kill()
            self.process.wait()

    def restart(self):
        self.stop()
        self.start()

    def pause(self):
        """Stands still: connections stay, and are taken, and nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        if self.is_running:
            self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.kill()
        if self.epmd is not None:
            self.epmd.kill()
            self.epmd.wait()
            self.epmd = None
        if self.guard is not None:
            shutil.rmtree(self.folder, ignore_errors=True)  # with the ids in it, before somebody else gets them
            self.guard.stdin.close()
            self.guard.wait()
            self.guard = None
        atexit.unregister(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- what is asked of it ----

    def ctl(self, *arguments):
        """rabbitmqctl, whose Erlang takes a second or two to start."""
        done = subprocess.run([program("rabbitmqctl"), "--quiet", "--node", self.node, *arguments], cwd=self.folder, env=self.environment(),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, **self.account)
        if done.returncode != 0:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stdout.strip()}")
        return done.stdout

    def set_memory_alarm(self, is_on):
        """While it is on, whoever publishes is blocked."""
        self.ctl("set_vm_memory_high_watermark", *(("0.0000001",) if is_on else ("absolute", "4GB")))

    def url(self, vhost="%2F", user=USER, password=False, port=None):
        """Without the password, unless asked for."""
        return f"amqp://{user}{':' + self.password if password else ''}@127.0.0.1:{port or self.port}/{vhost}"

    def tls_url(self, host):
        return f"amqps://{USER}@{host}:{self.tls_port}"

    def connect(self):
        """A client's connection."""
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, "/", pika.PlainCredentials(USER, self.password),
                                                                 heartbeat=0, socket_timeout=PATIENCE, blocked_connection_timeout=PATIENCE))

    def log(self):
        with open(self.path("output"), encoding="utf-8", errors="replace") as file:
            return file.read()


class Queue:
    """A queue on an exchange, and what has arrived in it. `arguments`: of its declaration."""

    def __init__(self, server, exchange="kv.events", key="#", arguments=None, name=None):
        self.server = server
        self.exchange = exchange
        self.name = name or f"q{secrets.token_hex(4)}"
        self.connection = server.connect()
        self.channel = self.connection.channel()
        self.channel.exchange_declare(exchange, "topic", durable=True)
        self.channel.queue_declare(self.name, durable=True, arguments=arguments)
        self.channel.queue_bind(self.name, exchange, key)
        self.received = []  # (method, properties, body)

    def take(self, count=None):
        """What lies there: at most so many."""
        taken = []
        while count is None or len(taken) < count:
            method, properties, body = self.channel.basic_get(self.name, auto_ack=True)
            if method is None:
                break
            taken.append((method, properties, body))
        self.received += taken
        return taken

    def until(self, condition, what, patience=PATIENCE):
        """Takes until condition(everything received) is true."""
        def take():
            self.take()
            return condition(self.received)
        poll(take, what, patience)
        return self.received

    def close(self):
        with contextlib.suppress(pika.exceptions.AMQPError):  # the server may be gone
            self.connection.close()

    def delete(self):
        self.channel.queue_delete(self.name)
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
