"""What an operator does with a running kvd: verify, back up, rotate and forget keys, over the admin listener."""

import fcntl
import os
import re
import socket
import threading
import time

from api import TIME, ApiTestCase, element, grant
from harness import BASE, PATIENCE, Connection, Kvd, main, run, until

JOB_MEMBERS = {"id", "kind", "status", "createdAt", "finishedAt", "progress", "result", "error"}
REPORT_MEMBERS = {"sound", "findings", "findingsTotal", "keys", "namespaces", "streams", "auditRows", "entries", "versions", "valuesOpened", "notes"}
MIB = 1 << 20
NO_KEY = "0123456789abcdef"


class AdminTestCase(ApiTestCase):
    def ask(self, method, path, body=None, **options):
        return self.call(method, "/admin/" + path, body, admin=True, **options)

    def check_job(self, job):
        self.assertEqual(set(job), JOB_MEMBERS)
        self.assertIn(job["status"], ("queued", "running", "done", "failed"))
        self.assertRegex(job["createdAt"], TIME)
        self.assertEqual(job["finishedAt"] is not None, job["status"] in ("done", "failed"))
        self.assertEqual(job["result"] is not None, job["status"] == "done")
        self.assertEqual(job["error"] is not None, job["status"] == "failed")
        return job

    def await_job(self, answer):
        """The job that an answer began, once it has ended."""
        self.assertEqual(answer.status, 202)
        job = self.check_job(answer.json())
        self.assertEqual(answer.headers["location"], f"{BASE}/admin/jobs/{job['id']}")

        def ended():
            state = self.check_job(self.ask("GET", "jobs/" + job["id"], status=200).json())
            return state if state["finishedAt"] else None
        return until(ended, "the job ends")


class Verification(AdminTestCase):
    def test_a_sound_store_is_found_sound(self):
        ns = self.namespace(isSecretNamespace=True)
        for value in ("one", "two", "three"):
            self.put(ns, "k", value)
        job = self.await_job(self.ask("POST", "verify", headers={"X-Request-Id": "begins-it"}))
        self.assertEqual((job["kind"], job["status"]), ("verify", "done"), job)
        report = job["result"]
        self.assertEqual(set(report), REPORT_MEMBERS)
        self.assertEqual((report["sound"], report["findings"], report["findingsTotal"]), (True, [], 0))
        self.assertGreaterEqual(report["valuesOpened"], 3)
        self.assertGreaterEqual(report["auditRows"], 4)
        rows = self.rows_of("begins-it")
        self.assertEqual({(r["operation"], r["success"]) for r in rows}, {("admin.verify", True)})

    def test_heads_that_never_were_are_found_missing(self):
        anchor = {"stream": "01890000-0000-7000-8000-000000000000", "sequence": 7, "mac": "ab" * 32}
        job = self.await_job(self.ask("POST", "verify", {"anchors": [anchor]}))
        self.assertFalse(job["result"]["sound"])
        self.assertIn(anchor["stream"], str(job["result"]["findings"]))

    def test_bodies_that_are_wrong(self):
        for body, field in (({"x": 1}, "x"), ({"anchors": 1}, "anchors"), ({"anchors": [1]}, "anchors"), ({"anchors": [{"stream": "x", "sequence": 1, "mac": "ab" * 32}]}, "stream"),
                            ({"anchors": [{"stream": "01890000-0000-7000-8000-000000000000", "sequence": -1, "mac": "ab" * 32}]}, "sequence"),
                            ({"anchors": [{"stream": "01890000-0000-7000-8000-000000000000", "sequence": 1, "mac": "ab"}]}, "mac"),
                            ({"anchors": [{"stream": "01890000-0000-7000-8000-000000000000", "sequence": 1}]}, "anchors")):
            with self.subTest(body=body):
                self.ask("POST", "verify", body, status=400, field=field)
        self.ask("POST", "verify", "{", code="malformed-body")
        self.ask("POST", "verify", "{}", code="unsupported-media-type", headers={"Content-Type": "text/plain"})
        self.ask("POST", "verify?x=1", status=400, field="x")

    def test_a_job_that_is_not_there(self):
        for job in ("x", "01890000-0000-7000-8000-000000000000", "%2e%2e"):
            self.ask("GET", "jobs/" + job, code="not-found")


