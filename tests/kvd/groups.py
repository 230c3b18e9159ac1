"""Many writers at once: they share commits, and none of them suffers from what another one asked for."""

import json
import threading

from api import ApiTestCase
from harness import Connection, main, until

MIB = 1 << 20
WRITERS = 64


def together(count, work):
    """Runs work(number) on so many threads that begin at the same moment; their results in order. The first exception is raised."""
    barrier = threading.Barrier(count)
    results, failures = [None] * count, []

    def run(number):
        try:
            barrier.wait()
            results[number] = work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def bytes_of(kvd, method, path, body):
    """A request as it goes over the wire."""
    text = json.dumps(body).encode()
    head = f"{method} /api/v1/kv{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {kvd.token}\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


class Groups(ApiTestCase):
    def histogram(self):
        """Groups by the largest number of operations they had."""
        total, sizes = 0, {}
        for name, value in self.kvd.metrics().items():
            if name.startswith('kv_commit_group_size_bucket{le="'):
                bound = name.split('"')[1]
                sizes[bound] = value - total
                total = value
        self.assertTrue(sizes, "the metrics tell the sizes of groups")
        return sizes

    def shared(self):
        """How many groups carried more than one operation."""
        sizes = self.histogram()
        return sum(sizes.values()) - sizes["1"]

    def burst(self, requests):
        """Sends one request on each of as many connections, all before reading an answer: the answers in order."""
        connections = [Connection(self.kvd.port) for _ in requests]
        try:
            for connection, request in zip(connections, requests):
                connection.send(request)
            return [connection.answer() for connection in connections]
        finally:
            for connection in connections:
                connection.socket.close()

    def test_concurrent_puts_share_commits(self):
        ns = self.namespace()
        before, commits = self.shared(), self.kvd.metrics()["kv_commits_total"]

        def ten_puts(writer):
            for number in range(10):
                self.put(ns, f"w{writer}/{number}", number, status=201)
        together(WRITERS, ten_puts)
        puts = WRITERS * 10

        # On a machine that runs one thread after the other it may take more than one try to have two of them wait.
        def try_once():
            nonlocal puts
            answers = self.burst([bytes_of(self.kvd, "PUT", f"/{ns['id']}/entries/b{puts}/{i}", {"value": i}) for i in range(WRITERS)])
            self.assertEqual([a.status for a in answers], [201] * WRITERS)
            puts += WRITERS
            return self.shared() > before
        until(try_once, "some group carries more than one operation")
        # Fewer commits than operations, and nothing is lost.
        self.assertLess(self.kvd.metrics()["kv_commits_total"] - commits, puts)
        self.assertEqual(len(self.all_keys(ns)), puts)
        self.assertEqual(self.call("GET", "/namespaces/" + ns["id"]).json()["revision"], puts)

    def all_keys(self, ns):
        return [item["keyPath"] for page in self.pages(f"/{ns['id']}/entries") for item in page]

    def test_one_that_fails_leaves_the_others_of_its_group_standing(self):
        ns, secret = self.namespace(), self.namespace(isSecretNamespace=True)
        self.put(ns, "there", 1)
        bad = [("PUT", f"/{ns['id']}/entries/there", {"value": 2, "expectedVersion": 9}, 409), ("PUT", f"/{ns['id']}/entries/x", {"value": None}, 400),
               ("PUT", f"/{ns['id']}/entries/x", {"value": "x", "valueType": "NUMBER"}, 400), ("POST", f"/{ns['id']}/entries/missing/rotate", {"value": 1}, 404),
               ("POST", f"/{ns['id']}/entries/there/rollback", {}, 404), ("PUT", "/app~nowhere/entries/x", {"value": 1}, 404), ("DELETE", f"/{ns['id']}/entries/missing", {}, 404),
               ("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": "y", "value": 1}, {"keyPath": "there", "value": 1, "version": 5}]}, 409),
               ("PUT", f"/{ns['id']}/entries/there", {"value": 1, "id": ns["id"]}, 400)]
        shared = self.shared()
        rounds = 0

        def try_once():
            nonlocal rounds
            requests, statuses = [], []
            for number in range(WRITERS):
                where = ns if number % 2 else secret
                requests.append(("PUT", f"/{where['id']}/entries/r{rounds}/{number}", {"value": f"value {number}"}))
                statuses.append(201)
                if number % 6 == 0:
                    *request, status = bad[number // 6 % len(bad)]
                    requests.append(tuple(request))
                    statuses.append(status)
            answers = self.burst([bytes_of(self.kvd, *request) for request in requests])
            self.assertEqual([a.status for a in answers], statuses)
            for number in range(WRITERS):
                where = ns if number % 2 else secret
                self.assertEqual(self.value(where, f"r{rounds}/{number}"), f"value {number}")
            rounds += 1
            return self.shared() > shared
        until(try_once, "some group carries more than one operation")
        self.assertEqual(self.get(ns, "there").json()["version"], 1)
        self.assertFalse({"x", "y", "missing"} & set(self.all_keys(ns)))

    def test_of_many_with_one_expected_version_one_wins(self):
        for secret in (False, True):
            ns = self.namespace(isSecretNamespace=secret)
            for version in range(5):
                answers = together(WRITERS, lambda number: self.kvd.request("PUT", self.entry_path(ns, "one"), {"value": number, "expectedVersion": version}))
                self.assertEqual(sorted(a.status for a in answers), [200 if version else 201] + [409] * (WRITERS - 1))
                winner = next(number for number, a in enumerate(answers) if a.status < 300)
                got = self.get(ns, "one").json()
                self.assertEqual((got["value"], got["version"]), (winner, version + 1))
                for answer in answers:
                    if answer.status == 409:
                        self.assertEqual(answer.json()["currentVersion"], version + 1)

    def test_versions_go_up_by_one_whoever_writes(self):
        ns = self.namespace(historyLimit=None)

        def work(number):
            versions = []
            for _ in range(5):
                versions.append(self.put(ns, "shared", number).json()["version"])
            return versions
        made = [version for versions in together(WRITERS, work) for version in versions]
        self.assertEqual(sorted(made), list(range(1, WRITERS * 5 + 1)))
        versions = self.versions(ns, "shared", includeValues=True)
        self.assertEqual([v["version"] for v in versions], list(range(WRITERS * 5, 0, -1)))
        rows = [r for r in self.audit(namespaceId=ns["id"], operation="entry.put")]
        self.assertEqual([r["version"] for r in rows], list(range(1, WRITERS * 5 + 1)))

    def test_readers_see_whole_bulks_or_none_of_them(self):
        ns = self.namespace()
        keys = [f"k{i}" for i in range(50)]
        write = lambda value: self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": k, "value": value} for k in keys]}, status=200)
        write(0)
        done = threading.Event()

        def work(number):
            if number == 0:
                try:
                    for value in range(1, 30):
                        write(value)
                finally:
                    done.set()
                return
            while not done.is_set():
                values = {e["value"] for e in self.list(ns, includeValues=True)["items"]}
                self.assertEqual(len(values), 1)
        together(5, work)

    def test_giant_bulks_do_not_lock_out_small_puts(self):
        ns = self.namespace(historyLimit=1)
        giants = [json.dumps({"entries": [{"keyPath": f"g{giant}/{i:03}", "value": str(giant) * (16 << 10)} for i in range(1000)]}).encode() for giant in range(3)]
        self.assertTrue(all(15 * MIB < len(body) <= 16 * MIB for body in giants))
        lock, finished = threading.Lock(), threading.Event()
        small, giants_left, meanwhile = 0, len(giants), []

        def send_giant(number):
            nonlocal giants_left
            try:
                for _ in range(2):
                    at_start = small
                    self.call("POST", f"/{ns['id']}/bulk/set", giants[number], status=200)
                    meanwhile.append(small - at_start)
            finally:
                with lock:
                    giants_left -= 1
                    if giants_left == 0:
                        finished.set()

        def put_small(number):
            nonlocal small
            while not finished.is_set():
                self.put(ns, f"small/{number}", number)
                with lock:
                    small += 1

        together(7, lambda number: send_giant(number) if number < len(giants) else put_small(number))
        # While each of the giants was under way, small ones were begun and answered.
        self.assertEqual(len(meanwhile), 6)
        self.assertGreater(min(meanwhile), 0, meanwhile)
        self.assertEqual(len(self.all_keys(ns)), 3000 + 4)


if __name__ == "__main__":
    main()
