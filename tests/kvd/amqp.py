"""kvd and RabbitMQ: whatever is changed is told in the end, once or more, in order, and without values; and nobody who asks kvd
for something notices how the broker is.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

import storages
from harness import PATIENCE as PATIENCE_OF_KVD
from harness import Kvd, make_key, main, run, until
from needles import encodings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "rabbitmq"))
from rabbitmq_server import Queue, RabbitmqServer  # noqa: E402

# The store pauses up to ten seconds after failures, and so does the sink.
PATIENCE = 60.0 + PATIENCE_OF_KVD
MARK = "pl4nted~value/Ω"
EXIT_NOT_GOOD, EXIT_CONFIG, EXIT_USAGE = 1, 78, 64


def revisions(messages):
    return [json.loads(body)["data"]["revision"] for _, _, body in messages]


def firsts(values):
    return list(dict.fromkeys(values))


class Events(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = RabbitmqServer()
        cls.addClassCleanup(cls.server.close)

    def setUp(self):
        self.exchange = "x." + self.id().rsplit(".", 1)[1][:60]
        self.folder = tempfile.mkdtemp(prefix="kvd-amqp-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.key, self.token = make_key(), "t" * 40
        self.kvds = 0

    def kvd(self, *flags, url=None, environment=None):
        """Always on the same storage. Each has a folder of its own for what it prints."""
        self.kvds += 1
        folder = os.path.join(self.folder, str(self.kvds))
        os.mkdir(folder)
        made = Kvd("--amqp", url or self.server.url(), "--amqp-exchange", self.exchange, *flags, storage=storages.place(self.folder), folder=folder, key=self.key,
                   token=self.token, environment={"KVD_AMQP_PASSWORD": self.server.password, **(environment or {})})
        self.addCleanup(made.kill)
        return made

    def queue(self, **options):
        made = Queue(self.server, self.exchange, **options)
        self.addCleanup(made.close)
        return made

    def ask(self, kvd, status, method, path, body=None):
        answer = kvd.request(method, path, body)
        self.assertEqual(answer.status, status, answer)
        return answer.json() if answer.body else None

    def namespace(self, kvd, name="events", **members):
        return self.ask(kvd, 201, "POST", "/namespaces", {"name": name, "isSecretNamespace": True, **members})["id"]

    def put(self, kvd, ns, number):
        self.ask(kvd, 201, "PUT", f"/{ns}/entries/key/{number}", {"value": f"{MARK} {number}"})

    def until_metrics(self, kvd, **wanted):
        """Metrics without labels, or those of the sink."""
        def is_so():
            found = kvd.metrics()
            return all(found.get(name, found.get(name + '{sink="amqp"}')) == value for name, value in wanted.items())
        until(is_so, f"{wanted}", PATIENCE)

    def check_whole(self, messages, count):
        """Every revision, first in order, and repeats that are the same to the byte."""
        self.assertEqual(firsts(revisions(messages)), list(range(1, count + 1)))
        self.assertEqual(len({(properties.message_id, body) for _, properties, body in messages}), count)

    def check_silence(self, kvd, messages=()):
        """Neither value nor password is anywhere."""
        told = kvd.read("stderr").encode() + kvd.read("stdout").encode() + b"".join(body + repr((method, properties)).encode() for method, properties, body in messages)
        for secret in (MARK, self.server.password, self.key):
            for name, forms in encodings(secret.encode()).items():
                for form in forms:
                    self.assertNotIn(form, told, (secret, name))

    def test_every_change_is_told(self):
        kvd, queue = self.kvd(), self.queue()
        ns = self.namespace(kvd)
        path = f"/{ns}/entries/database/password"
        self.ask(kvd, 201, "PUT", path, {"value": MARK})
        self.ask(kvd, 200, "PUT", path, {"value": MARK + "2"})
        self.ask(kvd, 200, "POST", path + "/rotate", {"value": MARK + "3"})
        self.ask(kvd, 200, "POST", path + "/rollback", {"version": 1})
        self.ask(kvd, 200, "PATCH", path, {"ttlSeconds": 3600})
        self.ask(kvd, 204, "DELETE", path)
        self.ask(kvd, 201, "PUT", path, {"value": MARK, "ttlSeconds": 1})
        messages = queue.until(lambda all: len(all) >= 8, "all of them, the expiry too", PATIENCE)
        kinds = [json.loads(body)["data"]["kind"] for _, _, body in messages]
        self.assertEqual(kinds, ["created", "updated", "rotated", "rolled_back", "touched", "deleted", "created", "expired"])
        self.check_whole(messages, 8)
        event = json.loads(messages[0][2])
        self.assertEqual((event["source"], event["subject"], event["data"]["userId"], event["data"]["version"]),
                         (f"/api/v1/kv/{ns}", "database/password", "root", 1))
        self.until_metrics(kvd, kvd_outbox_pending=0, kvd_amqp_connected=1, kvd_amqp_blocked=0, kvd_amqp_confirmed_total=8, kvd_sink_delivered_total=8,
                           kvd_sink_failures_total=0, kvd_sink_owner=1)
        kvd.stop()
        self.check_silence(kvd, messages)

    def test_a_broker_that_is_away_delays_nobody(self):
        self.server.stop()
        self.addCleanup(lambda: self.server.is_running or self.server.start())
        kvd = self.kvd()
        ns = self.namespace(kvd)
        for number in range(20):
            self.put(kvd, ns, number)
        self.assertEqual(kvd.request("GET", "/readyz", token=None).status, 200)
        self.until_metrics(kvd, kvd_outbox_pending=20, kvd_amqp_connected=0)
        self.assertGreater(kvd.metrics()['kvd_outbox_oldest_pending_seconds{sink="amqp"}'], 0)
        self.server.start()
        queue = self.queue()
        self.check_whole(queue.until(lambda all: len(firsts(revisions(all))) == 20, "all of them", PATIENCE), 20)
        self.until_metrics(kvd, kvd_outbox_pending=0, kvd_amqp_connected=1)
        self.assertEqual(len([line for line in kvd.log() if line["message"] == "RabbitMQ is away: events wait"]), 1)
        kvd.stop()
        self.check_silence(kvd, queue.received)

    def test_nothing_is_lost_when_broker_and_kvd_are_killed(self):
        # Broken on purpose, and noticed: deliver() that confirms what it only sent.
        kvd, queue = self.kvd(), self.queue()
        ns = self.namespace(kvd)
        written = 0

        def write(count):
            nonlocal written
            for _ in range(count):
                self.put(kvd, ns, written)
                written += 1

        write(50)
        for end in (self.server.kill, self.server.stop):
            ending = threading.Thread(target=end)
            ending.start()
            write(100)
            ending.join()
            self.server.start()
            write(50)
            kvd.process.kill()
            kvd.process.wait()
            kvd = self.kvd()
        write(10)
        with Queue(self.server, self.exchange, name=queue.name) as again:
            messages = again.until(lambda all: len(firsts(revisions(queue.received + all))) == written, "all of them", PATIENCE)
        self.check_whole(queue.received + messages, written)
        kvd.stop()
        self.check_silence(kvd, messages)

    def test_an_alarm_of_the_broker_delays_nobody(self):
        kvd, queue = self.kvd(), self.queue()
        ns = self.namespace(kvd)
        self.put(kvd, ns, 0)
        queue.until(lambda all: len(all) == 1, "the first")
        self.server.set_memory_alarm(True)
        self.addCleanup(self.server.set_memory_alarm, False)
        for number in range(1, 20):
            self.put(kvd, ns, number)
        self.until_metrics(kvd, kvd_amqp_blocked=1, kvd_amqp_connected=1)
        self.assertEqual(kvd.request("GET", "/readyz", token=None).status, 200)
        self.server.set_memory_alarm(False)
        self.check_whole(queue.until(lambda all: len(firsts(revisions(all))) == 20, "all of them", PATIENCE), 20)
        self.until_metrics(kvd, kvd_amqp_blocked=0, kvd_outbox_pending=0)
        kvd.stop()

    def test_a_namespace_without_a_queue_waits_alone(self):
        kvd, queue = self.kvd(), self.queue(key="kv.app~1.#".replace("~", "%7E"))
        routed, other = self.namespace(kvd, applicationId="app~1"), self.namespace(kvd, applicationId="app-2")
        for number in range(5):
            self.put(kvd, other, number)
            self.put(kvd, routed, number)
        queue.until(lambda all: len(all) >= 5, "those that somebody wants", PATIENCE)
        self.until_metrics(kvd, kvd_outbox_pending=5)
        queue.channel.queue_bind(queue.name, self.exchange, "#")
        messages = queue.until(lambda all: len({properties.message_id for _, properties, _ in all}) == 10, "the rest", PATIENCE)
        for ns in (routed, other):
            self.check_whole([message for message in messages if ns in message[1].message_id], 5)
        kvd.stop()

    def test_keys_can_stay_at_home(self):
        kvd, queue = self.kvd("--events-hide-keys"), self.queue()
        self.put(kvd, self.namespace(kvd), "s3cret-n4me")
        [(method, properties, body)] = queue.until(lambda all: len(all) == 1, "it")
        self.assertNotIn("s3cret-n4me", body.decode() + repr((method, properties)))
        self.assertEqual(set(json.loads(body)["data"]), {"namespaceId", "applicationId", "entryId", "version", "revision", "kind"})
        kvd.stop()

    def test_a_sink_is_shown_and_forgotten(self):
        storage = storages.place(self.folder)
        secret = {"KV_MASTER_KEY": self.key}
        kvd, queue = self.kvd(), self.queue()
        ns = self.namespace(kvd)
        self.put(kvd, ns, 0)
        queue.until(lambda all: len(all) == 1, "the first")
        self.until_metrics(kvd, kvd_outbox_pending=0)
        queue.delete()
        self.put(kvd, ns, 1)
        self.until_metrics(kvd, kvd_outbox_pending=1)
        said = run("sink", "list", "--storage", storage)
        self.assertEqual(said.returncode, 0, said.stderr)
        self.assertRegex(said.stdout, r"\Aamqp\n  since:    \S+Z\n")
        refused = run("sink", "forget", "amqp", "--storage", storage, environment=secret)
        self.assertEqual(refused.returncode, EXIT_NOT_GOOD if storages.IS_POSTGRESQL else EXIT_CONFIG, refused.stderr)
        self.assertRegex(refused.stderr, "A process delivers to this sink" if storages.IS_POSTGRESQL else "in use by process")
        kvd.stop()
        # What stopped in order said so, and nobody need wait.
        self.assertIn("pending:  1\n", run("sink", "list", "--storage", storage).stdout)
        self.assertEqual(run("sink", "forget", "amqpp", "--storage", storage, environment=secret).returncode, EXIT_CONFIG)
        self.assertEqual(run("sink", "forget", "amqp", "--storage", storage).returncode, EXIT_CONFIG)  # recorded, or not done
        done = run("sink", "forget", "amqp", "--storage", storage, environment=secret)
        self.assertEqual((done.returncode, done.stdout), (0, "forgotten: amqp\n"), done.stderr)
        self.assertEqual(run("sink", "list", "--storage", storage).stdout, "")
        self.assertEqual(run("sink", "forget", "amqp", "--storage", storage, environment=secret).returncode, EXIT_CONFIG)
        verified = run("verify", "--storage", storage, environment=secret)
        self.assertEqual(verified.returncode, 0, verified.stdout)
        kvd = self.kvd()
        recorded = self.ask(kvd, 200, "GET", "/audit?limit=1000")["items"]
        self.assertEqual([(row["keyPath"], row["action"], row["userId"]) for row in recorded if row["operation"] == "sink.forget"], [("amqp", "DELETE", "system")])
        # It begins anew, with what is changed from now on.
        queue = self.queue()
        until(lambda: "pending:  0\n" in run("sink", "list", "--storage", storage).stdout, "it is there again", PATIENCE)
        self.put(kvd, ns, 2)
        self.assertEqual(revisions(queue.until(lambda all: len(all) == 1, "the third", PATIENCE)), [3])
        kvd.stop()
        if not storages.IS_POSTGRESQL:
            self.assertEqual(run("sink", "forget", "amqp", "--storage", "sqlite:" + self.folder + "/none.db", environment=secret).returncode, EXIT_CONFIG)
            self.assertFalse(os.path.exists(self.folder + "/none.db"))

    def test_the_password_is_shown_to_nobody(self):
        queue = self.queue()
        kvd = self.kvd(url="amqp://nobody@127.0.0.1:1", environment={"KVD_AMQP_URL": self.server.url(password=True)})  # the flag wins
        with open(f"/proc/{kvd.process.pid}/environ", "rb") as file:
            self.assertNotIn(self.server.password.encode(), file.read())
        kvd.stop()
        self.check_silence(kvd)
        folder = os.path.join(self.folder, "variable")
        os.mkdir(folder)
        with Kvd("--amqp-exchange", self.exchange, storage=storages.place(folder), folder=folder, key=self.key, token=self.token,
                 environment={"KVD_AMQP_URL": self.server.url(password=True)}) as kvd:
            with open(f"/proc/{kvd.process.pid}/environ", "rb") as file:
                self.assertNotIn(self.server.password.encode(), file.read())
            self.put(kvd, self.namespace(kvd), 0)
            queue.until(lambda all: len(all) == 1, "it", PATIENCE)
        self.check_silence(kvd, queue.received)
        with open(os.path.join(self.folder, "password"), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(self.server.password + "\n")
        with Kvd("--amqp", self.server.url(), "--amqp-password-file", file.name, "--amqp-exchange", self.exchange, storage=storages.place(folder), folder=folder,
                 key=self.key, token=self.token) as kvd:
            self.until_metrics(kvd, kvd_amqp_connected=1)

    @unittest.skipUnless(storages.IS_POSTGRESQL, "one kvd has the file for itself")
    def test_of_three_one_stands_still_and_another_takes_over(self):
        kvds, queue = [self.kvd() for _ in range(3)], self.queue()
        ns = self.namespace(kvds[0])
        self.put(kvds[0], ns, 0)
        queue.until(lambda all: len(all) == 1, "the first")

        def owners():
            return [kvd for kvd in kvds if kvd.metrics()['kvd_sink_owner{sink="amqp"}'] == 1]

        (paused,) = owners()
        kvds.remove(paused)
        paused.process.send_signal(signal.SIGSTOP)
        began, written = time.monotonic(), 1
        while time.monotonic() < began + 20 or not owners():
            self.assertLess(time.monotonic(), began + PATIENCE)
            self.put(kvds[written % 2], ns, written)
            written += 1
        self.assertEqual(len(owners()), 1)
        paused.process.send_signal(signal.SIGCONT)
        for _ in range(100):
            self.put(kvds[written % 2], ns, written)
            written += 1
        self.check_whole(queue.until(lambda all: len(set(revisions(all))) == written, "all of them", PATIENCE), written)
        until(lambda: paused.metrics()['kvd_sink_owner{sink="amqp"}'] == 0, "it sees that another has the sink", PATIENCE)
        self.assertEqual(len(owners()), 1)
        for kvd in (paused, *kvds):
            self.put(kvd, ns, written)
            written += 1
        messages = queue.until(lambda all: len(set(revisions(all))) == written, "the last, too", PATIENCE)
        self.check_whole(messages, written)
        for kvd in (paused, *kvds):
            kvd.stop()
            self.check_silence(kvd, messages)

    def test_complaints_quote_no_password(self):
        word, root = "pl4nted-passw0rd", {"KVD_ROOT_TOKEN": "r" * 40, "KV_MASTER_KEY": self.key}
        check = ("serve", "--check-config", "--storage", "memory:")
        cases = [(EXIT_USAGE, ("--amqp", url), {}) for url in (f"amqp://u:{word}@h:port", f"amqp://u:{word}/@h", word, f"http://u:{word}@h", f"amqp://h/{word}/x")]
        cases += [(EXIT_CONFIG, (), {"KVD_AMQP_URL": f"amqp://u:{word}@h:0"}), (EXIT_CONFIG, ("--amqp", f"amqp://u:{word}@h"), {"KVD_AMQP_PASSWORD": word}),
                  (EXIT_CONFIG, ("--amqp", "amqp://h"), {"KVD_AMQP_PASSWORD": word}), (EXIT_CONFIG, ("--amqp", "amqp://u@h"), {}),
                  (EXIT_CONFIG, ("--amqp", f"amqp://u:{word}@h", "--amqp-ca", "/dev/null"), {}), (EXIT_USAGE, (f"--amqp-password={word}",), {}),
                  (EXIT_USAGE, ("--amqp-unroutable", word), {}), (EXIT_USAGE, ("--amqp-exchange", "amq.topic"), {}), (EXIT_USAGE, ("--amqp-exchange", word + " "), {})]
        for code, flags, environment in cases:
            with self.subTest(flags=flags, environment=environment):
                done = run(*check, *flags, environment={**root, **environment})
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertNotIn(word, done.stdout + done.stderr)
        self.assertEqual(run(*check, "--amqp", "amqp://u@h", environment={**root, "KVD_AMQP_PASSWORD": word}).returncode, 0)

    @unittest.skipUnless(storages.IS_POSTGRESQL, "one process at a time has a file")
    def test_another_kvd_takes_over(self):
        queue, first = self.queue(), self.kvd()
        ns = self.namespace(first)
        self.put(first, ns, 0)
        queue.until(lambda all: len(all) == 1, "the first", PATIENCE)
        second = self.kvd()
        self.put(second, ns, 1)  # by whoever is not the owner
        queue.until(lambda all: len(all) == 2, "the second", PATIENCE)
        self.until_metrics(first, kvd_sink_owner=1)
        self.until_metrics(second, kvd_sink_owner=0, kvd_amqp_published_total=0)
        for number in range(2, 20):
            self.put(second, ns, number)
        first.process.kill()
        first.process.wait()
        for number in range(20, 40):
            self.put(second, ns, number)
        self.until_metrics(second, kvd_sink_owner=1)
        self.check_whole(queue.until(lambda all: len(firsts(revisions(all))) == 40, "all of them", PATIENCE), 40)
        second.stop()


if __name__ == "__main__":
    main()