class Requests(AdminTestCase):
    flags = ("--denial-window", "0s")
    tokens = [element("reader", grant("kv-entry:read"), user="reader")]

    def test_what_a_request_must_be(self):
        self.ask("POST", "forget-master-key", {}, status=400, field="keyId")
        self.ask("POST", "forget-master-key", {"keyId": 1}, status=400, field="keyId")
        self.ask("POST", "forget-master-key", {"keyId": NO_KEY, "x": 1}, status=400, field="x")
        self.ask("POST", "forget-master-key", {"keyId": NO_KEY}, status=400)
        self.ask("PUT", "verify", code="method-not-allowed")
        self.ask("HEAD", "backup", status=405)
        self.ask("GET", "backup?to=/tmp/x", status=400, field="to")
        self.ask("GET", "backup", b"x", status=400)
        self.ask("GET", "nothing", code="not-found")
        self.ask("POST", "forget-master-key", b"x" * (3 * MIB), code="too-large")
        with self.kvd.connect(admin=True) as connection:
            connection.send(f"POST {BASE}/admin/forget-master-key HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.kvd.token}\r\n\r\n")
            self.assertEqual(connection.answer().code, "length-required")

    def test_refusals_are_recorded_as_on_the_other_listener(self):
        for number, (method, path, body, options, reason) in enumerate((
                ("POST", "verify", None, {"token": None}, "unauthenticated"), ("POST", "verify", None, {"token": "reader"}, "permission-denied"), ("GET", "backup", None, {"token": "reader"}, "permission-denied"),
                ("GET", "jobs/x", None, {"token": "reader"}, "permission-denied"), ("GET", "jobs/x", None, {}, "not-found"), ("POST", "verify", {"x": 1}, {}, "invalid-request"),
                ("POST", "forget-master-key", {"keyId": NO_KEY}, {"token": "reader"}, "permission-denied"), ("POST", "forget-master-key", {"keyId": NO_KEY}, {}, "invalid-request"))):
            with self.subTest(path=path, reason=reason):
                request_id = f"refused-{number}"
                self.ask(method, path, body, code=reason, headers={"X-Request-Id": request_id}, **options)
                rows = self.rows_of(request_id)
                self.assertIn((False, reason), {(r["success"], r["reason"]) for r in rows}, rows)
                self.assertEqual({r["operation"] for r in rows}, {"admin." + path.split("/")[0].replace("jobs", "job")})

    def test_metrics_and_health_need_no_token(self):
        for path in ("/metrics", "/healthz", "/readyz"):
            self.assertEqual(self.kvd.request("GET", path, token=None, admin=True).status, 200)
        self.assertEqual(self.kvd.request("POST", "/metrics", token=None, admin=True).headers["allow"], "GET, HEAD")


class Stream:
    """A backup that is read as slowly as one likes."""

    def __init__(self, kvd, small=False):
        self.socket = socket.socket()
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", kvd.admin_port))
        self.socket.sendall(f"GET {BASE}/admin/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {kvd.token}\r\n\r\n".encode())
        self.buffer = b""
        self.status, self.headers = self.head()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def receive(self):
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def until(self, end):
        while end not in self.buffer:
            if not self.receive():
                raise EOFError
        part, self.buffer = self.buffer.split(end, 1)
        return part

    def head(self):
        first, *lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}

    def chunk(self):
        """The next one; empty at the end. EOFError if the connection ends before."""
        size = int(self.until(b"\r\n"), 16)
        while len(self.buffer) < size + 2:
            if not self.receive():
                raise EOFError
        data, end, self.buffer = self.buffer[:size], self.buffer[size:size + 2], self.buffer[size + 2:]
        assert end == b"\r\n"
        return data

    def rest(self):
        data = b""
        while True:
            chunk = self.chunk()
            if not chunk:
                return data
            data += chunk


