"""The contract of watches and of lists that wait: what changes is told, in order and once, to whoever may see it."""

import contextlib
import json
import random
import resource
import signal
import threading
import time

import storages
from api import TIME, UNKNOWN_ID, UUID, ApiTestCase, element, grant, on_every_storage, query
from event_stream import Ended, EventStream
from harness import IS_THIN, Kvd, main, until

EVENT_MEMBERS = {"id", "namespaceId", "applicationId", "entryId", "keyPath", "kind", "version", "revision", "at", "userId"}
WATCHERS = 200 if IS_THIN else 1000


class Watching:
    """What the tests below have in common."""

    def watch(self, ns, token=True, headers=(), buffer=None, kvd=None, **parameters):
        """A watch that has begun, closed when the test ends."""
        kvd = kvd or self.kvd
        names = {"from_revision": "fromRevision"}
        path = f"/{ns if isinstance(ns, str) else ns['id']}/watch" + query(**{names.get(k, k): v for k, v in parameters.items()})
        stream = EventStream(kvd.port, path, kvd.token if token is True else token, headers, buffer)
        self.addCleanup(stream.close)
        self.assertEqual(stream.status, 200, getattr(stream, "body", None))
        stream.begin()
        return stream

    def keys_told(self, stream, count):
        return [(event.kind, event.data["keyPath"]) for event in stream.take(count)]

    def end_code(self, stream):
        """Reads to the end of a watch: why it ended."""
        *_, last = stream.rest()
        self.assertEqual((last.kind, set(last.data)), ("end", {"code"}))
        return last.data["code"]


