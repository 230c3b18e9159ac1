"""No secret where it should not be: recognisable values, keys and tokens are planted through every route, and looked for
in every place that outlives a request, in every encoding (needles.py).

Every planted value begins with one mark, so that one search finds any of them, whole or in part.

Broken on purpose, and found each time: the environment unset but not wiped; core files allowed; a value that does not fit
its type quoted in the answer; the query of a refused request recorded as its key; a version's comment holding the value in
hexadecimal; on PostgreSQL a master key given for its id, which stood in the server's log as a parameter. Not looked at here:
syslog (it gets the lines of the other copies) and the memory of the process.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import storages
from api import element, grant, key_url
from harness import BASE, KVD, Connection, Kvd, clean_environment, main, make_key, run, until
from database import Database
from event_stream import EventStream
from needles import Needles

MARK = "Zq7PlantedKx9"
CONTROL = "Zq7InTheClearKx9"  # in a plain namespace: must be found
NUMBER = 918273645546372819
BINARY = bytes(range(160, 192)) + b"\0\xfe" + MARK.encode() + b"\xff"
ROOT = "Rt5RootTokenPlanted" + "w" * 20
READER, STRANGER = "Rd5ReaderTokenPlanted", "St5StrangerTokenPlanted"
KEYS = {"old": make_key(), "new": make_key()}
PASSWORD = "the password of the database"
SERVER, TABLE = "PostgreSQL's", "the table"  # how the places of a database begin
MIB = 1 << 20


def value(route, more=""):
    """One that needs escaping in every format there is."""
    return f"{MARK}-{route}-'é€𝄞<&>\"\\/\n%{MARK}{more}"


class Place(unittest.TestCase):
    """A folder with a kvd in it, all that it writes, and the search."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvd-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ("archive", "tmp", "tools"):
            os.mkdir(self.path(name))
        self.kvd = None
        self.told = {}  # answers and outputs that no value may be in
        self.addCleanup(lambda: self.kvd and self.kvd.kill())
        self.needles = Needles()
        self.needles.add("a value", MARK.encode())
        self.needles.add_number("the number", NUMBER)
        self.needles.add("the binary value", BINARY[:34])
        for name, text in (("the root token", ROOT), ("the reader's token", READER), ("the stranger's token", STRANGER)):
            self.needles.add(name, text.encode())
        for name, key in KEYS.items():
            self.needles.add(f"the {name} master key", base64.b64decode(key))
            self.needles.add(f"the {name} master key's text", key.encode())
        if storages.IS_POSTGRESQL:
            self.needles.add(PASSWORD, storages.server().password.encode())

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def start(self, *flags, key="old", previous=None):
        environment = {"TMPDIR": self.path("tmp"), "SQLITE_TMPDIR": self.path("tmp"), "KVD_TOKEN": ROOT}
        if previous:
            environment["KV_MASTER_KEY_PREVIOUS"] = KEYS[previous]
        tokens = [element(READER, grant("kv-entry:read", "kv-namespace:read", application="app"), user="reader"), element(STRANGER, grant("*", application="elsewhere"), user="stranger")]
        self.kvd = Kvd("--log-level", "debug", "--access-log", "--audit-archive", self.path("archive"), "--maintenance-interval", "20ms", "--denial-window", "1s", *flags,
                       storage="sqlite", tokens=tokens, folder=self.folder, key=KEYS[key], token=ROOT, environment=environment)

    def stop(self):
        self.kvd.stop()
        for name in ("stderr", "stdout"):  # the next one begins them anew
            self.told[f"{name} of the kvd before, {len(self.told)}"] = self.read(self.path(name))

    def read(self, path):
        with open(path, "rb") as file:
            return file.read()

    # ---- requests ----

    def tell(self, name, answer):
        self.told[f"{len(self.told)}: {name}: {answer.status}"] = repr(sorted(answer.headers.items())).encode() + b"\n" + answer.body
        return answer

    def ask(self, status, method, path, body=None, shows=False, **options):
        """A request whose answer is no place for a value, unless it `shows` one."""
        answer = self.kvd.request(method, path, body, **options)
        self.assertEqual(answer.status, status, f"{method} {path}: {answer.status} {answer.body[:300]}")
        if shows:
            self.assertTrue(self.needles.find(answer.body), f"{method} {path} shows the value")
            answer = type(answer)(answer.status, answer.headers, b"")
        return self.tell(f"{method} {path}", answer)

    def send(self, name, text):
        """Bytes as they are; what comes back, if anything does."""
        with self.kvd.connect() as connection:
            connection.send(text.encode()).finish()
            with contextlib.suppress(OSError):
                while connection.receive():
                    pass
            self.told[f"{len(self.told)}: {name}"] = connection.buffer

    def namespace(self, name, secret=True, **members):
        return self.ask(201, "POST", "/namespaces", {"name": name, "applicationId": "app", "isSecretNamespace": secret, **members}).json()["id"]

    # ---- looking ----

    def places(self):
        """All that somebody could read: name -> bytes."""
        found = dict(self.told)
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found[os.path.relpath(os.path.join(folder, name), self.folder)] = self.read(os.path.join(folder, name))
        if storages.IS_POSTGRESQL:
            found.update(self.places_of_database(storages.server()))
        if self.kvd and self.kvd.process.poll() is None:
            found.update(self.places_of_process(self.kvd.process.pid))
            for path in ("/metrics", "/healthz", "/readyz"):
                found[path] = self.kvd.request("GET", path, admin=True, token=None).body
        return found

    def places_of_process(self, pid):
        found = {name: self.read(f"/proc/{pid}/{name}") for name in ("environ", "cmdline", "status", "limits", "maps", "comm")}
        for number in os.listdir(f"/proc/{pid}/fd"):  # files that have no name any more
            with contextlib.suppress(OSError):
                path = f"/proc/{pid}/fd/{number}"
                if os.path.isfile(path) and os.readlink(path).endswith(" (deleted)"):
                    found[f"descriptor {number}"] = self.read(path)
        return found

    def places_of_database(self, server):
        """Every row as SQL shows it, and all that the server writes: its log with every statement, tables and log of changes as
        they are on disk. What is deleted stands there until it is overwritten: nothing secret may be among that, either."""
        server.ask("checkpoint")
        found = {f"{SERVER} {os.path.relpath(path, server.folder)}": data for path, data in self.files_of(server)}
        for name, in server.ask("select datname from pg_database where datname like 'kvd%'"):
            with contextlib.closing(Database(server.url(name))) as database:
                for table, in database.execute("select relid::regclass::text from pg_stat_user_tables"):
                    found[f"{TABLE} {name} {table}"] = "\n".join(row for row, in database.execute(f"select one::text from {table} one")).encode()
        return found

    def files_of(self, server):
        for folder, _, names in os.walk(server.folder):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.isfile(path):
                        yield path, self.read(path)

    def look(self, when):
        """Nothing planted is anywhere. Gives the places."""
        places = self.places()
        leaks = []
        for name, data in places.items():
            for needle, form, at in self.needles.find(data):
                if needle == PASSWORD and name == f"{SERVER} passfile":
                    continue
                around = data[max(0, at - 80):at + 100] if name != "environ" else ""  # which is that of the tests
                leaks.append(f"{needle} as {form} in {name}: {around}")
        if leaks:
            self.fail(f"{when}:\n" + "\n".join(leaks[:20]))
        self.told.clear()  # they do not change any more
        return places


