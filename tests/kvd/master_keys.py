"""The master key from the command line: its id, the drill with a copy, and its change from beginning to end."""

import os
import shutil
import tempfile
import unittest

import storages
from harness import Kvd, main, make_key, run, until

BAD, USAGE, CONFIG = 1, 64, 78
OLD, NEW, OTHER = make_key(), make_key(), make_key()


def key_id(key):
    return run("key-id", environment={"KV_MASTER_KEY": key}).stdout.strip()


class MasterKeys(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.storage = storages.place(self.folder)

    def kvd(self, key, previous=None, **environment):
        if previous is not None:
            environment["KV_MASTER_KEY_PREVIOUS"] = previous
        return Kvd("--maintenance-interval", "10ms", storage="sqlite", folder=self.folder, key=key, token="r" * 40, environment=environment)

    def ends(self, code, *arguments, key=NEW, message="", **environment):
        """kvd ends with `code`; its output, `message` being on stderr."""
        result = run(*arguments, environment={"KV_MASTER_KEY": key, **environment}, folder=self.folder)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        self.assertIn(message, result.stderr)
        for secret in (OLD, NEW, OTHER):
            self.assertNotIn(secret, result.stdout + result.stderr)
        return result.stdout

    def check_key(self, code, key, message=""):
        return self.ends(code, "check-key", "--storage", self.storage, key=key, message=message)

    def make_secret(self, kvd, name):
        answer = kvd.request("POST", "/namespaces", {"name": name, "applicationId": "app", "isSecretNamespace": True})
        self.assertEqual(answer.status, 201, answer)
        self.assertEqual(kvd.request("PUT", f"/app~{name}/entries/k", {"value": "v"}).status, 201)

    def test_the_id_of_a_key_tells_keys_apart_and_nothing_else(self):
        self.assertRegex(self.ends(0, "key-id", key=OLD), r"^[0-9a-f]{16}\n$")
        self.assertNotEqual(key_id(OLD), key_id(NEW))
        path = os.path.join(self.folder, "key")
        with open(path, "w", encoding="ascii") as file:
            file.write(OLD + "\n")
        result = run("key-id", environment={"KV_MASTER_KEY_FILE": path})
        self.assertEqual(result.stdout.strip(), key_id(OLD))
        self.ends(CONFIG, "key-id", message="both KV_MASTER_KEY and KV_MASTER_KEY_FILE", KV_MASTER_KEY_FILE=path)
        self.assertIn("kvd keygen", run("key-id").stderr)

    def test_a_previous_key_is_read_as_carefully_as_the_key(self):
        serve = ("serve", "--check-config", "--storage", self.storage)
        token = {"KVD_ROOT_TOKEN": "r" * 40}
        self.ends(0, *serve, KV_MASTER_KEY_PREVIOUS=OLD, **token)
        self.ends(CONFIG, *serve, KV_MASTER_KEY_PREVIOUS="bm90IDMyIGJ5dGVz", message="KV_MASTER_KEY_PREVIOUS: a master key is", **token)
        self.ends(CONFIG, *serve, KV_MASTER_KEY_PREVIOUS_FILE="missing.key", message="missing.key", **token)
        self.ends(CONFIG, *serve, KV_MASTER_KEY_PREVIOUS=OLD, KV_MASTER_KEY_PREVIOUS_FILE="x",
                  message="both KV_MASTER_KEY_PREVIOUS and KV_MASTER_KEY_PREVIOUS_FILE", **token)
        with self.kvd(NEW, OLD) as kvd:
            self.assertNotIn(OLD, kvd.read("stderr"))

    def test_a_drill_says_whether_a_copy_of_the_key_opens_the_store(self):
        self.check_key(CONFIG, OLD, "no schema" if storages.IS_POSTGRESQL else "no database")
        self.assertEqual(os.listdir(self.folder), [])
        with self.kvd(OLD) as kvd:
            self.make_secret(kvd, "one")
            # Beside a running kvd, too.
            self.assertIn("keys opened: 6\nkeys not opened: 0\n", self.check_key(0, OLD))
        self.assertIn(f"store wrapped by: {key_id(OLD)}\n", self.check_key(0, OLD))
        self.check_key(BAD, OTHER, f"{key_id(OTHER)} opens nothing here: the keys of this store are wrapped by {key_id(OLD)}")
        self.ends(0, "check-key", key=OLD, KVD_STORAGE=self.storage)

    def test_a_master_key_changes_from_one_to_the_other(self):
        with self.kvd(OLD) as kvd:
            self.make_secret(kvd, "one")
        self.ends(CONFIG, "serve", "--storage", self.storage, message=key_id(OLD), KVD_ROOT_TOKEN="r" * 40)
        with self.kvd(NEW, OLD) as kvd:
            entry = kvd.logged("the master key is being changed: both open the store")
            self.assertEqual((entry["keyId"], entry["previousKeyId"]), (key_id(NEW), key_id(OLD)))
            until(lambda: any(f"kvd forget-master-key {key_id(OLD)}" in line["message"] for line in kvd.log()), "all is wrapped")
            self.assertEqual(kvd.request("GET", "/app~one/entries/k").json()["value"], "v")
            self.make_secret(kvd, "two")
        for key in (OLD, NEW):
            self.assertIn("keys opened: 7\nkeys not opened: 0\n", self.check_key(0, key))
        forget = ("forget-master-key", "--storage", self.storage)
        self.ends(CONFIG, *forget, key_id(NEW), message="is the one in use")
        self.ends(CONFIG, *forget, key_id(OTHER), message="No stored key is wrapped")
        self.ends(CONFIG, *forget, key_id(OLD), key=OTHER, message="opens nothing here")
        self.ends(USAGE, *forget, message="key-id")
        self.assertEqual(self.ends(0, *forget, key_id(OLD)), "wraps dropped: 7\n")
        self.check_key(BAD, OLD, "opens nothing here")
        # The variable may stay set for a while.
        with self.kvd(NEW, OLD) as kvd:
            for name in ("one", "two"):
                self.assertEqual(kvd.request("GET", f"/app~{name}/entries/k").json()["value"], "v")
            until(lambda: any("unset KV_MASTER_KEY_PREVIOUS" in line["message"] for line in kvd.log()), "a warning")
            rows = kvd.request("GET", "/audit?operation=admin.forget-master-key").json()["items"]
            self.assertEqual([(row["userId"], row["success"]) for row in rows], [("operator", True), ("operator", False), ("operator", True), ("operator", False), ("operator", True)])

    def test_a_value_whose_key_the_new_one_does_not_wrap_yet_waits_for_the_previous_one(self):
        with self.kvd(OLD) as kvd:
            self.make_secret(kvd, "one")
        with Kvd("--maintenance-interval", "1h", storage="sqlite", folder=self.folder, key=NEW, token="r" * 40,
                 environment={"KV_MASTER_KEY_PREVIOUS": OLD}) as kvd:
            self.assertEqual(kvd.request("GET", "/app~one/entries/k").status, 200)
        self.check_key(BAD, NEW, "opens only a part: 1 stored keys")
        self.ends(BAD, "forget-master-key", key_id(OLD), "--storage", self.storage, message="1 stored keys are not wrapped")
        with self.kvd(NEW) as kvd:
            answer = kvd.request("GET", "/app~one/entries/k")
            self.assertEqual((answer.status, answer.code), (503, "unavailable"))
            self.assertIn("KV_MASTER_KEY_PREVIOUS", answer.json()["detail"])
            self.make_secret(kvd, "two")
            ready = kvd.request("GET", "/readyz", admin=True, token=None)
            self.assertEqual((ready.status, ready.code), (503, "unavailable"))
            self.assertIn("KV_MASTER_KEY_PREVIOUS", ready.json()["detail"])
        with self.kvd(NEW, OLD) as kvd:
            self.assertEqual(kvd.request("GET", "/app~one/entries/k").json()["value"], "v")


if __name__ == "__main__":
    main()
