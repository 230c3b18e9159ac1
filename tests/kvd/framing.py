"""What kvd does with bytes: every way to frame a request wrongly is refused, and the next request is served."""

import json
import resource
import subprocess
import time
import unittest

from harness import BASE, Connection, Kvd, KvdTestCase, main, until

ENTRY = BASE + "/app~framing/entries/k"


def request(kvd, line="GET /healthz HTTP/1.1", *fields, body="", host=True, token=False):
    """The bytes of a request."""
    lines = [line]
    if host:
        lines.append("Host: localhost")
    if token:
        lines.append("Authorization: Bearer " + kvd.token)
    return "\r\n".join([*lines, *fields, "", ""]) + body


def put(kvd, *fields, body="", target=ENTRY, version="1.1"):
    return request(kvd, f"PUT {target} HTTP/{version}", "Content-Type: application/json", *fields, body=body, token=True)


def chunked(*chunks):
    return "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in [*chunks, ""])


VALUE = '{"value": "framed"}'


class Framing(KvdTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        created = cls.kvd.request("POST", "/namespaces", {"name": "framing", "applicationId": "app"})
        assert created.status == 201, created

    def check_refused(self, data, status=400, code="invalid-request"):
        """`data` is answered with a problem and the connection closed; somebody else is served as before."""
        with self.subTest(data=data[:120]), self.kvd.connect() as connection:
            connection.send(data)
            answer = connection.answer()
            self.assertIsNotNone(answer, "closed without an answer")
            self.assertEqual(answer.status, status, answer)
            self.assertEqual(answer.headers["content-type"], "application/problem+json")
            self.assertEqual(answer.headers["connection"], "close")
            problem = answer.json()
            self.assertEqual(problem["code"], code)
            self.assertEqual(problem["status"], status)
            self.assertEqual(problem["type"], "urn:kvd:problem:" + code)
            self.assertEqual(problem["requestId"], answer.headers["x-request-id"])
            self.assertTrue(connection.ends(), connection.buffer)
        self.check_serves()

    def check_serves(self):
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd)).answer()
            self.assertEqual(answer.status, 200)

    def check_stored(self, data, value="framed"):
        """`data`, a put, is taken whole: its value is there, and the connection goes on with the next request."""
        with self.kvd.connect() as connection:
            answer = connection.send(data).answer()
            self.assertIn(answer.status, (200, 201), answer)
            self.assertNotIn("connection", answer.headers)
            answer = connection.send(request(self.kvd, f"GET {ENTRY} HTTP/1.1", token=True)).answer()
            self.assertEqual(answer.json()["value"], value)

    # ---- the table of what Beast would let pass ----

    def test_trailers_are_refused(self):
        for trailer in ("X-User-Id: admin", "Authorization: Bearer x", "X: " + "y" * 70000):
            self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", body="3\r\nabc\r\n0\r\n" + trailer + "\r\n\r\n"))

    def test_other_transfer_codings_are_refused(self):
        for coding in ("gzip", "chunked, gzip", "gzip, chunked", "identity", "Chunked", "chunked,", ""):
            self.check_refused(put(self.kvd, "Transfer-Encoding: " + coding, body=chunked(VALUE)))
        self.check_refused(put(self.kvd, "Transfer-Encoding: gzip", "Content-Length: 3", body="abc"))
        self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", body=chunked(VALUE)))

    def test_http_1_0_has_no_chunks(self):
        self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", body=chunked(VALUE), version="1.0"))

    def test_chunk_extensions_are_refused(self):
        self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", body="3;x=y\r\nabc\r\n0\r\n\r\n"))
        self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", body="3;" + "x" * 1_000_000))

    def test_a_last_chunk_may_arrive_in_pieces(self):
        with self.kvd.connect() as connection:
            connection.send(put(self.kvd, "Transfer-Encoding: chunked", body=chunked(VALUE)[:-2]))
            connection.send("\r\n")
            self.assertIn(connection.answer().status, (200, 201))

    def test_folded_lines_are_refused(self):
        for fold in (" ,admin", "\t,admin"):
            self.check_refused(request(self.kvd, "GET /healthz HTTP/1.1", "X-User-Id: bob", fold))

    def test_fields_that_decide_something_stand_once(self):
        for field in ("Content-Length: 0", "Authorization: Bearer a", "If-Match: *", "X-Request-Id: a", "Host: localhost",
                      "Transfer-Encoding: chunked", "Content-Type: application/json"):
            self.check_refused(request(self.kvd, "GET /healthz HTTP/1.1", field, field))
        self.check_refused(put(self.kvd, "Content-Length: 3", "Content-Length: 4", body="abc"))

    def test_a_host_is_needed(self):
        self.check_refused(request(self.kvd, host=False))
        self.check_refused(request(self.kvd, "GET /api/v1/kv/namespaces HTTP/1.0", host=False))
        for path in ("/healthz", "/readyz"):
            with self.kvd.connect() as connection:
                answer = connection.send(request(self.kvd, f"GET {path} HTTP/1.0", host=False)).answer()
                self.assertEqual(answer.status, 200)
                self.assertTrue(connection.ends())

    def test_targets_are_visible_ascii_paths(self):
        for target in ("/\xe9", "/a\x7fb", "*", "x", "/a#b", "ftp://h/x", "http://", "h:443"):
            self.check_refused(request(self.kvd, f"GET {target} HTTP/1.1"))
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, "GET http://localhost/healthz HTTP/1.1")).answer()
            self.assertEqual(answer.status, 200)

    def test_two_framings_are_refused(self):
        fields = ["Content-Length: 4", "Transfer-Encoding: chunked"]
        self.check_refused(put(self.kvd, *fields, body=chunked(VALUE)))
        self.check_refused(put(self.kvd, *reversed(fields), body=chunked(VALUE)))

    def test_what_is_no_http_is_refused(self):
        for data in ("GET /healthz HTTP/1.1\nHost: a\n\n", "GET /healthz HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
                     "GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
                     "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\x01\r\n\r\n",
                     "GET /healthz\r\nHost: a\r\n\r\n", "GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n",
                     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00",
                     "\0\0\0\0"):
            self.check_refused(data)

    def test_malformed_chunks_are_refused(self):
        for body in ("0x3\r\nabc\r\n0\r\n\r\n", "000000003\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n",
                     "3\r\nabcd\r\n0\r\n\r\n", "\r\n0\r\n\r\n", "g\r\n", "0\r\n\n"):
            self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", body=body))

    def test_lengths_are_decimal_numbers(self):
        for length in ("-1", "+3", "0x3", "3, 3", "3 3", "", "1e1", "99999999999999999999"):
            self.check_refused(put(self.kvd, "Content-Length: " + length, body="abc"))

    # ---- limits ----

    def test_a_target_beyond_the_limit(self):
        self.check_refused(request(self.kvd, f"GET /{'a' * 8192} HTTP/1.1"), 414, "target-too-long")
        self.check_refused("GET /" + "a" * 20000, 414, "target-too-long")
        with self.kvd.connect() as connection:
            self.assertEqual(connection.send(request(self.kvd, f"GET /{'a' * 8191} HTTP/1.1")).answer().status, 404)

    def test_a_header_block_beyond_the_limit(self):
        self.check_refused(request(self.kvd, "GET /healthz HTTP/1.1", "X: " + "y" * 16384), 431, "headers-too-large")
        self.check_refused("GET /healthz HTTP/1.1\r\n" + "X: y\r\n" * 4000, 431, "headers-too-large")
        with self.kvd.connect() as connection:
            self.assertEqual(connection.send(request(self.kvd, "GET /healthz HTTP/1.1", "X: " + "y" * 16000)).answer().status, 200)

    def test_a_body_beyond_the_limit_is_refused_before_it_is_read(self):
        self.check_refused(put(self.kvd, f"Content-Length: {(2 << 20) + 1}"), 413, "too-large")
        self.check_refused(put(self.kvd, "Content-Length: 999999999999999999"), 413, "too-large")
        self.check_refused(put(self.kvd, f"Content-Length: {(2 << 20) + 1}", "Expect: 100-continue"), 413, "too-large")
        self.check_refused(put(self.kvd, "Transfer-Encoding: chunked", body="7fffffff\r\n"), 413, "too-large")

    def test_a_client_that_sends_all_of_a_body_too_large_can_read_why(self):
        body = "x" * ((2 << 20) + 1)
        answer = self.kvd.request("PUT", ENTRY, body)
        self.assertEqual((answer.status, answer.code), (413, "too-large"))
        self.assertEqual(answer.json()["limit"], 2 << 20)

    def test_a_large_body_arrives_whole(self):
        value = "0123456789abcdef" * 65500
        self.assertIn(self.kvd.request("PUT", ENTRY, {"value": value}).status, (200, 201))
        self.assertEqual(self.kvd.request("GET", ENTRY).json()["value"], value)
        body = json.dumps({"value": value})
        pieces = [body[i:i + 4001] for i in range(0, len(body), 4001)]
        self.check_stored(put(self.kvd, "Transfer-Encoding: chunked", body=chunked(*pieces)), value)

    # ---- bodies ----

    def test_a_body_is_framed_one_way_or_the_other(self):
        self.check_stored(put(self.kvd, f"Content-Length: {len(VALUE)}", body=VALUE))
        self.check_stored(put(self.kvd, "Transfer-Encoding: chunked", body=chunked(VALUE)))
        self.check_stored(put(self.kvd, "Transfer-Encoding: chunked", body=chunked(*VALUE)))

    def test_a_put_without_length_is_refused(self):
        with self.kvd.connect() as connection:
            answer = connection.send(put(self.kvd)).answer()
            self.assertEqual((answer.status, answer.code), (411, "length-required"))

    def test_a_get_takes_no_body(self):
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, f"GET {ENTRY} HTTP/1.1", "Content-Length: 3", body="abc", token=True)).answer()
            self.assertEqual((answer.status, answer.code), (400, "invalid-request"))
            # Its body was here already, so nothing is in doubt.
            self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)
        self.check_refused(request(self.kvd, f"GET {ENTRY} HTTP/1.1", "Transfer-Encoding: chunked", body=chunked("abc"), token=True))
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, f"GET {ENTRY} HTTP/1.1", "Content-Length: 0", token=True)).answer()
            self.assertIn(answer.status, (200, 404))

    def test_a_delete_may_have_a_body_or_none(self):
        for fields in ((), ("Content-Length: 0",)):
            self.check_stored(put(self.kvd, f"Content-Length: {len(VALUE)}", body=VALUE))
            with self.kvd.connect() as connection:
                answer = connection.send(request(self.kvd, f"DELETE {ENTRY} HTTP/1.1", *fields, token=True)).answer()
                self.assertEqual(answer.status, 204, answer)
                self.assertNotIn("content-length", answer.headers)
                self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)

    def test_every_split_gives_the_same(self):
        for framing, body in ((f"Content-Length: {len(VALUE)}", VALUE), ("Transfer-Encoding: chunked", chunked(VALUE[:5], VALUE[5:]))):
            data = put(self.kvd, framing, body=body)
            with self.kvd.connect() as connection:
                for cut in range(1, len(data)):
                    connection.send(data[:cut])
                    connection.send(data[cut:])
                    self.assertIn(connection.answer().status, (200, 201), cut)
                for byte in data:
                    connection.send(byte)
                self.assertIn(connection.answer().status, (200, 201))
        with self.kvd.connect() as connection:
            for byte in request(self.kvd, "GET /healthz HTTP/1.1", "Content-Length : 3"):
                connection.send(byte)
            self.assertEqual(connection.answer().status, 400)

    # ---- expectations ----

    def test_continue_is_said_when_everything_but_the_body_is_good(self):
        with self.kvd.connect() as connection:
            connection.send(put(self.kvd, f"Content-Length: {len(VALUE)}", "Expect: 100-Continue"))
            self.assertEqual(connection.answer().status, 100)
            self.assertIn(connection.send(VALUE).answer().status, (200, 201))
            self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)

    def test_continue_is_not_said_to_strangers(self):
        data = put(self.kvd, f"Content-Length: {len(VALUE)}", "Expect: 100-continue").replace(self.kvd.token, "x" * 32)
        self.check_refused(data, 401, "unauthenticated")
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, "PUT /nowhere HTTP/1.1", "Content-Length: 3", "Expect: 100-continue")).answer()
            self.assertEqual((answer.status, answer.headers["connection"]), (404, "close"))

    def test_other_expectations_are_refused(self):
        self.check_refused(put(self.kvd, f"Content-Length: {len(VALUE)}", "Expect: 200-ok"), 417, "expectation-failed")

    # ---- connections ----

    def test_pipelined_requests_are_answered_in_order(self):
        with self.kvd.connect() as connection:
            put_one = put(self.kvd, f"Content-Length: {len(VALUE)}", body=VALUE)
            get_one = request(self.kvd, f"GET {ENTRY} HTTP/1.1", "X-Request-Id: {}", token=True)
            connection.send("".join([put_one, *(get_one.format(i) for i in range(100)), request(self.kvd, "GET /healthz HTTP/1.1", "Connection: close")]))
            self.assertIn(connection.answer().status, (200, 201))
            for i in range(100):
                answer = connection.answer()
                self.assertEqual((answer.status, answer.headers["x-request-id"]), (200, str(i)))
            self.assertEqual(connection.answer().headers["connection"], "close")
            self.assertTrue(connection.ends())

    def test_what_follows_a_framing_error_is_never_a_request(self):
        with self.kvd.connect() as connection:
            connection.send(put(self.kvd, "Transfer-Encoding: chunked, gzip", body=request(self.kvd)))
            self.assertEqual(connection.answer().status, 400)
            self.assertTrue(connection.ends())

    def test_http_1_0_closes_unless_asked_to_stay(self):
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, "GET /healthz HTTP/1.0")).answer()
            self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
            self.assertTrue(connection.ends())
        with self.kvd.connect() as connection:
            for _ in range(2):
                answer = connection.send(request(self.kvd, "GET /healthz HTTP/1.0", "Connection: keep-alive")).answer()
                self.assertEqual(answer.headers["connection"], "keep-alive")

    def test_head_is_get_without_body(self):
        self.check_stored(put(self.kvd, f"Content-Length: {len(VALUE)}", body=VALUE))
        for target in ("/healthz", ENTRY):
            with self.kvd.connect() as connection:
                got = connection.send(request(self.kvd, f"GET {target} HTTP/1.1", token=True)).answer()
                head = connection.send(request(self.kvd, f"HEAD {target} HTTP/1.1", token=True)).answer(is_head=True)
                self.assertEqual((head.status, head.body), (200, b""))
                self.assertEqual(head.headers["content-length"], got.headers["content-length"])
                self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)

    def test_a_client_that_is_done_sending_gets_its_answer(self):
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, f"GET {ENTRY} HTTP/1.1", token=True)).finish().answer()
            self.assertIn(answer.status, (200, 404))
            self.assertTrue(connection.ends())

    def test_a_client_that_goes_away_harms_nobody(self):
        for data in ("GET /hea", put(self.kvd, "Content-Length: 100", body="abc"), put(self.kvd, "Transfer-Encoding: chunked", body="5\r\nab")):
            with self.kvd.connect() as connection:
                connection.send(data)
        self.check_serves()

    # ---- what every answer carries ----

    def test_every_answer_carries_the_same_fields(self):
        for data in (request(self.kvd), request(self.kvd, "GET /nowhere HTTP/1.1"), request(self.kvd, "GET / HTTP/9.9"),
                     request(self.kvd, f"GET {ENTRY} HTTP/1.1"), request(self.kvd, "GET /readyz HTTP/1.1")):
            with self.kvd.connect() as connection:
                headers = connection.send(data).answer().headers
                self.assertEqual(headers["cache-control"], "no-store")
                self.assertEqual(headers["x-content-type-options"], "nosniff")
                self.assertRegex(headers["x-request-id"], r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
                self.assertNotIn("server", headers)

    def test_a_request_id_is_taken_if_it_is_well_formed(self):
        for given, is_taken in (("abc-123~", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("\xe9", False)):
            with self.kvd.connect() as connection:
                answer = connection.send(request(self.kvd, "GET /healthz HTTP/1.1", "X-Request-Id: " + given)).answer()
                self.assertEqual(answer.headers["x-request-id"] == given, is_taken)

    def test_strangers_are_told_how_to_authenticate(self):
        for field in ("X: y", "Authorization: Bearer", "Authorization: Basic abc", "Authorization: Bearer " + "x" * 43, "Authorization: " + self.kvd.token):
            with self.kvd.connect() as connection:
                answer = connection.send(request(self.kvd, f"GET {ENTRY} HTTP/1.1", field)).answer()
                self.assertEqual((answer.status, answer.code), (401, "unauthenticated"))
                self.assertEqual(answer.headers["www-authenticate"], "Bearer")
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, f"GET {ENTRY} HTTP/1.1", "authorization: bEARER  " + self.kvd.token)).answer()
            self.assertIn(answer.status, (200, 404))

    def test_methods_that_a_path_has_not(self):
        for line, allow in (("POST /healthz HTTP/1.1", "GET, HEAD"), ("BREW /readyz HTTP/1.1", "GET, HEAD")):
            with self.kvd.connect() as connection:
                answer = connection.send(request(self.kvd, line, "Content-Length: 0")).answer()
                self.assertEqual((answer.status, answer.code, answer.headers["allow"]), (405, "method-not-allowed", allow))
        with self.kvd.connect() as connection:
            answer = connection.send(request(self.kvd, f"TRACE {ENTRY} HTTP/1.1", token=True)).answer()
            self.assertEqual(answer.status, 405)
            self.assertIn("PATCH", answer.headers["allow"])

    def test_the_admin_listener_serves_metrics_and_health_alone(self):
        self.check_refused("GET / HTTP/1.1\r\n\r\n")
        metrics = self.kvd.metrics()
        self.assertGreater(metrics["kvd_framing_errors_total"], 0)
        self.assertEqual(self.kvd.request("GET", "/readyz", admin=True, token=None).status, 200)
        self.assertEqual(self.kvd.request("GET", "/namespaces", admin=True).status, 404)
        self.assertEqual(self.kvd.request("POST", "/metrics", admin=True, body="").status, 405)
        self.assertEqual(self.kvd.request("GET", "/metrics").status, 404)

    def test_a_thousand_idle_connections_are_cheap(self):
        def resident():
            with open(f"/proc/{self.kvd.process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * 4096
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.check_serves()
        before = resident()
        connections = []
        try:
            for _ in range(1000):
                connections.append(Connection(self.kvd.port).send(request(self.kvd)))
            for connection in connections:
                self.assertEqual(connection.answer().status, 200)
            self.check_serves()
            self.assertLess(resident() - before, 32 << 20)
            # Every one of them is still good.
            for connection in connections[::50]:
                self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)
        finally:
            for connection in connections:
                connection.socket.close()


