"""`kvd verify` on files that somebody edited with SQL: each edit is named, and an untouched file is sound, also while it is served."""

import collections
import contextlib
import json
import os
import shutil
import stat
import tempfile
import threading
import unittest

import storages
from api import query
from harness import Kvd, main, make_key, run

Report = collections.namedtuple("Report", "code sound kinds findings text")


def verify(storage, key=None, *flags, anchors=(), patience=60):
    environment = {"KV_MASTER_KEY": key} if key else {}
    arguments = [argument for path in anchors for argument in ("--anchors", path)]
    done = run("verify", "--storage", storage, "--json", *flags, *arguments, environment=environment, patience=patience)
    if done.returncode not in (0, 1):
        return Report(done.returncode, None, set(), [], done.stderr)
    told = json.loads(done.stdout)
    assert told["sound"] == (done.returncode == 0) == (told["findingsTotal"] == 0), done.stdout
    return Report(done.returncode, told["sound"], {finding["kind"] for finding in told["findings"]}, told["findings"], done.stdout)


class Files(unittest.TestCase):
    """A file with a history in four audit streams, the second of which was not closed. Each edit happens in a copy of its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvd-test-")
        cls.key, cls.token = make_key(), "t" * 40
        cls.logs = []
        cls.snapshots = {}
        for life in range(4):
            with cls.serving(kills=life == 1) as kvd:
                if life == 0:
                    cls.secret = cls.make(kvd, name="secret", isSecretNamespace=True)
                    cls.other = cls.make(kvd, name="other", isSecretNamespace=True)
                    cls.plain = cls.make(kvd, name="plain")
                cls.live(kvd, life)
        cls.file = storages.place(cls.folder)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    @classmethod
    @contextlib.contextmanager
    def serving(cls, kills=False):
        kvd = Kvd("--maintenance-interval", "20ms", storage="sqlite", folder=cls.folder, key=cls.key, token=cls.token)
        try:
            yield kvd
            if kills:
                kvd.kill()
            else:
                kvd.stop()
        finally:
            kvd.kill()
            log = os.path.join(cls.folder, f"log{len(cls.logs)}")
            shutil.copy(kvd.path("stderr"), log)
            cls.logs.append(log)

    @staticmethod
    def make(kvd, **members):
        answer = kvd.request("POST", "/namespaces", members)
        assert answer.status == 201, answer
        return answer.json()["id"]

    @staticmethod
    def ask(kvd, method, path, body=None, status=(200, 201, 204)):
        answer = kvd.request(method, path, body)
        assert answer.status in status, answer
        return answer

    @classmethod
    def live(cls, kvd, life):
        for ns in (cls.secret, cls.other, cls.plain):
            for key in ("a", "b", f"life/{life}"):
                cls.ask(kvd, "PUT", f"/{ns}/entries/{key}", {"value": f"value of {key} in {life}"})
            cls.ask(kvd, "PATCH", f"/{ns}/entries/b", {"metadata": {"life": life}})
            cls.ask(kvd, "GET", f"/{ns}/entries/a")
            cls.ask(kvd, "PUT", f"/{ns}/entries/doomed/{life}", {"value": "x"})
            cls.ask(kvd, "DELETE", f"/{ns}/entries/doomed/{life}")
            cls.ask(kvd, "POST", f"/{ns}/bulk/set", {"entries": [{"keyPath": f"bulk/{i}", "value": "v"} for i in range(3)]})
        cls.ask(kvd, "GET", f"/{cls.plain}/entries/nowhere", status=(404,))

    # ---- a copy to edit ----

    def new_place(self):
        return storages.place(tempfile.mkdtemp(prefix="copy-", dir=self.folder))

    @contextlib.contextmanager
    def edited(self):
        """(database, URI) of a copy; what is done to the database is in it afterwards."""
        path = self.new_place()
        storages.copy(self.file, path)
        database = storages.connect(path)
        try:
            yield database, path
            database.commit()
        finally:
            database.close()

    def report_on(self, edit, *flags, anchors=()):
        """What is found after edit(database)."""
        with self.edited() as (database, path):
            edit(database)
        report = verify(path, self.key, *flags, anchors=anchors)
        self.assertIn(report.code, (0, 1), report.text)
        storages.drop(path)
        return report

    def report_on_sql(self, sql, *parameters, changes=1, **options):
        def edit(database):
            done = database.execute(sql, parameters)
            self.assertGreaterEqual(done.rowcount, changes)
        return self.report_on(edit, **options)

    def check_found(self, report, *kinds):
        """Each of `kinds` is found, the exit code says so, and no value is told."""
        self.assertEqual(report.code, 1)
        for kind in kinds:
            self.assertIn(kind, report.kinds, report.text)
        self.assertNotIn("value of", report.text)

    @staticmethod
    def blob(id_text):
        return bytes.fromhex(id_text.replace("-", ""))

    def streams(self, database):
        return [row[0] for row in database.execute("select stream from audit group by stream order by min(position)")]

    def longest(self, database):
        """The stream with the most rows: where several write at once, others have few."""
        return database.execute("select stream from audit group by stream order by count(*) desc, min(position) limit 1").fetchone()[0]

    def read_last(self, database):
        """The stream in which the last read was recorded."""
        return database.execute("select stream from audit where operation = 'entry.get' order by position desc limit 1").fetchone()[0]

    # ---- sound ----

    def test_an_untouched_file_is_sound(self):
        report = self.report_on(lambda database: None)
        self.assertEqual((report.code, report.sound), (0, True))
        told = json.loads(report.text)
        with contextlib.closing(storages.connect(self.file)) as database:
            streams = len(self.streams(database))
        self.assertGreaterEqual(streams, 4, "one or more for each life")
        self.assertEqual((told["streams"], told["namespaces"], told["findings"], told["notes"]), (streams, 3, [], []))
        self.assertGreater(told["valuesOpened"], 20)
        self.assertGreater(told["auditRows"], 100)
        self.assertTrue(self.report_on(lambda database: None, anchors=self.logs).sound)
        done = run("verify", "--storage", self.file, environment={"KV_MASTER_KEY": self.key})
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^sound: \d+ audit rows in \d+ streams, \d+ keys, 3 namespaces, \d+ entries, \d+ older versions, \d+ sealed values opened\n$")
        self.assertEqual(done.stderr, "")

    def test_as_text_each_finding_is_a_line(self):
        with self.edited() as (database, path):
            database.execute("update audit set user_id = 'mallory' where position in (7, 9)")
            database.execute("update entries set key_path = ? where key_path = 'a' and namespace_id = ?", ("a\nforged: line\x1b[2J", self.blob(self.plain)))
        done = run("verify", "--storage", path, environment={"KV_MASTER_KEY": self.key})
        self.assertEqual(done.returncode, 1)
        lines = done.stdout.splitlines()
        self.assertEqual([line.split(":")[0] for line in lines], ["audit-row", "audit-row", "entry-row", "NOT SOUND"])
        self.assertIn("position 7", lines[0])
        self.assertIn(r"a\x0aforged: line\x1b[2J", lines[2])
        self.assertIn("3 findings", lines[3])

    def test_a_file_is_sound_while_it_is_served(self):
        folder = tempfile.mkdtemp(prefix="served-", dir=self.folder)
        with Kvd("--maintenance-interval", "10ms", storage="sqlite", folder=folder, key=self.key, token=self.token) as kvd:
            ns = self.make(kvd, name="busy", isSecretNamespace=True)
            is_over = threading.Event()
            failures = []

            def write(worker):
                turn = 0
                while not is_over.is_set():
                    turn += 1
                    key = f"k{worker}/{turn % 20}"
                    try:
                        self.ask(kvd, "PUT", f"/{ns}/entries/{key}", {"value": f"value of {turn}", **({"ttlSeconds": 1} if turn % 7 == 0 else {})})
                        if turn % 3 == 0:
                            self.ask(kvd, "DELETE", f"/{ns}/entries/{key}" + query(purge=turn % 2 == 0), status=(204, 404))
                        self.ask(kvd, "GET", f"/{ns}/entries/{key}", status=(200, 404))
                    except AssertionError as failure:
                        failures.append(failure)
                        return
            writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
            for writer in writers:
                writer.start()
            try:
                reports = [verify(kvd.storage, self.key) for _ in range(8)]
            finally:
                is_over.set()
                for writer in writers:
                    writer.join()
            self.assertEqual(failures, [])
            for report in reports:
                self.assertTrue(report.sound, report.text)
            self.assertGreater(json.loads(reports[-1].text)["auditRows"], json.loads(reports[0].text)["auditRows"])

    # ---- the audit log ----

    def test_every_edited_field_of_an_audit_row_is_found(self):
        numbers = ["sequence", "at", "action", "success", "version", "revision", "count"]
        texts = ["key_path", "operation", "user_id", "credential_id", "application_id", "peer", "request_id", "reason"]
        blobs = ["stream", "namespace_id", "entry_id", "mac"]
        edits = [f"{name} = 1 - {name}" if name == "success" else f"{name} = coalesce({name}, 0) + 1" for name in numbers]
        edits += [f"{name} = {name} || 'x'" for name in texts]
        edits += [f"{name} = randomblob(16)" for name in ("stream", "namespace_id", "entry_id")]
        edits += [f"{name} = x'00'" for name in blobs] + ["mac = randomblob(32)", "namespace_id = null", "entry_id = null", "version = null", "revision = null"]
        # A change of an entry, which has them all; the first row, the last one, and one of a read.
        with contextlib.closing(storages.connect(self.file)) as database:
            rows = [database.execute(f"select {which}").fetchone()[0] for which in (
                "min(position) from audit where revision > 0 and position > 40", "min(position) from audit", "min(position) from audit where action = 1", "max(position) from audit")]
            columns = set(storages.columns(database, "audit"))
        self.assertEqual(columns, {"position", *numbers, *texts, *blobs})
        for position in rows:
            for edit in filter(storages.can_be, edits):
                if edit.endswith("= null") and position != rows[0]:
                    continue  # it is null already
                with self.subTest(edit=edit, position=position):
                    report = self.report_on_sql(f"update audit set {edit} where position = ?", position)
                    self.assertEqual(report.code, 1)
                    self.assertTrue({"audit-row", "audit-gap", "audit-stream"} & report.kinds, report.text)
                    self.assertIn(f"position {position}", report.text)

    def test_removed_audit_rows_are_found(self):
        with contextlib.closing(storages.connect(self.file)) as database:
            streams = self.streams(database)
            places = [database.execute("select min(position), max(position) from audit where stream = ?", (stream,)).fetchone() for stream in streams]
        for number, (first, last) in enumerate(places):
            for position, kind in ((first, "audit-gap"), ((first + last) // 2, "audit-gap"), (last, "audit-head")):
                with self.subTest(stream=number, position=position):
                    self.check_found(self.report_on_sql("delete from audit where position = ?", position), kind)
        with contextlib.closing(storages.connect(self.file)) as database:
            stream = self.longest(database)
        report = self.report_on_sql("delete from audit where stream = ? and sequence between 5 and 7", stream)
        self.check_found(report, "audit-gap")
        self.assertIn("rows 5 to 7 are missing before row 8", report.text)

    def test_a_removed_stream_is_found(self):
        for number in range(4):
            for with_head in (False, True):
                def edit(database):
                    stream = self.streams(database)[number]
                    database.execute("delete from audit where stream = ?", (stream,))
                    if with_head:
                        database.execute("delete from audit_heads where stream = ?", (stream,))
                with self.subTest(stream=number, with_head=with_head):
                    report = self.report_on(edit)
                    if number < 3 or not with_head:
                        self.check_found(report, "audit-stream")
                    elif not storages.IS_POSTGRESQL or "audit-stream" not in report.kinds:
                        # What changed in the newest one is missing from the revisions: nothing names it otherwise. Where a
                        # process has several, one of the others may.
                        self.check_found(report, "revision")

        def edit_heads(database):
            database.execute("delete from audit_heads")
        self.check_found(self.report_on(edit_heads), "audit-stream")

        def edit_all(database):
            database.execute("delete from audit")
            database.execute("delete from audit_heads")
        self.check_found(self.report_on(edit_all), "namespace-unaudited", "entry-unaudited")

    def test_reordered_repeated_and_inserted_rows_are_found(self):
        def swap(database):
            stream = self.longest(database)
            one, two = (position for position, in database.execute("select position from audit where stream = ? and sequence in (15, 16) order by sequence", (stream,)).fetchall())
            for number, other in ((one, -1), (two, one), (-1, two)):
                database.execute("update audit set position = ? where position = ?", (other, number))
        self.check_found(self.report_on(swap), "audit-gap")

        def repeat(database):
            columns = ", ".join(name for name in storages.columns(database, "audit") if name != "position")
            database.execute(f"insert into audit ({columns}) select {columns} from audit where position = 15")
        self.check_found(self.report_on(repeat), "audit-gap")

        def insert(database):
            columns = [name for name in storages.columns(database, "audit") if name not in ("position", "sequence")]
            names = ", ".join(columns)
            stream = self.longest(database)
            database.execute(f"insert into audit (sequence, {names}) select sequence + 1, {names} from audit where stream = ? order by sequence desc limit 1", (stream,))
            database.execute("update audit_heads set sequence = sequence + 1 where stream = ?", (stream,))
        self.check_found(self.report_on(insert), "audit-row")

    def test_edited_heads_are_found(self):
        for edit in ("sequence = sequence - 1", "sequence = sequence + 1", "sequence = 0", "mac = randomblob(32)", "mac = x''", "closed = 0"):
            with self.subTest(edit=edit):
                self.check_found(self.report_on_sql(f"update audit_heads set {edit} where stream = (select stream from audit order by position desc limit 1)"), "audit-head")
        self.check_found(self.report_on_sql("insert into audit_heads values (randomblob(16), 7, randomblob(32), 0)"), "audit-stream")

    def test_rows_set_back_with_their_head_are_found_with_anchors(self):
        def edit(database):
            stream = self.read_last(database)
            last = database.execute("select max(sequence) from audit where stream = ?", (stream,)).fetchone()[0]
            # The last rows are reads, so that no entry tells.
            database.execute("delete from audit where stream = ? and sequence > ?", (stream, last - 2))
            sequence, mac = database.execute("select sequence, mac from audit where stream = ? order by sequence desc limit 1", (stream,)).fetchone()
            database.execute("update audit_heads set sequence = ?, mac = ?, closed = 0 where stream = ?", (sequence, mac, stream))
        self.assertEqual(self.report_on(edit).kinds, set())
        report = self.report_on(edit, anchors=self.logs)
        self.check_found(report, "anchor")
        self.assertEqual(report.kinds, {"anchor"})
        # As text, too, and from stdin.
        with self.edited() as (database, path):
            edit(database)
        heads = []
        for log in self.logs:
            with open(log, encoding="utf-8") as file:
                heads += [entry for entry in (json.loads(line) for line in file if line.startswith("{")) if entry["message"] == "audit-head"]
        self.assertGreaterEqual(len(heads), 3)
        text = os.path.join(self.folder, "text.log")
        with open(text, "w", encoding="utf-8") as file:
            file.write("\x00garbage\n" + "".join("{time} info audit-head stream={stream} sequence={sequence} mac={mac}\n".format(**head) for head in heads))
        self.assertEqual(verify(path, self.key, anchors=[text]).kinds, {"anchor"})

    def test_what_holds_no_anchor_is_refused(self):
        empty = os.path.join(self.folder, "empty.log")
        with open(empty, "w", encoding="utf-8"):
            pass
        for path, reason in ((empty, "there is no audit-head"), (os.path.join(self.folder, "not-there"), "cannot be opened")):
            report = verify(self.file, self.key, anchors=[path])
            self.assertEqual(report.code, 78)
            self.assertIn(path, report.text)
            self.assertIn(reason, report.text)
        self.assertTrue(verify(self.file, self.key, anchors=[empty, *self.logs]).sound)

    # ---- entries ----

    def row_of(self, database, ns, key, columns="*"):
        return database.execute(f"select {columns} from entries where namespace_id = ? and key_path = ?", (self.blob(ns), key)).fetchone()

    def test_whole_entries_set_back_are_found(self):
        """As they once were, taken from copies of the file made in between: after a PUT, a PATCH, a DELETE."""
        folder = tempfile.mkdtemp(prefix="past-", dir=self.folder)
        rows = []
        with Kvd(storage="sqlite", folder=folder, key=self.key, token=self.token) as kvd:
            file = kvd.storage
            ids = [self.make(kvd, name="s", isSecretNamespace=True), self.make(kvd, name="p")]
            steps = [("PUT", {"value": "one"}), ("PUT", {"value": "two"}), ("PATCH", {"metadata": {"a": 1}}), ("DELETE", None), ("PUT", {"value": "three"})]
            for method, body in steps:
                for ns in ids:
                    self.ask(kvd, method, f"/{ns}/entries/k", body)
                with contextlib.closing(storages.connect(file)) as database:
                    columns = storages.columns(database, "entries")
                    rows.append(database.execute(f"select {', '.join(columns)} from entries order by namespace_id").fetchall())
            for ns in ids:
                self.ask(kvd, "PATCH", f"/{ns}/entries/k", {"metadata": {"a": 2}})
        self.assertTrue(verify(file, self.key).sound)
        for step, old in zip(steps, rows):
            for row in old:
                copy = self.new_place()
                storages.copy(file, copy)
                with contextlib.closing(storages.connect(copy)) as database:
                    database.execute("delete from entries where id = ?", (row[columns.index("id")],))
                    database.execute(f"insert into entries ({', '.join(columns)}) values ({', '.join('?' * len(row))})", row)
                    database.commit()
                report = verify(copy, self.key)
                with self.subTest(step=step):
                    self.check_found(report, "entry-set-back")
                    self.assertIn('"keyPath":"k"', report.text)

    def test_removed_moved_and_inserted_entries_are_found(self):
        for ns in (self.secret, self.plain):
            own = (self.blob(ns),)
            self.check_found(self.report_on_sql("delete from entries where namespace_id = ? and key_path = 'bulk/1'", *own), "entry-missing")
            self.check_found(self.report_on_sql("delete from entries where namespace_id = ? and key_path = 'doomed/1'", *own), "entry-missing")
            self.check_found(self.report_on_sql("update entries set key_path = 'elsewhere' where namespace_id = ? and key_path = 'a'", *own), "entry-row")
            self.check_found(self.report_on_sql("update entries set namespace_id = ?, key_path = 'moved' where namespace_id = ? and key_path = 'life/1'", self.blob(self.other), *own), "entry-row")
            self.check_found(self.report_on_sql("update entries set id = randomblob(16) where namespace_id = ? and key_path = 'a'", *own), "entry-missing", "entry-unaudited", "version-row")
        self.check_found(self.report_on_sql("delete from entries where key_path = 'a' or key_path = 'b'"), "entry-missing", "version-row")
        report = self.report_on_sql("delete from entries")
        self.check_found(report, "entry-missing")

    def test_edited_columns_of_entries_are_found(self):
        for edit, kind in (("version = version + 1", "entry-unaudited"), ("version = version - 1", "entry-set-back"), ("revision = revision + 1", "entry-unaudited"),
                           ("revision = revision - 1", "entry-set-back"), ("is_tombstone = 1", "entry-row"), ("reason = 5", "entry-row"), ("value_type = 9", "entry-row"), ("id = x'00'", "entry-unaudited"),
                           ("namespace_id = x'00'", "entry-row")):
            if not storages.can_be(edit):
                continue
            with self.subTest(edit=edit):
                self.check_found(self.report_on_sql(f"update entries set {edit} where namespace_id = ? and key_path = 'b'", self.blob(self.plain)), kind)

    # ---- values ----

    def test_sealed_values_that_changed_places_are_found(self):
        entry = "(select value from entries where namespace_id = ? and key_path = ?)"
        own, other = self.blob(self.secret), self.blob(self.other)
        for source in ((own, "b"), (other, "a")):
            report = self.report_on_sql(f"update entries set value = {entry} where namespace_id = ? and key_path = 'a'", *source, own)
            self.check_found(report, "sealed-value")
            self.assertEqual(report.kinds, {"sealed-value"})
            self.assertEqual([finding.get("keyPath") for finding in report.findings], ["a"])
        version = "(select value from versions where version = ? and entry_id = (select id from entries where namespace_id = ? and key_path = 'a'))"
        self.check_found(self.report_on_sql(f"update entries set value = {version} where namespace_id = ? and key_path = 'a'", 1, own, own), "sealed-value")
        for edit, kind in ((f"value = {version}", "sealed-value"), ("value = zeroblob(60)", "sealed-value"), ("value = x''", "sealed-value"), ("value_type = 5", "sealed-value"), ("key_generation = 0", "unsealed-value"),
                           ("key_generation = 9", "sealed-value"), ("is_tombstone = 1", "version-row"), ("version = 77", "version-row"), ("namespace_id = randomblob(16)", "version-row"), ("entry_id = randomblob(16)", "version-row"),
                           ("entry_id = x'00'", "version-row")):
            if not storages.can_be(edit):
                continue
            parameters = (2, own) if "?" in edit else ()
            with self.subTest(edit=edit):
                self.check_found(self.report_on_sql(f"update versions set {edit} where version = 1 and entry_id = (select id from entries where namespace_id = ? and key_path = 'a')", *parameters, own), kind)
        self.check_found(self.report_on_sql("update entries set value = cast('planted' as blob), key_generation = 0 where namespace_id = ? and key_path = 'a'", own), "unsealed-value")

    # ---- namespaces and keys ----

    def test_edited_namespaces_are_found(self):
        own = self.blob(self.secret)
        for edit, kind in (("application_id = 'other'", "namespace-row"), ("is_secret = 0", "namespace-row"), ("sealing = 1", "namespace-row"), ("key_generation = 2", "namespace-row"), ("key_generation = 0", "namespace-row"),
                           ("mac = x''", "namespace-row"), ("mac = randomblob(32)", "namespace-row"), ("id = randomblob(16)", "namespace-missing"), ("version = version + 1", "namespace-unaudited"), ("version = 0", "namespace-set-back"),
                           ("revision = revision + 1", "revision"), ("revision = revision - 1", "revision"), ("deleted_at = 1", "namespace-row")):
            with self.subTest(edit=edit):
                self.check_found(self.report_on_sql(f"update namespaces set {edit} where id = ?", own), kind)
        self.check_found(self.report_on_sql("delete from namespaces where id = ?", own), "namespace-missing", "entry-row", "key-row")

    def test_edited_keys_are_found_and_the_server_does_not_start_on_them(self):
        edits = ["wrap = zeroblob(63)", "wrap = x''", "commitment = randomblob(32)", "application_id = 'x'", "generation = 7", "wrap_key_id = '0123456789abcdef'"]
        for purpose in range(1, 7):
            for edit in edits:
                where = f"where purpose = {purpose}" + (" and namespace_id = ?" if purpose == 6 else "")
                with self.subTest(purpose=purpose, edit=edit):
                    self.check_found(self.report_on_sql(f"update data_keys set {edit} {where}", *((self.blob(self.secret),) if purpose == 6 else ())), "key-row")
            self.check_found(self.report_on_sql(f"delete from data_keys where purpose = {purpose}"), "key-row")
        for purpose in (1, 2, 3):
            with self.edited() as (database, path):
                database.execute(f"update data_keys set wrap = zeroblob(63) where purpose = {purpose}")
            done = run("serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--storage", path, environment={"KV_MASTER_KEY": self.key, "KVD_ROOT_TOKEN": self.token})
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("key was changed or damaged", done.stderr)

        def swap(database):
            rows = database.execute("select namespace_id, wrap, commitment from data_keys where purpose = 6 order by namespace_id").fetchall()
            for (ns, _, _), (_, wrap, commitment) in zip(rows, reversed(rows)):
                database.execute("update data_keys set wrap = ?, commitment = ? where purpose = 6 and namespace_id = ?", (wrap, commitment, ns))
        self.check_found(self.report_on(swap), "key-row", "sealed-value")

    # ---- keys of the auditor and of the operator ----

    def test_the_auditors_key_proves_the_log_and_opens_nothing(self):
        path = os.path.join(self.folder, "audit.key")
        done = run("audit-key", "export", "--storage", self.file, "--out", path, environment={"KV_MASTER_KEY": self.key})
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with open(path, encoding="ascii") as file:
            text = file.read()
        self.assertRegex(text, r"^[A-Za-z0-9+/]{43}=\n$")
        again = run("audit-key", "export", environment={"KV_MASTER_KEY": self.key, "KVD_STORAGE": self.file})
        self.assertEqual((again.returncode, again.stdout), (0, text))
        refused = run("audit-key", "export", "--storage", self.file, "--out", path, environment={"KV_MASTER_KEY": self.key})
        self.assertEqual(refused.returncode, 78)
        # No master key about.
        report = verify(self.file, None, "--audit-key", path, anchors=self.logs)
        self.assertEqual((report.code, report.sound), (0, True))
        told = json.loads(report.text)
        self.assertEqual((told["valuesOpened"], told["keys"], len(told["notes"])), (0, 0, 1))
        with self.edited() as (database, copy):
            database.execute("update audit set peer = 'elsewhere' where position = 30")
        self.assertEqual(verify(copy, None, "--audit-key", path).kinds, {"audit-row"})
        with self.edited() as (database, copy):
            database.execute("update entries set version = version + 1 where key_path = 'a'")
        self.assertEqual(verify(copy, None, "--audit-key", path).kinds, {"entry-unaudited"})
        with self.edited() as (database, copy):
            database.execute("update entries set value = zeroblob(50) where key_path = 'a'")
        self.assertTrue(verify(copy, None, "--audit-key", path).sound)
        # It is no master key.
        self.assertEqual(verify(self.file, text.strip()).code, 78)
        other = os.path.join(self.folder, "other.key")
        with open(other, "w", encoding="ascii") as file:
            file.write(make_key())
        report = verify(self.file, None, "--audit-key", other)
        self.assertEqual(report.code, 78)
        self.assertIn("not the one of this store", report.text)
        with open(other, "w", encoding="ascii") as file:
            file.write("short")
        self.assertEqual(verify(self.file, None, "--audit-key", other).code, 78)

    def test_what_cannot_be_looked_at_is_no_finding(self):
        self.assertEqual(verify(self.file, make_key()).code, 78)
        self.assertEqual(verify(self.file).code, 78)
        for storage in ("sqlite:" + os.path.join(self.folder, "not-there.db"), storages.nowhere(self.folder)):
            self.assertNotIn(verify(storage, self.key).code, (0, 1))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "not-there.db")))
        self.assertEqual(run("verify", "--nonsense").returncode, 64)
        self.assertEqual(run("audit-key").returncode, 64)

    def test_verifying_changes_nothing(self):
        before = self.everything()
        self.assertTrue(verify(self.file, self.key).sound)
        self.assertEqual(self.everything(), before)

    def everything(self):
        if not storages.IS_POSTGRESQL:
            with open(storages.path_of(self.file), "rb") as file:
                return file.read()
        with contextlib.closing(storages.connect(self.file)) as database:
            tables = database.execute("select relid::regclass::text from pg_stat_user_tables order by 1").fetchall()
            return [(table, database.execute(f"select one::text from {table} one order by 1").fetchall()) for table, in tables]


if __name__ == "__main__":
    main()