@on_every_storage
class Watches(Watching):
    tokens = [element("folder", grant("kv-namespace:read", keys=["config/**"]), grant("kv-entry:read"), user="folder"),
              element("names", grant("kv-namespace:read"), user="names"),
              element("entries", grant("kv-entry:read"), user="entries"),
              element("elsewhere", grant("*", application="other"), user="elsewhere")]
    flags = ("--watch-heartbeat", "200ms", "--maintenance-interval", "20ms", "--access-log", "--idle-timeout", "500ms")

    # ---- the form ----

    def test_it_begins_at_once_and_says_where(self):
        ns = self.namespace()
        self.put(ns, "a")
        stream = self.watch(ns)
        self.assertEqual(stream.headers["content-type"], "text/event-stream")
        self.assertEqual(stream.headers["x-accel-buffering"], "no")
        self.assertEqual(stream.headers["cache-control"], "no-store")
        self.assertEqual(stream.headers["transfer-encoding"], "chunked")
        self.assertNotIn("content-length", stream.headers)
        self.assertTrue(stream.raw.startswith(b"retry: 1000\nid: 1\n\n"), stream.raw)
        self.put(ns, "b")
        event = stream.next()
        self.assertEqual((event.kind, event.id), ("created", "2"))

    def test_each_kind_of_change_is_told_without_its_value(self):
        ns = self.namespace(isSecretNamespace=True)
        stream = self.watch(ns)
        needle = "ValueThatNobodyIsTold"
        steps = [("created", lambda: self.put(ns, "k", needle + "1")), ("updated", lambda: self.put(ns, "k", needle + "2")),
                 ("touched", lambda: self.call("PATCH", self.entry_path(ns, "k"), {"metadata": {"a": 1}})),
                 ("rotated", lambda: self.call("POST", self.entry_path(ns, "k", "/rotate"), {"value": needle + "3"})),
                 ("rolled_back", lambda: self.call("POST", self.entry_path(ns, "k", "/rollback"), {"version": 1})),
                 ("deleted", lambda: self.call("DELETE", self.entry_path(ns, "k"))),
                 ("created", lambda: self.put(ns, "brief", needle, ttlSeconds=1))]
        versions = []
        for revision, (kind, step) in enumerate(steps, 1):
            step()
            event = stream.next()
            self.assertEqual((event.kind, event.id), (kind, str(revision)))
            self.check_event(event, ns, kind, revision)
            self.assertEqual(event.data["userId"], "root")
            versions.append(event.data["version"])
        self.assertEqual(versions[:2] + [versions[3]], [1, 2, 3])
        expired = stream.next()
        self.check_event(expired, ns, "expired", len(steps) + 1)
        self.assertEqual((expired.kind, expired.data["keyPath"], expired.data["userId"]), ("expired", "brief", "system"))
        self.assertNotIn(needle.encode(), stream.raw)

    def check_event(self, event, ns, kind, revision):
        data = event.data
        self.assertEqual(set(data), EVENT_MEMBERS)
        self.assertEqual((data["namespaceId"], data["applicationId"], data["kind"], data["revision"]), (ns["id"], "app", kind, revision))
        self.assertEqual(data["id"], f"{ns['id']}-{revision}")
        self.assertRegex(data["entryId"], UUID)
        self.assertRegex(data["at"], TIME)
        self.assertNotIn("\n", event.text)

    def test_odd_keys_arrive_as_they_are(self):
        ns = self.namespace()
        keys = ["\u00e9/\U0001f511", 'q"uote\\', "data: x", "\u2028line", ":", "x" * 255]
        stream = self.watch(ns)
        for key in keys:
            self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": key, "value": 1}]})
        self.assertEqual([event.data["keyPath"] for event in stream.take(len(keys))], keys)

    def test_silence_is_broken_by_heartbeats(self):
        stream = self.watch(self.namespace())
        stream.until(lambda: stream.comments.count("heartbeat") >= 3, "three heartbeats")
        self.assertEqual(stream.events, [])

    def test_what_others_changed_moves_the_place_of_a_watcher(self):
        ns = self.namespace()
        stream = self.watch(ns, prefix="mine/")
        for number in range(3):
            self.put(ns, f"theirs/{number}")
        stream.until(lambda: stream.last_id == "3", "a heartbeat with the place")
        self.assertEqual(stream.events, [])
        self.put(ns, "mine/1")
        self.assertEqual(stream.next().id, "4")

    def test_the_connection_goes_on_after_the_end(self):
        ns = self.namespace()
        stream = self.watch(ns)
        self.call("DELETE", f"/namespaces/{ns['id']}", status=204)
        self.assertEqual(self.end_code(stream), "not-found")
        stream.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        stream._read_head()
        self.assertEqual(stream.status, 200)

    # ---- where it begins ----

    def test_it_goes_on_from_a_revision(self):
        ns = self.namespace()
        for key in "abcd":
            self.put(ns, key)
        for from_revision, keys in ((0, "abcd"), (2, "cd"), (4, "")):
            stream = self.watch(ns, from_revision=from_revision)
            self.assertEqual(stream.ids[0], str(from_revision))
            self.assertEqual(self.keys_told(stream, len(keys)), [("created", key) for key in keys])
        stream = self.watch(ns, headers=[("Last-Event-ID", "3")])
        self.assertEqual((stream.ids[0], self.keys_told(stream, 1)), ("3", [("created", "d")]))
        stream = self.watch(ns, from_revision=0, headers=[("Last-Event-ID", "2")])
        self.assertEqual((stream.ids[0], self.keys_told(stream, 2)), ("2", [("created", "c"), ("created", "d")]))
        stream = self.watch(ns)
        self.assertEqual(stream.ids, ["4"])

    def test_a_list_says_from_where_to_watch(self):
        ns = self.namespace()
        self.put(ns, "a")
        revision = self.list(ns)["revision"]
        self.put(ns, "b")
        self.assertEqual(self.keys_told(self.watch(ns, from_revision=revision), 1), [("created", "b")])

    def test_a_place_that_was_never_reached_is_a_gap(self):
        ns = self.namespace()
        self.put(ns, "a")
        stream = self.watch(ns, from_revision=1000)
        gap = stream.next()
        self.assertEqual((gap.kind, gap.id, gap.data), ("gap", "1", {"revision": 1}))
        self.put(ns, "b")
        event = stream.next()
        self.assertEqual((event.kind, event.id), ("created", "2"))

    def test_what_is_wrong_with_a_request_is_said(self):
        ns = self.namespace()
        path = f"/{ns['id']}/watch"
        for text in ("x", "-1", "1.0", " 1", "18446744073709551616"):
            self.call("GET", path + query(fromRevision=text), code="invalid-request", field="fromRevision")
            if text != " 1":  # around a header's value space means nothing
                self.call("GET", path, headers={"Last-Event-ID": text}, code="invalid-request", field="Last-Event-ID")
        self.call("GET", path + query(fromRevision=""), code="invalid-request", field="fromRevision")
        self.call("GET", path + "?nonsense=1", code="invalid-request", field="nonsense")
        self.call("GET", path + query(prefix="a\0"), code="invalid-request", field="prefix")
        self.call("HEAD", path, status=405)
        self.assertEqual(self.call("POST", path, code="method-not-allowed").headers["allow"], "GET")
        self.call("GET", f"/{UNKNOWN_ID}/watch", code="not-found")
        with EventStream(self.kvd.port, path, self.kvd.token, [("Last-Event-ID", "1"), ("last-event-id", "2")]) as stream:
            self.assertEqual((stream.status, json.loads(stream.body)["field"]), (400, "Last-Event-ID"))
        with EventStream(self.kvd.port, path, self.kvd.token, version="1.0") as stream:
            self.assertEqual((stream.status, json.loads(stream.body)["code"]), (400, "invalid-request"))

    # ---- who may see what ----

    def test_only_keys_that_the_watcher_may_list_are_told(self):
        ns = self.namespace()
        folder, names, prefix = self.watch(ns, token="folder"), self.watch(ns, token="names"), self.watch(ns, token="names", prefix="config/d")
        for key in ("config/a", "other", "config/db", "config", "config/a/b"):
            self.put(ns, key)
        self.assertEqual([event.data["keyPath"] for event in folder.take(3)], ["config/a", "config/db", "config/a/b"])
        self.assertEqual([event.data["keyPath"] for event in names.take(5)], ["config/a", "other", "config/db", "config", "config/a/b"])
        self.assertEqual([event.data["keyPath"] for event in prefix.take(1)], ["config/db"])
        self.assertNotIn(b"other", folder.raw)
        self.call("GET", f"/{ns['id']}/watch", token="entries", code="permission-denied")
        self.call("GET", f"/{ns['id']}/watch", token="elsewhere", code="not-found")
        self.call("GET", f"/{ns['id']}/watch", token=None, code="unauthenticated")

    def test_it_is_recorded_once_and_logged_at_its_end(self):
        ns = self.namespace()
        def lines():
            return [e for e in self.kvd.log() if e.get("requestId") == "a-watch"]
        stream = self.watch(ns, token="names", headers=[("X-Request-Id", "a-watch")])
        self.put(ns, "a")
        stream.next()
        rows = [(r["operation"], r["action"], r["userId"], r["success"]) for r in self.rows_of("a-watch")]
        self.assertEqual(rows, [("entry.watch", "READ", "names", True)])
        self.assertEqual(lines(), [])
        stream.close()
        (line,) = until(lines, "the watch is logged")
        self.assertEqual((line["operation"], line["status"]), ("entry.watch", "200"))

    # ---- many, for long ----

    def test_all_of_many_watchers_are_told(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(limits[0], 2 * WATCHERS), limits[1]), limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        ns = self.namespace()
        streams = [self.watch(ns) for _ in range(WATCHERS)]
        for key in "abc":
            self.put(ns, key)
        for stream in streams:
            self.assertEqual(self.keys_told(stream, 3), [("created", "a"), ("created", "b"), ("created", "c")])
        for stream in streams:
            stream.close()

    def test_nothing_is_lost_or_told_twice_to_who_comes_again(self):
        """Writers go on while a watcher breaks off and comes again, wherever it is."""
        ns = self.namespace()
        count, writers = (100, 2) if IS_THIN else (400, 3)

        def write(name):
            for number in range(count):
                answer = self.kvd.request("PUT", self.entry_path(ns, f"{name}/{number % 7}"), {"value": number})
                assert answer.status in (200, 201), answer

        threads = [threading.Thread(target=write, args=(name,)) for name in range(writers)]
        for thread in threads:
            thread.start()
        seed = random.randrange(1 << 32)
        draw = random.Random(seed)
        told, place = [], 0
        while place < count * writers:
            stream = self.watch(ns, headers=[("Last-Event-ID", str(place))])
            for _ in range(min(draw.randrange(1, 100), count * writers - place)):
                event = stream.next()
                place = int(event.id)
                told.append(place)
            stream.close()
        for thread in threads:
            thread.join()
        self.assertEqual(told, list(range(1, count * writers + 1)), f"seed {seed}")

    # ---- lists that wait ----

    def poll(self, ns, revision, seconds=20, **options):
        return self.call("GET", f"/{ns['id']}/entries" + query(waitRevision=revision, timeoutSeconds=seconds), **options)

    def test_a_list_waits_for_a_change(self):
        """Longer than a connection may be idle, too."""
        ns = self.namespace()
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.kvd.request("GET", f"/{ns['id']}/entries?waitRevision=0&timeoutSeconds=300")))
        thread.start()
        until(lambda: self.kvd.metrics()["kvd_connections"] >= 1, "the list waits")
        self.put(ns, "a")
        thread.join()
        body = answers[0].json()
        self.assertEqual(([item["keyPath"] for item in body["items"]], body["revision"]), (["a"], 1))
        self.assertEqual(answers[0].headers["x-revision"], "1")

    def test_a_list_that_waits_in_vain_is_answered_as_it_is(self):
        ns = self.namespace()
        self.put(ns, "a")
        began = time.monotonic()
        body = self.poll(ns, 1, seconds=1).json()
        self.assertGreaterEqual(time.monotonic() - began, 1)
        self.assertEqual(([item["keyPath"] for item in body["items"]], body["revision"]), (["a"], 1))
        self.assertEqual(self.poll(ns, 0).json()["revision"], 1)  # at once: there is something newer

    def test_a_list_that_waits_ends_with_its_namespace(self):
        ns = self.namespace()
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.kvd.request("GET", f"/{ns['id']}/entries?waitRevision=0&timeoutSeconds=300")))
        thread.start()
        self.call("DELETE", f"/namespaces/{ns['id']}", status=204)
        thread.join()
        self.assertEqual((answers[0].status, answers[0].code), (404, "not-found"))

    def test_who_polls_with_an_etag_learns_the_revision_all_the_same(self):
        """Or it would ask for the same one over and over."""
        ns = self.namespace()
        self.put(ns, "mine/a")
        path = f"/{ns['id']}/entries?prefix=mine/"
        etag = self.call("GET", path).headers["etag"]
        self.put(ns, "theirs/a")
        answer = self.call("GET", path + "&waitRevision=1", headers={"If-None-Match": etag}, status=304)
        self.assertEqual(answer.headers["x-revision"], "2")

    def test_what_is_wrong_with_a_list_that_waits_is_said(self):
        ns = self.namespace()
        self.put(ns, "a")
        self.put(ns, "b")
        for text in ("0", "301", "x", "-1", "99999999999999999999"):
            self.call("GET", f"/{ns['id']}/entries" + query(waitRevision=0, timeoutSeconds=text), code="invalid-request", field="timeoutSeconds")
        self.call("GET", f"/{ns['id']}/entries?timeoutSeconds=5", code="invalid-request", field="timeoutSeconds")
        self.call("GET", f"/{ns['id']}/entries?waitRevision=x", code="invalid-request", field="waitRevision")
        cursor = self.list(ns, limit=1)["nextCursor"]
        self.call("GET", f"/{ns['id']}/entries" + query(waitRevision=0, cursor=cursor), code="invalid-request", field="waitRevision")
        self.call("GET", f"/{ns['id']}/entries?waitRevision=5", token="entries", code="permission-denied")

    def test_waiting_does_not_count_as_taking_long(self):
        ns = self.namespace()
        answered, timed = 'kvd_requests_total{operation="entry.list",status="200"}', 'kvd_request_seconds_count{operation="entry.list"}'
        self.list(ns)
        before = self.kvd.metrics()
        self.poll(ns, 0, seconds=1)
        after = self.kvd.metrics()
        self.assertEqual((after[answered] - before[answered], after[timed] - before[timed]), (1, 0))