class Planted(Place):
    flags = ("--audit-copy", "file:copy.jsonl")

    def begin(self):
        self.start(*self.flags)
        self.ns, self.plain = self.namespace("secret"), self.namespace("plain", secret=False)
        self.kvd.request("PUT", f"/{self.plain}/entries/control", {"value": CONTROL})

    def entry(self, key, suffix=""):
        return f"/{self.ns}/entries/{key_url(key)}{suffix}"

    def put(self, key, what, status=201, **members):
        return self.ask(status, "PUT", self.entry(key), {"value": what, **members})

    def test_nothing_planted_is_found_anywhere(self):
        self.begin()
        for work in (self.write_all_ways, self.read_all_ways, self.fail_all_ways, self.fail_in_bulk, self.fail_below_http, self.send_credentials, self.make_secret_later, self.run_as_operator):
            work()
            places = self.look(f"after {work.__name__}")
        self.check_control(places, f"{SERVER} log" if storages.IS_POSTGRESQL else "kv.db-wal")
        self.check_process()
        self.let_expire()
        self.tamper()
        self.stop()
        places = self.look("after the stop")
        self.check_control(places, self.stored())
        self.check_that_others_were_written(places)

    # ---- what is planted ----

    def write_all_ways(self):
        self.put("text", value("put"))
        self.put("text", value("put again"), 200)
        self.ask(200, "PUT", self.entry("text", "?includeValue=true"), {"value": value("put shown")}, shows=True)
        self.put("json", {value("member"): [value("element"), {"n": NUMBER}]})
        self.put("json-text", json.dumps({"a": value("text of JSON")}), valueType="JSON")
        self.put("number", NUMBER)
        self.put("number-text", str(NUMBER), valueType="NUMBER")
        self.put("binary", base64.b64encode(BINARY).decode(), valueType="BINARY")
        self.ask(201, "PUT", self.entry("bytes"), BINARY, headers={"Content-Type": "application/octet-stream"})
        self.put("long", value("long", MARK + "x" * 100) * 60)
        self.put("huge", MARK * 60_000)
        self.put("short", value("short-lived"), ttlSeconds=1)
        self.put("with more", value("with more"), metadata={"a": 1}, comment="a comment")
        self.ask(200, "PATCH", self.entry("with more"), {"metadata": {"b": 2}})
        self.ask(200, "POST", self.entry("text", "/rotate"), {"value": value("rotated")})
        self.ask(200, "POST", self.entry("text", "/rotate?includeValue=true"), {"value": value("rotated, shown")}, shows=True)
        generated = self.kvd.request("POST", self.entry("text", "/rotate?includeValue=true"), {"generate": {"length": 40}}).json()["value"]
        self.needles.add("a generated value", generated.encode())
        self.ask(200, "POST", self.entry("text", "/rollback"), {"version": 1})
        self.ask(200, "POST", self.entry("text", "/rollback"))
        self.ask(200, "POST", self.entry("text", "/rollback?includeValue=true"), {"version": 2}, shows=True)
        self.ask(200, "POST", f"/{self.ns}/bulk/set", {"entries": [{"keyPath": f"bulk/k{n}", "value": value(f"bulk {n}")} for n in range(50)]})
        self.ask(200, "POST", f"/{self.ns}/bulk/set", {"entries": [{"keyPath": f"bulk/k{n}", "value": value(f"loose {n}")} for n in range(50)], "atomic": False})
        self.ask(200, "POST", f"/{self.ns}/bulk/delete", {"keys": ["bulk/k0", "bulk/k1"]})
        self.put("gone", value("deleted"))
        self.ask(204, "DELETE", self.entry("gone"))
        self.put("purged", value("purged"))
        self.put("purged", value("purged again"), 200)
        self.ask(204, "DELETE", self.entry("purged", "?purge=true"))
        self.put("undeleted", value("undeleted"))
        self.ask(204, "DELETE", self.entry("undeleted"))
        self.ask(200, "POST", self.entry("undeleted", "/rollback"))

    def read_all_ways(self):
        for path in ("text", "text?version=1", "json", "number", "binary", "long", "huge"):
            name, _, parameters = path.partition("?")
            self.ask(200, "GET", self.entry(name, "?" + parameters if parameters else ""), shows=True)
        self.ask(200, "GET", self.entry("bytes"), shows=True, headers={"Accept": "application/octet-stream"})
        self.ask(200, "HEAD", self.entry("text"))
        self.ask(200, "GET", self.entry("text", "/versions?includeValues=true"), shows=True)
        self.ask(200, "GET", self.entry("text", "/versions"))
        self.ask(200, "GET", f"/{self.ns}/entries?includeValues=true", shows=True)
        self.ask(200, "GET", f"/{self.ns}/entries")
        self.ask(200, "POST", f"/{self.ns}/bulk/get", {"keys": ["text", "number", "nothing"]}, shows=True)
        for form in ("dotenv", "json", "shell", "yaml"):
            self.ask(200, "GET", f"/{self.ns}/export?prefix=bulk&format={form}", shows=True)
        self.ask(409, "GET", f"/{self.ns}/export?format=dotenv")  # two names for one key, or none for another
        for path in ("/namespaces", f"/namespaces/{self.ns}", "/audit?limit=1000", "/openapi.json"):
            self.ask(200, "GET", path)
        changes = self.ask(200, "GET", f"/namespaces/{self.ns}").json()["revision"]
        with EventStream(self.kvd.port, f"/{self.ns}/watch?fromRevision=0", ROOT) as stream:
            self.assertEqual(len(stream.take(changes)), changes)
            self.told["what a watcher hears"] = stream.raw

    def fail_all_ways(self):
        put = lambda status, body, key="refused", token=True, headers=None, suffix="": self.ask(status, "PUT", self.entry(key, suffix), body, token=token, headers=headers)
        secret = lambda route: {"value": value(route)}
        for wanted in ("NUMBER", "BOOLEAN", "BINARY", "JSON"):
            put(400, {**secret("no " + wanted), "valueType": wanted})
        put(400, {"value": {"a": value("no text")}, "valueType": "STRING"})
        put(400, {"value": NUMBER, "valueType": "BINARY"})
        put(400, {**secret("no type"), "valueType": MARK})
        put(400, {**secret("ttl"), "ttlSeconds": MARK})
        put(400, {**secret("metadata"), "metadata": [1]})
        put(400, {**secret("unknown member"), "valu": value("unknown")})
        put(400, {"valu": value("misspelt")})
        put(400, {"val\u00fce": {"a": value("misspelt")}})
        put(400, {**secret("version"), "expectedVersion": -1})
        put(400, {**secret("id"), "id": MARK})
        put(400, {**secret("updatedBy"), "updatedBy": "nobody"}, "text")
        put(409, {**secret("stale"), "expectedVersion": 77}, "text")
        put(409, {**secret("stale"), "version": 77}, "text")
        put(412, secret("If-Match"), "text", headers={"If-Match": f'"{MARK}"'})
        put(412, secret("If-None-Match"), "text", headers={"If-None-Match": "*"})
        put(400, secret("query"), suffix=f"?value={MARK}")
        put(400, secret("query"), suffix=f"?includeValue={MARK}")
        put(400, secret("reserved"), key="a/rotate/rotate/rotate/versions")
        put(400, secret("no key"), key="a//b")
        put(415, secret("kind"), headers={"Content-Type": "text/plain"})
        put(415, secret("kind"), headers={"Content-Type": MARK})
        put(403, secret("denied"), token=READER)
        put(404, secret("hidden"), token=STRANGER)
        put(401, secret("unknown"), token=None)
        put(413, {"value": MARK * (MIB // 13 + 1)})
        put(413, {"value": MARK * (2 * MIB // 13 + 1)})
        # What is no JSON, or twice the same name within a value, of which the name is a part.
        for text in ('{"value":"%s', '{"value":"%s"', '{"value":%s}', '{"value":{"%s":1,"%s":2}}', '{"value":"%s"}}', '{"value":"%s","value":"%s"}', '{"value":"%s\n"}', '{"value":["%s",]}', "%s",
                     '"%s"', '["%s"]', '{"value":"\\u12%s"}', '{"value":"%s\\x"}', '{"value":["%s",{"%s":{"%s":1,"%s":1}}]}'):
            put(400, text.replace("%s", MARK).encode())
        put(400, b'{"value":"' + MARK.encode() + b'\xff"}')
        put(400, ('{"value":' + '["' + MARK + '",' * 1 + "[" * 100).encode())
        put(400, {"value": json.dumps({"a": MARK})[:-1], "valueType": "JSON"})
        put(400, {"value": '{"%s":1,"%s":2}' % (MARK, MARK), "valueType": "JSON"})
        self.ask(404, "PUT", "/app~nowhere/entries/k", secret("nowhere"))
        self.ask(404, "PUT", "/nothing", secret("no route"))
        self.ask(404, "POST", f"/{self.ns}/nothing/set", secret("no route"))
        self.ask(405, "POST", self.entry("text"), secret("method"))
        self.ask(405, "PUT", f"/{self.ns}/bulk/set", secret("method"))
        self.ask(405, "TRACE", self.entry("text"), secret("method"))
        for status, method, suffix, body in ((400, "PATCH", "", secret("patch")), (400, "PATCH", "", {"metadata": MARK}), (400, "DELETE", "", secret("delete")), (400, "POST", "/rollback", secret("rollback")),
                                             (400, "POST", "/rollback", {"version": MARK}), (400, "POST", "/rotate", {**secret("both"), "generate": {"length": 16}}),
                                             (400, "POST", "/rotate", {"generate": {"length": 16, "alphabet": MARK}}), (400, "POST", "/rotate", {**secret("rotate"), "valueType": "NUMBER"}),
                                             (409, "POST", "/rotate", {**secret("rotate"), "expectedVersion": 77}), (400, "GET", "", secret("get")), (400, "GET", "/versions", secret("get"))):
            self.ask(status, method, self.entry("text", suffix), body)
        self.ask(400, "POST", self.entry("number", "/rotate"), secret("rotates a number"))
        self.ask(404, "POST", self.entry("nothing", "/rotate"), secret("rotates nothing"))
        self.ask(400, "GET", self.entry("text", f"?version={MARK}"))
        self.ask(400, "GET", f"/{self.ns}/entries?cursor={MARK}")
        self.ask(400, "GET", f"/{self.ns}/entries?limit={MARK}")
        self.ask(400, "GET", f"/{self.ns}/export?format={MARK}")
        self.ask(400, "GET", f"/{self.ns}/watch", headers={"Last-Event-ID": MARK})
        self.ask(400, "POST", "/namespaces", {"name": "x", "value": value("namespace")})
        self.ask(400, "PUT", f"/namespaces/{self.ns}", {"isSecretNamespace": value("namespace")})

    def fail_in_bulk(self):
        item = lambda key, route, **more: {"keyPath": key, "value": value("bulk " + route), **more}
        bulk = lambda status, items, **options: [self.ask(status if atomic else 200, "POST", f"/{self.ns}/bulk/set", {"entries": items, "atomic": atomic}, **options) for atomic in (True, False)]
        bulk(400, [item("b/1", "type", valueType="NUMBER"), item("b/2", "beside")])
        bulk(409, [item("text", "stale", expectedVersion=77), item("b/3", "beside")])
        bulk(400, [item("a//b", "no key"), item("b/4", "beside")])
        bulk(400, [item("text", "read-only", id=self.ns), item("b/5", "beside")])
        bulk(400, [{"keyPath": "b/6", "value": MARK * (MIB // 13 + 1)}])
        both = lambda status, body, **options: [self.ask(status, "POST", f"/{self.ns}/bulk/set", {**body, "atomic": atomic}, **options) for atomic in (True, False)]
        both(400, {"entries": [item("b", "twice"), item("b", "twice")]})
        both(400, {"entries": [item("b", "unknown", valu=1)]})
        both(400, {"entries": [value("no entry")]})
        both(400, {"entries": value("no list")})
        both(403, {"entries": [item("b", "denied")]}, token=READER)
        both(404, {"entries": [item("b", "hidden")]}, token=STRANGER)
        both(400, {"entries": [item(f"b/{n}", "many") for n in range(1001)]})
        self.ask(400, "POST", f"/{self.ns}/bulk/set", ('{"entries":[{"keyPath":"b","value":{"%s":1,"%s":1}}]}' % (MARK, MARK)).encode())
        self.ask(413, "POST", f"/{self.ns}/bulk/set", {"entries": [{"keyPath": "b", "value": MARK * (17 * MIB // 13)}]})

    def fail_below_http(self):
        """Requests that are none, with a value where a word of the protocol should be."""
        path, credential = BASE + self.entry("text"), f"Authorization: Bearer {ROOT}\r\n"
        body = json.dumps({"value": value("cut")})
        head = lambda *lines, first=f"PUT {path} HTTP/1.1": "\r\n".join((first, "Host: x", credential.strip(), *lines)) + "\r\n\r\n"
        self.send("a method", head(first=f"{MARK} {path} HTTP/1.1"))
        self.send("a version", head(first=f"PUT {path} HTTP/{MARK}"))
        self.send("a request line", f"{MARK}\r\n\r\n")
        self.send("a line without a colon", head(MARK))
        for name in ("Content-Length", "Transfer-Encoding", "Expect", "Connection", "Upgrade", "Content-Encoding", "X-Value\x00", "Content-Type"):
            self.send(name, head(f"{name}: {MARK}", "Content-Length: 2" if name != "Content-Length" else "X: y") + "{}")
        self.send("a body cut short", head(f"Content-Length: {len(body.encode()) + 10}") + body)
        self.send("a chunk that is none", head("Transfer-Encoding: chunked") + f"{MARK}\r\n")
        self.send("a chunk with an extension", head("Transfer-Encoding: chunked") + f"2;x={MARK}\r\n{{}}\r\n0\r\n\r\n")
        self.send("a trailer", head("Transfer-Encoding: chunked") + f"2\r\n{{}}\r\n0\r\nX: {MARK}\r\n\r\n")
        self.send("a body after the request", head("Content-Length: 2") + "{}" + body)
        self.send("a header too large", head("X: " + MARK * 3000))
        self.send("a target too long", head(first=f"PUT {path}?{MARK * 3000} HTTP/1.1"))
        self.send("a body that is not announced", head() + body)
        for header in ("X-Value", "Cookie", "Referer", "User-Agent", "X-Forwarded-For", "X-Api-Key", "Proxy-Authorization"):
            self.ask(200, "GET", f"/namespaces/{self.ns}", headers={header: MARK})

    def send_credentials(self):
        """Credentials that are wrong are no less secret: somebody mistyped one, or sent it to the wrong server."""
        for credential in (f"Bearer {MARK}{'x' * 30}", f"Basic {base64.b64encode(('user:' + MARK).encode()).decode()}", MARK, f"Bearer  {ROOT}x", f"Bearer {ROOT[:-1]}", f"Bearer {ROOT} {MARK}", f"Token {ROOT}",
                           f"Digest {MARK}"):
            for admin in (False, True):
                self.ask(401, "GET" if not admin else "POST", "/namespaces" if not admin else "/admin/verify", token=None, headers={"Authorization": credential}, admin=admin)
        self.ask(400, "GET", f"/namespaces?token={MARK}")
        self.ask(400, "GET", f"/namespaces?access_token={ROOT}")

    def make_secret_later(self):
        """What was stored before stays as it was, and the README says so: nothing is planted there."""
        ns = self.namespace("later", secret=False)
        self.ask(201, "PUT", f"/{ns}/entries/before", {"value": "stored in the clear"})
        self.ask(200, "PUT", f"/namespaces/{ns}", {"isSecretNamespace": True})
        self.ask(201, "PUT", f"/{ns}/entries/after", {"value": value("after sealing")})
        self.ask(200, "PUT", f"/{ns}/entries/before", {"value": value("over a plain one")})
        until(lambda: not self.kvd.request("GET", f"/namespaces/{ns}").json()["sealing"], "everything is sealed")
        self.ask(200, "GET", f"/{ns}/entries/after", shows=True)

    # ---- what operators do ----

    def job(self, answer):
        path = f"/admin/jobs/{answer.json()['id']}"
        until(lambda: self.kvd.request("GET", path, admin=True).json()["finishedAt"], "the job ends")
        return self.ask(200, "GET", path, admin=True)

    def run_as_operator(self):
        self.job(self.ask(202, "POST", "/admin/verify", admin=True))
        self.job(self.ask(202, "POST", f"/admin/rotate-data-key/{self.ns}", admin=True))
        self.tell("backup", self.kvd.request("GET", "/admin/backup", admin=True))
        for body in ({"keyId": MARK}, {"keyId": KEYS["new"]}, {"key": MARK}, MARK.encode()):
            self.ask(400, "POST", "/admin/forget-master-key", body, admin=True)
        self.ask(400, "POST", "/admin/verify", {"anchors": [{"stream": MARK, "sequence": 1, "mac": MARK}]}, admin=True)
        self.ask(404, "GET", f"/admin/jobs/{MARK}", admin=True)
        self.kvd.write_tokens(json.dumps([{"userId": "x", "tokenSha256": ROOT, "grants": []}]))
        self.reload(False)
        self.hide_tokens()
        self.kvd.write_tokens(json.dumps([{"userId": "x", "token": READER, "grants": []}]))
        self.reload(False)
        self.hide_tokens()
        storage, restored = self.kvd.storage, "sqlite:" + self.path("restored.db")
        url = f"http://127.0.0.1:{self.kvd.admin_port}"
        self.tool(0, "check-key", "--storage", storage)
        self.tool(0, "key-id")
        self.tool(0, "verify", "--storage", storage)
        self.tool(0, "verify", "--storage", storage, "--json")
        self.tool(0, "verify", "--server", url, "--json", KVD_TOKEN=ROOT)
        self.tool(0, "backup", "--storage", storage, "--to", self.path("b.kvb"))
        self.tool(0, "backup", "--server", url, "--to", self.path("c.kvb"), KVD_TOKEN=ROOT)
        self.tool(0, "restore", "--from", self.path("b.kvb"), "--storage", restored)
        self.tool(0, "new-epoch", "--storage", restored)
        self.tool(0, "rotate-data-key", self.ns, "--server", url, "--wait", KVD_TOKEN=ROOT)
        self.mistakes(storage, url)

    def hide_tokens(self):
        """The tokens file of an operator who mistook a token for its hash is that operator's own doing."""
        self.kvd.write_tokens([])

    def reload(self, works):
        before = len(self.kvd.log()) + self.read(self.path("stderr")).count(b"tokens file")
        self.kvd.signal(signal.SIGHUP)
        until(lambda: len(self.kvd.log()) + self.read(self.path("stderr")).count(b"tokens file") > before, "the tokens are read again")

    def tool(self, code, *arguments, **environment):
        """Runs a command: neither its output nor its complaints are a place for a secret."""
        done = subprocess.run([KVD, *arguments], env=clean_environment({"KV_MASTER_KEY": KEYS["old"], **environment}), cwd=self.path("tools"), capture_output=True, timeout=30, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, code, (arguments, done.stdout[-500:], done.stderr[-500:]))
        self.told[f"{len(self.told)}: kvd {arguments[0]}"] = done.stdout + b"\n" + done.stderr

    def mistakes(self, storage, url):
        """Secrets that are wrong, cut short, or given in the wrong place."""
        bad, usage, unreachable, config = 1, 64, 70, 78
        serve = ("serve", "--check-config", "--storage", "memory:")
        root = {"KVD_ROOT_TOKEN": ROOT}
        for key in (MARK, KEYS["old"][:-1], KEYS["old"] + "A", KEYS["old"][:20] + " " + KEYS["old"][20:]):
            self.tool(config, *serve, KV_MASTER_KEY=key, **root)
            self.tool(config, *serve, KV_MASTER_KEY_PREVIOUS=key, **root)
        self.tool(bad, "check-key", "--storage", storage, KV_MASTER_KEY=KEYS["new"])
        for token in (MARK, ROOT + " x", ROOT[:31]):
            self.tool(config, *serve, KVD_ROOT_TOKEN=token)
            self.tool(config, "verify", "--server", url, KVD_TOKEN=token)
        self.tool(usage, "forget-master-key", KEYS["new"], "--server", url, KVD_TOKEN=ROOT)
        # Where an option was expected.
        for arguments in (["--root-token", ROOT], ["--master-key=" + KEYS["old"]], [ROOT], ["--threads", ROOT], ["--threads=" + ROOT], ["--log-level", MARK], ["-" + ROOT], ["serve", ROOT]):
            self.tool(usage, *serve, *arguments, **root)
        for arguments in (["check-key", ROOT], ["verify", "--json=" + ROOT], ["backup", "--token", ROOT], ["key-id", KEYS["old"]], [ROOT], ["--token=" + ROOT], ["verify", "--server", ROOT]):
            self.tool(usage, *arguments)
        for uri in (f"postgresql://user:{MARK}@127.0.0.1:1/db", f"postgresql://127.0.0.1:1/db?password={MARK}", f"host=h password={MARK}"):
            wrong = unreachable if uri.startswith("postgresql:") else config
            for command in (["check-key"], ["verify"], ["backup", "--to", "x"], ["new-epoch"], ["forget-master-key", "0123456789abcdef"]):
                self.tool(wrong, *command, "--storage", uri)
            self.tool(wrong, "serve", "--storage", uri, **root)
        self.tool(usage, "verify", "--server", f"http://user:{ROOT}@127.0.0.1:1", KVD_TOKEN=ROOT)
        self.tool(config, *serve, KVD_THREADS=ROOT, **root)
        for number, line in enumerate((f"root-token = {ROOT}", f"{ROOT}", f'root-token = "{ROOT}', f"threads = {ROOT}", f"threads = {ROOT} x")):
            path = os.path.join(tempfile.mkdtemp(prefix="kvd-test-"), f"{number}.toml")  # where nobody looks
            self.addCleanup(shutil.rmtree, os.path.dirname(path))
            with open(path, "w", encoding="utf-8") as file:
                file.write(line + "\n")
            self.tool(config, *serve, "--config", path, **root)

    # ---- time, damage, the process ----

    def let_expire(self):
        until(lambda: self.kvd.request("GET", self.entry("short")).status == 404, "it expires")
        until(lambda: any(row["operation"] == "entry.expire" for row in self.kvd.request("GET", "/audit?operation=entry.expire").json()["items"]), "it is swept")
        self.look("after the expiry")

    def tamper(self):
        """A value that does not open is told of, and not shown, whatever it is."""
        with contextlib.closing(storages.connect(self.kvd.storage)) as db:
            value, = db.execute("select value from entries where key_path = 'long'").fetchone()
            db.execute("update entries set value = ? where key_path = 'long'", (value[:-1] + bytes([value[-1] ^ 1]),))
            db.commit()
        self.ask(500, "GET", self.entry("long"))
        self.tool(1, "verify", "--storage", self.kvd.storage, "--json")
        self.look("after the damage")

    def check_process(self):
        """Its environment was wiped, not only unset; and it leaves no core file."""
        pid = self.kvd.process.pid
        environment = self.read(f"/proc/{pid}/environ")
        for name in (b"KV_MASTER_KEY", b"KVD_ROOT_TOKEN", b"KVD_TOKEN"):
            self.assertTrue(name + b"=\0" in environment, f"{name} is empty")  # and not in the message of a failure
        self.assertRegex(self.read(f"/proc/{pid}/limits").decode(), r"Max core file size +0 +0 ")
        if os.geteuid() != 0:
            self.assertEqual(os.stat(f"/proc/{pid}/environ").st_uid, 0, "not dumpable: it belongs to root")

    # ---- that the search would find something ----

    def check_control(self, places, name):
        """The plain value of another namespace is where the secret ones are not."""
        control = Needles()
        control.add("control", CONTROL.encode())
        self.assertIn("hex" if name.startswith((SERVER, TABLE)) else "raw", {form for _, form, _ in control.find(places[name])})

    def stored(self):
        """The place that holds the entries."""
        return f"{TABLE} {storages.name_of(self.kvd.storage)} entries" if storages.IS_POSTGRESQL else "kv.db"

    def check_that_others_were_written(self, places):
        stored = (self.stored(), "restored.db")
        for name in (*stored, "stderr", "b.kvb", "c.kvb", *self.written):
            self.assertGreater(len(places[name]), 1000, name)
        control = Needles()
        control.add("control", CONTROL.encode())
        for name in (*stored, "b.kvb"):
            self.assertTrue(control.find(places[name]), f"{name} holds what was stored in the clear")

    written = ("copy.jsonl",)


class PlantedInTextLogs(Planted):
    flags = ("--log-format", "text", "--audit-copy", "stdout")
    written = ("stdout",)

    def mistakes(self, storage, url):
        pass  # the commands know nothing of the format


class Keys(Place):
    """The life of a store goes on: another master key, a schema of before, an audit log that is cut behind an archive."""

    def test_changing_the_master_key_and_the_schema_leaves_nothing_behind(self):
        self.start()
        self.ns = self.ask(201, "POST", "/namespaces", {"name": "secret", "applicationId": "app", "isSecretNamespace": True}).json()["id"]
        self.write("under the old key", 201)
        self.stop()
        self.start(key="new", previous="old")
        self.assertTrue(b"KV_MASTER_KEY_PREVIOUS=\0" in self.read(f"/proc/{self.kvd.process.pid}/environ"), "it is empty")
        self.write("under both", 200)
        old = run("key-id", environment={"KV_MASTER_KEY": KEYS["old"]}).stdout.strip()
        until(lambda: self.kvd.request("POST", "/admin/forget-master-key", {"keyId": old}, admin=True).status == 200, "the old key is forgotten")
        self.look("after the old key was forgotten")
        self.stop()
        if not storages.IS_POSTGRESQL:  # where there is no schema of before
            self.become_schema_1()
            self.start(key="new")
            self.write("after the migration", 200)
            self.assertIn("kv.db.schema-1", self.look("after the migration"))
            self.stop()
        self.look("at the end")

    def test_an_audit_log_that_is_archived_holds_no_value(self):
        self.start("--audit-bytes-max", "100000")
        self.ns = self.ask(201, "POST", "/namespaces", {"name": "secret", "applicationId": "app", "isSecretNamespace": True}).json()["id"]

        def archived():
            self.ask(200, "POST", f"/{self.ns}/bulk/set", {"entries": [{"keyPath": f"k{n}", "value": value(str(n))} for n in range(500)]})
            return [name for name in self.look("while it is archived") if name.startswith("archive/")]
        until(archived, "some of the log is archived")
        self.stop()
        places = self.look("at the end")
        self.assertTrue(any(b"bulk.set" in data for name, data in places.items() if name.startswith("archive/")))

    def write(self, route, status):
        self.ask(status, "PUT", f"/{self.ns}/entries/k", {"value": value(route)})
        self.ask(200, "GET", f"/{self.ns}/entries/k", shows=True)

    def become_schema_1(self):
        with contextlib.closing(storages.connect(self.kvd.storage)) as db:
            db.executescript("drop table sinks; drop table sink_cursors; drop table tokens; alter table namespaces drop column version_base; alter table audit drop column revision; update meta set value = '1' where name = 'storage.schema_version'; pragma user_version = 1;")


if __name__ == "__main__":
    main()
