"""The sink that sends events to RabbitMQ, by itself: told what to deliver, against a real server and a network that misbehaves.

What is confirmed must have arrived, what has not arrived must not be confirmed, and whatever happens a delivery comes to an end.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import unittest

from harness import main, until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "rabbitmq"))
from proxy import Proxy  # noqa: E402
from rabbitmq_server import OTHER_ADDRESS, PATIENCE, Certificates, Queue, RabbitmqServer  # noqa: E402

DRIVER = os.environ.get("AMQP_SINK_DRIVER", "amqp_sink_driver")


class Sink:
    """A sink in a process of its own. `options`: of the driver."""

    def __init__(self, url, password, **options):
        self.password = password
        # pylint: disable-next=consider-using-with
        self.log_file = tempfile.NamedTemporaryFile(prefix="kvd-amqp-sink-", mode="w+", encoding="utf-8")
        self.process = subprocess.Popen([DRIVER, url, *(f"{name}={value}" for name, value in options.items())],
                                        env={**os.environ, "KVD_AMQP_PASSWORD": password}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log_file, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise AssertionError(f"the driver ended: {self.log_text()}")
        return json.loads(answer)

    def deliver(self, *spans):
        """One delivery of spans (namespace, first revision, count)."""
        return self.ask("deliver " + " ".join(f"{ns} {first} {count}" for ns, first, count in spans))

    def until_delivered(self, *spans):
        """Again and again, as the store would, until all is confirmed: how often."""
        attempts = 0

        def is_delivered():
            nonlocal attempts
            attempts += 1
            return "0" not in self.deliver(*spans)["confirmed"]
        until(is_delivered, "everything is confirmed", PATIENCE)
        return attempts

    def stats(self):
        return self.ask("stats")

    def until_stats(self, **wanted):
        return until(lambda: wanted.items() <= self.stats().items(), f"{wanted}", PATIENCE)

    def log_text(self):
        with open(self.log_file.name, encoding="utf-8") as file:
            return file.read()

    def logged(self, message):
        return [line for line in map(json.loads, self.log_text().splitlines()) if line["message"] == message]

    def stop(self):
        """Ends in order, however the broker is. Its log, in which the password is not."""
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        text = self.log_text()
        if code != 0 or self.password in text:
            raise AssertionError(f"ended with {code}: {text}")
        return text

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None and self.process.poll() is None:
                self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.stdout.close()
            self.log_file.close()


def bodies(messages):
    return [json.loads(body) for _, _, body in messages]


def revisions(messages, ns=1):
    return [body["data"]["revision"] for body in bodies(messages) if body["data"]["applicationId"] == f"app-{ns}"]


def firsts(values):
    return list(dict.fromkeys(values))


class WithServer(unittest.TestCase):
    tls = None

    @classmethod
    def setUpClass(cls):
        cls.server = RabbitmqServer(tls=cls.tls)
        cls.addClassCleanup(cls.server.close)

    def setUp(self):
        self.exchange = "x." + self.id().rsplit(".", 1)[1][:60]

    def sink(self, url=None, password=None, **options):
        made = Sink(url or self.server.url(), password or self.server.password, exchange=self.exchange, **options)
        self.addCleanup(made.__exit__, AssertionError)
        return made

    def queue(self, **options):
        made = Queue(self.server, self.exchange, **options)
        self.addCleanup(made.close)
        return made


class Deliveries(WithServer):
    def test_what_arrives_is_what_was_promised(self):
        queue, sink = self.queue(), self.sink()
        for spans in (((1, 1, 3), (2, 1, 2)), ((1, 4, 5),)):
            answer = sink.deliver(*spans)
            self.assertEqual((answer["success"], answer["message"], answer["confirmed"]), (True, "", "11111"))
        messages = queue.until(lambda all: len(all) >= 10, "all of them")
        method, properties, body = messages[0]
        body = json.loads(body)
        ns = "01900000-0000-7000-8000-000000000001"
        self.assertEqual(method.routing_key, f"kv.app-1.{ns}.rolled_back")
        self.assertEqual((properties.message_id, properties.type, properties.content_type, properties.delivery_mode, properties.timestamp),
                         (f"{ns}-1", "kv.entry.rolled_back", "application/cloudevents+json", 2, 1_790_000_000))
        self.assertEqual((body["id"], body["type"], body["subject"]), (f"{ns}-1", "kv.entry.rolled_back", "folder/key-1"))
        self.assertEqual(revisions(messages, 1), list(range(1, 9)))
        self.assertEqual(revisions(messages, 2), [1, 2])
        self.assertEqual(sink.stats(), {"published": 10, "confirmed": 10, "returned": 0, "nacked": 0, "reconnects": 0, "connected": True, "blocked": False})

    def test_a_full_queue_refuses_and_nothing_is_lost_or_overtaken(self):
        # Broken on purpose, and noticed: a nack taken for an ack; the window of the next delivery left open after a refusal.
        queue, sink = self.queue(arguments={"x-max-length": 4, "x-overflow": "reject-publish"}), self.sink()
        first = sink.deliver((1, 1, 256))
        self.assertTrue(first["success"])
        self.assertIn("0", first["confirmed"])
        self.assertGreater(sink.stats()["nacked"], 0)
        # Now it goes carefully: one is tried, and nothing that could overtake it.
        published = sink.stats()["published"]
        self.assertEqual(sink.deliver((1, 5, 256))["confirmed"], "0" * 256)
        self.assertEqual(sink.stats()["published"], published + 1)
        seen, confirmed = [], 0
        before = len(queue.take())
        # From now on the queue is emptied a little between deliveries, which begin at what was refused, as the store's do.
        while confirmed < 40:
            confirmed += (sink.deliver((1, confirmed + 1, 40 - confirmed))["confirmed"] + "0").index("0")
            seen += revisions(queue.take(3))
        seen += revisions(queue.take())
        self.assertGreater(before, 0)
        self.assertEqual(firsts(seen), sorted(firsts(seen)))
        self.assertLessEqual(set(range(5, 41)), set(seen))
        self.assertEqual(len(sink.logged("RabbitMQ refuses events, which wait: is a queue full?")), 1)
        queue.take()
        sink.until_delivered((2, 1, 2))
        self.assertEqual(len(sink.logged("RabbitMQ refuses no events any more")), 1)

    def test_what_no_queue_takes_is_kept_and_said_once(self):
        # Broken on purpose, and noticed: basic.return ignored, so that its ack counted.
        sink = self.sink()
        for _ in range(3):
            answer = sink.deliver((1, 1, 3))
            self.assertEqual((answer["success"], answer["confirmed"]), (True, "000"))
        self.assertEqual(sink.stats()["confirmed"], 0)
        self.assertGreaterEqual(sink.stats()["returned"], 3)
        [said] = sink.logged("no queue takes events, which wait: bind a queue to the exchange")
        self.assertEqual(said["exchange"], self.exchange)
        with self.queue() as queue:
            self.assertEqual(sink.deliver((1, 1, 3))["confirmed"], "111")
            self.assertEqual(revisions(queue.take()), [1, 2, 3])
        self.assertEqual(len(sink.logged("a queue takes events again")), 1)

    def test_a_namespace_without_a_queue_does_not_hold_up_another(self):
        queue, sink = self.queue(key="kv.app-2.#"), self.sink()
        answer = sink.deliver((1, 1, 2), (2, 1, 2))
        self.assertEqual((answer["success"], answer["confirmed"]), (True, "0101"))
        self.assertEqual(revisions(queue.take(), 2), [1, 2])

    def test_what_no_queue_takes_is_dropped_if_told_so(self):
        sink = self.sink(unroutable="drop")
        self.assertEqual(sink.deliver((1, 1, 3))["confirmed"], "111")
        self.assertEqual((sink.stats()["confirmed"], sink.stats()["returned"]), (0, 3))
        self.assertEqual(len(sink.logged("events that no queue takes are dropped: bind a queue to the exchange")), 1)

    def test_an_exchange_that_was_deleted_is_made_anew(self):
        queue, sink = self.queue(), self.sink()
        self.assertEqual(sink.deliver((1, 1, 2))["confirmed"], "11")
        queue.channel.exchange_delete(self.exchange)
        answer = sink.deliver((1, 3, 2))
        self.assertEqual((answer["success"], answer["confirmed"]), (False, "00"))
        self.assertIn("the exchange is not there any more (404)", answer["message"])
        sink.until_stats(connected=True, reconnects=1)
        self.assertEqual(sink.deliver((1, 3, 2))["confirmed"], "00")  # nothing is bound to the new one
        queue.channel.queue_bind(queue.name, self.exchange, "#")
        sink.until_delivered((1, 3, 2))
        self.assertEqual(firsts(revisions(queue.take())), [1, 2, 3, 4])

    def test_an_exchange_of_another_kind_is_not_taken(self):
        with self.queue() as queue:
            queue.channel.exchange_delete(self.exchange)
            queue.channel.exchange_declare(self.exchange, "fanout", durable=True)
        answer = self.sink().deliver((1, 1, 1))
        self.assertFalse(answer["success"])
        self.assertIn("the exchange is there already, and is none that is a topic and durable (406)", answer["message"])

    def test_a_wrong_password_vhost_or_port_is_said_once_and_keeps_nobody(self):
        with Proxy(1) as nobody:
            wrong = {"the user, the password or what the user may do there is not right (403)": self.sink(password="wr0ng-passw0rd"),
                     "there is no such vhost, or the user may not use it (530)": self.sink(self.server.url(vhost="none")),
                     "the connection was closed": self.sink(self.server.url(port=nobody.port))}
            for words, sink in wrong.items():
                with self.subTest(words):
                    answers = [sink.deliver((1, 1, 1)) for _ in range(3)]
                    self.assertEqual({(answer["success"], answer["confirmed"]) for answer in answers}, {(False, "0")})
                    self.assertIn(words, answers[-1]["message"])
                    self.assertEqual(len(sink.logged("RabbitMQ is away: events wait")), 1)
                    self.assertEqual(sink.stats()["connected"], False)
                    sink.stop()

    def test_while_there_is_an_alarm_nothing_is_sent(self):
        # Broken on purpose, and noticed: the capability connection.blocked not announced.
        queue, sink = self.queue(), self.sink()
        self.assertEqual(sink.deliver((1, 1, 2))["confirmed"], "11")
        self.server.set_memory_alarm(True)
        self.addCleanup(self.server.set_memory_alarm, False)
        # Whoever publishes first is told: that may be after some were confirmed.
        until(lambda: not sink.deliver((2, 1, 1))["success"], "the alarm is noticed", PATIENCE)
        sink.until_stats(blocked=True, connected=True)
        published = sink.stats()["published"]
        for _ in range(3):
            answer = sink.deliver((1, 3, 2))
            self.assertEqual((answer["success"], answer["confirmed"]), (False, "00"))
            self.assertIn("raised an alarm", answer["message"])
        self.assertEqual(sink.stats()["published"], published)
        self.server.set_memory_alarm(False)
        sink.until_stats(blocked=False)
        sink.until_delivered((1, 3, 2))
        self.assertEqual(firsts(revisions(queue.until(lambda all: len(firsts(revisions(all))) == 4, "all four"))), [1, 2, 3, 4])
        self.assertEqual([len(sink.logged(words)) for words in ("RabbitMQ raised an alarm: events wait", "RabbitMQ takes messages again")], [1, 1])


class Outages(WithServer):
    def test_a_broker_that_comes_late_goes_and_comes_back(self):
        self.server.stop()
        self.addCleanup(lambda: self.server.is_running or self.server.start())
        sink = self.sink()
        answer = sink.deliver((1, 1, 5))
        self.assertEqual((answer["success"], answer["confirmed"]), (False, "00000"))
        self.assertIn("nobody answers there", answer["message"])
        self.server.start()
        queue = self.queue()
        sink.until_delivered((1, 1, 5))
        queue.take()

        confirmed = 5
        for end in (self.server.stop, self.server.kill):
            target = confirmed + 600
            ending = None
            while confirmed < target:
                flags = sink.deliver((1, confirmed + 1, min(200, target - confirmed)))["confirmed"]
                confirmed += (flags + "0").index("0")
                if ending is None:
                    ending = end  # with messages under way or confirmed, and not yet on the way to us
                    end()
                    self.server.start()
        with Queue(self.server, self.exchange, name=queue.name) as again:
            messages = queue.received + again.take()
        # Nothing is lost, and what comes twice comes with the id and the words it had.
        seen = revisions(messages)
        self.assertEqual(firsts(seen), list(range(1, confirmed + 1)))
        self.assertEqual(len({body["id"]: body for body in bodies(messages)}), confirmed)
        self.assertEqual(len({properties.message_id + body.decode() for _, properties, body in messages}), confirmed)
        self.assertEqual(len(sink.logged("connected to RabbitMQ")), 3)
        self.assertEqual(sink.stats()["reconnects"], 2)

    def test_a_connection_that_swallows_everything_is_given_up(self):
        queue = self.queue()
        with Proxy(self.server.port) as proxy:
            sink = self.sink(self.server.url(port=proxy.port))
            self.assertEqual(sink.deliver((1, 1, 2))["confirmed"], "11")
            proxy.swallow()
            answer = sink.deliver((1, 3, 4))
            self.assertEqual((answer["success"], answer["confirmed"]), (False, "0000"))
            self.assertIn("did not confirm everything in time", answer["message"])
            sink.until_delivered((1, 3, 4))
            self.assertEqual(firsts(revisions(queue.take())), [1, 2, 3, 4, 5, 6])
            sink.stop()

    def test_a_send_that_hangs_is_ended(self):
        # Broken on purpose, and noticed: AmqpBreaker::cut() that does nothing. The library waits without end for room to send.
        queue = self.queue()
        with Proxy(self.server.port, buffer=4096) as proxy:
            sink = self.sink(self.server.url(port=proxy.port), padding=1000)
            self.assertEqual(sink.deliver((1, 1, 2))["confirmed"], "11")
            proxy.swallow()
            published = sink.stats()["published"]
            answer = sink.deliver((1, 3, 256))
            self.assertEqual((answer["success"], "1" in answer["confirmed"]), (False, False))
            self.assertLess(sink.stats()["published"], published + 256)  # or it did not hang
            sink.until_delivered((1, 3, 256))
            self.assertEqual(firsts(revisions(queue.take())), list(range(1, 259)))
            sink.stop()

    def test_a_silent_connection_is_noticed_while_nothing_is_sent(self):
        # Broken on purpose, and noticed: no pump() while there is no delivery.
        with Proxy(self.server.port) as proxy:
            sink = self.sink(self.server.url(port=proxy.port), heartbeat=1)
            sink.until_stats(connected=True)
            proxy.swallow()
            sink.until_stats(connected=True, reconnects=1)
            self.assertEqual(sink.logged("the connection to RabbitMQ was lost: events wait")[0]["reason"], "it fell silent")

    def test_heartbeats_keep_an_idle_connection(self):
        sink = self.sink(heartbeat=1)
        sink.until_stats(connected=True)
        self.queue()
        # The broker drops whoever is silent for two heartbeats or three: here it would have, more than once.
        with Proxy(self.server.port) as proxy:
            other = self.sink(self.server.url(port=proxy.port), heartbeat=1)
            for silences in (1, 2):
                other.until_stats(connected=True)
                proxy.swallow()
                other.until_stats(connected=True, reconnects=silences)
        self.assertEqual(sink.deliver((1, 1, 1))["confirmed"], "1")
        self.assertEqual(sink.stats()["reconnects"], 0)

    def test_it_ends_while_the_broker_stands_still(self):
        sink, early = self.sink(), self.sink()
        sink.until_stats(connected=True)
        self.server.pause()
        self.addCleanup(self.server.resume)
        late = self.sink()
        self.assertFalse(late.deliver((1, 1, 1))["success"])
        for one in (sink, early, late):
            one.stop()


class Tls(WithServer):
    tls = "required"

    def test_who_is_vouched_for_is_spoken_with(self):
        certificate, key = self.server.certificates.issue("client", "DNS:client")
        queue = self.queue()
        options = {"ca": self.server.certificates.ca, "cert": certificate, "key": key}
        for number, host in enumerate(("localhost", OTHER_ADDRESS)):
            sink = self.sink(self.server.tls_url(host), **options)
            self.assertEqual(sink.deliver((1, number + 1, 1))["confirmed"], "1")
        self.assertEqual(revisions(queue.take()), [1, 2])

    def test_who_is_not_is_not_spoken_with(self):
        # Broken on purpose, and noticed: the host not set, the peer not verified.
        certificate, key = self.server.certificates.issue("client", "DNS:client")
        other = Certificates(tempfile.mkdtemp(dir=self.server.folder))
        ours = {"ca": self.server.certificates.ca, "cert": certificate, "key": key}
        refused = "its certificate is for another host, or is not vouched for by an authority that is trusted here (--amqp-ca)"
        for name, sink, words in (("another host", self.sink(self.server.tls_url("127.0.0.1"), **ours), refused),
                                  ("another authority", self.sink(self.server.tls_url("localhost"), **{**ours, "ca": other.ca}), refused),
                                  ("the system's", self.sink(self.server.tls_url("localhost"), cert=certificate, key=key), refused),
                                  ("no certificate of ours", self.sink(self.server.tls_url("localhost"), ca=ours["ca"]), ""),
                                  ("no TLS there", self.sink(f"amqps://kvd@localhost:{self.server.port}", **ours), "")):
            with self.subTest(name):
                answer = until(lambda: (lambda got: got if "not connected yet" not in got["message"] else None)(sink.deliver((1, 1, 1))), name)
                self.assertFalse(answer["success"])
                self.assertIn(words, answer["message"])
                self.assertFalse(sink.stats()["connected"])

    def test_files_that_are_no_good_stop_the_start(self):
        certificate, key = self.server.certificates.issue("client", "DNS:client")
        locked = self.server.path("locked.key")
        self.server.certificates.run("ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
        for options in ({"ca": "/dev/null"}, {"ca": self.server.certificates.ca, "cert": certificate, "key": locked},
                        {"cert": certificate, "key": self.server.path("server.key")}):
            sink = self.sink(self.server.tls_url("localhost"), **options)
            self.assertEqual(sink.process.wait(PATIENCE), 78, options)
            self.assertRegex(sink.log_text(), "^--amqp-(ca|key): ")


if __name__ == "__main__":
    main()
