"""Where the tests of kvd keep what must outlive a process: in a file, or, where KVD_TEST_STORAGE says postgresql, each in a
database of its own on a PostgreSQL that runs as long as the test. KV_TEST_POSTGRES names one that runs already. Where it says
postgresql-role, an administrator made the tables, and kvd comes as a role that may only do what `kvd migrate --print` grants.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "postgres"))
from database import Database  # noqa: E402
from postgres_server import PostgresServer, create_database, with_database  # noqa: E402

KIND = os.environ.get("KVD_TEST_STORAGE", "sqlite")
IS_POSTGRESQL = KIND.startswith("postgresql")
HAS_ROLE = KIND == "postgresql-role"
OPTIONS = {"log_statement": "all"}
running = []


def server():
    """The PostgreSQL of this program."""
    if not running:
        running.append(PostgresServer(OPTIONS, durable=False))
    return running[0]


def place(folder, name="kv.db"):
    """The URI of a storage that belongs to the folder: the same one whenever it is asked for."""
    path = os.path.join(os.path.abspath(folder), name)
    if not IS_POSTGRESQL:
        return "sqlite:" + path
    database = "kvd_" + hashlib.blake2b(path.encode(), digest_size=8).hexdigest()
    url = create_database(os.environ.get("KV_TEST_POSTGRES") or server().url(), database)
    return serving_role(url) if HAS_ROLE else url


def serving_role(url, *flags, role="kv_serving"):
    """The URL for a role that serves the database, in which an administrator made everything, if it was not there before."""
    password = hashlib.blake2b(role.encode() + url.encode(), digest_size=16).hexdigest()
    own = f"{role}_{name_of(url)}"[:63]
    with Database(url, autocommit=True) as database:
        if not database.execute("select from pg_roles where rolname = ?", (own,)).rowcount:
            database.script(f"create role {own} login password '{password}'")
            made = subprocess.run([os.environ.get("KVD", "kvd"), "migrate", "--print", "--role", own, *flags], check=True, text=True, stdout=subprocess.PIPE)
            database.script(made.stdout)
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=f"{own}:{password}@{parts.netloc.rpartition('@')[2]}", query="").geturl()


def path_of(uri):
    """The file of an SQLite storage."""
    return uri.removeprefix("sqlite:")


def name_of(uri):
    """The database of a PostgreSQL storage."""
    return urllib.parse.urlsplit(uri).path[1:]


IDS = "id|namespace_id|entry_id|stream"
TRUTHS = "is_secret|sealing|keeps_history|deletion_protection|is_tombstone|has_history|success"
# What tests say in the words of SQLite, and how PostgreSQL says it.
SAYINGS = [(re.compile(pattern), other) for pattern, other in (
    (r"\bcoalesce\(at, 0\) \+ 1\b", "at + interval '1 microsecond'"),
    (r"\bdeleted_at = (\d+)\b", r"deleted_at = to_timestamp(\1)"),
    (rf"\b({IDS}) = randomblob\(16\)", r"\1 = gen_random_uuid()"),
    (r"\bvalues \(randomblob\(16\)", "values (gen_random_uuid()"),
    (r"\brandomblob\((\d+)\)", lambda match: f"decode('{os.urandom(int(match[1])).hex()}', 'hex')"),
    (r"\bzeroblob\((\d+)\)", r"decode(repeat('00', \1), 'hex')"),
    (r"\bx'([0-9a-f]*)'", r"decode('\1', 'hex')"),
    (r"\bcast\('(\w+)' as blob\)", r"'\1'::bytea"),
    (rf"\b({TRUTHS}) = 1 - \1\b", r"\1 = not \1"),
    (rf"\b({TRUTHS}) = ([01])\b", r"\1 = (\2 = 1)"),
)]


class Speaking(Database):
    def execute(self, text, parameters=()):
        for pattern, other in SAYINGS:
            text = pattern.sub(other, text)
        return super().execute(text, parameters)


def can_be(edit):
    """Whether the columns take it: an id is an id there, of whichever bytes."""
    return not IS_POSTGRESQL or not re.search(rf"\b({IDS}) = x'", edit)


def connect(uri, reads_only=False, **options):
    """A connection to what is stored there, past kvd."""
    if not uri.startswith("sqlite:"):
        return Speaking(uri)
    return sqlite3.connect(f"file:{path_of(uri)}?mode={'ro' if reads_only else 'rw'}", uri=True, **options)


def columns(database, table):
    """The names of a table's columns, those aside that follow from others."""
    if isinstance(database, sqlite3.Connection):
        return [row[1] for row in database.execute(f"pragma table_info({table})")]
    rows = database.execute("select column_name from information_schema.columns where table_name = ? and is_generated = 'NEVER' order by ordinal_position", (table,))
    return [name for name, in rows]


def copy(uri, other):
    """All that is stored, elsewhere: a file beside it, or a database of another name. Nobody has it open."""
    if not IS_POSTGRESQL:
        for end in ("", "-wal"):
            if os.path.exists(path_of(uri) + end):
                shutil.copy(path_of(uri) + end, path_of(other) + end)
        return
    with Database(with_database(uri, "postgres"), autocommit=True) as database:
        database.script(f"drop database if exists {name_of(other)} with (force)")
        database.script(f"create database {name_of(other)} template {name_of(uri)}")


def make_newer(uri):
    """Sets the number of the schema up by one, as a kvd to come would have it."""
    with contextlib.closing(connect(uri)) as database:
        version = int(database.execute("select value from meta where name = 'storage.schema_version'").fetchone()[0]) + 1
        database.execute("update meta set value = ? where name = 'storage.schema_version'", (str(version),))
        if not IS_POSTGRESQL:
            database.execute(f"pragma user_version = {version}")
        database.commit()


def drop(uri):
    """What is there is needed no more."""
    if IS_POSTGRESQL:
        with Database(with_database(uri, "postgres"), autocommit=True) as database:
            database.script(f"drop database {name_of(uri)} with (force)")
    else:
        shutil.rmtree(os.path.dirname(path_of(uri)))


def nowhere(folder):
    """The URI of a storage that is not there."""
    return with_database(place(folder), "kvd_nowhere") if IS_POSTGRESQL else "sqlite:" + os.path.join(folder, "nowhere.db")
