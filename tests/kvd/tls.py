"""The API by HTTPS: which protocols, suites and certificates it takes, client certificates as credentials, certificates that are
replaced while it serves."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest

from api import element, grant, query
from certificates import Authority
from harness import BASE, PATIENCE, Kvd, exchange, main, make_key, run, until

WORKER = "URI:spiffe://test/worker"


def certificate_element(name, *grants, user):
    return {"certificateName": name, "userId": user, "grants": list(grants)}


class TlsKvd(Kvd):
    """A kvd with a certificate; `client`: the one that requests show, (certificate, key)."""

    def __init__(self, authority, certificate, *flags, client=None, **options):
        self.authority, self.client = authority, client
        super().__init__("--tls-cert", certificate[0], "--tls-key", certificate[1], *flags, **options)

    def dial(self, admin=False):
        if admin:
            return super().dial(admin)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.context(self.client))

    def context(self, client=None):
        context = ssl.create_default_context(cafile=self.authority.file)
        if client:
            context.load_cert_chain(*client)
        return context

    def wrapped(self, client=None):
        """A TLS connection to write bytes to."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        return self.context(client or self.client).wrap_socket(plain, server_hostname="127.0.0.1")

    def s_client(self, *arguments, said="GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        """What openssl s_client says of a connection, in which it sends something."""
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-CAfile", self.authority.file, "-ign_eof", *arguments],
                              input=said, capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout + done.stderr


class TlsTestCase(unittest.TestCase):
    flags = ()
    tokens = None
    client = None
    is_client_vouched_for = False

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvd-test-tls-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.ca = Authority(cls.folder)
        cls.server = cls.ca.issue("server", "IP:127.0.0.1", "DNS:localhost")
        flags = list(cls.flags)
        if cls.is_client_vouched_for:
            flags += ["--tls-client-ca", cls.ca.file]
        cls.make_clients()
        cls.kvd = TlsKvd(cls.ca, cls.server, *flags, tokens=cls.tokens, client=cls.client)
        cls.addClassCleanup(cls.kvd.stop)

    @classmethod
    def make_clients(cls):
        pass


class Protocols(TlsTestCase):
    """Broken on purpose, and noticed: TLS 1.1 and suites without authenticated encryption were allowed."""

    def check(self, *arguments, ok, said=None):
        told = self.kvd.s_client(*arguments)
        with self.subTest(arguments=arguments):
            self.assertEqual("HTTP/1.1 200 OK" in told, ok, told)
            if said:
                self.assertRegex(told, said)

    def test_1_2_and_1_3_serve(self):
        self.check("-tls1_2", ok=True, said="TLSv1.2")
        self.check("-tls1_3", ok=True, said="TLSv1.3")

    def test_older_protocols_are_refused(self):
        # @SECLEVEL=0: our side of the test must be willing, or it proves nothing.
        for version in ("-tls1", "-tls1_1"):
            self.check(version, "-cipher", "ALL:@SECLEVEL=0", ok=False, said="alert protocol version|unsupported protocol|handshake failure")

    def test_suites_have_forward_secrecy_and_authenticated_encryption(self):
        for suite in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            self.check("-tls1_2", "-cipher", suite, ok=True)
        for suite in ("AES128-GCM-SHA256", "AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM8", "NULL",
                      "aNULL", "PSK", "kRSA"):
            self.check("-tls1_2", "-cipher", suite + ":@SECLEVEL=0", ok=False)

    def test_neither_renegotiation_nor_compression_nor_resumption_nor_early_data(self):
        told = self.kvd.s_client("-tls1_2", said="R\nR\n")  # s_client's command for it; the server answers no HTTP to it
        self.assertNotIn("HTTP/1.1 200 OK", told)
        told = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.kvd.port}", "-tls1_2"], input="R\nx", capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertRegex(told.stdout + told.stderr, "no renegotiation|RENEGOTIATING")
        self.assertNotIn("HTTP/1.1 200", told.stdout)
        told = self.kvd.s_client("-tls1_3")
        self.assertIn("Compression: NONE", told)
        self.assertNotIn("New, TLSv1.3, Reused", told)
        self.assertNotIn("Max Early Data: 16384", told)

    def test_alpn_is_http_1_1_or_nothing(self):
        self.check("-alpn", "h2,http/1.1", ok=True, said="ALPN protocol: http/1.1")
        self.check("-alpn", "h2", ok=False)

    def test_plain_http_and_noise_are_turned_away_and_others_are_served(self):
        for noise in (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"a" * 70000, b"\x80\x2e\x01\x03\x01", b""):
            with socket.create_connection(("127.0.0.1", self.kvd.port), timeout=PATIENCE) as connection:
                heard = b""
                with contextlib.suppress(OSError):  # it may have been closed already
                    connection.sendall(noise)
                    connection.shutdown(socket.SHUT_WR)
                    while part := connection.recv(4096):
                        heard += part
                self.assertNotIn(b"HTTP/1.1", heard)
        self.assertEqual(self.kvd.request("GET", "/healthz").status, 200)
        until(lambda: self.kvd.metrics()["kvd_tls_handshake_failures_total"] >= 3, "they are counted")

    def test_the_certificate_is_verified_by_a_client_that_does(self):
        self.assertIn("Verify return code: 0", self.kvd.s_client("-verify_return_error"))
        stranger = Authority(tempfile.mkdtemp(dir=self.folder))
        with self.assertRaises(ssl.SSLCertVerificationError):
            context = ssl.create_default_context(cafile=stranger.file)
            exchange(http.client.HTTPSConnection("127.0.0.1", self.kvd.port, timeout=PATIENCE, context=context), "GET", "/healthz")

    def test_when_the_certificate_ends_is_a_figure(self):
        ends = self.kvd.metrics()["kvd_tls_certificate_expiry_timestamp_seconds"]
        told = subprocess.run(["openssl", "x509", "-in", self.server[0], "-noout", "-checkend", "0", "-enddate", "-dateopt", "iso_8601"],
                              capture_output=True, text=True, check=True).stdout
        self.assertEqual(int(ssl.cert_time_to_seconds(re.sub(r"notAfter=(\d+)-(\d+)-(\d+) (\S+)Z.*", self.month, told, flags=re.S))), int(ends))

    @staticmethod
    def month(found):
        year, month, day, time = found.groups()
        return f"{'JanFebMarAprMayJunJulAugSepOctNovDec'[3 * int(month) - 3:3 * int(month)]} {int(day):2d} {time} {year} GMT"


class Traffic(TlsTestCase):
    """What goes on above TLS is what goes on without."""

    def ask(self, *arguments, status, **options):
        answer = self.kvd.request(*arguments, **options)
        self.assertEqual(answer.status, status, answer)
        return answer

    def namespace(self, name, **members):
        return self.ask("POST", "/namespaces", {"name": name, **members}, status=201).json()["id"]

    def test_a_large_value_goes_both_ways(self):
        ns = self.namespace("large", isSecretNamespace=True)
        value = "v" * (1 << 20)
        self.ask("PUT", f"/{ns}/entries/k", {"value": value}, status=201)
        self.assertEqual(self.ask("GET", f"/{ns}/entries/k", status=200).json()["value"], value)

    def test_a_request_may_come_byte_by_byte_and_many_at_once(self):
        with self.kvd.wrapped() as connection:
            request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            for at in range(len(request)):
                connection.sendall(request[at:at + 1])
            connection.sendall(request * 20)
            heard = b""
            while heard.count(b'{"status":"alive"}') < 21:
                part = connection.recv(65536)
                self.assertTrue(part)
                heard += part

    def test_a_reader_that_takes_its_time_gets_everything(self):
        ns = self.namespace("slow", isSecretNamespace=True)
        for number in range(8):
            self.ask("PUT", f"/{ns}/entries/k{number}", {"value": str(number) * (1 << 20)}, status=201)
        with self.kvd.wrapped() as connection:
            connection.sendall(f"GET {BASE}/{ns}/entries?includeValues=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.kvd.token}\r\n"
                               "Connection: close\r\n\r\n".encode())
            heard = 0
            while part := connection.recv(1000 if heard < 100_000 else 1 << 16):
                heard += len(part)
        self.assertGreater(heard, 2 << 20)

    def test_a_watch_tells_what_changes(self):
        ns = self.namespace("watched")
        with self.kvd.wrapped() as connection:
            connection.sendall(f"GET {BASE}/{ns}/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.kvd.token}\r\n\r\n".encode())
            heard = b""
            while b"id: " not in heard:
                heard += connection.recv(65536)
            self.ask("PUT", f"/{ns}/entries/seen", {"value": "1"}, status=201)
            while b"entry.created" not in heard and b"created" not in heard:
                part = connection.recv(65536)
                self.assertTrue(part, heard)
                heard += part

    def test_a_handshake_that_never_ends_is_ended(self):
        with TlsKvd(self.ca, self.server, "--header-timeout", "300ms") as kvd:
            with socket.create_connection(("127.0.0.1", kvd.port), timeout=PATIENCE) as connection:
                connection.sendall(b"\x16\x03\x01")
                self.assertEqual(connection.recv(100), b"")

    def test_the_end_is_said_before_the_connection_is_closed(self):
        """Without close_notify (RFC 8446, 6.1) a reader could not tell an end from a cut: ssl would raise SSLEOFError here."""
        with self.kvd.wrapped() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while connection.recv(65536):
                pass


class Reload(TlsTestCase):
    def peer(self, connection):
        return connection.getpeercert()["serialNumber"]

    def test_a_new_certificate_is_for_new_connections_and_old_ones_go_on(self):
        """Broken on purpose, and noticed: SIGHUP did not read the certificate."""
        with tempfile.TemporaryDirectory() as folder:
            place = [os.path.join(folder, name) for name in ("server.crt", "server.key")]
            for source, target in zip(self.server, place):
                shutil.copy2(source, target)
            with TlsKvd(self.ca, place) as kvd, kvd.wrapped() as old:
                before = self.peer(old)
                old.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertIn(b"200 OK", old.recv(65536))
                for source, target in zip(self.ca.issue("second", "IP:127.0.0.1"), place):
                    shutil.copy2(source, target)
                kvd.signal(signal.SIGHUP)
                until(lambda: kvd.logged("the certificate was read again"), "it is read again")
                with kvd.wrapped() as new:
                    self.assertNotEqual(self.peer(new), before)
                old.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertIn(b"200 OK", old.recv(65536))

                with open(place[0], "w", encoding="ascii") as file:
                    file.write("no certificate")
                kvd.signal(signal.SIGHUP)
                until(lambda: kvd.logged("certificate or key do not read; the old ones stay"), "it does not read")
                self.assertEqual(kvd.metrics()["kvd_tls_reload_failures_total"], 1)
                self.assertEqual(kvd.request("GET", "/healthz").status, 200)

    def test_one_that_ends_soon_is_warned_of(self):
        with TlsKvd(self.ca, self.ca.issue("short", "IP:127.0.0.1", days=3)) as kvd:
            self.assertTrue(kvd.logged("the TLS certificate ends soon, or has ended"))


class Clients(TlsTestCase):
    """Whoever shows a certificate is who the tokens file says."""

    is_client_vouched_for = True
    tokens = [certificate_element(WORKER, grant("kv-namespace:read"), user="worker"), element("token", grant("kv-namespace:read"), user="bearer")]

    @classmethod
    def make_clients(cls):
        issue = lambda name, *names, **options: cls.ca.issue(name, *names, usage=options.pop("usage", "clientAuth"), **options)
        cls.client = cls.worker = issue("worker", WORKER)
        cls.unknown = issue("unknown", "URI:spiffe://test/unknown")
        cls.nameless = issue("nameless")
        cls.expired = issue("expired", WORKER, ends="20210101000000Z")
        cls.premature = issue("premature", WORKER, starts="20990101000000Z", ends="20991231000000Z")
        cls.server_only = issue("server-only", WORKER, usage="serverAuth")
        cls.stranger = Authority(tempfile.mkdtemp(dir=cls.folder), "stranger").issue("worker", WORKER, usage="clientAuth")

    def ask(self, client, token=None, headers=None):
        connection = http.client.HTTPSConnection("127.0.0.1", self.kvd.port, timeout=PATIENCE, context=self.kvd.context(client))
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = "Bearer " + token
        return exchange(connection, "GET", BASE + "/namespaces", headers=sent)

    def test_a_certificate_is_a_credential(self):
        self.assertEqual(self.ask(self.worker).status, 200)
        records = self.kvd.request("GET", "/audit" + query(userId="worker")).json()["items"]
        self.assertEqual(records[0]["credentialId"], "cert:" + WORKER)

    def test_a_token_says_more_than_the_certificate(self):
        self.assertEqual(self.ask(self.worker, token="token").status, 200)
        self.assertTrue(self.kvd.request("GET", "/audit" + query(userId="bearer")).json()["items"])
        self.assertEqual(self.ask(self.worker, token="wrong").status, 401)

    def test_one_that_the_tokens_file_does_not_name_is_nobody(self):
        for client in (self.unknown, self.nameless):
            self.assertEqual(self.ask(client).status, 401)

    def test_what_is_not_vouched_for_does_not_get_in(self):
        """Broken on purpose, and noticed: the authority was not looked at."""
        for name in ("expired", "premature", "server_only", "stranger"):
            with self.subTest(name), self.assertRaises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                self.ask(getattr(self, name))
        with self.assertRaises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            self.ask(None, token="token")

    def test_one_certificate_may_be_as_good_as_a_token(self):
        with TlsKvd(self.ca, self.server, "--tls-client-ca", self.ca.file, "--tls-client-auth", "optional", tokens=self.tokens) as kvd:
            self.assertEqual(kvd.request("GET", "/namespaces", token="token").status, 200)
            self.assertEqual(kvd.request("GET", "/namespaces", token=None).status, 401)
            kvd.client = self.worker
            self.assertEqual(kvd.request("GET", "/namespaces", token=None).status, 200)
            kvd.client = self.expired
            with self.assertRaises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                kvd.request("GET", "/namespaces", token=None)

    def test_a_certificate_that_is_taken_out_of_the_file_ends_a_watch(self):
        with TlsKvd(self.ca, self.server, "--tls-client-ca", self.ca.file, tokens=self.tokens, client=self.worker) as kvd:
            ns = kvd.request("POST", "/namespaces", {"name": "n"}).json()["id"]
            with kvd.wrapped() as connection:
                connection.sendall(f"GET {BASE}/{ns}/watch HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                heard = b""
                while b"id: " not in heard:
                    heard += connection.recv(65536)
                kvd.write_tokens([])
                kvd.signal(signal.SIGHUP)
                while b"event: end" not in heard:
                    heard += connection.recv(65536)
                self.assertIn(b"unauthenticated", heard)


class Settings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvd-test-tls-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.ca = Authority(cls.folder)
        cls.certificate, cls.key = cls.ca.issue("server", "IP:127.0.0.1")

    def refused(self, *flags, said):
        done = run("serve", "--check-config", "--storage", "memory:", *flags,
                   environment={"KV_MASTER_KEY": make_key(), "KVD_ROOT_TOKEN": "t" * 40}, folder=self.folder)
        with self.subTest(flags=flags):
            self.assertIn(done.returncode, (64, 78) if said else (0,), done.stderr)
            self.assertRegex(done.stderr, said or "good")

    def test_what_is_missing_or_wrong_is_said(self):
        other, _ = self.ca.issue("other", "IP:127.0.0.1")
        self.refused("--tls-cert", self.certificate, "--tls-key", self.key, said=None)
        self.refused("--tls-cert", self.certificate, "--tls-key", self.key, "--listen", "0.0.0.0:0", "--admin-listen", "0.0.0.0:0", said=None)
        self.refused("--tls-cert", self.certificate, said="go together")
        self.refused("--tls-key", self.key, said="go together")
        self.refused("--tls-client-ca", self.ca.file, said="--tls-client-ca")
        self.refused("--tls-cert", "nowhere.crt", "--tls-key", self.key, said="nowhere.crt")
        self.refused("--tls-cert", other, "--tls-key", self.key, said="server.key")
        self.refused("--tls-cert", self.key, "--tls-key", self.key, said="holds no certificate")
        self.refused("--tls-cert", self.certificate, "--tls-key", self.key, "--tls-client-ca", self.key, said="holds no certificate")
        self.refused("--listen", "0.0.0.0:0", said="--insecure-http")
        self.refused("--listen", "127.0.0.1:0,0.0.0.0:0", said="--insecure-http")
        self.refused("--gateway-identity", said="no gateway could prove itself")
        self.refused("--gateway-identity", "--listen", "unix:k.sock", said="--permissions-url")
        self.refused("--permissions-url", "http://192.0.2.1/", said="https")
        self.refused("--trusted-proxies", "10.0.0.0/33", said="no network")
        self.refused("--gateway-names", "gateway", said="DNS:gateway.example")
        os.chmod(self.key, 0o644)
        try:
            self.refused("--tls-cert", self.certificate, "--tls-key", self.key, said="chmod 600")
        finally:
            os.chmod(self.key, 0o600)


if __name__ == "__main__":
    main()
