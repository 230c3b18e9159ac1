"""Bodies made to break a parser or a rule: each is answered with a problem, and the next request is served."""

import base64
import json
import random

from api import STATUS_OF, UNKNOWN_ID, ApiTestCase, exact, query
from harness import main

MIB = 1 << 20

# A right body for every route that takes one, and the types its members may have beside the one that is given.
BODIES = {
    ("POST", "/namespaces"): {"name": "n", "description": "d", "applicationId": "a", "isSecretNamespace": False, "defaultTtlSeconds": 60, "keepsHistory": True,
                              "historyLimit": 5, "deletionProtection": False},
    ("PUT", "/namespaces/{ns}"): {"description": "d", "isSecretNamespace": False, "defaultTtlSeconds": 60, "keepsHistory": True, "historyLimit": 20, "deletionProtection": False,
                                  "expectedVersion": 1},
    ("PUT", "/{ns}/entries/k"): {"value": 1, "valueType": "NUMBER", "ttlSeconds": 60, "metadata": {}, "expectedVersion": 1, "comment": "c"},
    ("PATCH", "/{ns}/entries/k"): {"ttlSeconds": 60, "metadata": {"a": 1}, "expectedVersion": 1},
    ("DELETE", "/{ns}/entries/k"): {"expectedVersion": 1},
    ("DELETE", "/namespaces/{ns}"): {"expectedVersion": 1},
    ("POST", "/{ns}/entries/k/rotate"): {"value": 2, "valueType": "NUMBER", "ttlSeconds": 60, "comment": "c", "expectedVersion": 1},
    ("POST", "/{ns}/entries/k/rollback"): {"version": 1, "ttlSeconds": 60, "comment": "c", "expectedVersion": 1},
    ("POST", "/{ns}/bulk/get"): {"keys": ["k"]},
    ("POST", "/{ns}/bulk/set"): {"entries": [{"keyPath": "k", "value": 1}], "atomic": True},
    ("POST", "/{ns}/bulk/delete"): {"keys": ["k"], "atomic": True, "purge": False},
}
SAMPLES = {"null": None, "true": True, "number": 7, "fraction": 1.5, "string": "x", "array": [1], "object": {"x": 1}}
# What else a member may be: samples that are no wrong type for it.
ALSO_RIGHT = {
    "name": {"string"}, "description": {"string", "null"}, "applicationId": {"string"}, "isSecretNamespace": {"true"}, "defaultTtlSeconds": {"number", "null"}, "keepsHistory": {"true"},
    "historyLimit": {"number", "null"}, "deletionProtection": {"true"}, "expectedVersion": {"number"}, "value": {"true", "number", "fraction", "string", "array", "object"},
    "valueType": set(), "ttlSeconds": {"number", "null"}, "metadata": {"object"}, "comment": {"string"}, "version": {"number"}, "keys": set(), "entries": set(), "atomic": {"true"}, "purge": {"true"}}


