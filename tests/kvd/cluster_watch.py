"""Watches and lists that wait, where the change comes through another kvd on the same PostgreSQL."""

import threading
import unittest

from cluster import TOKEN, Cluster
from event_stream import EventStream
from harness import main, until


class ClusterWatch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster("--watch-heartbeat", "1h", nodes=2)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop_nodes()
        cls.cluster.close()

    def watch(self, number, ns, **options):
        stream = EventStream(self.cluster.nodes[number].port, f"/{ns}/watch", TOKEN, **options)
        self.addCleanup(stream.close)
        self.assertEqual(stream.status, 200)
        stream.begin()
        return stream

    def put(self, number, ns, key):
        answer = self.cluster.ask(number, "PUT", f"/{ns}/entries/{key}", {"value": 1})
        self.assertIn(answer.status, (200, 201), answer)

    def test_what_one_changes_the_watchers_of_the_other_are_told(self):
        ns = self.cluster.namespace("watched")
        streams = [self.watch(number, ns) for number in (0, 1)]
        for turn in range(20):
            self.put(turn % 2, ns, f"k{turn}")
        for stream in streams:
            events = stream.take(20)
            self.assertEqual([(event.id, event.data["keyPath"]) for event in events], [(str(turn + 1), f"k{turn}") for turn in range(20)])

    def test_a_list_of_one_that_waits_is_answered_when_the_other_changes_something(self):
        ns = self.cluster.namespace("polled")
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.cluster.ask(0, "GET", f"/{ns}/entries?waitRevision=0&timeoutSeconds=300")))
        thread.start()
        self.put(1, ns, "a")
        thread.join()
        self.assertEqual(answers[0].json()["revision"], 1)

    def test_a_watch_goes_on_at_another_node(self):
        ns = self.cluster.namespace("moved")
        stream = self.watch(0, ns)
        for key in "abc":
            self.put(1, ns, key)
        stream.take(2)
        place = until(lambda: stream.last_id, "a place")
        stream.close()
        again = self.watch(1, ns, headers=[("Last-Event-ID", "2")])
        self.assertIn(place, ("2", "3"))  # what it heard, or took
        self.assertEqual(again.next().data["keyPath"], "c")


if __name__ == "__main__":
    main()
