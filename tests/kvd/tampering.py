"""Somebody edits the database behind kvd's back: no value comes out that was not put there by kvd, and others go on."""

import base64
import contextlib
import os
import secrets
import shutil
import tempfile
import unittest

import storages
from api import ApiTestCase, Document
from harness import Kvd, main, until

HEADER, NONCE, TAG = 7, 12, 16  # bytes of a sealed record besides the ciphertext


def flipped(record, position, mask=1):
    changed = bytearray(record)
    changed[position] ^= mask
    return bytes(changed)


def spellings(word):
    """The forms in which a word may stand somewhere: as it is, in base64 at any offset, in hex, escaped in JSON, in UTF-16."""
    forms = {word, word.hex().encode(), word.hex().upper().encode(), "".join(f"\\u{b:04x}" for b in word).encode(), word.decode().encode("utf-16-le"),
             "".join(f"%{b:02x}" for b in word).encode(), word[::-1]}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            # Whole groups of three bytes only: the ends depend on what stands beside the word.
            forms.add(encode(b"x" * before + word)[4 if before else 0:].rstrip(b"=")[:-2])
    return forms


class Tampering(ApiTestCase):
    """One kvd on a file or a database of its own, stopped while that is edited."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvd-test-")
        cls.kvd = None
        cls.names_made = 0
        cls.start()
        cls.document = Document(cls.kvd.request("GET", "/openapi.json").json())

    @classmethod
    def tearDownClass(cls):
        cls.kvd.stop()
        shutil.rmtree(cls.folder)

    @classmethod
    def start(cls):
        again = {"key": cls.kvd.key, "token": cls.kvd.token} if cls.kvd else {}
        cls.kvd = Kvd("--maintenance-interval", "50ms", storage="sqlite", folder=cls.folder, **again)

    @contextlib.contextmanager
    def stopped(self):
        """The database while kvd is stopped; what was changed in it is there when kvd runs again."""
        self.kvd.stop()
        database = storages.connect(self.kvd.storage)
        try:
            yield database
            database.commit()
        finally:
            database.close()
            self.start()

    def setUp(self):
        self.words = []
        self.ns = self.namespace(isSecretNamespace=True)
        self.other = self.namespace(isSecretNamespace=True)
        self.plain = self.namespace()
        self.other_word = self.word()
        self.put(self.other, "sound", self.other_word)
        self.put(self.plain, "sound", "plain")

    def tearDown(self):
        # Other namespaces go on, reading and writing.
        self.assertEqual(self.value(self.other, "sound"), self.other_word)
        self.put(self.other, "sound", self.other_word)
        self.put(self.plain, "sound", "plain")

    def word(self):
        word = "w0rd-" + secrets.token_hex(12)
        self.words.append(word)
        return word

    def fill(self, count, prefix="k"):
        """Entries of the namespace, each with a word of its own: key -> word."""
        values = {f"{prefix}{number:03}": self.word() for number in range(count)}
        entries = [{"keyPath": key, "value": word} for key, word in values.items()]
        self.call("POST", f"/{self.ns['id']}/bulk/set", {"entries": entries}, status=200)
        return values

    @staticmethod
    def id_of(ns):
        return bytes.fromhex(ns["id"].replace("-", ""))

    def entry_row(self, database, key, column="value", ns=None):
        return database.execute(f"select {column} from entries where namespace_id = ? and key_path = ?", (self.id_of(ns or self.ns), key)).fetchone()[0]

    def update_entry(self, database, key, ns=None, **columns):
        names = ", ".join(f"{name} = ?" for name in columns)
        changed = database.execute(f"update entries set {names} where namespace_id = ? and key_path = ?", (*columns.values(), self.id_of(ns or self.ns), key)).rowcount
        self.assertEqual(changed, 1)

    def update_namespace(self, database, ns, **columns):
        names = ", ".join(f"{name} = ?" for name in columns)
        self.assertEqual(database.execute(f"update namespaces set {names} where id = ?", (*columns.values(), self.id_of(ns))).rowcount, 1)

    def rows_in(self, database, ns):
        """All that is stored in a namespace."""
        own = (self.id_of(ns),)
        return [database.execute(f"select * from {table} where namespace_id = ? order by 1, 2, 3", own).fetchall() for table in ("entries", "versions", "outbox")] + [
            database.execute("select * from namespaces where id = ?", own).fetchall(), database.execute("select * from data_keys where namespace_id = ?", own).fetchall()]

    def check_silent(self, answer, allowed=()):
        for word in self.words:
            if word not in allowed:
                self.assertNotIn(word.encode(), answer.body)

    def check_broken(self, keys, sound=(), ns=None):
        """No way to read gives the values of `keys`; each says so. Those of `sound` (key -> word) are there."""
        ns, keys, sound = ns or self.ns, list(keys), dict(sound)
        for key in keys:
            for suffix, headers in (("", None), ("", {"Accept": "application/octet-stream"})):
                answer = self.call("GET", self.entry_path(ns, key, suffix), code="integrity", headers=headers)
                self.check_silent(answer)
            self.call("HEAD", self.entry_path(ns, key), status=500)
        listed = self.call("GET", f"/{ns['id']}/entries?includeValues=true", status=200)
        self.check_items(listed, listed.json()["items"], keys, sound)
        bulk = self.call("POST", f"/{ns['id']}/bulk/get", {"keys": [*keys, *sound]}, status=200)
        self.check_items(bulk, bulk.json()["entries"], keys, sound)
        for key in keys:
            versions = self.call("GET", self.entry_path(ns, key, "/versions?includeValues=true"), status=200)
            current = versions.json()["items"][0]
            self.assertEqual((current["current"], current["error"]["code"]), (True, "integrity"))
            self.assertNotIn("value", current)
            self.check_silent(versions)
        for format_name in ("dotenv", "json", "shell", "yaml"):
            export = self.call("GET", f"/{ns['id']}/export?format={format_name}", status=200)
            self.check_silent(export, sound.values())
            self.assertGreaterEqual(export.body.count(b"integrity"), len(keys))
        for key, word in sound.items():
            self.assertEqual(self.value(ns, key), word)

    def check_items(self, answer, items, keys, sound):
        items = {item["keyPath"]: item for item in items}
        for key in keys:
            self.assertNotIn("value", items[key])
            self.assertEqual(items[key]["error"]["code"], "integrity")
        for key, word in sound.items():
            self.assertEqual(items[key]["value"], word)
        self.check_silent(answer, sound.values())

    # ---- records ----

    def test_every_byte_of_a_record_counts(self):
        length = HEADER + NONCE + TAG + len(self.word())
        values = self.fill(length + 1)
        *keys, sound = values
        for mask in (0x01, 0x80):
            with self.stopped() as database:
                before = {key: self.entry_row(database, key) for key in keys}
                self.assertEqual({len(record) for record in before.values()}, {length})
                for position, key in enumerate(keys):
                    self.update_entry(database, key, value=flipped(before[key], position, mask))
            self.check_broken(keys, {sound: values[sound]})
            with self.stopped() as database:
                for key, record in before.items():
                    self.update_entry(database, key, value=record)
            for key in keys:
                self.assertEqual(self.value(self.ns, key), values[key])

    def test_bytes_of_a_large_record(self):
        positions = [*range(HEADER + NONCE + 2), 500, 5_000, 99_999, *range(-TAG - 2, 0)]
        keys = {f"large{number:02}": self.word() * 4000 for number in range(len(positions))}
        for key, value in keys.items():
            self.put(self.ns, key, value)
        with self.stopped() as database:
            for position, key in zip(positions, keys):
                self.update_entry(database, key, value=flipped(self.entry_row(database, key), position))
        self.check_broken(keys)

    def test_records_of_another_length(self):
        changes = [lambda r: r[:-1], lambda r: r + b"\0", lambda r: b"", lambda r: r[:HEADER], lambda r: r[:HEADER + NONCE], lambda r: r[:HEADER + NONCE + TAG], lambda r: r[1:], lambda r: r * 2,
                   lambda r: b"\0" * len(r), lambda r: r[:HEADER + NONCE] + r[-TAG:], lambda r: b"K" + r]
        values = self.fill(len(changes))
        with self.stopped() as database:
            for change, key in zip(changes, values):
                self.update_entry(database, key, value=change(self.entry_row(database, key)))
        self.check_broken(values)

    def test_a_broken_entry_can_be_written_anew_but_not_gone_back_to(self):
        values = self.fill(1)
        key = next(iter(values))
        with self.stopped() as database:
            self.update_entry(database, key, value=flipped(self.entry_row(database, key), -1))
        self.call("POST", self.entry_path(self.ns, key, "/rollback"), {}, code="not-found")
        answer = self.put(self.ns, key, "healed", status=200)
        self.check_silent(answer)
        self.assertEqual(self.value(self.ns, key), "healed")
        for body in ({}, {"version": 1}):
            self.check_silent(self.call("POST", self.entry_path(self.ns, key, "/rollback"), body, code="integrity"))
        self.check_silent(self.call("GET", self.entry_path(self.ns, key, "?version=1"), code="integrity"))
        self.assertEqual(self.get(self.ns, key).json()["version"], 2)
        versions = self.versions(self.ns, key, includeValues=True)
        self.assertEqual([(v.get("value"), v.get("error", {}).get("code")) for v in versions], [("healed", None), (None, "integrity")])

    # ---- rows ----

    def test_values_that_changed_places(self):
        values = self.fill(4)
        a, b, c, d = values
        self.put(self.other, c, self.word())
        with self.stopped() as database:
            first, second = self.entry_row(database, a), self.entry_row(database, b)
            self.update_entry(database, a, value=second)
            self.update_entry(database, b, value=first)
            mine, theirs = self.entry_row(database, c), self.entry_row(database, c, ns=self.other)
            self.update_entry(database, c, value=theirs)
            self.update_entry(database, c, ns=self.other, value=mine)
        self.check_broken([a, b, c], {d: values[d]})
        self.check_silent(self.call("GET", self.entry_path(self.other, c), code="integrity"))

    def test_rows_whose_columns_were_edited(self):
        edits = [{"version": 2}, {"version": 0}, {"value_type": 5}, {"value_type": 2}, {"value_type": 3}, {"value_type": 4}, {"value_type": 9}, {"key_generation": 0}, {"key_generation": 2}, {"id": os.urandom(16)}]
        values = self.fill(len(edits) + 1)
        *keys, sound = values
        with self.stopped() as database:
            for edit, key in zip(edits, keys):
                self.update_entry(database, key, **edit)
        for edit, key in zip(edits, keys):
            with self.subTest(edit=edit):
                self.check_silent(self.call("GET", self.entry_path(self.ns, key), code="integrity"))
        self.check_broken(keys, {sound: values[sound]})

    def test_entries_that_were_renamed_or_moved(self):
        values = self.fill(4)
        a, b, c, d = values
        with self.stopped() as database:
            self.update_entry(database, a, key_path="renamed")
            self.update_entry(database, b, namespace_id=self.id_of(self.other))
            self.update_entry(database, c, namespace_id=self.id_of(self.plain))
        self.check_broken(["renamed"], {d: values[d]})
        self.get(self.ns, a, code="not-found")
        self.check_silent(self.call("GET", self.entry_path(self.other, b), code="integrity"))
        self.check_silent(self.kvd.request("GET", self.entry_path(self.plain, c)))
        self.check_silent(self.kvd.request("GET", f"/{self.plain['id']}/entries?includeValues=true"))
        with self.stopped() as database:
            database.execute("delete from entries where key_path in (?, ?) and namespace_id in (?, ?)", (b, c, self.id_of(self.other), self.id_of(self.plain)))

    def test_values_in_the_history_that_were_edited(self):
        old, new, newest = self.word(), self.word(), self.word()
        for key in ("a", "b", "c", "d", "e"):
            for word in (old, new, newest):
                self.put(self.ns, key, word)
        with self.stopped() as database:
            def version(key, number, column="value"):
                return database.execute(f"select {column} from versions where entry_id = ? and version = ?", (self.entry_row(database, key, "id"), number)).fetchone()[0]
            def update(key, number, **columns):
                names = ", ".join(f"{name} = ?" for name in columns)
                self.assertEqual(database.execute(f"update versions set {names} where entry_id = ? and version = ?", (*columns.values(), self.entry_row(database, key, "id"), number)).rowcount, 1)
            first, second = version("a", 1), version("a", 2)
            update("a", 1, value=second)
            update("a", 2, value=first)
            update("b", 1, value=self.entry_row(database, "b"))      # the current value as an older one
            self.update_entry(database, "c", value=version("c", 1))  # an older one as the current
            update("d", 1, value=flipped(version("d", 1), HEADER + NONCE))
            update("d", 2, value=version("e", 2))
            update("e", 1, value=b"planted", key_generation=0)
            update("e", 2, value_type=5)
        for key, broken in (("a", [1, 2]), ("b", [1]), ("c", [3]), ("d", [1, 2]), ("e", [1, 2])):
            versions = self.call("GET", self.entry_path(self.ns, key, "/versions?includeValues=true"), status=200)
            shown = {v["version"]: v for v in versions.json()["items"]}
            for number, word in ((1, old), (2, new), (3, newest)):
                with self.subTest(key=key, version=number):
                    answer = self.kvd.request("GET", self.entry_path(self.ns, key, f"?version={number}"))
                    if number in broken:
                        self.assertEqual((answer.status, answer.code), (500, "integrity"))
                        self.assertNotIn("value", shown[number])
                        self.assertEqual(shown[number]["error"]["code"], "integrity")
                        if number != 3:
                            self.call("POST", self.entry_path(self.ns, key, "/rollback"), {"version": number}, code="integrity")
                        self.assertNotIn(b"planted", versions.body + answer.body)
                    else:
                        self.assertEqual(answer.json()["value"], word)
                        self.assertEqual(shown[number]["value"], word)
            self.assertEqual(self.versions(self.ns, key)[0]["version"], 3)

    def test_plain_values_planted_in_a_secret_namespace(self):
        values = self.fill(3)
        edited, copied, sound = values
        with self.stopped() as database:
            self.update_entry(database, edited, value=b"planted", key_generation=0)
            self.update_entry(database, copied, value=b"planted")  # under a generation, as if it were sealed
            columns = storages.columns(database, "entries")
            row = dict(zip(columns, database.execute(f"select {', '.join(columns)} from entries where namespace_id = ? and key_path = ?", (self.id_of(self.ns), sound)).fetchone()))
            row.update(id=os.urandom(16), key_path="inserted", value=b"planted", key_generation=0)
            database.execute(f"insert into entries ({', '.join(row)}) values ({', '.join('?' * len(row))})", tuple(row.values()))
        self.words.append("planted")
        self.check_broken([edited, copied, "inserted"], {sound: values[sound]})

    # ---- namespaces and their keys ----

    def check_refused(self, ns, keys):
        """Nothing is read from the namespace, and nothing is written to it."""
        one, path = "/namespaces/" + ns["id"], "/" + ns["id"]
        key = keys[0]
        for method, where, body in (("GET", one, None), ("PUT", one, {"description": "x"}), ("PUT", one, {"isSecretNamespace": True}), ("DELETE", one, None), ("DELETE", one + "?purge=true", None),
                                    ("GET", path + "/entries", None), ("GET", path + "/entries?includeValues=true", None), ("GET", f"{path}/entries/{key}", None), ("HEAD", f"{path}/entries/{key}", None),
                                    ("PUT", f"{path}/entries/{key}", {"value": "x"}), ("PUT", path + "/entries/new", {"value": "x"}), ("PATCH", f"{path}/entries/{key}", {"ttlSeconds": 60}),
                                    ("DELETE", f"{path}/entries/{key}", None), ("DELETE", f"{path}/entries/{key}?purge=true", None), ("POST", path + "/bulk/get", {"keys": keys}),
                                    ("POST", path + "/bulk/set", {"entries": [{"keyPath": "n", "value": 1}]}), ("POST", path + "/bulk/set", {"entries": [{"keyPath": "n", "value": 1}], "atomic": False}),
                                    ("POST", path + "/bulk/delete", {"keys": keys}), ("POST", f"{path}/entries/{key}/rotate", {"value": "x"}), ("POST", f"{path}/entries/{key}/rollback", {}),
                                    ("POST", f"{path}/entries/{key}/rollback", {"version": 1}), ("GET", f"{path}/entries/{key}?version=1", None), ("GET", f"{path}/entries/{key}/versions", None),
                                    ("GET", f"{path}/entries/{key}/versions?includeValues=true", None), ("GET", path + "/export", None)):
            answer = self.call(method, where, body, status=500)
            if method != "HEAD":
                self.assertEqual(answer.code, "integrity", f"{method} {where}")
            self.check_silent(answer)
        self.check_silent(self.call("GET", "/namespaces", status=200))
        self.assertEqual(self.value(self.other, "sound"), self.other_word)

    def test_a_namespace_whose_row_was_edited_is_refused(self):
        for edit in ({"is_secret": 0}, {"application_id": "other"}, {"sealing": 1}, {"key_generation": 2}, {"key_generation": 0}, {"mac": os.urandom(32)}, {"mac": b""}, {"is_secret": 0, "key_generation": 0}):
            with self.subTest(edit=edit):
                self.ns = self.namespace(isSecretNamespace=True)
                values = self.fill(3)
                self.put(self.ns, "due", self.word(), ttlSeconds=1)
                self.put(self.plain, "due", "plain", ttlSeconds=1)
                with self.stopped() as database:
                    original = database.execute(f"select {', '.join(edit)} from namespaces where id = ?", (self.id_of(self.ns),)).fetchone()
                    self.update_namespace(database, self.ns, **edit)
                    before = self.rows_in(database, self.ns)
                # Until what is due elsewhere was swept away: it is not swept here.
                until(lambda: [r for r in self.audit(namespaceId=self.plain["id"], keyPath="due") if r["operation"] == "entry.expire"], "the sweeper comes by")
                self.check_refused(self.ns, list(values))
                with self.stopped() as database:
                    self.assertEqual(self.rows_in(database, self.ns), before)
                    # Set right again, all is as it was.
                    self.update_namespace(database, self.ns, **dict(zip(edit, original)))
                for key, word in values.items():
                    self.assertEqual(self.value(self.ns, key), word)

    def test_a_plain_namespace_that_was_made_secret_by_hand_is_refused(self):
        ns = self.namespace()
        self.put(ns, "a", self.word())
        with self.stopped() as database:
            self.update_namespace(database, ns, is_secret=1)
        self.check_refused(ns, ["a"])

    def test_data_keys_that_were_exchanged(self):
        self.ns, second = self.namespace(isSecretNamespace=True), self.namespace(isSecretNamespace=True)
        values = self.fill(2)
        theirs = self.word()
        self.put(second, "a", theirs)
        columns = "wrap_key_id, wrap, second_wrap_key_id, second_wrap, commitment"
        with self.stopped() as database:
            rows = {ns["id"]: database.execute(f"select {columns} from data_keys where namespace_id = ?", (self.id_of(ns),)).fetchone() for ns in (self.ns, second)}
            for ns, source in ((self.ns, second), (second, self.ns)):
                self.write_key(database, ns, columns, rows[source["id"]])
        for ns, keys in ((self.ns, list(values)), (second, ["a"])):
            self.check_unusable(ns, keys)
        with self.stopped() as database:
            for ns in (self.ns, second):
                self.write_key(database, ns, columns, rows[ns["id"]])
        self.assertEqual(self.value(second, "a"), theirs)
        for key, word in values.items():
            self.assertEqual(self.value(self.ns, key), word)

    def write_key(self, database, ns, columns, values):
        names = ", ".join(f"{name} = ?" for name in columns.split(", "))
        self.assertEqual(database.execute(f"update data_keys set {names} where namespace_id = ?", (*values, self.id_of(ns))).rowcount, 1)

    def check_unusable(self, ns, keys):
        """No value of the namespace can be read, and none is written under a key that is not its own."""
        for key in keys:
            self.check_silent(self.call("GET", self.entry_path(ns, key), code="integrity"))
        for suffix in ("entries?includeValues=true", "export"):
            answer = self.kvd.request("GET", f"/{ns['id']}/{suffix}")
            self.assertIn(answer.status, (200, 500))
            self.check_silent(answer)
        before = [(e["keyPath"], e["version"]) for e in self.list(ns)["items"]]
        for method, path, body in (("PUT", self.entry_path(ns, keys[0]), {"value": "x"}), ("PUT", self.entry_path(ns, "new"), {"value": "x"}), ("POST", self.entry_path(ns, keys[0], "/rotate"), {"value": "x"}),
                                   ("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": "new", "value": 1}]})):
            self.call(method, path, body, code="integrity")
        self.assertEqual([(e["keyPath"], e["version"]) for e in self.list(ns)["items"]], before)

    def test_data_keys_that_were_edited_or_removed(self):
        edits = [("commitment", lambda b: flipped(b, 0)), ("wrap", lambda b: flipped(b, 0)), ("wrap", lambda b: flipped(b, -1)), ("wrap", lambda b: b[:-1]), ("wrap", lambda b: b""), ("commitment", lambda b: b""),
                 ("application_id", lambda text: "other"), ("generation", lambda number: 2), (None, None)]
        scenes = []
        for _ in edits:
            self.ns = self.namespace(isSecretNamespace=True)
            scenes.append((self.ns, list(self.fill(1))))
        with self.stopped() as database:
            for (column, change), (ns, _) in zip(edits, scenes):
                own = (self.id_of(ns),)
                if column is None:
                    database.execute("delete from data_keys where namespace_id = ?", own)
                else:
                    value = change(database.execute(f"select {column} from data_keys where namespace_id = ?", own).fetchone()[0])
                    database.execute(f"update data_keys set {column} = ? where namespace_id = ?", (value, *own))
        for (column, _), (ns, keys) in zip(edits, scenes):
            with self.subTest(column=column):
                self.check_unusable(ns, keys)

    def test_with_an_internal_key_that_was_edited_kvd_does_not_start(self):
        self.kvd.stop()
        try:
            for purpose in (1, 2, 3, 5):
                for column in ("wrap", "commitment"):
                    with self.subTest(purpose=purpose, column=column):
                        before = self.internal_key(purpose, column)
                        self.set_internal_key(purpose, column, flipped(before, 0))
                        with self.assertRaises(AssertionError) as raised:
                            Kvd(storage="sqlite", folder=self.folder, key=self.kvd.key, token=self.kvd.token).stop()
                        self.assertIn("kvd ended with", str(raised.exception))
                        self.set_internal_key(purpose, column, before)
        finally:
            self.start()

    def internal_key(self, purpose, column):
        with contextlib.closing(storages.connect(self.kvd.storage)) as database:
            return database.execute(f"select {column} from data_keys where purpose = ?", (purpose,)).fetchone()[0]

    def set_internal_key(self, purpose, column, key):
        with contextlib.closing(storages.connect(self.kvd.storage)) as database:
            database.execute(f"update data_keys set {column} = ? where purpose = ?", (key, purpose))
            database.commit()


@unittest.skipIf(storages.IS_POSTGRESQL, "this looks into files; planted.py looks into a database")
class Plaintext(ApiTestCase):
    """Values of secret namespaces stand nowhere but in memory."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.key, self.token = None, None

    def test_a_secret_value_is_found_nowhere(self):
        word = "pl41n-" + secrets.token_hex(16)
        bodies = []
        with Kvd("--log-level", "debug", "--access-log", storage="sqlite", folder=self.folder) as kvd:
            type(self).kvd, kept = kvd, type(self).kvd
            try:
                self.use(word, bodies)
                metrics = kvd.request("GET", "/metrics", admin=True, token=None).body
                # The log before the checkpoint, as a crash would leave it.
                self.check_files(word)
            finally:
                type(self).kvd = kept
        self.check_files(word)
        for form in spellings(word.encode()):
            self.assertNotIn(form, metrics)
            for body in bodies:
                self.assertNotIn(form, body)
        # The search finds what is there.
        with Kvd(storage="sqlite", folder=self.folder, key=kvd.key, token=kvd.token) as kvd:
            kvd.request("POST", "/namespaces", {"name": "plain"})
            self.assertEqual(kvd.request("PUT", "/default~plain/entries/a", {"value": word}).status, 201)
        with self.assertRaises(AssertionError):
            self.check_files(word)

    def test_a_crash_leaves_no_secret_value_on_disk(self):
        word = "pl41n-" + secrets.token_hex(16)
        kvd = Kvd(storage="sqlite", folder=self.folder)
        try:
            type(self).kvd, kept = kvd, type(self).kvd
            try:
                self.use(word, [])
            finally:
                type(self).kvd = kept
        finally:
            kvd.kill()
        self.assertIn("kv.db-wal", os.listdir(self.folder))
        self.check_files(word)

    def use(self, word, problems):
        """Everything that can be done with a value; what refused requests were answered goes into `problems`."""
        ns = self.namespace(isSecretNamespace=True)
        path = self.entry_path(ns, "k")
        self.put(ns, "k", word, comment="no value", metadata={"no": "value"})
        self.put(ns, "k", {"nested": [word]})
        self.put(ns, "b", base64.b64encode(word.encode()).decode(), valueType="BINARY")
        self.put(ns, "k", word, parameters="?includeValue=true")
        self.call("POST", path + "/rotate", {"value": word + "2"})
        self.call("POST", path + "/rollback", {"version": 1})
        self.call("GET", path)
        self.call("GET", path, headers={"Accept": "application/octet-stream"})
        self.call("GET", path + "/versions?includeValues=true")
        self.call("GET", f"/{ns['id']}/entries?includeValues=true")
        self.call("GET", f"/{ns['id']}/export")
        self.call("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": "x", "value": word}, {"keyPath": "y", "value": word * 3000}]})
        self.call("POST", f"/{ns['id']}/bulk/get", {"keys": ["x", "y", "k"]})
        self.put(ns, "gone", word, ttlSeconds=1)
        self.call("DELETE", self.entry_path(ns, "x"))
        self.call("DELETE", self.entry_path(ns, "y", "?purge=true"))
        for method, where, body in (("PUT", path, {"value": word, "expectedVersion": 77}), ("PUT", path, {"value": word, "valueType": "NUMBER"}), ("PUT", path, {"value": word, "oops": word}),
                                    ("PUT", path, '{"value": "%s' % word), ("PUT", self.entry_path(ns, "a//b"), {"value": word}), ("POST", path + "/rotate", {"value": word, "valueType": "JSON"}),
                                    ("POST", f"/{ns['id']}/bulk/set", {"entries": [{"keyPath": "a//b", "value": word}]}), ("PUT", "/nowhere~nothing/entries/k", {"value": word}),
                                    ("PUT", path, {"value": word * 50_000})):
            answer = self.kvd.request(method, where, body)
            self.assertGreaterEqual(answer.status, 400)
            problems.append(answer.body)
        problems.append(self.call("GET", "/audit?limit=1000").body)

    def check_files(self, word):
        forms = spellings(word.encode())
        names = os.listdir(self.folder)
        self.assertIn("kv.db", names)
        for name in names:
            with open(os.path.join(self.folder, name), "rb") as file:
                content = file.read()
            for form in forms:
                self.assertNotIn(form, content, f"{name} holds {form!r}")


if __name__ == "__main__":
    main()