class Streams(Watching, ApiTestCase):
    """What befalls a connection."""

    flags = ("--stall-timeout", "1s", "--watch-heartbeat", "1h")

    def test_who_takes_nothing_is_closed_and_delays_nobody(self):
        ns = self.namespace()
        stalled = self.watch(ns, buffer=4096)
        other = self.watch(ns)
        before = self.kvd.metrics()["kvd_timeouts_total"]
        deadline = time.monotonic() + 120
        told = 0
        while self.kvd.metrics()["kvd_timeouts_total"] == before:
            self.assertLess(time.monotonic(), deadline, "the watcher who takes nothing is not closed")
            keys = [f"{number:03}/" + "k" * 250 + "/" + "l" * 250 + "/" + "m" * 250 for number in range(500)]
            self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": key, "value": 1} for key in keys]}, status=200)
            self.assertEqual([event.data["keyPath"] for event in other.take(500)], keys)
            told += 500
        self.assertEqual(other.last_id, str(told))
        with self.assertRaises((Ended, ConnectionError)):
            while True:
                stalled.next()
        # Where it was it goes on.
        place = int(stalled.last_id)
        self.assertLess(place, told)
        self.assertEqual(self.watch(ns, from_revision=place).next().id, str(place + 1))

    def connections_at_rest(self):
        """Our own, once those of other tests are closed."""
        until(lambda: self.kvd.metrics()["kvd_connections"] == 1, "those of other tests are closed")
        return 1

    def test_a_peer_that_is_gone_is_noticed(self):
        """Without a heartbeat, which is far away."""
        ns = self.namespace()
        before = self.connections_at_rest()
        streams = [self.watch(ns) for _ in range(5)]
        self.assertEqual(self.kvd.metrics()["kvd_connections"], before + 5)
        for stream in streams:
            stream.close()
        until(lambda: self.kvd.metrics()["kvd_connections"] == before, "their connections are closed")

    def test_a_peer_that_does_not_wait_for_its_list_any_more_is_noticed(self):
        ns = self.namespace()
        before = self.connections_at_rest()
        connection = self.kvd.connect()
        connection.send(f"GET /api/v1/kv/{ns['id']}/entries?waitRevision=0&timeoutSeconds=300 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.kvd.token}\r\n\r\n")
        until(lambda: self.kvd.metrics()["kvd_connections"] == before + 1, "it waits")
        connection.socket.close()
        until(lambda: self.kvd.metrics()["kvd_connections"] == before, "its connection is closed")

    def test_what_follows_in_the_connection_waits_for_the_end(self):
        ns = self.namespace()
        stream = self.watch(ns)
        stream.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.put(ns, "a")
        self.assertEqual(stream.next().id, "1")
        self.call("DELETE", f"/namespaces/{ns['id']}", status=204)
        self.assertEqual(self.end_code(stream), "not-found")
        stream._read_head()
        self.assertEqual(stream.status, 200)


