"""Tokens of the store where several kvd share one PostgreSQL: made here, good there, revoked everywhere."""

import unittest

from api import grant
from cluster import Cluster
from event_stream import EventStream
from harness import REVOKED_WITHIN, main, until


class ClusterTokens(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(nodes=2)
        self.addCleanup(self.cluster.close)
        self.ns = self.cluster.namespace("n")

    def make(self, number):
        body = {"name": "n", "userId": "u", "grants": [grant("kv-namespace:read", "kv-entry:read")]}
        answer = self.cluster.ask(number, "POST", "/tokens", body)
        self.assertEqual(answer.status, 201, answer)
        return answer.json()

    def status(self, number, token):
        return self.cluster.ask(number, "GET", f"/namespaces/{self.ns}", token=token).status

    def test_one_is_good_everywhere_at_once_and_revoked_everywhere_soon(self):
        """Broken on purpose, and noticed: a node went on with what it knew."""
        for maker, revoker in ((0, 1), (1, 0)):
            made = self.make(maker)
            streams = []
            for number in (0, 1):
                self.assertEqual(self.status(number, made["token"]), 200)
                stream = EventStream(self.cluster.nodes[number].port, f"/{self.ns}/watch", made["token"])
                self.addCleanup(stream.close)
                self.assertEqual(stream.status, 200)
                stream.begin()
                streams.append(stream)
            self.assertEqual(self.cluster.ask(revoker, "DELETE", "/tokens/" + made["id"]).status, 204)
            for number in (0, 1):
                until(lambda: self.status(number, made["token"]) == 401, f"node {number} refuses it", REVOKED_WITHIN)
            for stream in streams:
                self.assertEqual(stream.next().kind, "end")

    def test_one_is_not_good_while_nobody_can_say_so(self):
        made = self.make(0)
        self.assertEqual(self.status(1, made["token"]), 200)
        self.cluster.primary.stop("fast")
        until(lambda: self.status(1, made["token"]) == 503, "it cannot be looked for")
        self.assertEqual(self.cluster.ask(1, "GET", "/healthz", token=None).status, 200)
        self.cluster.primary.start()
        self.cluster.await_service(self.ns, "after it came back")
        until(lambda: self.status(1, made["token"]) == 200, "it is good again")


if __name__ == "__main__":
    main()