class Hostile(ApiTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ns = cls.kvd.request("POST", "/namespaces", {"name": "hostile", "applicationId": "app"}).json()
        cls.secret = cls.kvd.request("POST", "/namespaces", {"name": "secret", "applicationId": "app", "isSecretNamespace": True}).json()
        answer = cls.kvd.request("PUT", f"/{cls.ns['id']}/entries/k", {"value": 1})
        assert answer.status == 201
        cls.before = cls.kvd.request("GET", f"/{cls.ns['id']}/entries/k").json()

    def tearDown(self):
        # Nothing of all this changed anything, and the server is well.
        self.assertEqual(self.get(self.ns, "k").json(), self.before)
        self.assertEqual(self.keys(self.ns), ["k"])
        self.assertEqual(len(self.call("GET", "/namespaces").json()["items"]), 2)

    def send(self, method, path, body, **options):
        return self.call(method, path.format(ns=self.ns["id"]), body, **options)

    def refused(self, method, path, body, codes=("invalid-request", "invalid-value", "malformed-body", "invalid-key")):
        answer = self.send(method, path, body, status=400)
        self.assertIn(answer.code, codes, answer)
        self.send("GET", "/{ns}/entries/k", None, status=200)
        return answer

    def refused_everywhere(self, body):
        for method, path in BODIES:
            with self.subTest(method=method, path=path, body=body[:60]):
                self.refused(method, path, body)

    def test_bodies_that_are_no_json(self):
        for body in (b"{", b"}", b"[", b'{"', b'{"value"', b'{"value":', b'{"value":1', b'{"value":1,', b'{"value":1,}', b"{'value':1}", b"{value:1}", b"x", b"nul", b"\0", b'{"value":1}x',
                     b'{"value":1}{"value":2}', b'{"value":1}\0', b"// c\n{}", b'{"value":1 /* c */}', b'{"value":+1}', b'{"value":01}', b'{"value":.5}', b'{"value":1.}', b'{"value":1e}',
                     b'{"value":NaN}', b'{"value":Infinity}', b'{"value":-}', b'{"value":0x10}', b'{"value":"a\nb"}', b'{"value":"\\x"}', b'{"value":"\\u12"}', b'{"value":"\\u12g4"}',
                     b'{"value":"a\x00b"}', b'{"value":"a', b'{"value":tru}', b'{"value":True}', b'{"value":1;"comment":"x"}', b"\xef\xbb\xbf{}x", b"\xfe\xff\x00{\x00}"):
            self.refused_everywhere(body)

    def test_bodies_of_another_kind(self):
        for body in (b"null", b"true", b"1", b'"x"', b"[]", b"[{}]", b" "):
            self.refused_everywhere(body)

    def test_a_body_where_one_is_needed_is_not_empty(self):
        for method, path in BODIES:
            if method != "DELETE" and not path.endswith("rollback"):
                self.refused(method, path, b"")

    def test_truncated_bodies(self):
        whole = b'{"value": {"a": [1, "\\u00e9", true, null, 1.5e3]}, "valueType": "JSON", "ttlSeconds": 60, "metadata": {"m": "\xc3\xa9"}}'
        for size in range(len(whole)):
            self.send("PUT", "/{ns}/entries/truncated", whole[:size], status=400)

    def test_deep_bodies(self):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            for depth in (33, 100, 10_000, 1_000_000 // len(opening)):
                self.refused("PUT", "/{ns}/entries/k", b'{"value":' + opening * depth)
                self.refused("PUT", "/{ns}/entries/k", opening * depth)
                self.refused("PUT", "/{ns}/entries/k", b'{"value":1,"metadata":' + opening * depth)
                self.refused("POST", "/{ns}/bulk/set", b'{"entries":' + opening * depth)
        self.refused("POST", "/{ns}/bulk/set", b'{"entries":[{"keyPath":"a","value":' + b"[" * 10_000_000)
        self.refused("POST", "/{ns}/bulk/get", b"[" * (16 * MIB))
        text = "[" * 500_000 + "]" * 500_000
        self.refused("PUT", "/{ns}/entries/k", json.dumps({"value": text, "valueType": "JSON"}).encode(), codes=("invalid-value",))
        # Wide is not deep.
        self.refused("PUT", "/{ns}/entries/k", b'{"value":[' + b"[]," * 300_000 + b"]}")

    def test_duplicate_members(self):
        for body in (b'{"value":1,"value":1}', b'{"value":1,"valu\\u0065":2}', b'{"value":{"a":1,"a":1}}', b'{"value":[{"b":[{"a":1,"c":2,"a":3}]}]}', b'{"value":1,"metadata":{"a":1,"a":2}}',
                     b'{"value":{"a":1,"\\u0061":2}}', b'{"value":1,"comment":"x","comment":"x"}', b'{"value":{"":1,"":2}}', b'{"value":{"\\u0000":1,"\\u0000":2}}'):
            self.refused("PUT", "/{ns}/entries/k", body)
        many = ",".join(f'"m{i}":{i}' for i in range(20_000))
        self.refused("PUT", "/{ns}/entries/k", '{"value":{%s,"m19999":1}}' % many)
        self.refused("PUT", "/{ns}/entries/k", '{"value":1,%s}' % many)
        for method, path in BODIES:
            name = next(iter(BODIES[method, path]))
            text = json.dumps(BODIES[method, path][name])
            self.refused(method, path, '{"%s":%s,"%s":%s}' % (name, text, name, text))
        self.refused("POST", "/{ns}/bulk/set", b'{"entries":[{"keyPath":"a","value":1,"keyPath":"b"}]}')
        self.refused("POST", "/{ns}/entries/k/rotate", b'{"generate":{"length":32,"length":33}}')

    def test_text_that_is_no_utf_8(self):
        for bad in (b"\x80", b"\xff", b"\xc0\xaf", b"\xc0\x80", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x92"):
            for body in (b'{"value":"' + bad + b'"}', b'{"value":1,"comment":"' + bad + b'"}', b'{"value":{"' + bad + b'":1}}', b'{"value":1,"' + bad + b'":1}',
                         b'{"value":1,"metadata":{"a":"' + bad + b'"}}', b'{"value":1}' + bad):
                with self.subTest(body=body):
                    self.refused("PUT", "/{ns}/entries/k", body)
            self.refused("POST", "/{ns}/bulk/get", b'{"keys":["' + bad + b'"]}')
            self.refused("POST", "/namespaces", b'{"name":"' + bad + b'"}')

    def test_lone_surrogates(self):
        for bad in (b"\\ud800", b"\\udc00", b"\\udfff", b"\\ud800x", b"\\ud800\\u0041", b"\\udc00\\ud800", b"\\ud83d", b"\\uD83D\\uD83D"):
            for body in (b'{"value":"' + bad + b'"}', b'{"value":{"' + bad + b'":1}}', b'{"value":["' + bad + b'"]}', b'{"value":1,"comment":"' + bad + b'"}', b'{"value":1,"metadata":{"a":"' + bad + b'"}}'):
                with self.subTest(body=body):
                    self.refused("PUT", "/{ns}/entries/k", body)
            self.refused("POST", "/{ns}/bulk/get", b'{"keys":["' + bad + b'"]}')

    def test_nul_in_texts(self):
        for member in ("comment",):
            self.refused("PUT", "/{ns}/entries/k", {"value": 1, member: "a\0b"})
        self.refused("POST", "/namespaces", {"name": "a\0b"})
        self.refused("POST", "/namespaces", {"name": "n", "description": "a\0b"})
        self.refused("POST", "/{ns}/bulk/get", {"keys": ["a\0b"]})

    def test_numbers_no_machine_holds(self):
        huge = ["0.0000000001e-2147483639", "1e-2147483648", "1e2147483648", "1e99999999999999999999", "-1e-99999999999999999999", "9" * 1024, "0." + "0" * 1000 + "1", "1" + "0" * 1000 + "e-999"]
        for literal in huge:
            # As a value they are digits like any others...
            answer = self.send("PUT", "/{ns}/entries/k", '{"value": 1, "expectedVersion": %s}' % literal, status=400)
            self.assertEqual(answer.json()["field"], "expectedVersion")
            scratch = self.entry_path(self.secret, "number")
            answer = self.call("PUT", scratch, '{"value": %s}' % literal)
            self.assertEqual(exact(self.get(self.secret, "number").body)["value"], literal)
            self.call("PUT", scratch, '{"value": [%s]}' % literal)
            self.assertEqual(exact(self.get(self.secret, "number").body)["value"], [literal])
            # ...as a version, a limit or a time to live they are none.
            for member in ("version", "ttlSeconds"):
                self.assertEqual(self.refused("PUT", "/{ns}/entries/k", '{"value": 1, "%s": %s}' % (member, literal)).json()["field"], member)
            self.refused("POST", "/namespaces", '{"name": "n", "historyLimit": %s}' % literal)
            self.refused("POST", "/{ns}/entries/k/rollback", '{"version": %s}' % literal)
            self.refused("POST", "/{ns}/entries/k/rotate", '{"generate": {"length": %s}}' % literal)
        for literal in ("1" * 1025, "1" * 1_000_000, "0." + "1" * 1_000_000, "1e" + "9" * 1_000_000):
            self.refused("PUT", "/{ns}/entries/k", '{"value": %s}' % literal)

    def test_integers_out_of_range(self):
        for literal in ("-1", "9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1.0", "1e0", "1e2", "-0.5", "0.0"):
            for method, path, body in (("PUT", "/{ns}/entries/k", '{"value":1,"expectedVersion":%s}'), ("PUT", "/{ns}/entries/k", '{"value":1,"version":%s}'),
                                       ("DELETE", "/{ns}/entries/k", '{"expectedVersion":%s}'), ("POST", "/{ns}/entries/k/rollback", '{"expectedVersion":%s}'),
                                       ("PUT", "/namespaces/{ns}", '{"version":%s}'), ("PUT", "/namespaces/{ns}", '{"historyLimit":%s}'), ("PUT", "/namespaces/{ns}", '{"defaultTtlSeconds":%s}')):
                with self.subTest(literal=literal, body=body):
                    self.refused(method, path, body % literal)

    def test_members_of_every_wrong_type(self):
        for (method, path), right in BODIES.items():
            for name, value in right.items():
                for kind, sample in SAMPLES.items():
                    if kind in ALSO_RIGHT[name] or (method, name, kind) == ("PATCH", "metadata", "null"):
                        continue
                    with self.subTest(method=method, path=path, name=name, kind=kind):
                        answer = self.refused(method, path, {**right, name: sample})
                        if name != "entries" or kind not in ("array",):
                            self.assertEqual(answer.json().get("field"), name)

    def test_unknown_members_of_every_body(self):
        for (method, path), right in BODIES.items():
            for name in ("unknown", "__proto__", "Value", "value ", "", "x" * 10_000, "\u00e9", "\0", "constructor"):
                with self.subTest(method=method, path=path, name=name[:20]):
                    answer = self.refused(method, path, {**right, name: 1})
                    self.assertLessEqual(len(answer.body), 2000)

    def test_unknown_parameters_of_every_route(self):
        for method, path in BODIES:
            for name in ("unknown", "__proto__", "Purge", "x" * 1000, "", "a[b]", "limit "):
                with self.subTest(method=method, path=path, name=name[:20]):
                    self.refused(method, path + query(**{name: "1"}), BODIES[method, path])

    def test_base64_that_is_none(self):
        right = base64.b64encode(b"any bytes").decode()
        for text in (right + "=", right + "==", right[:-1], right.replace("a", "*", 1), " " + right, right + "\n", right[:4] + "\r\n" + right[4:], right.replace("=", ""), "=" + right, "QQ=", "QQ=A", "QR==", "QQE",
                     "\u00e9AAA", "AAA\0", "A" * 99_999):
            with self.subTest(text=text[:20]):
                if text == right:
                    continue
                self.refused("PUT", "/{ns}/entries/k", {"value": text, "valueType": "BINARY"}, codes=("invalid-value",))

    def test_problems_show_no_value(self):
        word = "h0stile-s3cret"
        for method, path, body in (("PUT", "/{ns}/entries/k", {"value": word, "valueType": "NUMBER"}), ("PUT", "/{ns}/entries/k", {"value": {"a": word}, "valueType": "STRING"}),
                                   ("PUT", "/{ns}/entries/k", {"value": word, "unknown": word}), ("PUT", "/{ns}/entries/k", {"value": word, "metadata": word}), ("PUT", "/{ns}/entries/k", '{"value": "%s"' % word),
                                   ("PUT", "/{ns}/entries/k", '{"value": "%s", "value": "%s"}' % (word, word)), ("POST", "/{ns}/bulk/set", {"entries": [{"keyPath": "a//b", "value": word}]}),
                                   ("POST", "/{ns}/bulk/set", {"entries": [{"keyPath": "a", "value": word, "x": 1}]}), ("POST", "/{ns}/entries/k/rotate", {"value": word, "valueType": "JSON"}),
                                   ("PUT", "/{ns}/entries/k", {"value": word * 100_000}), ("PUT", "/{ns}/entries/k", '{"value": "[\\"%s\\"", "valueType": "JSON"}' % word)):
            answer = self.kvd.request(method, path.format(ns=self.ns["id"]), body)
            self.assertGreaterEqual(answer.status, 400)
            self.assertNotIn(word.encode(), answer.body)
        self.assertNotIn(word, self.kvd.read("stderr"))

    def test_random_bytes_and_random_changes_of_right_bodies(self):
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        alphabet = b'{}[]",:\\0123456789.eE+-tfn \x00\xff\xc3'
        with self.subTest(seed=seed):
            for _ in range(400):
                (method, path), right = chance.choice(list(BODIES.items()))
                body = bytearray(json.dumps(right).encode())
                for _ in range(chance.randrange(1, 4)):
                    place = chance.randrange(len(body))
                    what = chance.randrange(3)
                    if what == 0:
                        body[place] = chance.choice(alphabet)
                    elif what == 1:
                        body.insert(place, chance.choice(alphabet))
                    elif len(body) > 1:
                        del body[place]
                # Against a namespace of its own, for some changes leave it right.
                answer = self.kvd.request(method, path.format(ns=UNKNOWN_ID), bytes(body)) if path != "/namespaces" else None
                if answer is not None:
                    self.check_common(method, answer, {})
                    self.assertIn(answer.status, (400, 404), (body, answer))
            for _ in range(200):
                body = bytes(chance.choice(alphabet) for _ in range(chance.randrange(1, 40)))
                self.send("PUT", "/{ns}/entries/random", body, status=400)


if __name__ == "__main__":
    main()