class Budget(Watching, ApiTestCase):
    """Watchers who take nothing hold no more than all bodies may."""

    flags = ("--body-bytes-in-flight-max", "1MiB", "--stall-timeout", "1h", "--watch-heartbeat", "1h")

    def test_watchers_who_take_nothing_are_closed_where_there_is_no_room(self):
        ns = self.namespace()
        stalled = [self.watch(ns, buffer=4096) for _ in range(40)]
        keys = [f"{number:03}/" + "k" * 250 + "/" + "l" * 250 + "/" + "m" * 250 for number in range(500)]
        deadline = time.monotonic() + 120
        while self.kvd.metrics()["kvd_answers_dropped_total"] == 0:
            self.assertLess(time.monotonic(), deadline, "nobody is closed")
            answer = self.kvd.request("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": key, "value": 1} for key in keys]})
            self.assertIn(answer.status, (200, 503))
            self.assertLess(self.kvd.metrics()["kvd_body_bytes_in_flight"], 3 << 20)
        for stream in stalled:
            stream.close()
        until(lambda: self.kvd.metrics()["kvd_body_bytes_in_flight"] == 0, "what they held is given back")


class Credentials(Watching, ApiTestCase):
    """At the usual pace."""

    storage = "memory:"

    def elements(self, *names, keys=("*",), **more):
        return [element(name, grant("kv-namespace:read", keys=keys), user=name, **more) for name in names]

    def replace(self, elements):
        """Has kvd take other tokens."""
        reads = self.kvd.metrics()["kvd_token_reloads_total"]
        self.kvd.write_tokens(elements)
        self.kvd.signal(signal.SIGHUP)
        until(lambda: self.kvd.metrics()["kvd_token_reloads_total"] == reads + 1, "the tokens are read again")

    @classmethod
    def setUpClass(cls):
        cls.tokens = []
        super().setUpClass()

    def test_a_watch_ends_when_its_token_is_taken_away_or_changed(self):
        ns = self.namespace()
        self.replace(self.elements("taken", "changed", "kept", "renamed"))
        taken, changed, kept, renamed = (self.watch(ns, token=name) for name in ("taken", "changed", "kept", "renamed"))
        self.replace(self.elements("kept") + self.elements("changed", keys=["a/**"]) +
                     [{**self.elements("renamed")[0], "userId": "somebody else"}])
        self.assertEqual(self.end_code(taken), "unauthenticated")
        self.assertEqual(self.end_code(changed), "credential-changed")
        self.assertEqual(self.end_code(renamed), "credential-changed")
        self.put(ns, "b")
        self.assertEqual(kept.next().data["keyPath"], "b")
        again = self.watch(ns, token="changed", from_revision=0)
        self.put(ns, "a/b")
        self.assertEqual(again.next().data["keyPath"], "a/b")
        self.call("GET", f"/{ns['id']}/watch", token="taken", code="unauthenticated")

    def test_a_watch_ends_when_its_token_expires(self):
        ns = self.namespace()
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
        self.replace(self.elements("brief", expiresAt=soon))
        self.assertEqual(self.end_code(self.watch(ns, token="brief")), "unauthenticated")

    def test_what_happened_since_the_token_was_taken_away_is_not_told(self):
        ns = self.namespace()
        self.replace(self.elements("taken"))
        stream = self.watch(ns, token="taken")
        self.replace([])
        self.put(ns, "a")
        self.assertEqual(self.end_code(stream), "unauthenticated")
        self.assertNotIn(b"created", stream.raw)


