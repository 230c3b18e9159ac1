"""64 clients compare-and-set one key through three kvd: one winner per version, and nobody waits for nobody.

Many others meanwhile write keys of several namespaces together, in whatever order: no deadlock.

Broken on purpose, and noticed: the namespace's row was read and not locked; kvd that began together kept the keys they drew.
"""

import http.client
import json
import secrets
import threading
import unittest

from cluster import TOKEN, Cluster, each
from harness import BASE, IS_THIN, PATIENCE, main

CLIENTS = 64
WINS = 100 if IS_THIN else 400
TURNS = 10 if IS_THIN else 30


class Asker:
    """One connection that stays."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def ask(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request(method, BASE + path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


class Beginning(unittest.TestCase):
    """Several kvd find an empty database at the same time, and each wants to make what is missing."""

    def test_kvd_that_begin_at_once_serve_one_store(self):
        for _ in range(2 if IS_THIN else 4):
            with Cluster(nodes=6) as cluster:
                spaces = [cluster.ask(number, "POST", "/namespaces", {"name": f"n{number}", "isSecretNamespace": True}) for number in range(6)]
                self.assertEqual([answer.status for answer in spaces], [201] * 6)
                for number, space in enumerate(spaces):
                    path = f"/{space.json()['id']}/entries/k"
                    self.assertEqual(cluster.ask(number, "PUT", path, {"value": f"of {number}"}).status, 201)
                    for other in range(6):
                        answer = cluster.ask(other, "GET", path)
                        self.assertEqual((answer.status, answer.json().get("value")), (200, f"of {number}"), f"by {number}, read by {other}")
                        self.assertEqual(answer.headers["etag"].split("-")[0], cluster.ask(0, "GET", path).headers["etag"].split("-")[0])


class Race(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.close)
        self.ns = self.cluster.namespace("race", isSecretNamespace=True)
        self.won = {}  # version -> who made it
        self.lock = threading.Lock()

    def asker(self, number):
        return Asker(self.cluster.nodes[number % len(self.cluster.nodes)].port)

    def client(self, number):
        with self.asker(number) as asker:
            return self.compete(number, asker)

    def compete(self, number, asker):
        """Writes over the version it knows until enough is written. Gives what went wrong."""
        path, version, wrong = f"/{self.ns}/entries/the/key", 0, []
        while version < WINS and not wrong:
            status, answer = asker.ask("PUT", path, {"value": f"{number} over {version}", "expectedVersion": version})
            if status in (200, 201):
                with self.lock:
                    if answer["version"] != version + 1 or answer["version"] in self.won:
                        wrong.append(f"client {number} made version {answer['version']} over {version}, as did {self.won.get(answer['version'])}")
                    self.won[answer["version"]] = number
                version = answer["version"]
            elif status == 409 and answer["code"] == "version-conflict" and answer["currentVersion"] > version:
                version = answer["currentVersion"]
            else:
                wrong.append(f"client {number} over {version}: {status} {answer}")
        return wrong

    def test_one_of_64_clients_wins_each_version(self):
        wrong = sum(each(CLIENTS, self.client), [])
        self.assertEqual(wrong, [])
        self.assertEqual(sorted(self.won), list(range(1, len(self.won) + 1)))
        self.assertGreaterEqual(len(self.won), WINS)
        with self.asker(1) as asker:
            status, entry = asker.ask("GET", f"/{self.ns}/entries/the/key")
            self.assertEqual((status, entry["version"]), (200, len(self.won)))
            for version in (1, len(self.won) // 2, len(self.won) - 1):
                status, old = asker.ask("GET", f"/{self.ns}/entries/the/key?version={version}")
                self.assertEqual((status, old["value"]), (200, f"{self.won[version]} over {version - 1}"))
        nodes = {number % len(self.cluster.nodes) for number in self.won.values()}
        self.assertEqual(nodes, {0, 1, 2}, "each kvd had winners")
        self.finish()

    def test_namespaces_that_are_written_together_in_any_order(self):
        spaces = [self.cluster.namespace(f"several-{secrets.token_hex(2)}") for _ in range(6)]

        def write(number):
            order = spaces[number % 6:] + spaces[:number % 6]
            if number % 2:
                order.reverse()
            with self.asker(number) as asker:
                answers = [asker.ask("PUT", f"/{ns}/entries/k{number % 8}", {"value": turn}) for turn in range(TURNS) for ns in order]
            return [(status, answer) for status, answer in answers if status not in (200, 201)]
        self.assertEqual(sum(each(CLIENTS, write), []), [])
        for ns in spaces:
            self.assertEqual(self.cluster.ask(2, "GET", f"/namespaces/{ns}").json()["revision"], TURNS * CLIENTS)
        self.finish()

    def finish(self):
        self.cluster.stop_nodes()
        self.assertNotIn("deadlock detected", self.cluster.server_logs())


if __name__ == "__main__":
    main()