class Backups(AdminTestCase):
    flags = ("--write-timeout", "1s", "--bytes-per-second-min", "1MiB")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # More than the buffers of two sockets hold, so that a reader who stops is noticed.
        cls.ns = cls.kvd.request("POST", "/namespaces", {"name": "large", "applicationId": "app"}).json()
        for number in range(24):
            answer = cls.kvd.request("PUT", f"/{cls.ns['id']}/entries/{number}", os.urandom(MIB), headers={"Content-Type": "application/octet-stream"})
            assert answer.status == 201, answer

    def begin(self, **options):
        """A backup that has begun. Places that were left a moment ago, by an earlier test perhaps, are free a moment later."""
        def begins():
            stream = Stream(self.kvd, **options)
            if stream.status == 200:
                return stream
            stream.socket.close()
            return None
        return until(begins, "a backup may begin")

    def whole(self, **headers):
        return until(lambda: (a := self.kvd.request("GET", "/admin/backup", admin=True, headers=headers)).status == 200 and a, "a whole backup")

    def test_a_backup_is_one_stream_with_a_name_and_an_end(self):
        with self.begin() as stream:
            self.assertEqual(stream.headers["transfer-encoding"], "chunked")
            self.assertNotIn("content-length", stream.headers)
            self.assertEqual(stream.headers["content-type"], "application/octet-stream")
            self.assertEqual(stream.headers["cache-control"], "no-store")
            self.assertRegex(stream.headers["content-disposition"], r'^attachment; filename="kvd-\d{8}T\d{6}Z\.backup"$')
            self.assertGreater(len(stream.rest()), 24 * MIB)
            # The connection goes on.
            stream.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(stream.head()[0], 200)

    def test_a_slow_reader_is_cut_off_and_delays_nobody(self):
        before = self.kvd.metrics()["kvd_timeouts_total"]
        with self.begin(small=True) as stream:
            started = time.monotonic()
            until(lambda: self.kvd.metrics()["kvd_timeouts_total"] > before, "the reader is given up")
            self.assertGreater(time.monotonic() - started, 0.9)
            for _ in range(20):
                began = time.monotonic()
                self.call("GET", f"/{self.ns['id']}/entries?limit=1", status=200)
                self.assertEqual(self.kvd.request("GET", "/healthz", admin=True, token=None).status, 200)
                self.assertLess(time.monotonic() - began, 1)
            with self.assertRaises((EOFError, ConnectionResetError)):
                stream.rest()
            self.assertEqual(self.kvd.logged("an answer was cut off: its reader is too slow")["operation"], "admin.backup")

    def test_two_at_a_time_and_a_place_that_is_left_is_free_again(self):
        with self.begin(), self.begin():
            answer = self.ask("GET", "backup", code="overloaded")
            self.assertEqual(answer.headers["retry-after"], "60")
        with self.begin():
            pass

    def test_http_1_0_cannot_tell_the_end_and_gets_none(self):
        with Connection(self.kvd.admin_port) as connection:
            connection.send(f"GET {BASE}/admin/backup HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {self.kvd.token}\r\n\r\n")
            self.assertEqual(connection.answer().code, "invalid-request")

    def test_each_is_recorded(self):
        self.whole(**{"X-Request-Id": "a-backup"})
        rows = until(lambda: (lambda found: found if found and found[-1]["operation"] == "admin.backup-done" else None)(self.rows_of("a-backup")),
                     "its end is recorded, too")
        self.assertEqual([(r["operation"], r["success"]) for r in rows[-2:]], [("admin.backup", True), ("admin.backup-done", True)])
        self.assertEqual(rows[0]["action"], "READ")

    def test_its_age_is_a_metric(self):
        self.whole()
        self.assertLess(abs(self.kvd.metrics()["kv_last_backup_timestamp_seconds"] - time.time()), 60)


class Stopping(AdminTestCase):
    def test_a_stop_cuts_a_backup_off_and_is_none_the_worse(self):
        with Kvd(storage="sqlite") as kvd:
            ns = kvd.request("POST", "/namespaces", {"name": "large", "applicationId": "app"}).json()
            for number in range(16):
                kvd.request("PUT", f"/{ns['id']}/entries/{number}", os.urandom(MIB), headers={"Content-Type": "application/octet-stream"})
            with Stream(kvd, small=True) as stream:
                self.assertEqual(stream.status, 200)
                kvd.stop()
                with self.assertRaises((EOFError, ConnectionResetError)):
                    stream.rest()

    def test_a_stop_ends_what_runs(self):
        with Kvd(storage="sqlite") as kvd:
            for _ in range(4):
                self.assertEqual(kvd.request("POST", "/admin/verify", admin=True).status, 202)
            began = time.monotonic()
            kvd.stop()
            self.assertLess(time.monotonic() - began, 10)