class Stopping(Watching, ApiTestCase):
    """kvd is told to stop, and may take an hour for what is in flight."""

    def test_watches_and_lists_that_wait_do_not_hold_it_up(self):
        with contextlib.ExitStack() as stack:
            kvd = stack.enter_context(Kvd("--drain-timeout", "1h", "--stall-timeout", "1h", "--watch-heartbeat", "1h", storage="sqlite"))
            ns = kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"}).json()
            watcher = self.watch(ns, kvd=kvd)
            stalled = self.watch(ns, kvd=kvd, buffer=4096)
            answers = []
            def poll():
                answers.append(kvd.request("GET", f"/{ns['id']}/entries?prefix=a&waitRevision=1000000000&timeoutSeconds=300"))
            thread = threading.Thread(target=poll)
            thread.start()
            keys = [f"{number:03}/" + "k" * 250 + "/" + "l" * 250 + "/" + "m" * 250 for number in range(500)]
            deadline = time.monotonic() + 120
            while kvd.metrics()["kvd_body_bytes_in_flight"] == 0:  # until a piece stays behind
                self.assertLess(time.monotonic(), deadline)
                self.assertEqual(kvd.request("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": key, "value": 1} for key in keys]}).status, 200)
                watcher.take(500)
            kvd.signal(signal.SIGTERM)
            self.assertEqual(self.end_code(watcher), "shutting-down")
            thread.join()
            self.assertEqual((answers[0].status, answers[0].json()["items"]), (200, []))
            self.assertEqual(kvd.wait(), 0)
            stalled.close()