class Deadlines(KvdTestCase):
    flags = ("--header-timeout", "300ms", "--idle-timeout", "600ms", "--body-timeout", "300ms", "--write-timeout", "300ms")

    def check_timeout(self, connection):
        answer = connection.answer()
        self.assertIsNotNone(answer)
        self.assertEqual((answer.status, answer.code, answer.headers["connection"]), (408, "request-timeout", "close"))
        self.assertTrue(connection.ends())

    def test_a_silent_client_is_let_go_silently(self):
        with self.kvd.connect() as connection:
            self.assertTrue(connection.ends())
        with self.kvd.connect() as connection:
            self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)
            self.assertTrue(connection.ends())

    def test_a_header_that_does_not_end_is_timed_out(self):
        with self.kvd.connect() as connection:
            connection.send("GET /healthz HTTP/1.1\r\nHost: a\r\n")
            self.check_timeout(connection)

    def test_dripping_does_not_help(self):
        for head, drop in (("GET /healthz HTTP/1.1\r\nX: ", "y"),
                           (put(self.kvd, "Content-Length: 1000"), "y"),
                           (put(self.kvd, "Transfer-Encoding: chunked"), "1\r\ny\r\n")):
            with self.subTest(head=head[:20]), self.kvd.connect() as connection:
                connection.send(head)
                connection.socket.settimeout(0.05)
                began = time.monotonic()
                while time.monotonic() - began < 15:
                    connection.send(drop)
                    try:
                        connection.receive()
                        break
                    except TimeoutError:
                        continue
                self.assertLess(time.monotonic() - began, 10)
                connection.socket.settimeout(20)
                answer = connection.answer()
                self.assertEqual((answer.status, answer.code), (408, "request-timeout"))

    def test_a_body_that_does_not_come_is_timed_out(self):
        for framing in ("Content-Length: 10", "Transfer-Encoding: chunked"):
            with self.kvd.connect() as connection:
                connection.send(put(self.kvd, framing, body="1"))
                self.check_timeout(connection)

    def test_an_answer_that_is_not_taken_ends_the_connection(self):
        before = self.kvd.metrics()["kvd_timeouts_total"]
        with self.kvd.connect() as connection:
            # Far more answers than sockets hold, and nobody reads them.
            connection.socket.settimeout(0.2)
            data = (request(self.kvd, "GET /api/v1/kv/openapi.json HTTP/1.1") * 100).encode()
            try:
                while True:
                    connection.send(data)
            except OSError:
                pass
            until(lambda: self.kvd.metrics()["kvd_timeouts_total"] > before, "the connection is given up")
        with self.kvd.connect() as connection:
            self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)