class Commands(AdminTestCase):
    """The same from the command line."""

    tokens = [element("reader", grant("kv-entry:read"), user="reader")]

    @property
    def server(self):
        return f"http://127.0.0.1:{self.kvd.admin_port}"

    def run_command(self, *arguments, token=None, server=None):
        return run(*arguments, "--server", server or self.server, environment={"KVD_TOKEN": token or self.kvd.token}, folder=self.kvd.folder)

    def test_verify(self):
        self.put(self.namespace(), "k")
        done = self.run_command("verify")
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("sound", done.stdout)
        with open(self.kvd.path("anchors"), "w", encoding="utf-8") as file:
            file.write("audit-head stream=01890000-0000-7000-8000-000000000000 sequence=7 mac=" + "ab" * 32 + "\n")
        done = self.run_command("verify", "--anchors", self.kvd.path("anchors"))
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("01890000-0000-7000-8000-000000000000", done.stdout)

    def test_backup_writes_the_whole_file_for_its_owner_alone(self):
        path = self.kvd.path("one.backup")
        done = self.run_command("backup", "--to", path)
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertIn(str(os.path.getsize(path)), done.stdout)
        self.assertFalse(os.path.exists(path + ".partial"))
        before = os.stat(path).st_ino
        again = self.run_command("backup", "--to", path)
        self.assertNotEqual(again.returncode, 0)
        self.assertEqual(os.stat(path).st_ino, before)
        self.assertFalse(os.path.exists(path + ".partial"))

    def test_a_partial_file_of_a_run_that_was_killed_is_overwritten(self):
        path = self.kvd.path("two.backup")
        with open(path + ".partial", "wb") as file:
            file.write(b"x" * (4 * MIB))
        self.assertEqual(self.run_command("backup", "--to", path).returncode, 0)
        with open(path, "rb") as file:
            self.assertNotIn(b"xxxx" * 16, file.read())

    def test_a_partial_file_that_another_run_is_writing_is_left_alone(self):
        path = self.kvd.path("three.backup")
        with open(path + ".partial", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"theirs")
            file.flush()
            self.assertEqual(self.run_command("backup", "--to", path).returncode, 78)
            with open(path + ".partial", "rb") as left:
                self.assertEqual(left.read(), b"theirs")

    def test_a_backup_that_is_cut_leaves_nothing(self):
        path = self.kvd.path("cut.backup")
        for ending in (b"10\r\n0123456789abcdef\r\n", b"10\r\n01234", b"10\r\n0123456789abcdef\r\n0\r\n", b""):
            with self.subTest(ending=ending), FakeServer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + ending) as server:
                done = self.run_command("backup", "--to", path, server=server.url)
                self.assertEqual(done.returncode, 70, done)
                self.assertIn("closed the connection", done.stderr)
                self.assertFalse(os.path.exists(path) or os.path.exists(path + ".partial"))
        # An answer whose end nothing tells is none.
        with FakeServer(b"HTTP/1.1 200 OK\r\n\r\n0123") as server:
            self.assertEqual(self.run_command("backup", "--to", path, server=server.url).returncode, 70)
            self.assertFalse(os.path.exists(path))

    def test_rotate_data_key(self):
        ns = self.namespace(isSecretNamespace=True)
        self.put(ns, "k", "before")
        for name in (ns["id"], "app~" + ns["name"]):
            done = self.run_command("rotate-data-key", name)
            self.assertEqual(done.returncode, 0, done)
        self.assertEqual(self.value(ns, "k"), "before")
        self.assertEqual(self.run_command("rotate-data-key", "app~nowhere").returncode, 64)

    def test_rotate_data_key_and_wait(self):
        with Kvd("--key-retirement", "0s", "--maintenance-interval", "10ms", storage="sqlite") as kvd:
            ns = kvd.request("POST", "/namespaces", {"name": "secret", "applicationId": "app", "isSecretNamespace": True}).json()
            for number in range(50):
                kvd.request("PUT", f"/{ns['id']}/entries/{number}", {"value": f"value {number}"})
            done = self.run_command("rotate-data-key", ns["id"], "--wait", server=f"http://127.0.0.1:{kvd.admin_port}", token=kvd.token)
            self.assertEqual(done.returncode, 0, done)
            self.assertEqual(kvd.metrics()["kv_rekeying_namespaces"], 0)
            for number in range(50):
                self.assertEqual(kvd.request("GET", f"/{ns['id']}/entries/{number}").json()["value"], f"value {number}")

    def test_forget_master_key(self):
        in_use = next(re.search(r'key_id="([0-9a-f]+)"', name).group(1) for name in self.kvd.metrics() if name.startswith("kvd_build_info"))
        for key_id in (in_use, NO_KEY):
            done = self.run_command("forget-master-key", key_id)
            self.assertEqual(done.returncode, 64, done)
            self.assertIn("invalid-request", done.stderr)

    def test_what_is_wrong_is_said(self):
        for arguments in (("verify",), ("backup", "--to", self.kvd.path("x.backup")), ("rotate-data-key", "app~x"), ("forget-master-key", NO_KEY)):
            with self.subTest(command=arguments[0]):
                self.assertEqual(self.run_command(*arguments, token="unknown").returncode, 78)
                self.assertEqual(self.run_command(*arguments, token="reader").returncode, 64 if "app~x" in arguments else 78)
                self.assertEqual(self.run_command(*arguments, server="http://127.0.0.1:1").returncode, 70)
                self.assertEqual(self.run_command(*arguments, server="http://192.0.2.1:8421").returncode, 64)
                self.assertEqual(self.run_command(*arguments, server="https://127.0.0.1:8421").returncode, 64)
                done = run(*arguments, "--server", self.server)
                self.assertEqual(done.returncode, 78)
                self.assertIn("KVD_TOKEN", done.stderr)
        self.assertFalse(os.path.exists(self.kvd.path("x.backup")))


class FakeServer:
    """Answers one request with bytes, and closes."""

    def __init__(self, answer):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            connection.sendall(self.answer)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()
        self.listener.close()


if __name__ == "__main__":
    main()