class Retention(Watching, ApiTestCase):
    """Events that are not kept any more."""

    def test_who_stayed_away_for_too_long_is_told_of_the_gap(self):
        with Kvd(storage="sqlite") as kvd:
            ns = kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"}).json()
            for number in range(10):
                self.assertEqual(kvd.request("PUT", f"/{ns['id']}/entries/{number}", {"value": 1}).status, 201)
            kvd.signal(signal.SIGTERM)
            self.assertEqual(kvd.wait(), 0)
            with Kvd("--events-max", "3", "--maintenance-interval", "20ms", storage=kvd.storage, folder=kvd.folder, key=kvd.key, token=kvd.token) as again:
                with contextlib.closing(storages.connect(kvd.storage, reads_only=True)) as database:
                    until(lambda: database.execute("select count(*) from outbox").fetchone()[0] == 3, "old events are gone")
                away = self.watch(ns, kvd=again, from_revision=2)
                gap = away.next()
                self.assertEqual((gap.kind, gap.id, gap.data), ("gap", "10", {"revision": 10}))
                back = self.watch(ns, kvd=again, from_revision=7)
                self.assertEqual([event.id for event in back.take(3)], ["8", "9", "10"])
                self.assertEqual(again.request("PUT", f"/{ns['id']}/entries/new", {"value": 1}).status, 201)
                self.assertEqual((away.next().id, back.next().id), ("11", "11"))


if __name__ == "__main__":
    main()
