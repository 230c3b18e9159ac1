"""The clock of the database is the clock of every kvd. When it is far ahead, nothing is destroyed for it, and /readyz says so.

Broken on purpose, and noticed: only the clock of kvd's own machine was looked at; the time that was told last kept for good.
"""

import glob
import os
import shutil
import tempfile
import unittest

from cluster import Cluster
from harness import PATIENCE, main, until

LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
FLAGS = ("--maintenance-interval", "20ms", "--expiry-grace", "0")


@unittest.skipUnless(LIBRARIES, "libfaketime is not there")
class Clock(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        os.chmod(self.folder, 0o755)  # the server reads it, as another user
        self.addCleanup(shutil.rmtree, self.folder)
        self.offset_file = os.path.join(self.folder, "offset")
        self.set("+0")
        environment = {"LD_PRELOAD": LIBRARIES[0], "FAKETIME_TIMESTAMP_FILE": self.offset_file, "FAKETIME_NO_CACHE": "1",
                       "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
        self.cluster = Cluster(*FLAGS, nodes=2, environment=environment)
        self.addCleanup(self.cluster.close)
        self.ns = self.cluster.namespace("n", isSecretNamespace=True)

    def set(self, offset):
        with open(self.offset_file + ".new", "w", encoding="ascii") as file:
            file.write(offset + "\n")
        os.replace(self.offset_file + ".new", self.offset_file)

    def put(self, key, seconds):
        answer = self.cluster.ask(0, "PUT", f"/{self.ns}/entries/{key}", {"value": key, "ttlSeconds": seconds})
        self.assertIn(answer.status, (200, 201), answer)
        return answer.json()

    def status(self, key, number=0):
        return self.cluster.ask(number, "GET", f"/{self.ns}/entries/{key}").status

    def ready(self, number=0):
        return self.cluster.ask(number, "GET", "/readyz", token=None)

    def stored(self):
        """Keys whose value is still there."""
        with self.cluster.connect() as database:
            return {key for key, in database.execute("select key_path from entries where not is_tombstone and length(value) > 0")}

    def test_it_expires_by_the_clock_of_the_database(self):
        self.set("+1h")
        before = self.put("hour", 600)
        self.assertEqual(self.status("hour", 1), 200)
        self.assertEqual(self.ready().status, 200, "an hour is no reason to stop")
        self.set("+2h")
        until(lambda: self.status("hour", 0) == self.status("hour", 1) == 404, "it expires by the database's clock")
        until(lambda: "hour" not in self.stored(), "and is destroyed")
        after = self.put("hour", 600)
        self.assertGreater(after["updatedAt"], before["expiresAt"])

    def test_a_database_whose_clock_is_days_ahead(self):
        self.put("long", 36000)
        self.set("+10d")
        for number in range(2):
            answer = until(lambda: (a := self.ready(number)).status == 503 and a, "/readyz says that the clock is unsound")
            self.assertEqual(answer.code, "clock-unsound")
        until(lambda: self.status("long") == 404, "what seems expired is hidden")
        for _ in range(3):
            self.cluster.ask(0, "GET", "/namespaces")
        self.assertIn("long", self.stored())
        # Once the clock is right again so is everything else, of itself.
        self.set("+0")
        for number in range(2):
            until(lambda: self.ready(number).status == 200, "/readyz says that the clock is sound again", 2 * PATIENCE)
            until(lambda: self.status("long", number) == 200, "what only seemed expired is there")
        self.assertIn("long", self.stored())
        # And what expires by the right time is destroyed again.
        other = self.cluster.namespace("other")
        self.assertEqual(self.cluster.ask(0, "PUT", f"/{other}/entries/short", {"value": "short", "ttlSeconds": 1}).status, 201)
        until(lambda: "short" not in self.stored(), "it is destroyed")
        self.assertIn("long", self.stored())


if __name__ == "__main__":
    main()
