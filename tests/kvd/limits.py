"""Who asks too often, logs in wrongly too often or connects too often; and pages of other origins (CORS)."""

import time
import unittest

from api import ApiTestCase, element, grant, query
from harness import Kvd, main, until

WINDOW = ("--denial-window", "1s", "--maintenance-interval", "50ms")


def denials(kvd, user, reason):
    """How many the audit counts."""
    items = until(lambda: kvd.request("GET", "/audit" + query(userId=user, success=False)).json().get("items"), "the audit")
    return sum(item["count"] for item in items if item["reason"] == reason)


class PerCaller(ApiTestCase):
    flags = ("--rate-limit", "5", *WINDOW)
    tokens = [element("ann", grant("kv-namespace:read"), user="ann"), element("bob", grant("kv-namespace:read"), user="bob"),
              element("cay", grant("kv-namespace:read"), user="cay"), element("dan", grant("kv-namespace:read"), user="dan")]

    def test_one_caller_is_slowed_and_another_is_not(self):
        """Broken on purpose, and noticed: every caller was one and the same."""
        statuses = []

        def refused():
            answer = self.kvd.request("GET", "/namespaces", token="ann")
            statuses.append(answer.status)
            return answer if answer.status == 429 else None

        answer = until(refused, "ann asks too often")
        self.assertEqual(answer.json()["code"], "rate-limited")
        self.assertEqual(answer.headers["retry-after"], "1")
        self.check_common("GET", answer, {})
        self.assertGreaterEqual(statuses.count(200), 10)  # a burst of two seconds' worth
        self.assertEqual(self.kvd.request("GET", "/namespaces", token="bob").status, 200)
        until(lambda: self.kvd.request("GET", "/namespaces", token="ann").status == 200, "ann's turn comes again")

    def test_a_body_is_not_waited_for(self):
        def refused():
            with self.kvd.connect() as connection:
                connection.send(b"POST /api/v1/kv/namespaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer cay\r\nContent-Length: 1000\r\n\r\n")
                return connection.answer().status == 429  # else 403, the body never having been sent, or a timeout
        for _ in range(20):
            self.kvd.request("GET", "/namespaces", token="cay")
        until(refused, "refused before the body")

    def test_what_is_refused_is_counted_in_the_audit(self):
        statuses = [self.kvd.request("GET", "/namespaces", token="dan").status for _ in range(40)]
        refused = statuses.count(429)
        self.assertGreater(refused, 0)
        until(lambda: denials(self.kvd, "dan", "rate-limited") >= refused, "the audit counts them")
        self.assertEqual(denials(self.kvd, "dan", "rate-limited"), refused)
        self.assertGreaterEqual(self.kvd.metrics()["kvd_rate_limited_total"], refused)


class PerAddress(unittest.TestCase):
    def test_an_address_is_limited_whoever_calls(self):
        with Kvd("--rate-limit-address", "5", tokens=[element("ann", grant("kv-namespace:read"))]) as kvd:
            until(lambda: kvd.request("GET", "/namespaces", token="ann").status == 429, "too often")
            self.assertEqual(kvd.request("GET", "/namespaces", token="made up").status, 429)  # not even looked at
            self.assertEqual(kvd.request("GET", "/healthz").status, 200)  # nobody is kept from being alive
            until(lambda: kvd.request("GET", "/namespaces").status == 200, "and again")

    def test_connections_of_an_address(self):
        with Kvd("--connections-per-address-max", "3") as kvd:
            held = [kvd.connect() for _ in range(3)]
            self.addCleanup(lambda: [connection.socket.close() for connection in held])
            for connection in held:
                connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertEqual(connection.answer().status, 200)
            with kvd.connect() as one_more:
                answer = one_more.answer()
                self.assertEqual((answer.status, answer.code), (503, "overloaded"))
                one_more.ends()
            held[0].socket.close()
            until(lambda: kvd.request("GET", "/healthz").status == 200, "room again")


