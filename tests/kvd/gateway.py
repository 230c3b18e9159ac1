"""A gateway says on whose behalf it asks, a permission service what they were granted; and everybody else who tries to."""

import http.client
import os
import ssl
import tempfile
import threading
import time
import unittest

from api import grant, query
from certificates import Authority
from fake_service import FakeService, drip, endless, endless_chunks, hang, reset, response
from harness import BASE, PATIENCE, REVOKED_WITHIN, SANITIZERS, Kvd, UnixConnection, exchange, main, until

GATEWAY = "DNS:gateway.example"
ALL = ["kv-namespace:read", "kv-namespace:write", "kv-entry:read", "kv-entry:write"]


class Company:
    """A permission service that knows what it was told."""

    def __init__(self):
        self.permissions = {("ann", "app"): {"permissions": ALL}}
        self.special = None  # what it answers instead

    def __call__(self, path, query, headers):
        if self.special is not None:
            return self.special
        return response(self.permissions.get((query.get("userId"), query.get("applicationId")), {"permissions": []}))


class GatewayTestCase(unittest.TestCase):
    flags = ()

    def setUp(self):
        self.company = Company()
        self.service = FakeService(self.company)
        self.addCleanup(self.service.__exit__)
        self.folder = tempfile.mkdtemp(prefix="kvd-test-gateway-")
        self.socket = os.path.join(self.folder, "kvd.sock")
        self.kvd = Kvd("--listen", f"127.0.0.1:0,unix:{self.socket}", "--gateway-identity", "--permissions-url", self.service.url(), "--denial-window", "0",
                       *self.flags)
        self.addCleanup(self.kvd.stop)

    def ask(self, user="ann", application="app", method="GET", path="/namespaces", body=None, headers=None):
        """As the gateway, through the Unix socket."""
        sent = dict(headers or {})
        if user is not None:
            sent["X-User-Id"] = user
        if application is not None:
            sent["X-Application-Id"] = application
        return exchange(UnixConnection(self.socket), method, BASE + path, body, sent)

    def raw(self, lines, is_unix=True):
        """A request whose header lines are sent as they are."""
        connection = UnixConnection(self.socket) if is_unix else http.client.HTTPConnection("127.0.0.1", self.kvd.port, timeout=PATIENCE)
        connection.connect()
        with connection.sock as plain:
            plain.sendall((f"GET {BASE}/namespaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + "\r\n").encode("latin-1"))
            heard = b""
            while part := plain.recv(65536):
                heard += part
        return int(heard.split(b" ")[1]), heard

    def users(self):
        """Who the audit says asked, so far, besides root."""
        records = self.kvd.request("GET", "/audit" + query(limit=1000)).json()["items"]
        return {record["userId"] for record in records} - {"root", "", None, "system"}


class Identity(GatewayTestCase):
    def test_a_user_may_what_the_service_says(self):
        created = self.ask(method="POST", path="/namespaces", body='{"name": "n", "applicationId": "app"}', headers={"Content-Type": "application/json"})
        self.assertEqual(created.status, 201, created)
        self.assertEqual([ns["name"] for ns in self.ask().json()["items"]], ["n"])
        self.assertEqual(self.ask(user="bob").json().get("items", []), [])
        elsewhere = self.ask(method="POST", path="/namespaces", body='{"name": "n", "applicationId": "other"}', headers={"Content-Type": "application/json"})
        self.assertIn(elsewhere.status, (403, 404), elsewhere)
        record = self.kvd.request("GET", "/audit" + query(userId="ann", operation="namespace.create", success=True)).json()["items"][0]
        self.assertEqual((record["userId"], record["applicationId"], record["credentialId"], record["peer"]), ("ann", "app", "gateway", "unix"))
        asked = self.service.asked[0]
        self.assertEqual(asked[:2], ("/permissions", {"userId": "ann", "applicationId": "app"}))

    def test_grants_may_be_told_whole_and_are_limited_to_the_application(self):
        """Broken on purpose, and noticed: what was granted in other applications counted."""
        for application in ("app", "other"):
            for name in ("one", "two"):
                self.assertEqual(self.kvd.request("POST", "/namespaces", {"name": name, "applicationId": application}).status, 201)
        self.company.permissions["cay", "app"] = {"grants": [grant("kv-namespace:read", ns="app~one"), grant("kv-namespace:read", ns="other~one"),
                                                             grant("kv-namespace:read", application="other")]}
        seen = [(ns["applicationId"], ns["name"]) for ns in self.ask(user="cay").json()["items"]]
        self.assertEqual(seen, [("app", "one")])
        self.company.permissions["dan", "app"] = {"grants": [grant("kv-namespace:read")]}  # everywhere
        self.assertEqual(sorted((ns["applicationId"], ns["name"]) for ns in self.ask(user="dan").json()["items"]), [("app", "one"), ("app", "two")])

    def test_without_an_application_nothing_is_granted(self):
        self.company.permissions["ann", None] = {"permissions": ALL}
        self.assertEqual(self.ask(application=None).json().get("items", []), [])
        self.assertEqual(self.service.asked, [])

    def test_a_permission_taken_away_is_gone_within_5_seconds(self):
        self.assertEqual(self.kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"}).status, 201)
        self.assertEqual(len(self.ask().json()["items"]), 1)
        self.company.permissions.clear()
        until(lambda: not self.ask().json().get("items"), "it is gone", patience=REVOKED_WITHIN + 0.5)

    def test_a_watch_ends_with_the_permission(self):
        """Broken on purpose, and noticed: who watches was not judged again."""
        ns = self.kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"}).json()["id"]
        connection = UnixConnection(self.socket)
        connection.connect()
        with connection.sock as plain:
            plain.sendall(f"GET {BASE}/{ns}/watch HTTP/1.1\r\nHost: x\r\nX-User-Id: ann\r\nX-Application-Id: app\r\n\r\n".encode())
            heard = b""
            while b"id: " not in heard:
                heard += plain.recv(65536)
            for number in range(3):  # answers are kept for 5 s: it goes on beyond that, asking anew
                until(lambda before=len(self.service.asked): len(self.service.asked) > before, f"it is asked for again, {number}")
            self.assertNotIn(b"event: end", heard)
            self.company.permissions.clear()
            plain.settimeout(REVOKED_WITHIN + 0.5)
            while b"event: end" not in heard:
                heard += plain.recv(65536)

    def test_a_token_is_as_good_through_the_socket(self):
        answer = exchange(UnixConnection(self.socket), "GET", BASE + "/namespaces", headers={"Authorization": "Bearer " + self.kvd.token})
        self.assertEqual(answer.status, 200)
        self.assertEqual(exchange(UnixConnection(self.socket), "GET", BASE + "/namespaces").status, 401)

    def test_the_socket_is_for_owner_and_group_and_goes_with_kvd(self):
        self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o660)
        self.kvd.stop()
        self.assertFalse(os.path.exists(self.socket))
        with open(self.socket, "w", encoding="ascii"):
            pass  # no socket: somebody's file, which stays
        again = Kvd.__new__(Kvd)
        with self.assertRaisesRegex(AssertionError, "cannot listen"):
            again.__init__("--listen", f"127.0.0.1:0,unix:{self.socket}")
        self.assertTrue(os.path.exists(self.socket))


class Spoofing(GatewayTestCase):
    """Nobody becomes somebody else by how he writes his headers."""

    def refused(self, lines, is_unix=True):
        before = self.users()
        status, heard = self.raw(lines, is_unix)
        with self.subTest(lines=lines, is_unix=is_unix):
            self.assertEqual(status, 400, heard)
            self.assertEqual(self.users() - before, set(), "somebody was taken for somebody")

    def test_whoever_is_no_gateway_is_told_so(self):
        """Broken on purpose, and noticed: any peer was believed."""
        bearer = f"Authorization: Bearer {self.kvd.token}\r\n"
        for lines in ("X-User-Id: ann\r\n", "X-User-Id: ann\r\nX-Application-Id: app\r\n", "X-Application-Id: app\r\n", "x-user-id: ann\r\n",
                      "X_User_Id: ann\r\n", "X-User_Id: ann\r\n", "X-User-Id:\r\n"):
            self.refused(lines, is_unix=False)
            self.refused(bearer + lines, is_unix=False)

    def test_what_is_ambiguous_is_refused_of_a_gateway_too(self):
        good = "X-User-Id: ann\r\nX-Application-Id: app\r\n"
        self.assertEqual(self.raw(good)[0], 200)
        for lines in ("X-User-Id: ann\r\nX-User-Id: root\r\n", good + "X-Application-Id: other\r\n", good + "x-user-id: ann\r\n",
                      "X-User-Id: ann\r\nX_User_Id: root\r\n", "X_User_Id: ann\r\n", "X-User-Id: ann\r\nX-Application_Id: app\r\n",
                      good + "Connection: X-User-Id\r\n", good + "Connection: keep-alive, x-application-id\r\n",
                      "X-User-Id: ann\r\n root\r\n", "X-User-Id: ann\r\n\tX-Application-Id: app\r\n",  # folded
                      "X-User-Id : ann\r\n", " X-User-Id: ann\r\n",
                      "X-User-Id:\r\n", "X-User-Id: \r\nX-Application-Id: app\r\n", "X-User-Id: " + "a" * 256 + "\r\n", "X-User-Id: a\x01b\r\n",
                      "X-User-Id: a\rb\r\n", "X-User-Id: a\x00b\r\n", "X-User-Id: ann\r\nX-Application-Id:\r\n", "X-User-Id: ann\r\nX-Application-Id: *\r\n",
                      "X-Application-Id: app\r\n",
                      good + f"Authorization: Bearer {self.kvd.token}\r\n"):
            self.refused(lines)

    def test_a_trailer_says_nothing(self):
        body = "2\r\n{}\r\n0\r\nX-User-Id: ann\r\nX-Application-Id: app\r\n\r\n"
        status, heard = self.raw_post("Transfer-Encoding: chunked\r\nTrailer: X-User-Id\r\n", body)
        self.assertIn(status, (400, 401), heard)
        self.assertEqual(self.users(), set())
        status, heard = self.raw_post("Transfer-Encoding: chunked\r\nX-User-Id: bob\r\nX-Application-Id: app\r\n", body)
        self.assertNotIn("ann", self.users())

    def raw_post(self, lines, body):
        connection = UnixConnection(self.socket)
        connection.connect()
        with connection.sock as plain:
            plain.sendall((f"POST {BASE}/namespaces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n" + lines + "\r\n" + body).encode())
            heard = b""
            while part := plain.recv(65536):
                heard += part
        return int(heard.split(b" ")[1]), heard

    def test_without_the_option_such_headers_are_ignored(self):
        with Kvd() as kvd:
            sent = {"X-User-Id": "ann", "X-Application-Id": "app"}
            self.assertEqual(kvd.request("GET", "/namespaces", headers=sent).status, 200)
            self.assertEqual(kvd.request("GET", "/namespaces", headers=sent, token=None).status, 401)
            self.assertNotIn("ann", {r["userId"] for r in kvd.request("GET", "/audit").json()["items"]})


class Service(GatewayTestCase):
    """A permission service that is ill: everybody is denied, with 503, and nothing piles up."""

    def rss(self):
        with open(f"/proc/{self.kvd.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    def denied(self, special, user):
        """Broken on purpose, and noticed: what it sent with another status counted."""
        self.company.special = special
        before = self.kvd.metrics()["kvd_permission_failures_total"]
        began = time.monotonic()
        answer = self.ask(user=user)
        took = time.monotonic() - began
        self.assertEqual((answer.status, answer.code), (503, "unavailable"), answer)
        self.assertGreater(self.kvd.metrics()["kvd_permission_failures_total"], before)
        self.assertLess(took, 15)  # 1 s, and what a busy machine adds
        return answer

    def test_whatever_it_does_wrong_nobody_gets_in(self):
        before = self.rss()
        granted = {"permissions": ["kv-admin", *ALL]}
        specials = {
            "hangs": hang, "resets": reset, "drips": drip, "a GiB": endless(1 << 30), "chunks without end": endless_chunks,
            "redirects": response(granted, "302 Found", headers=f"Location: {self.service.url('/elsewhere')}\r\n"),
            "not 200": response(granted, "203 Non-Authoritative Information"), "401": response(granted, "401 Unauthorized"), "500": response(granted, "500 Internal Server Error"),
            "no JSON": response("permissions"), "not whole": response('{"permissions": ["kv-admin"'), "a list": response(ALL), "no members": response({}),
            "no strings": response({"permissions": [1]}), "no list": response({"permissions": "kv-admin"}), "a null": response({"permissions": None}),
            "no grants": response({"grants": [{"permissions": ["*"]}]}), "grants and nonsense": response({"permissions": ALL, "grants": "*"}),
            "twice": response('{"permissions": [], "permissions": ["kv-admin"]}'),
            "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{}", "no HTTP": b"SSH-2.0-nonsense\r\n\r\n",
            "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n",
            "65 KiB": response({"permissions": ALL, "more": "x" * (65 << 10)}),
        }
        for number, (name, special) in enumerate(specials.items()):
            with self.subTest(name):
                self.denied(special if callable(special) else (lambda connection, sent=special: connection.sendall(sent)), f"user-{number}")
        self.company.special = None
        self.assertEqual(self.ask().status, 200)
        if not SANITIZERS:
            self.assertLess(self.rss() - before, 32 << 10, "KiB more than before")

    def test_one_that_is_silent_is_not_asked_by_everybody(self):
        self.company.special = hang
        threads = [threading.Thread(target=self.ask) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertLess(len(self.service.asked), 10)

    def test_requests_of_others_do_not_wait_for_it(self):
        self.company.special = hang
        waiting = threading.Thread(target=self.ask)
        waiting.start()
        until(lambda: self.service.asked, "it is asked")
        self.assertEqual(self.kvd.request("GET", "/namespaces").status, 200)
        self.assertTrue(waiting.is_alive())
        waiting.join()

    def test_a_connection_is_used_again(self):
        for number in range(20):
            self.assertEqual(self.ask(user=f"user-{number}").code, "permission-denied")
        self.assertEqual(len(self.service.asked), 20)
        self.assertEqual(self.service.connections, 1)

    def test_names_are_encoded(self):
        name = "a&b=c d/é#%00?"
        self.ask(user=name.encode().decode("latin-1"))
        self.assertEqual(self.service.asked[0][1], {"userId": name, "applicationId": "app"})

    def test_stopping_does_not_wait_for_it(self):
        self.company.special = hang
        waiting = threading.Thread(target=self.ask)
        waiting.start()
        until(lambda: self.service.asked, "it is asked")
        self.kvd.stop()
        waiting.join()


class ServiceByTls(unittest.TestCase):
    def test_it_is_asked_by_https_with_a_token_and_its_certificate_is_looked_at(self):
        """Broken on purpose, and noticed: its certificate was not looked at."""
        with tempfile.TemporaryDirectory() as folder:
            ca = Authority(folder)
            good, wrong = ca.issue("service", "IP:127.0.0.1"), ca.issue("wrong", "DNS:service.example")
            with open(os.path.join(folder, "token"), "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as file:
                file.write("let-me-in\n")
            for certificate, authority, status in ((good, ca.file, 200), (wrong, ca.file, 503), (good, None, 503)):
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(*certificate)
                path = os.path.join(folder, f"{status}-{bool(authority)}.sock")
                flags = ["--services-ca", authority] if authority else []
                with FakeService(Company(), context) as service, \
                        Kvd("--listen", f"127.0.0.1:0,unix:{path}", "--gateway-identity", "--permissions-url", service.url(),
                            "--permissions-token-file", os.path.join(folder, "token"), *flags) as kvd:
                    answer = exchange(UnixConnection(path), "GET", BASE + "/namespaces", headers={"X-User-Id": "ann", "X-Application-Id": "app"})
                    self.assertEqual(answer.status, status, answer)
                    if status == 200:
                        self.assertEqual(service.asked[0][2]["authorization"], "Bearer let-me-in")
                    else:
                        self.assertEqual(service.asked, [])


class ByCertificate(unittest.TestCase):
    def test_a_gateway_proves_itself_by_the_name_in_its_certificate(self):
        with tempfile.TemporaryDirectory() as folder, FakeService(Company()) as service:
            ca = Authority(folder)
            server = ca.issue("server", "IP:127.0.0.1")
            gateway = ca.issue("gateway", "DNS:other.example", GATEWAY, usage="clientAuth")
            other = ca.issue("other", "DNS:other.example", usage="clientAuth")
            with Kvd("--tls-cert", server[0], "--tls-key", server[1], "--tls-client-ca", ca.file, "--tls-client-auth", "optional",
                     "--gateway-identity", "--gateway-names", "DNS:none.example," + GATEWAY, "--permissions-url", service.url(),
                     "--trusted-proxies", "127.0.0.0/8") as kvd:
                def ask(client, headers):
                    context = ssl.create_default_context(cafile=ca.file)
                    if client:
                        context.load_cert_chain(*client)
                    return exchange(http.client.HTTPSConnection("127.0.0.1", kvd.port, timeout=PATIENCE, context=context), "GET",
                                    BASE + "/namespaces", headers=headers)
                said = {"X-User-Id": "ann", "X-Application-Id": "app"}
                self.assertEqual(ask(gateway, {**said, "X-Forwarded-For": "203.0.113.7, 127.0.0.9"}).status, 200)
                for client in (other, None):
                    answer = ask(client, said)
                    self.assertEqual((answer.status, answer.json()["field"]), (400, "X-User-Id"))
                kvd.dial = lambda admin=False: http.client.HTTPSConnection("127.0.0.1", kvd.port, timeout=PATIENCE,
                                                                           context=ssl.create_default_context(cafile=ca.file))
                record = kvd.request("GET", "/audit" + query(userId="ann")).json()["items"][0]
                self.assertEqual(record["peer"], "203.0.113.7")


class Proxies(unittest.TestCase):
    def peer(self, kvd, forwarded, connection=None, count=[0]):
        count[0] += 1
        connection = connection or http.client.HTTPConnection("127.0.0.1", kvd.port, timeout=PATIENCE)
        headers = {"Authorization": "Bearer " + kvd.token, "X-Request-Id": f"proxy-{count[0]}"}
        if forwarded is not None:
            headers["X-Forwarded-For"] = forwarded
        answer = exchange(connection, "GET", BASE + "/namespaces", headers=headers)
        self.assertEqual(answer.status, 200)
        records = kvd.request("GET", "/audit" + query(operation="namespace.list", limit=1)).json()["items"]
        return records[0]["peer"]

    def test_a_trusted_one_is_believed_up_to_the_first_that_is_not(self):
        """Broken on purpose, and noticed: the leftmost address was taken, which anybody may make up."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "k.sock")
            with Kvd("--listen", f"127.0.0.1:0,unix:{path}", "--trusted-proxies", "127.0.0.1,10.0.0.0/8,2001:db8::/32,unix") as kvd:
                for forwarded, peer in ((None, "127.0.0.1"), ("203.0.113.7", "203.0.113.7"), ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
                                        ("198.51.100.1, 203.0.113.7,10.1.2.3 , 10.200.0.1", "203.0.113.7"), ("10.1.2.3", "10.1.2.3"),
                                        ("2001:db9::1,2001:db8:1::7", "2001:db9::1"), ("nonsense", "127.0.0.1"), ("203.0.113.7, nonsense", "127.0.0.1"),
                                        ("nonsense, 10.1.2.3", "10.1.2.3"), ("", "127.0.0.1"), ("203.0.113.7:1234", "127.0.0.1"), (",", "127.0.0.1")):
                    with self.subTest(forwarded=forwarded):
                        self.assertEqual(self.peer(kvd, forwarded), peer)
                self.assertEqual(self.peer(kvd, "203.0.113.7", UnixConnection(path)), "203.0.113.7")
                self.assertEqual(self.peer(kvd, None, UnixConnection(path)), "unix")

    def test_nobody_else_is(self):
        with Kvd("--trusted-proxies", "10.0.0.0/8") as kvd:
            self.assertEqual(self.peer(kvd, "203.0.113.7"), "127.0.0.1")
        with Kvd() as kvd:
            self.assertEqual(self.peer(kvd, "203.0.113.7"), "127.0.0.1")


if __name__ == "__main__":
    main()