class Caps(KvdTestCase):
    flags = ("--connections-max", "3", "--threads", "2")

    def test_connections_beyond_the_cap_are_turned_away_until_others_end(self):
        good = [self.kvd.connect() for _ in range(3)]
        for connection in good:
            self.assertEqual(connection.send(request(self.kvd)).answer().status, 200)
        with self.kvd.connect() as connection:
            answer = connection.answer()
            self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "1"))
            self.assertTrue(connection.ends())
        good.pop().socket.close()

        def served():
            with self.kvd.connect() as connection:
                try:
                    return connection.send(request(self.kvd)).answer().status == 200
                except ConnectionError:
                    return False
        until(served, "a place is free again")
        for connection in good:
            connection.socket.close()


class Budget(KvdTestCase):
    flags = ("--body-bytes-in-flight-max", "1MiB")

    def test_bodies_under_way_have_a_limit_together(self):
        self.kvd.request("POST", "/namespaces", {"name": "framing", "applicationId": "app"})
        body = json.dumps({"value": "x" * 500_000})
        held, refused = [], []
        for _ in range(8):
            connection = self.kvd.connect()
            connection.send(put(self.kvd, f"Content-Length: {len(body)}", body=body[:200_000]))
            connection.socket.settimeout(0.3)
            try:
                refused.append((connection, connection.answer()))
            except TimeoutError:
                held.append(connection)
        self.assertGreater(len(held), 1)
        self.assertGreater(len(refused), 1)
        for connection, answer in refused:
            self.assertEqual((answer.status, answer.code, answer.headers["connection"]), (503, "overloaded", "close"))
            self.assertIn("retry-after", answer.headers)
            connection.socket.close()
        for connection in held:
            connection.socket.close()
        until(lambda: self.kvd.metrics()["kvd_body_bytes_in_flight"] == 0, "what was reserved is given back")
        self.assertEqual(self.kvd.request("PUT", ENTRY, {"value": "y" * 300_000}).status, 201)


class Descriptors(unittest.TestCase):
    def test_running_out_of_descriptors_is_survived(self):
        with Kvd() as kvd:
            subprocess.run(["prlimit", f"--pid={kvd.process.pid}", "--nofile=64:64"], check=True)
            connections = []
            for _ in range(100):
                connections.append(kvd.connect())
            with Connection(kvd.port) as late:
                late.socket.settimeout(0.5)
                try:
                    late.send(request(kvd))
                    late.answer()
                except (OSError, AssertionError):
                    pass
            for connection in connections:
                connection.socket.close()

            def served():
                with kvd.connect() as connection:
                    try:
                        answer = connection.send(request(kvd)).answer()
                        return answer is not None and answer.status == 200
                    except (ConnectionError, AssertionError):
                        return False
            until(served, "connections are accepted again")


if __name__ == "__main__":
    main()