class FailedLogins(unittest.TestCase):
    def test_many_of_them_are_answered_late_but_good_ones_are_not(self):
        """Broken on purpose, and noticed: every login of the address was late."""
        with Kvd("--failed-logins", "1", *WINDOW) as kvd:
            tries = 0

            def late():
                nonlocal tries
                tries += 1
                began = time.monotonic()
                self.assertEqual(kvd.request("GET", "/namespaces", token=f"wrong {tries}").status, 401)
                return time.monotonic() - began >= 0.9

            until(late, "a wrong token is answered late")
            self.assertGreater(tries, 9)
            # Good ones are answered while a wrong one waits.
            with kvd.connect() as waiting:
                waiting.send(b"GET /api/v1/kv/namespaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n")
                self.assertEqual(kvd.request("GET", "/namespaces").status, 200)
                self.assertEqual(waiting.answer().status, 401)
            tries += 1
            until(lambda: denials(kvd, None, "unauthenticated") >= tries, "the audit counts them all")
            self.assertEqual(denials(kvd, None, "unauthenticated"), tries)
            self.assertEqual(kvd.metrics()["kvd_failed_logins_total"], tries)


class Cors(unittest.TestCase):
    ORIGIN = "https://app.example"
    ASKED = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}

    def cors_headers(self, answer):
        return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}

    def test_off_unless_asked_for(self):
        with Kvd() as kvd:
            answer = kvd.request("OPTIONS", "/namespaces", token=None, headers=self.ASKED)
            self.assertEqual((answer.status, self.cors_headers(answer)), (405, {}))
            answer = kvd.request("GET", "/namespaces", headers={"Origin": self.ORIGIN})
            self.assertEqual((answer.status, self.cors_headers(answer)), (200, {}))

    def test_pages_of_a_named_origin(self):
        with Kvd("--cors-origin", f"http://localhost:3000,{self.ORIGIN}") as kvd:
            answer = kvd.request("OPTIONS", "/namespaces", token=None, headers=self.ASKED)
            self.assertEqual(answer.status, 204)
            allowed = self.cors_headers(answer)
            self.assertEqual(allowed["access-control-allow-origin"], self.ORIGIN)
            self.assertIn("PUT", allowed["access-control-allow-methods"])
            self.assertIn("Authorization", allowed["access-control-allow-headers"])
            self.assertNotIn("access-control-allow-credentials", allowed)
            for path, token, status in (("/namespaces", True, 200), ("/namespaces", None, 401), ("/nowhere-here", True, 404), ("/a~b/entries/k", True, 404)):
                answer = kvd.request("GET", path, token=token, headers={"Origin": self.ORIGIN})
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.headers["access-control-allow-origin"], self.ORIGIN)
                self.assertEqual(answer.headers["vary"], "Origin")
                self.assertIn("ETag", answer.headers["access-control-expose-headers"])

    def test_pages_of_other_origins(self):
        with Kvd("--cors-origin", self.ORIGIN) as kvd:
            for origin in ("https://app.example.evil", "http://app.example", "https://APP.example", "null", self.ORIGIN + ":443", self.ORIGIN + "/", "*"):
                for method, headers in (("OPTIONS", self.ASKED | {"Origin": origin}), ("GET", {"Origin": origin})):
                    self.assertEqual(self.cors_headers(kvd.request(method, "/namespaces", headers=headers)), {}, origin)
            # The answers of one connection have nothing to do with each other.
            with kvd.connect() as connection:
                ask = "GET /api/v1/kv/nowhere HTTP/1.1\r\nHost: x\r\n{}\r\n"
                connection.send(ask.format(f"Origin: {self.ORIGIN}\r\n").encode())
                self.assertIn("access-control-allow-origin", connection.answer().headers)
                connection.send(ask.format("").encode())
                self.assertEqual(self.cors_headers(connection.answer()), {})


if __name__ == "__main__":
    main()
