"""kvd from the outside: its command line, its settings, its exit codes, its signals, its secrets."""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import unittest

import harness
from harness import BASE, Connection, Kvd, main, make_key, run, until

USAGE, INTERNAL, CONFIG = 64, 70, 78
ROOT = "r" * 32


def element(token, *grants, user="alice", **more):
    """One element of a tokens file."""
    return {"userId": user, "tokenSha256": hashlib.sha256(token.encode()).hexdigest(), "grants": list(grants), **more}


EVERYTHING = {"permissions": ["*"], "applicationId": "*", "namespaceId": "*", "keys": ["*"]}


class Folder(unittest.TestCase):
    """Tests with a folder of their own, where kvd runs."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text, mode=0o600):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def fails(self, code, message, *arguments, environment=None):
        """kvd ends with `code` and exactly one line on stderr, which has `message` in it; stdout stays empty."""
        if environment is None:
            environment = {"KV_MASTER_KEY": make_key(), "KVD_ROOT_TOKEN": ROOT}
        result = run(*arguments, environment=environment, folder=self.folder)
        self.assertEqual((result.returncode, result.stdout), (code, ""), result.stderr)
        lines = [line for line in result.stderr.splitlines() if line.startswith("kvd: ")]
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertIn(message, lines[0])


class CommandLine(Folder):
    def test_usage_errors_are_one_clear_line(self):
        self.fails(USAGE, "a command is needed")
        self.fails(USAGE, "sreve", "sreve")
        self.fails(USAGE, "--lissten", "serve", "--lissten", "x")
        self.fails(USAGE, "--threads: must be a number", "serve", "--threads", "many")
        self.fails(USAGE, "--listen", "serve", "--listen", "nowhere")
        self.fails(USAGE, "--user", "token", "--grant", "*")
        self.fails(USAGE, "kv-entry:fly", "token", "--user", "u", "--grant", "permissions=kv-entry:fly")

    def test_help_and_version(self):
        version = run("--version")
        self.assertEqual((version.returncode, version.stderr), (0, ""))
        self.assertRegex(version.stdout, r"^kvd \d+\.\d+\.\d+\n$")
        for arguments in (["--help"], ["serve", "--help"], ["serve", "--help-all"], ["token", "--help"], ["keygen", "--help"]):
            result = run(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("Usage:", result.stdout)
        self.assertIn("KVD_ADMIN_LISTEN", run("serve", "--help").stdout)
        self.assertIn("KV_MASTER_KEY", run("--help").stdout)

    def test_configuration_errors_name_what_is_wrong(self):
        secrets = {"KV_MASTER_KEY": make_key(), "KVD_ROOT_TOKEN": ROOT}
        self.fails(CONFIG, "unknown variable KVD_LISSTEN", "serve", environment={**secrets, "KVD_LISSTEN": "x"})
        self.fails(CONFIG, "KVD_THREADS: must be a number", "serve", environment={**secrets, "KVD_THREADS": "x"})
        config = self.write("kvd.toml", 'listen = "127.0.0.1:0"\nlissten = "x"\n')
        self.fails(CONFIG, 'line 2: unknown key "lissten"', "serve", "--config", config)
        self.fails(CONFIG, "missing.toml", "serve", "--config", "missing.toml")
        self.fails(CONFIG, "--insecure-http", "serve", "--listen", "0.0.0.0:0")
        self.fails(CONFIG, "--insecure-http", "serve", "--admin-listen", "0.0.0.0:0")
        self.fails(CONFIG, "the storage: A storage is", "serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--storage", "ftp:x")

    def test_without_a_key_or_anybody_to_log_in_it_says_what_to_do(self):
        self.fails(CONFIG, "kvd keygen", "serve", environment={"KVD_ROOT_TOKEN": ROOT})
        self.fails(CONFIG, "KVD_ROOT_TOKEN", "serve", environment={"KV_MASTER_KEY": make_key()})
        self.fails(CONFIG, "32", "serve", environment={"KV_MASTER_KEY": make_key(), "KVD_ROOT_TOKEN": "short"})
        self.fails(CONFIG, "KV_MASTER_KEY", "serve", environment={"KV_MASTER_KEY": "bm90IDMyIGJ5dGVz", "KVD_ROOT_TOKEN": ROOT})
        self.fails(CONFIG, "missing.key", "serve", environment={"KV_MASTER_KEY_FILE": "missing.key", "KVD_ROOT_TOKEN": ROOT})
        both = {"KV_MASTER_KEY": make_key(), "KV_MASTER_KEY_FILE": "x", "KVD_ROOT_TOKEN": ROOT}
        self.fails(CONFIG, "both", "serve", environment=both)
        expired = self.write("tokens.json", json.dumps([element("t", EVERYTHING, expiresAt="2020-01-01T00:00:00Z")]))
        self.fails(CONFIG, "nobody could log in", "serve", "--tokens", expired, environment={"KV_MASTER_KEY": make_key()})
        self.assertNotIn("kv.db", os.listdir(self.folder))

    def test_check_config_checks_everything_and_serves_nothing(self):
        good = {"KV_MASTER_KEY": make_key(), "KVD_ROOT_TOKEN": ROOT}
        result = run("serve", "--check-config", environment=good, folder=self.folder)
        self.assertEqual((result.returncode, result.stdout), (0, ""), result.stderr)
        self.assertEqual(os.listdir(self.folder), [])
        self.fails(CONFIG, "keygen", "serve", "--check-config", environment={"KVD_ROOT_TOKEN": ROOT})
        tokens = self.write("tokens.json", json.dumps([{**element("t", EVERYTHING), "admin": True}]))
        self.fails(CONFIG, 'tokens[0]: unknown member "admin"', "serve", "--check-config", "--tokens", tokens)
        self.fails(CONFIG, "tokens.jsn", "serve", "--check-config", "--tokens", "tokens.jsn")

    def test_flags_win_over_environment_over_file(self):
        config = self.write("kvd.toml", "connections-max = 1  # of three\nadmin-listen = 'off'\n")

        def connections_served(*flags, environment=None):
            with Kvd("--config", config, *flags, "--admin-listen", "127.0.0.1:0", environment=environment) as kvd:
                held = [kvd.connect() for _ in range(4)]
                try:
                    for connection in held:
                        connection.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                    return sum(connection.answer().status == 200 for connection in held)
                finally:
                    for connection in held:
                        connection.socket.close()
        self.assertEqual(connections_served(), 1)
        self.assertEqual(connections_served(environment={"KVD_CONNECTIONS_MAX": "2"}), 2)
        self.assertEqual(connections_served("--connections-max", "3", environment={"KVD_CONNECTIONS_MAX": "2"}), 3)

    def test_the_environment_alone_is_enough(self):
        environment = {"KVD_STORAGE": "memory:", "KVD_LOG_LEVEL": "info"}
        with Kvd(storage=None, environment=environment) as kvd:
            self.assertEqual(kvd.request("GET", "/namespaces").status, 200)

    def test_a_port_in_use_is_refused(self):
        with Kvd() as kvd:
            self.fails(CONFIG, f"127.0.0.1:{kvd.port}", "serve", "--log-level", "error", "--storage", "memory:", "--listen", f"127.0.0.1:{kvd.port}", "--admin-listen", "off")

    def test_ipv6(self):
        try:
            probe = harness.socket.create_server(("::1", 0), family=harness.socket.AF_INET6)
            probe.close()
        except OSError:
            self.skipTest("no IPv6 here")
        process = subprocess.Popen([harness.KVD, "serve", "--dev", "--listen", "[::1]:0", "--admin-listen", "off"], env=harness.clean_environment(),
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            self.assertRegex(process.stdout.readline(), r"^kvd: listening on http://\[::1\]:\d+\n$")
            process.terminate()
            self.assertEqual(process.wait(harness.PATIENCE), 0)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


class Keys(Folder):
    def test_keygen_prints_a_key(self):
        first, second = run("keygen"), run("keygen")
        self.assertEqual(first.returncode, 0)
        self.assertEqual(len(base64.b64decode(first.stdout, validate=False)), 32)
        self.assertRegex(first.stdout, r"^[A-Za-z0-9+/]{43}=\n$")
        self.assertNotEqual(first.stdout, second.stdout)

    def test_keygen_writes_a_file_for_its_owner_alone_and_replaces_none(self):
        result = run("keygen", "--out", "master.key", folder=self.folder)
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        self.assertEqual(stat.S_IMODE(os.stat(self.path("master.key")).st_mode), 0o600)
        with open(self.path("master.key"), encoding="ascii") as file:
            before = file.read()
        self.assertEqual(len(base64.b64decode(before)), 32)
        again = run("keygen", "--out", "master.key", folder=self.folder)
        self.assertEqual(again.returncode, CONFIG)
        with open(self.path("master.key"), encoding="ascii") as file:
            self.assertEqual(file.read(), before)
        with Kvd(environment={"KV_MASTER_KEY_FILE": self.path("master.key")}, key="") as kvd:
            self.assertEqual(kvd.request("GET", "/namespaces").status, 200)

    def test_a_key_may_be_hex(self):
        with Kvd(key="ab" * 32) as kvd:
            self.assertEqual(kvd.request("GET", "/readyz", token=None).status, 200)

    def test_a_wrong_key_changes_nothing(self):
        with Kvd(storage="sqlite", folder=self.folder) as kvd:
            kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"})
            key = kvd.key
        self.fails(CONFIG, "sqlite:kv.db: ", "serve", "--log-level", "error", "--listen", "127.0.0.1:0", "--admin-listen", "off")
        with Kvd(storage="sqlite", folder=self.folder, key=key) as kvd:
            self.assertEqual([n["name"] for n in kvd.request("GET", "/namespaces").json()["items"]], ["n"])

    def test_a_file_that_another_kvd_has_open_is_refused(self):
        with Kvd(storage="sqlite", folder=self.folder) as kvd:
            self.fails(CONFIG, str(kvd.process.pid), "serve", "--log-level", "error", "--listen", "127.0.0.1:0", "--admin-listen", "off",
                       environment={"KV_MASTER_KEY": kvd.key, "KVD_ROOT_TOKEN": ROOT})


class Tokens(Folder):
    def test_token_prints_a_token_and_its_line(self):
        result = run("token", "--user", "alice", "--expires-at", "2100-01-01T00:00:00Z", "--grant", "*",
                     "--grant", "permissions=kv-entry:read,kv-entry:write;applicationId=app-1;namespaceId=app-1~production;keys=config/**",
                     "--grant", json.dumps(EVERYTHING))
        self.assertEqual(result.returncode, 0, result.stderr)
        token, line = result.stdout.splitlines()
        self.assertGreaterEqual(len(token), 43)
        self.assertEqual(json.loads(line), element(
            token, EVERYTHING,
            {"permissions": ["kv-entry:read", "kv-entry:write"], "applicationId": "app-1", "namespaceId": "app-1~production", "keys": ["config/**"]},
            EVERYTHING, expiresAt="2100-01-01T00:00:00Z"))
        with Kvd(tokens=f"[{line}]") as kvd:
            self.assertEqual(kvd.request("GET", "/namespaces", token=token).status, 200)
            self.assertEqual(kvd.request("GET", "/namespaces", token=token + "x").status, 401)

    def test_a_token_may_do_what_its_grants_say(self):
        reader = {**EVERYTHING, "permissions": ["kv-entry:read"], "keys": ["config/**"]}
        with Kvd(tokens=[element("reader-token", reader, user="bob")]) as kvd:
            kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"})
            for key in ("config/a", "other/a"):
                self.assertEqual(kvd.request("PUT", f"/app~n/entries/{key}", {"value": 1}).status, 201)
            self.assertEqual(kvd.request("GET", "/app~n/entries/config/a", token="reader-token").status, 200)
            self.assertEqual(kvd.request("GET", "/app~n/entries/other/a", token="reader-token").status, 403)
            self.assertEqual(kvd.request("PUT", "/app~n/entries/config/a", {"value": 2}, token="reader-token").status, 403)
            audit = kvd.request("GET", "/audit?userId=bob").json()["items"]
            credential = "token:" + hashlib.sha256(b"reader-token").hexdigest()[:12]
            self.assertEqual({row["credentialId"] for row in audit}, {credential})
            self.assertEqual({row["peer"] for row in audit}, {"127.0.0.1"})

    def test_refusals_of_strangers_are_recorded(self):
        with Kvd() as kvd:
            kvd.request("GET", "/namespaces", token="x" * 32, headers={"X-Request-Id": "stranger-1"})
            rows = kvd.request("GET", "/audit?success=false").json()["items"]
            self.assertEqual([(row["requestId"], row["operation"], row["reason"]) for row in rows], [("stranger-1", "namespace.list", "unauthenticated")])

    def test_a_token_that_expires_stops_working(self):
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
        with Kvd(tokens=[element("short-lived", EVERYTHING, expiresAt=soon)]) as kvd:
            self.assertEqual(kvd.request("GET", "/namespaces", token="short-lived").status, 200)
            until(lambda: kvd.request("GET", "/namespaces", token="short-lived").status == 401, "the token expires")

    def test_hangup_reads_the_tokens_again_and_a_bad_file_keeps_the_old(self):
        def works(kvd, token):
            return kvd.request("GET", "/namespaces", token=token).status == 200

        with Kvd(tokens=[element("first", EVERYTHING)]) as kvd:
            self.assertTrue(works(kvd, "first"))
            kvd.write_tokens([element("second", EVERYTHING)])
            self.assertFalse(works(kvd, "second"))
            kvd.signal(signal.SIGHUP)
            until(lambda: works(kvd, "second"), "the new token works")
            self.assertFalse(works(kvd, "first"))
            self.assertTrue(works(kvd, kvd.token))

            kvd.write_tokens('[{"userId": "x"}]')
            kvd.signal(signal.SIGHUP)
            until(lambda: kvd.metrics()["kvd_token_reload_failures_total"] == 1, "the failure is counted")
            self.assertEqual(kvd.metrics()["kvd_token_reloads_total"], 2)
            self.assertTrue(works(kvd, "second"))
            until(lambda: any("tokenSha256" in entry.get("reason", "") for entry in kvd.log()), "the failure is logged")

    def test_files_that_everybody_may_read_or_write_are_refused(self):
        """Broken on purpose, and noticed: only those that may be written were looked at."""
        private = {"KV_MASTER_KEY_FILE": self.write("master.key", make_key()), "KVD_ROOT_TOKEN": ROOT}
        self.write("tokens.json", "[]")
        self.write("kv.db", "")
        flags = ("serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--storage", "sqlite:kv.db", "--tokens", "tokens.json")
        for name in ("master.key", "tokens.json", "kv.db"):
            for mode in (0o604, 0o602):
                os.chmod(self.path(name), mode)
                self.fails(78, f"{name}: every user of this machine may read or write it: chmod 600", *flags, environment=private)
            os.chmod(self.path(name), 0o600)
        checked = run(*flags, "--check-config", environment=private, folder=self.folder)
        self.assertEqual(checked.returncode, 0, checked.stderr)

    def test_a_key_that_the_group_may_read_is_warned_of(self):
        key = self.write("master.key", make_key(), mode=0o640)
        with Kvd(environment={"KV_MASTER_KEY_FILE": key}, key="", tokens=[element("t", EVERYTHING)]) as kvd:
            os.chmod(kvd.path("tokens.json"), 0o640)  # only hashes
            warned = until(lambda: [entry["file"] for entry in kvd.log() if entry["level"] == "warning"], "a warning")
            self.assertEqual(warned, [key])


class Dev(Folder):
    def test_dev_makes_up_what_it_needs_and_says_so(self):
        process = subprocess.Popen([harness.KVD, "serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "off"], env=harness.clean_environment(),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        try:
            port = int(re.fullmatch(r"kvd: listening on http://127\.0\.0\.1:(\d+)\n", process.stdout.readline()).group(1))
            token, said = None, ""
            while token is None:
                line = process.stderr.readline()
                said += line
                token = token or (re.fullmatch(r"(kvt_\S{43})\n", line) or [None, None])[1]
            self.assertIn("not for production", said)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=harness.PATIENCE)
            connection.request("POST", BASE + "/namespaces", json.dumps({"name": "n", "isSecretNamespace": True}), {"Authorization": "Bearer " + token})
            self.assertEqual(connection.getresponse().status, 201)
            connection.close()
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(harness.PATIENCE), 0)
            self.assertEqual(process.stdout.read(), "")
        finally:
            process.kill()
            process.communicate()
        self.assertEqual(os.listdir(self.folder), [])

    def test_dev_stays_on_this_machine_and_keeps_no_file_it_could_not_open_again(self):
        self.fails(CONFIG, "loopback", "serve", "--dev", "--listen", "0.0.0.0:0", "--insecure-http", environment={})
        self.fails(CONFIG, "KV_MASTER_KEY", "serve", "--dev", "--storage", "sqlite:kv.db", environment={})


class Process(Folder):
    def test_secrets_leave_the_environment(self):
        with Kvd() as kvd:
            kvd.request("GET", "/namespaces")
            with open(f"/proc/{kvd.process.pid}/environ", "rb") as file:
                environment = file.read()
            self.assertNotIn(kvd.token.encode(), environment)
            self.assertNotIn(kvd.key.encode(), environment)
            self.assertIn(b"PATH=", environment)
            with open(f"/proc/{kvd.process.pid}/limits", encoding="ascii") as file:
                self.assertRegex(file.read(), r"Max core file size +0 +0 ")

    def test_stdout_is_one_line_and_logs_are_json_without_secrets(self):
        with Kvd("--access-log", "--log-level", "debug") as kvd:
            kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"})
            kvd.request("PUT", "/app~n/entries/some/key", {"value": "the-value"})
            kvd.request("GET", "/app~n/entries/some/key?version=1")
            until(lambda: len([e for e in kvd.log() if e["message"] == "request"]) >= 3, "requests are logged")
            kvd.signal(signal.SIGTERM)
            self.assertEqual(kvd.wait(), 0)
            lines = kvd.read("stderr").splitlines()
            entries = [json.loads(line) for line in lines]
            self.assertEqual(kvd.read("stdout"), f"kvd: listening on http://127.0.0.1:{kvd.port}\n")
            text = kvd.read("stderr")
            for secret in (kvd.token, kvd.key, "the-value", "some/key"):
                self.assertNotIn(secret, text)
            put = next(entry for entry in entries if entry.get("operation") == "entry.put")
            self.assertEqual((put["level"], put["method"], put["status"]), ("info", "PUT", "201"))
            self.assertTrue(all({"time", "level", "message"} <= entry.keys() for entry in entries))
            self.assertEqual(entries[-1]["message"], "stopped")
            self.assertIn("audit-head", {entry["message"] for entry in entries})

    def test_logs_may_be_text(self):
        with Kvd("--log-format", "text", "--admin-listen", "off") as kvd:
            until(lambda: " info serving version=" in kvd.read("stderr"), "the start is logged")

    def test_terminate_finishes_what_is_in_flight(self):
        with Kvd() as kvd:
            kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"})
            body = json.dumps({"value": "slow"})
            head = (f"PUT {BASE}/app~n/entries/k HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {kvd.token}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n")
            with kvd.connect() as idle, kvd.connect() as busy, kvd.connect(admin=True) as admin:
                idle.send("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
                self.assertEqual(idle.answer().status, 200)
                # Heard, or it would count as idle.
                self.assertEqual(busy.send(head).answer().status, 100)
                busy.send(body[:5])
                until(lambda: kvd.metrics()["kvd_connections"] >= 4, "kvd has the connections")
                kvd.signal(signal.SIGTERM)
                self.assertTrue(idle.ends())

                def not_ready():
                    admin.send("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
                    answer = admin.answer()
                    return answer.status == 503 and answer.code == "shutting-down"
                until(not_ready, "readyz says that kvd is stopping")
                self.assertIsNone(kvd.process.poll())
                with self.assertRaises(ConnectionRefusedError):
                    Connection(kvd.port)
                busy.send(body[5:])
                answer = busy.answer()
                self.assertEqual((answer.status, answer.headers["connection"]), (201, "close"))
                self.assertTrue(busy.ends())
            self.assertEqual(kvd.wait(), 0)

    def test_terminate_waits_no_longer_than_told(self):
        with Kvd("--drain-timeout", "200ms") as kvd:
            with kvd.connect() as busy:
                busy.send("GET /healthz HTTP/1.1\r\n")
                until(lambda: kvd.metrics()["kvd_connections"] >= 1, "kvd has the connection")
                kvd.signal(signal.SIGTERM)
                self.assertEqual(kvd.wait(), 0)

    def test_a_second_signal_ends_it_at_once(self):
        kvd = Kvd()
        try:
            with kvd.connect() as busy:
                busy.send("GET /healthz HTTP/1.1\r\n")
                until(lambda: kvd.metrics()["kvd_connections"] >= 1, "kvd has the connection")
                kvd.signal(signal.SIGTERM)
                until(lambda: kvd.logged("stopping: finishing what is in flight"), "the first signal is heard")
                kvd.signal(signal.SIGINT)
                self.assertEqual(kvd.wait(), INTERNAL)
        finally:
            kvd.kill()

    def test_what_was_acknowledged_is_there_after_a_kill(self):
        kvd = Kvd(storage="sqlite", folder=self.folder)
        try:
            kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"})
            acknowledged = []

            def write(worker):
                for i in range(10_000):
                    try:
                        answer = kvd.request("PUT", f"/app~n/entries/{worker}/{i}", {"value": i})
                    except (OSError, http.client.HTTPException):
                        return
                    if answer.status == 201:
                        acknowledged.append(f"{worker}/{i}")
            writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
            for writer in writers:
                writer.start()
            until(lambda: len(acknowledged) > 50, "writes are acknowledged")
            kvd.process.kill()
            for writer in writers:
                writer.join()
            kvd.wait()
            with Kvd(storage="sqlite", folder=self.folder, key=kvd.key) as again:
                for key in acknowledged:
                    self.assertEqual(again.request("GET", f"/app~n/entries/{key}").status, 200, key)
        finally:
            kvd.kill()


if __name__ == "__main__":
    main()
