"""The database is away, or stands still: what is asked meanwhile is refused soon and as such, kvd says why, and serves again by
itself. And a kvd that is killed or stands still is missed by nobody.

Broken on purpose, and noticed: kvd waited a minute for an answer of the database.
"""

import concurrent.futures
import contextlib
import http.client
import signal
import time
import unittest

from cluster import RECOVERY, Cluster
from harness import PATIENCE, main, until

# Until a request is answered that the database keeps waiting: 6 s are promised for what is under way, 1 s for the queue.
ANSWER = 2 * RECOVERY
REFUSED = {(503, "unavailable"), (503, "overloaded"), (503, "audit-unavailable")}
UNKNOWN = (504, "outcome-unknown")


class Away(unittest.TestCase):
    nodes, standby = 2, False

    def setUp(self):
        self.cluster = Cluster(nodes=self.nodes, standby=self.standby)
        self.addCleanup(self.cluster.close)
        self.ns = self.cluster.namespace("n")
        self.assertEqual(self.put("before").status, 201)

    def put(self, key, number=0, value="v"):
        return self.cluster.ask(number, "PUT", f"/{self.ns}/entries/{key}", {"value": value})

    def get(self, key, number=0):
        return self.cluster.ask(number, "GET", f"/{self.ns}/entries/{key}")

    @staticmethod
    def told(answer):
        return answer.status, answer.code if answer.status >= 400 else ""

    def check_healthy_but_not_ready(self):
        for number, node in enumerate(self.cluster.nodes):
            answer = until(lambda: (a := self.cluster.ask(number, "GET", "/readyz", token=None)).status == 503 and a, "it is not ready", ANSWER)
            self.assertEqual(answer.code, "unavailable")
            self.assertRegex(answer.json()["detail"], "(?i)database|postgresql|storage")
            self.check_silent(answer.body.decode())
            self.assertEqual(self.cluster.ask(number, "GET", "/healthz", token=None).status, 200)
            self.assertEqual(self.cluster.ask(number, "GET", "/metrics", token=None, admin=True).status, 200)
            self.check_silent(node.read("stderr"))

    def check_silent(self, text):
        """The password of the database stands in no answer and no log."""
        self.assertNotIn(self.cluster.primary.password, text)

    def check_back(self, when):
        self.cluster.await_service(self.ns, when)
        self.assertEqual(self.get("before").json()["value"], "v")


class Stopped(Away):
    def test_a_database_that_is_stopped_and_comes_back(self):
        for how in ("fast", "immediate"):
            self.cluster.primary.stop(how)
            for number in range(self.nodes):
                for ask in (self.put, self.get):
                    self.assertIn(self.told(ask("before", number)), REFUSED)
            self.check_healthy_but_not_ready()
            self.cluster.primary.start()
            self.check_back(f"after it was stopped ({how})")

    def test_many_ask_while_it_is_away(self):
        self.cluster.primary.stop("immediate")
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda n: self.told((self.put if n % 2 else self.get)(f"k{n}", n % self.nodes)), range(640)))
        self.assertLessEqual(set(answers), REFUSED)
        self.cluster.primary.start()
        self.check_back("after many asked")
        # Nothing that was refused has been done, then or later.
        for number in range(1, 640, 64):
            self.assertEqual(self.get(f"k{number}").status, 404)


class Still(Away):
    """Its processes are stopped, the connections stand: nothing says that it is gone but time."""

    def test_a_database_that_stands_still(self):
        primary = self.cluster.primary
        primary.pause()
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            begun = time.monotonic()
            times = {}

            def ask(n):
                answer = (self.put if n % 2 else self.get)(f"k{n}", n % self.nodes)
                times[n] = time.monotonic() - begun
                return answer
            asked = {pool.submit(ask, n): n for n in range(64)}
            done, late = concurrent.futures.wait(asked, ANSWER)
            primary.resume()
            self.assertEqual(len(late), 0, f"{len(late)} of {len(asked)} were not answered in {ANSWER} s")
        told = {asked[one]: self.told(one.result()) for one in done}
        for said in sorted(set(told.values())):
            taken = sorted(times[n] for n in told if told[n] == said)
            print(f"{len(taken)} answers {said} within {taken[0]:.2f} to {taken[-1]:.2f} s")
        self.assertLessEqual(set(told.values()), REFUSED | {UNKNOWN})
        self.check_back("after it stood still")
        # Refused is refused: only what is unknown may have been done.
        for number, said in told.items():
            if number % 2 and said in REFUSED:
                self.assertEqual(self.get(f"k{number}").status, 404, f"k{number} was {said}")

    def test_it_says_so_while_it_lasts(self):
        self.cluster.primary.pause()
        try:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                asked = [pool.submit(self.put, f"k{n}", n % self.nodes) for n in range(8)]
                self.check_healthy_but_not_ready()
                concurrent.futures.wait(asked, ANSWER)
                # The queue does not grow for ever: what comes now is refused, too.
                for number in range(self.nodes):
                    self.assertIn(self.told(self.put("late", number)), REFUSED | {UNKNOWN})
        finally:
            self.cluster.primary.resume()
        self.check_back("after it stood still")


class Nodes(Away):
    def test_a_kvd_that_is_killed_takes_nothing_with_it(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.assertEqual(self.put("k", 0).status, 201)
        self.cluster.kill_node(0)
        self.assertEqual(self.get("k", 1).json()["value"], "v")
        self.assertEqual(self.put("k", 1, "w").status, 200)
        self.cluster.start(0)
        self.assertEqual(self.get("k", 0).json()["value"], "w")

    def test_a_kvd_that_stands_still_holds_nobody_up(self):
        """It may hold the lock of a namespace: the database ends such a transaction."""
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(self.put, f"k{n}", 0) for n in range(200)]
            until(lambda: any(one.done() for one in asked), "the first are answered")
            self.cluster.nodes[0].signal(signal.SIGSTOP)
            try:
                until(lambda: self.put("other", 1).status in (200, 201), "the other one writes", 4 * RECOVERY)
            finally:
                self.cluster.nodes[0].signal(signal.SIGCONT)
            for one in asked:
                self.assertIn(self.told(one.result(PATIENCE)), REFUSED | {UNKNOWN, (200, ""), (201, "")})
        self.check_back("after it stood still")


if __name__ == "__main__":
    main()
