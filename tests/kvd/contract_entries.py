"""The contract of single entries: keys, values, types, times to live, optimistic locking, conditional reads."""

import base64
import json

from api import ETAG, UNKNOWN_ID, ApiTestCase, exact, key_url, on_every_storage, query
from harness import BASE, main, until



@on_every_storage
class Keys:
    """How a key path may be spelled in a URL, and which ones are refused."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ns = cls.kvd.request("POST", "/namespaces", {"name": "keys"}).json()

    def raw(self, method, spelling, body=None, **options):
        return self.call(method, f"/{self.ns['id']}/entries/{spelling}", body, **options)

    def test_raw_and_encoded_slashes_both_separate_segments(self):
        self.raw("PUT", "a/b/c", {"value": 1}, status=201)
        for spelling in ("a/b/c", "a%2Fb/c", "a%2fb%2Fc", "%61/b/c"):
            answer = self.raw("GET", spelling, status=200)
            self.assertEqual(answer.json()["keyPath"], "a/b/c")

    def test_a_key_is_decoded_once(self):
        self.raw("PUT", "once%252Fmore", {"value": 1}, status=201)
        self.assertEqual(self.raw("GET", "once%252Fmore").json()["keyPath"], "once%2Fmore")
        self.raw("GET", "once%2Fmore", code="not-found")
        self.raw("PUT", "plus+sign", {"value": 1}, status=201)
        self.assertEqual(self.raw("GET", "plus%2Bsign").json()["keyPath"], "plus+sign")

    def test_keys_hold_any_other_character_and_are_never_normalised(self):
        keys = ["Case", "case", "sp ace", "caf\u00e9", "cafe\u0301", "\u65e5\u672c\u8a9e", "\U0001f511", "a~b", "%", "a?b#c", "a;b=c&d",
                "...", "a..b", ".hidden", "trailing.", "-", "rotate/x", "versions/rollback/y", "x-rotate", "Rotate", "q'\"\\"]
        for key in keys:
            self.raw("PUT", key_url(key), {"value": key}, status=201)
        for key in keys:
            self.assertEqual(self.raw("GET", key_url(key)).json()["value"], key)
        listed = self.keys(self.ns)
        self.assertEqual(listed, sorted(listed, key=lambda key: key.encode()))
        self.assertLessEqual(set(keys), set(listed))

    def test_keys_that_are_none_are_refused(self):
        spellings = ["%2e%2e", "a/../b", "a/%2e%2e/b", ".", "a/.", "a/%2E", "a//b", "a/%2Fb", "%2Fa", "a/", "a%2F", "%2F", "%00", "a%00b",
                     "a%0Ab", "a%1Fb", "a%7Fb", "a%C2%80b", "%C0%AF", "%C0%AE%C0%AE", "%FF", "%ED%A0%80", "%F4%90%80%80", "a%", "a%2",
                     "a%zz", "a%2x", "/a"]
        for spelling in spellings:
            for method, body in (("GET", None), ("PUT", {"value": 1}), ("PATCH", {"ttlSeconds": 1}), ("DELETE", None)):
                with self.subTest(spelling=spelling, method=method):
                    self.raw(method, spelling, body, code="invalid-key", field="keyPath")
            for suffix, method, body in (("versions", "GET", None), ("rotate", "POST", {"value": 1}), ("rollback", "POST", {})):
                with self.subTest(spelling=spelling, suffix=suffix):
                    self.raw(method, spelling + "/" + suffix, body, code="invalid-key", field="keyPath")

    def test_keys_that_are_none_are_refused_in_bulks(self):
        for key in ("", "..", "a/./b", "a//b", "/a", "a/", "a\0b", "a\nb", "\u0085", "a" * 256, "a/" * 512 + "ab"):
            for path, body in (("get", {"keys": [key]}), ("delete", {"keys": [key]}), ("set", {"entries": [{"keyPath": key, "value": 1}]}),
                               ("set", {"entries": [{"key": key, "value": 1}]})):
                with self.subTest(key=key[:20], path=path):
                    answer = self.call("POST", f"/{self.ns['id']}/bulk/{path}", body, code="invalid-key")
                    self.assertEqual(len(answer.json()["errors"]), 1)

    def test_an_empty_key_is_none(self):
        self.raw("PUT", "", {"value": 1}, code="invalid-key", field="keyPath")

    def test_the_lengths_of_keys_and_segments(self):
        segment = "s" * 255
        self.raw("PUT", segment, {"value": 1}, status=201)
        self.raw("PUT", segment + "s", {"value": 1}, code="invalid-key")
        key = "/".join(["s" * 204] * 5)
        self.assertEqual(len(key), 1024)
        self.raw("PUT", key, {"value": 1}, status=201)
        self.assertEqual(self.raw("GET", key).json()["keyPath"], key)
        self.raw("PUT", key + "s", {"value": 1}, code="invalid-key")
        # Bytes count, not characters.
        self.raw("PUT", key_url("\u00e9" * 127 + "a"), {"value": 1}, status=201)
        self.raw("PUT", key_url("\u00e9" * 128), {"value": 1}, code="invalid-key")

    def test_a_last_segment_that_names_an_operation_is_reserved_on_every_way_in(self):
        for word in ("rotate", "rollback", "versions"):
            for key in (word, "a/" + word, "a%2F" + word):
                with self.subTest(key=key):
                    self.raw("PUT", key, {"value": 1}, code="reserved-key-segment", field="keyPath")
                    self.raw("DELETE", key, code="reserved-key-segment")
                    self.raw("PATCH", key, {}, code="reserved-key-segment")
                    self.raw("GET", key + "?version=1", status=400)
                    for suffix, method, body in (("versions", "GET", None), ("rotate", "POST", {"value": 1}), ("rollback", "POST", {})):
                        self.raw(method, f"{key}/{suffix}", body, code="reserved-key-segment", field="keyPath")
            for key in (word, "a/" + word):
                for path, body in (("get", {"keys": [key]}), ("delete", {"keys": [key]}), ("set", {"entries": [{"keyPath": key, "value": 1}]}),
                                   ("set", {"entries": [{"key": key, "value": 1}], "atomic": True})):
                    with self.subTest(key=key, path=path):
                        self.call("POST", f"/{self.ns['id']}/bulk/{path}", body, code="reserved-key-segment")
                answer = self.call("POST", f"/{self.ns['id']}/bulk/set", {"entries": [{"keyPath": key, "value": 1}], "atomic": False}, status=200)
                self.assertEqual(answer.json()["results"][0]["error"]["code"], "reserved-key-segment")

    def test_a_method_that_no_route_takes_is_not_allowed(self):
        for spelling, allowed in (("a", "GET, HEAD, PUT, PATCH, DELETE"), ("a/versions", "GET")):
            answer = self.raw("POST", spelling, {"value": 1}, code="method-not-allowed")
            self.assertEqual(answer.headers["allow"], allowed)
        for path, allowed in (("/namespaces", "GET, POST"), (f"/namespaces/{self.ns['id']}", "GET, PUT, DELETE"), ("/audit", "GET"),
                              (f"/{self.ns['id']}/bulk/get", "POST"), (f"/{self.ns['id']}/entries", "GET"), (f"/{self.ns['id']}/export", "GET"),
                              ("/openapi.json", "GET"), ("/swagger-ui", "GET")):
            answer = self.call("PATCH", path, {}, code="method-not-allowed")
            self.assertEqual(answer.headers["allow"], allowed)

    def test_a_path_that_no_route_has_is_not_found(self):
        for path in ("/", "", "/nothing/at/all", f"/namespaces/{self.ns['id']}/rename", f"/{self.ns['id']}", f"/{self.ns['id']}/bulk", f"/{self.ns['id']}/bulk/put",
                     "/namespaces/", f"/namespaces/{self.ns['id']}/", "/audit/", "/NAMESPACES"):
            self.call("GET", BASE + path, code="not-found")

    def test_the_namespace_may_be_named_by_its_application_and_name(self):
        self.raw("PUT", "by-name", {"value": 1}, status=201)
        for spelling in ("default~keys", "default%7Ekeys", self.ns["id"], self.ns["id"].upper()):
            self.assertEqual(self.call("GET", f"/{spelling}/entries/by-name").json()["namespaceId"], self.ns["id"])
        for spelling in ("keys", "default~nobody", "nobody~keys", UNKNOWN_ID, "default~", "~keys", "~", "x", "%00", "default~a%2Fb",
                         self.ns["id"][:-1], "{" + self.ns["id"] + "}", self.ns["id"].replace("-", ""), "%FF~keys"):
            with self.subTest(spelling=spelling):
                self.call("GET", f"/{spelling}/entries/by-name", code="not-found")
                self.call("GET", f"/{spelling}/entries", code="not-found")
                self.call("GET", f"/namespaces/{spelling}", code="not-found")

    def test_what_is_wrong_with_a_request_comes_before_a_namespace_that_is_not_there(self):
        for spelling in (UNKNOWN_ID, "default~nobody", "nothing"):
            with self.subTest(spelling=spelling):
                self.call("GET", f"/{spelling}/entries/a?unknown=1", code="invalid-request", field="unknown")
                self.call("GET", f"/{spelling}/entries/a%00", code="invalid-key")
                self.call("PUT", f"/{spelling}/entries/a", {"value": None}, code="invalid-value")
                self.call("PUT", f"/{spelling}/entries/a", {"value": 1, "x": 1}, code="invalid-request", field="x")
                self.call("PUT", f"/{spelling}/entries/a", {"value": 1}, code="not-found")


@on_every_storage
class Values:
    """Value types: what fits, and that what was written comes back."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.plain = cls.kvd.request("POST", "/namespaces", {"name": "plain"}).json()
        cls.secret = cls.kvd.request("POST", "/namespaces", {"name": "secret", "isSecretNamespace": True}).json()

    def store(self, literal, value_type=None, ns=None, **options):
        body = '{"value": %s%s}' % (literal, "" if value_type is None else ', "valueType": "%s"' % value_type)
        return self.call("PUT", self.entry_path(ns or self.plain, "v"), body, **options)

    def check_round_trip(self, literal, value_type, wanted_type, wanted=None):
        for ns in (self.plain, self.secret):
            with self.subTest(literal=literal[:60], value_type=value_type, ns=ns["name"]):
                self.assertNotIn("value", self.store(literal, value_type, ns).json())
                answer = self.get(ns, "v")
                self.assertEqual(answer.json()["valueType"], wanted_type)
                self.assertEqual(exact(answer.body)["value"], exact(literal if wanted is None else wanted))

    def test_without_a_type_the_json_type_decides(self):
        for literal, wanted in (('"text"', "STRING"), ('""', "STRING"), ("5", "NUMBER"), ("true", "BOOLEAN"), ("false", "BOOLEAN"),
                                ("{}", "JSON"), ("[]", "JSON"), ('{"a": [1, null]}', "JSON"), ('"5"', "STRING"), ('"true"', "STRING")):
            self.check_round_trip(literal, None, wanted)

    def test_numbers_come_back_digit_for_digit(self):
        for literal in ("1E400", "18446744073709551617", "1.50", "-0", "0", "-0.0", "1e-400", "1E+2", "0.1", "1" * 1024, "-1.7976931348623159e309",
                        "9007199254740993", "1.0000000000000000000000000000000001"):
            self.check_round_trip(literal, None, "NUMBER")
            self.check_round_trip(literal, "NUMBER", "NUMBER")
            self.check_round_trip('"%s"' % literal, "NUMBER", "NUMBER", literal)
            self.check_round_trip('{"a": [%s]}' % literal, None, "JSON")
            self.assertIn(b'"value":{"a": [' + literal.encode() + b"]}", self.get(self.plain, "v").body)

    def test_json_comes_back_as_it_was_given(self):
        for text in ('{"b": 1,  "a": 2}', '[1, 2.0, "\\u0041", {"": null}]', '{"\\u0000": "\\u0000"}', '[[[[]]]]', '{ "user" : "admin" }'):
            self.store(text, None)
            self.assertIn(b'"value":' + text.encode(), self.get(self.plain, "v").body)
            self.store(json.dumps(text), "JSON")
            self.assertIn(b'"value":' + text.encode(), self.get(self.plain, "v").body)

    def test_strings_come_back_byte_for_byte(self):
        for text in ("", " ", "\0", "a\0b", "\n\r\t\x7f", "\u00e9\u0301", "\U0001f511", "\u2028\u2029\ufeff", '"\\/', "</script>", "x" * 70000):
            for ns in (self.plain, self.secret):
                self.put(ns, "text", text)
                self.assertEqual(self.value(ns, "text"), text)

    def test_text_stands_for_a_number_a_boolean_or_json_where_the_type_says_so(self):
        self.check_round_trip('"true"', "BOOLEAN", "BOOLEAN", "true")
        self.check_round_trip('"false"', "BOOLEAN", "BOOLEAN", "false")
        self.check_round_trip('"[1, 2]"', "JSON", "JSON", "[1, 2]")
        self.check_round_trip('"{\\"a\\": 1.50}"', "JSON", "JSON", '{"a": 1.50}')
        self.check_round_trip('"5"', "STRING", "STRING")

    def test_values_that_do_not_fit_their_type_are_refused(self):
        wrong = [("1", "STRING"), ("true", "STRING"), ("{}", "STRING"), ("[]", "STRING"), ('"x"', "NUMBER"), ('""', "NUMBER"), ("true", "NUMBER"),
                 ("{}", "NUMBER"), ('"0x10"', "NUMBER"), ('"1 "', "NUMBER"), ('" 1"', "NUMBER"), ('"01"', "NUMBER"), ('"+1"', "NUMBER"), ('"1."', "NUMBER"),
                 ('".5"', "NUMBER"), ('"NaN"', "NUMBER"), ('"Infinity"', "NUMBER"), ('"1e"', "NUMBER"), ('"1,5"', "NUMBER"), ("1", "BOOLEAN"), ("0", "BOOLEAN"),
                 ('"yes"', "BOOLEAN"), ('"TRUE"', "BOOLEAN"), ('"True"', "BOOLEAN"), ("{}", "BOOLEAN"), ("1", "JSON"), ("true", "JSON"), ('"x"', "JSON"),
                 ('"1"', "JSON"), ('"null"', "JSON"), ('"\\"x\\""', "JSON"), ('"{"', "JSON"), ('"{\\"a\\":1,\\"a\\":2}"', "JSON"), ('"[1,]"', "JSON"),
                 ('"[1] x"', "JSON"), ("1", "BINARY"), ("true", "BINARY"), ("{}", "BINARY"), ('"SGVsbG8"', "BINARY"), ('"SGVs bG8="', "BINARY"),
                 ('"SGVsbG8=\\n"', "BINARY"), ('"SGVsbG9="', "BINARY"), ('"SGVsbG8=="', "BINARY"), ('"_-8="', "BINARY"), ('"===="', "BINARY"),
                 ('"QQ==QQ=="', "BINARY"), ('"Q"', "BINARY"), ("null", None), ("null", "STRING"), ("null", "JSON"), ("null", "NUMBER")]
        before = self.store('"kept"', None).json()["version"]
        for literal, value_type in wrong:
            with self.subTest(literal=literal, value_type=value_type):
                self.store(literal, value_type, code="invalid-value", field="value")
        after = self.get(self.plain, "v").json()
        self.assertEqual((after["value"], after["version"]), ("kept", before))

    def test_types_that_are_none_are_refused(self):
        for value_type in ('"string"', '"TEXT"', '""', "1", "null", "{}", '"STRING "'):
            answer = self.call("PUT", self.entry_path(self.plain, "v"), '{"value": "x", "valueType": %s}' % value_type, status=400, field="valueType")
            self.assertIn(answer.code, ("invalid-request", "invalid-value"))

    def test_binary_is_base64_in_json_and_bytes_alone(self):
        for data in (b"", b"\0", b"\xff\xfe", b"Hello World", bytes(range(256)) * 10):
            text = base64.b64encode(data).decode()
            for ns in (self.plain, self.secret):
                with self.subTest(data=data[:10], ns=ns["name"]):
                    self.put(ns, "bytes", text, valueType="BINARY")
                    self.assertEqual(self.value(ns, "bytes"), text)
                    answer = self.get(ns, "bytes", headers={"Accept": "application/octet-stream"})
                    self.assertEqual((answer.body, answer.headers["content-type"]), (data, "application/octet-stream"))
                    path = self.entry_path(ns, "stream")
                    stored = self.call("PUT", path, data, headers={"Content-Type": "application/octet-stream"}).json()
                    self.assertEqual(stored["valueType"], "BINARY")
                    self.check_entry(stored, with_value=False)
                    self.assertEqual(self.value(ns, "stream"), text)

    def test_every_type_can_be_read_as_bytes(self):
        for literal, data in (('"t\\u00e9xt"', "t\u00e9xt".encode()), ("1.50", b"1.50"), ("true", b"true"), ('{"a":  1}', b'{"a":  1}')):
            self.store(literal)
            answer = self.get(self.plain, "v", headers={"Accept": "application/octet-stream"})
            self.assertEqual((answer.body, answer.headers["content-type"]), (data, "application/octet-stream"))
            self.assertRegex(answer.headers["etag"], ETAG)

    def test_json_is_answered_unless_bytes_are_preferred(self):
        self.store('"x"')
        for accept, wanted in ((None, "application/json"), ("*/*", "application/json"), ("application/json", "application/json"),
                               ("application/json, application/octet-stream", "application/json"),
                               ("application/octet-stream;q=0.5, application/json", "application/json"),
                               ("application/octet-stream, application/json;q=0.5", "application/octet-stream"), ("text/html", "application/json")):
            answer = self.get(self.plain, "v", headers={"Accept": accept} if accept else None)
            self.assertEqual(answer.headers["content-type"], wanted, accept)

    def test_an_error_is_a_problem_also_for_those_who_prefer_bytes(self):
        self.get(self.plain, "nothing", headers={"Accept": "application/octet-stream"}, code="not-found")

    def test_head_answers_as_get_does_without_a_body_and_is_recorded(self):
        self.store('"x"')
        got = self.get(self.plain, "v")
        head = self.call("HEAD", self.entry_path(self.plain, "v"), status=200, headers={"X-Request-Id": "head-1"})
        self.assertEqual(head.body, b"")
        for name in ("content-type", "etag", "content-length"):
            self.assertEqual(head.headers[name], got.headers[name])
        self.assertEqual([(r["action"], r["operation"], r["keyPath"], r["success"]) for r in self.rows_of("head-1")], [("READ", "entry.get", "v", True)])
        self.call("HEAD", self.entry_path(self.plain, "nothing"), status=404)

    def test_the_size_of_values(self):
        largest = "x" * (1 << 20)
        for ns in (self.plain, self.secret):
            self.put(ns, "big", largest)
            self.assertEqual(self.value(ns, "big"), largest)
            answer = self.put(ns, "big", largest + "x", code="too-large", field="value")
            self.assertEqual(answer.json()["limit"], 1 << 20)
            self.assertEqual(self.value(ns, "big"), largest)
        data = b"\0" * (1 << 20)
        self.call("PUT", self.entry_path(self.plain, "big"), data, headers={"Content-Type": "application/octet-stream"}, status=200)
        self.call("PUT", self.entry_path(self.plain, "big"), data + b"x", headers={"Content-Type": "application/octet-stream"}, code="too-large")
        self.put(self.plain, "big", base64.b64encode(data).decode(), valueType="BINARY", status=200)
        self.put(self.plain, "big", base64.b64encode(data + b"x").decode(), valueType="BINARY", code="too-large")
        self.call("DELETE", self.entry_path(self.plain, "big"))
        self.call("DELETE", self.entry_path(self.secret, "big"))

    def test_the_size_of_bodies(self):
        body = b'{"value": "x"' + b" " * ((2 << 20) - 14) + b"}"
        self.assertEqual(len(body), 2 << 20)
        self.call("PUT", self.entry_path(self.plain, "v"), body, status=200)
        answer = self.call("PUT", self.entry_path(self.plain, "v"), body + b" ", code="too-large")
        self.assertEqual(answer.json()["limit"], 2 << 20)

    def test_the_depth_of_json(self):
        def nested(depth):
            return '{"value": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
        path = self.entry_path(self.plain, "deep")
        self.call("PUT", path, nested(32), status=201)
        self.call("PUT", path, nested(33), status=400)
        text = "[" * 33 + "]" * 33
        self.put(self.plain, "deep", text, valueType="JSON", code="invalid-value")

    def test_other_content_types_are_refused(self):
        path = self.entry_path(self.plain, "v")
        for content_type in ("text/plain", "application/xml", "application/x-www-form-urlencoded", "application/json; version=2", "application/merge-patch+json",
                             "multipart/form-data", "json", "application/jsonx"):
            self.call("PUT", path, b'{"value": 1}', headers={"Content-Type": content_type}, code="unsupported-media-type", field="Content-Type")
        for content_type in ("application/json", "Application/JSON", "application/json;charset=utf-8", "application/json; charset=UTF-8", "application/json ; charset=latin-1"):
            self.call("PUT", path, b'{"value": 1}', headers={"Content-Type": content_type}, status=200)
        self.call("PUT", path, b'{"value": 1}', status=200)
        for method, suffix in (("POST", "/rotate"), ("POST", "/rollback")):
            self.call(method, path + suffix, b'{"value": 1}', headers={"Content-Type": "text/plain"}, code="unsupported-media-type")
        self.call("PATCH", path, b"{}", headers={"Content-Type": "application/octet-stream"}, code="unsupported-media-type")
        self.call("PATCH", path, b"{}", headers={"Content-Type": "application/merge-patch+json"}, status=200)


@on_every_storage
class Writes:
    """PUT, PATCH, DELETE: what they answer, and what they ask of the state before."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ns = cls.kvd.request("POST", "/namespaces", {"name": "writes", "applicationId": "app"}).json()

    def test_a_put_creates_and_then_updates(self):
        created = self.put(self.ns, "put/a", "one", metadata={"team": "x"}, comment="first", headers={"X-Request-Id": "put-1"}, status=201)
        body = created.json()
        self.check_entry(body, with_value=False)
        self.assertEqual((body["keyPath"], body["version"], body["metadata"], body["createdBy"], body["updatedBy"], body["ttlSeconds"], body["namespaceId"]),
                         ("put/a", 1, {"team": "x"}, "root", "root", None, self.ns["id"]))
        self.assertRegex(created.headers["etag"], ETAG)
        self.assertEqual(created.headers["etag"].rsplit("-", 1)[1], f'{body["revision"]}"')
        updated = self.put(self.ns, "put/a", "two", status=200).json()
        self.assertEqual((updated["id"], updated["version"], updated["createdAt"]), (body["id"], 2, body["createdAt"]))
        self.assertGreater(updated["revision"], body["revision"])
        # A PUT replaces all: metadata that it leaves out are gone.
        self.assertEqual(updated["metadata"], {})
        self.assertEqual(self.get(self.ns, "put/a").json(), {**updated, "value": "two"})
        self.assertEqual(self.get(self.ns, "put/a").headers["etag"].rsplit("-", 1)[1], f'{updated["revision"]}"')
        versions = self.versions(self.ns, "put/a")
        self.assertEqual([(v["version"], v["comment"]) for v in versions], [(2, ""), (1, "first")])
        self.assertEqual(versions[1]["requestId"], "put-1")

    def test_a_value_leaves_a_write_only_where_it_is_asked_for_and_recorded(self):
        for parameters, wanted in (("", False), ("?includeValue=false", False), ("?includeValue=true", True)):
            answer = self.put(self.ns, "include", 1.5, parameters=parameters, headers={"X-Request-Id": "include" + parameters})
            self.check_entry(answer.json(), with_value=wanted)
            actions = [row["action"] for row in self.rows_of("include" + parameters)]
            self.assertEqual(sorted(actions), ["READ", "WRITE"] if wanted else ["WRITE"])
        self.assertEqual(answer.json()["value"], 1.5)
        rotated = self.call("POST", self.entry_path(self.ns, "include", "/rotate?includeValue=true"), {"value": 2})
        self.assertEqual(rotated.json()["value"], 2)
        back = self.call("POST", self.entry_path(self.ns, "include", "/rollback?includeValue=true"), {})
        self.assertEqual(back.json()["value"], 1.5)
        for text in ("yes", "1", "", "TRUE"):
            self.put(self.ns, "include", 1, parameters="?includeValue=" + text, code="invalid-request", field="includeValue")

    def test_unknown_members_and_parameters_are_named(self):
        self.put(self.ns, "unknown", 1, val=1, code="invalid-request", field="val")
        self.put(self.ns, "unknown", 1, Value=1, code="invalid-request", field="Value")
        self.put(self.ns, "unknown", 1, parameters="?includevalue=true", code="invalid-request", field="includevalue")
        self.put(self.ns, "unknown", 1, parameters="?includeValue=true&includeValue=true", code="invalid-request", field="includeValue")
        self.get(self.ns, "unknown", code="not-found")

    def test_metadata_are_an_object_of_at_most_16_kib(self):
        for metadata in (None, [], "x", 1, True):
            self.put(self.ns, "meta", 1, metadata=metadata, code="invalid-request", field="metadata")
        metadata = {"m": "x" * (16 * 1024 - 9)}
        self.assertEqual(len(json.dumps(metadata)), 16384)
        self.assertEqual(self.put(self.ns, "meta", 1, metadata=metadata).json()["metadata"], metadata)
        answer = self.put(self.ns, "meta", 1, metadata={"m": metadata["m"] + "x"}, code="invalid-request", field="metadata")
        self.assertEqual(answer.json()["limit"], 16384)
        body = '{"value": 1, "metadata": {"n": 1.50, "deep": {"x": [1E400]}}}'
        self.call("PUT", self.entry_path(self.ns, "meta"), body)
        self.assertEqual(exact(self.get(self.ns, "meta").body)["metadata"], exact('{"n": 1.50, "deep": {"x": [1E400]}}'))

    def test_the_expected_version_of_a_put(self):
        self.put(self.ns, "expected", 1, expectedVersion=0, status=201)
        for name in ("expectedVersion", "version"):
            for wrong in (0, 2, 7):
                answer = self.put(self.ns, "expected", 2, code="version-conflict", **{name: wrong})
                self.assertEqual((answer.json()["currentVersion"], answer.json()["keyPath"]), (1, "expected"))
        self.put(self.ns, "expected", 2, expectedVersion=1, status=200)
        self.put(self.ns, "expected", 3, version=2, status=200)
        self.put(self.ns, "expected", 4, version=3, expectedVersion=3, status=200)
        self.put(self.ns, "expected", 5, version=4, expectedVersion=3, code="invalid-request")
        self.assertEqual(self.value(self.ns, "expected"), 4)
        answer = self.put(self.ns, "expected-missing", 1, expectedVersion=1, code="version-conflict")
        self.assertEqual(answer.json()["currentVersion"], 0)

    def test_if_match_and_if_none_match_of_every_write(self):
        def writes(key):
            return [("PUT", "", {"value": 1}), ("PATCH", "", {"metadata": {}}), ("POST", "/rotate", {"value": 2}), ("POST", "/rollback", {}), ("DELETE", "", None)]
        key = "conditions"
        self.put(self.ns, key, 0)
        stale = self.put(self.ns, key, 1).headers["etag"]
        for method, suffix, body in writes(key):
            with self.subTest(method=method, suffix=suffix):
                self.put(self.ns, key, 1)
                self.put(self.ns, key, 1)
                current = self.get(self.ns, key)
                path = self.entry_path(self.ns, key, suffix)
                for headers in ({"If-Match": stale}, {"If-Match": '"x-1"'}, {"If-Match": "W/" + current.headers["etag"]}, {"If-None-Match": "*"}):
                    answer = self.call(method, path, body, headers=headers, code="precondition-failed")
                    self.assertEqual(answer.json()["currentVersion"], current.json()["version"])
                self.assertEqual(self.get(self.ns, key).json(), current.json())
                self.call(method, path, body, headers={"If-Match": stale + ", " + current.headers["etag"]})
        for method, suffix, body in writes(key):
            with self.subTest(method=method, suffix=suffix, star=True):
                self.put(self.ns, key, 1)
                self.put(self.ns, key, 1)
                self.call(method, self.entry_path(self.ns, key, suffix), body, headers={"If-Match": "*"})
        for method, suffix, body in writes(key)[:1]:
            self.call(method, self.entry_path(self.ns, "conditions-missing", suffix), body, headers={"If-Match": "*"}, code="precondition-failed")
            self.call(method, self.entry_path(self.ns, "conditions-missing", suffix), body, headers={"If-None-Match": "*"}, status=201)

    def test_the_expected_version_of_every_other_write(self):
        for method, suffix, body in (("PATCH", "", {"metadata": {}}), ("POST", "/rotate", {"value": 2}), ("POST", "/rollback", {}), ("DELETE", "", {})):
            with self.subTest(method=method, suffix=suffix):
                self.put(self.ns, "others", 1)
                version = self.put(self.ns, "others", 1).json()["version"]
                path = self.entry_path(self.ns, "others", suffix)
                answer = self.call(method, path, {**body, "expectedVersion": version - 1}, code="version-conflict")
                self.assertEqual(answer.json()["currentVersion"], version)
                self.call(method, path, {**body, "expectedVersion": version})

    def test_conditions_that_are_none_are_refused(self):
        for headers in ({"If-Match": "x"}, {"If-Match": '"open'}, {"If-Match": '"a" "b"'}, {"If-None-Match": '"e-1"'}, {"If-None-Match": "x"}):
            name = next(iter(headers))
            self.put(self.ns, "bad-conditions", 1, headers=headers, code="invalid-request", field=name)
        self.get(self.ns, "bad-conditions", headers={"If-None-Match": "x"}, code="invalid-request", field="If-None-Match")

    def test_what_was_got_can_be_edited_and_put_back_once(self):
        for secret in (False, True):
            ns = self.namespace(isSecretNamespace=secret)
            self.put(ns, "echo", {"user": "admin"}, metadata={"a": 1}, ttlSeconds=3600)
            got = self.get(ns, "echo").json()
            edited = {**got, "value": {"user": "root"}}
            path = self.entry_path(ns, "echo")
            self.assertEqual(self.call("PUT", path, edited, status=200).json()["version"], 2)
            answer = self.call("PUT", path, edited, code="version-conflict")
            self.assertEqual(answer.json()["currentVersion"], 2)
            self.assertEqual(self.value(ns, "echo"), {"user": "root"})

    def test_a_touched_entry_is_put_back_as_before_only_without_its_revision(self):
        self.put(self.ns, "touched", 1)
        got = self.get(self.ns, "touched").json()
        self.call("PATCH", self.entry_path(self.ns, "touched"), {"metadata": {"a": 1}})
        self.call("PUT", self.entry_path(self.ns, "touched"), got, code="read-only-field", field="revision")

    def test_members_that_only_answers_carry_must_equal_what_is_there(self):
        self.put(self.ns, "read-only", 1, ttlSeconds=3600)
        got = self.get(self.ns, "read-only").json()
        for name in ("id", "namespaceId", "keyPath", "revision", "expiresAt", "createdAt", "createdBy", "updatedAt", "updatedBy"):
            with self.subTest(name=name):
                wrong = got["revision"] + 1 if name == "revision" else None if name == "expiresAt" else "2024-01-15T10:00:00Z" if name.endswith("At") \
                    else UNKNOWN_ID if name.endswith(("id", "Id")) else "other"
                self.put(self.ns, "read-only", 2, code="read-only-field", field=name, **{name: wrong})
                if name != "expiresAt":
                    self.put(self.ns, "read-only", 2, status=400, field=name, **{name: None})
                self.put(self.ns, "read-only", 2, status=400, field=name, **{name: [1]})
                self.assertEqual(self.get(self.ns, "read-only").json(), got)
        # What the caller's member for a new entry could equal: nothing but where it is.
        self.put(self.ns, "read-only-new", 1, keyPath="read-only-new", namespaceId=self.ns["id"].upper(), status=201)
        self.put(self.ns, "read-only-newer", 1, id=got["id"], code="read-only-field", field="id")

    def test_a_patch_merges_metadata_and_times_to_live_and_leaves_the_version(self):
        self.put(self.ns, "patch", "v", metadata={"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}, ttlSeconds=3600)
        before = self.get(self.ns, "patch")
        answer = self.call("PATCH", self.entry_path(self.ns, "patch"), {"metadata": {"a": None, "b": {"c": 5, "x": 1}, "e": {"f": 1}}}, status=200)
        after = answer.json()
        self.check_entry(after, with_value=False)
        self.assertEqual(after["metadata"], {"b": {"c": 5, "d": 3, "x": 1}, "e": {"f": 1}})
        self.assertEqual((after["version"], after["ttlSeconds"], after["expiresAt"]), (1, 3600, before.json()["expiresAt"]))
        self.assertGreater(after["revision"], before.json()["revision"])
        self.assertNotEqual(answer.headers["etag"], before.headers["etag"])
        self.assertEqual(self.value(self.ns, "patch"), "v")
        after = self.call("PATCH", self.entry_path(self.ns, "patch"), {"ttlSeconds": None}).json()
        self.assertEqual((after["ttlSeconds"], after["expiresAt"]), (None, None))
        after = self.call("PATCH", self.entry_path(self.ns, "patch"), {"ttlSeconds": 60}).json()
        self.assertEqual(after["ttlSeconds"], 60)
        after = self.call("PATCH", self.entry_path(self.ns, "patch"), {"metadata": None}).json()
        self.assertEqual((after["metadata"], after["ttlSeconds"]), ({}, 60))
        self.assertEqual([v["version"] for v in self.versions(self.ns, "patch")], [1])

    def test_a_patch_takes_nothing_else(self):
        self.put(self.ns, "patch-more", 1)
        for body in ({"value": 2}, {"valueType": "STRING"}, {"comment": "x"}, {"version": 1}, {"keyPath": "patch-more"}):
            self.call("PATCH", self.entry_path(self.ns, "patch-more"), body, code="invalid-request", field=next(iter(body)))
        for body in ({"metadata": []}, {"metadata": 1}, {"ttlSeconds": 0}, {"ttlSeconds": "1"}):
            self.call("PATCH", self.entry_path(self.ns, "patch-more"), body, code="invalid-request", field=next(iter(body)))
        self.call("PATCH", self.entry_path(self.ns, "patch-more"), [], status=400)
        self.call("PATCH", self.entry_path(self.ns, "patch-missing"), {}, code="not-found")
        limit = {"m": "x" * 12000}
        self.call("PATCH", self.entry_path(self.ns, "patch-more"), {"metadata": limit})
        self.call("PATCH", self.entry_path(self.ns, "patch-more"), {"metadata": {"n": "x" * 12000}}, status=400, field="metadata")

    def test_a_delete_removes_and_keeps_history(self):
        self.put(self.ns, "delete", "one")
        answer = self.call("DELETE", self.entry_path(self.ns, "delete"), status=204)
        self.assertNotIn("content-type", answer.headers)
        self.get(self.ns, "delete", code="not-found")
        self.call("DELETE", self.entry_path(self.ns, "delete"), code="not-found")
        self.assertNotIn("delete", self.keys(self.ns))
        self.assertEqual(self.call("GET", self.entry_path(self.ns, "delete", "?version=1")).json()["value"], "one")
        again = self.put(self.ns, "delete", "three", status=201).json()
        self.assertEqual(again["version"], 3)
        self.assertEqual([(v["version"], v["reason"]) for v in self.versions(self.ns, "delete")], [(3, "CREATE"), (2, "DELETE"), (1, "CREATE")])

    def test_a_purge_destroys_history_too(self):
        for delete_first in (False, True):
            with self.subTest(delete_first=delete_first):
                ns = self.namespace(isSecretNamespace=True)
                self.put(ns, "purge", "one")
                self.put(ns, "purge", "two")
                path = self.entry_path(ns, "purge")
                if delete_first:
                    self.call("DELETE", path, status=204)
                self.call("DELETE", path + "?purge=true", status=204)
                self.get(ns, "purge", code="not-found")
                for version in (1, 2, 3):
                    self.call("GET", path + f"?version={version}", code="not-found")
                self.call("GET", path + "/versions", code="not-found")
                self.call("POST", path + "/rollback", {}, code="not-found")
                self.call("DELETE", path + "?purge=true", code="not-found")
                # Versions are never used twice.
                self.assertGreater(self.put(ns, "purge", "again", status=201).json()["version"], 2)
        self.call("DELETE", path + "?purge=maybe", code="invalid-request", field="purge")

    def test_a_past_version_is_read_with_what_it_was(self):
        self.put(self.ns, "past", {"a": 1}, metadata={"m": 1})
        self.put(self.ns, "past", "two")
        answer = self.call("GET", self.entry_path(self.ns, "past", "?version=1"))
        body = answer.json()
        self.check_entry(body)
        self.assertEqual((body["value"], body["valueType"], body["version"], body["metadata"]), ({"a": 1}, "JSON", 1, {"m": 1}))
        self.assertEqual(self.call("GET", self.entry_path(self.ns, "past", "?version=2")).json(), self.get(self.ns, "past").json())
        self.call("GET", self.entry_path(self.ns, "past", "?version=3"), code="not-found")
        for text in ("0", "-1", "x", "", "1.0", "9223372036854775808", "18446744073709551616", "+1", "1 "):
            self.call("GET", self.entry_path(self.ns, "past", query(version=text)), code="invalid-request", field="version")

    def test_answers_name_the_request(self):
        self.put(self.ns, "ids", 1)
        for sent in ("x", "~!@#$%^&*()_+", "a" * 128):
            answer = self.get(self.ns, "ids", headers={"X-Request-Id": sent})
            self.assertEqual(answer.headers["x-request-id"], sent)
        # One that is none is replaced.
        for sent in ("a" * 129, "a b", "\xe9"):
            answer = self.kvd.request("GET", self.entry_path(self.ns, "ids"), headers={"X-Request-Id": sent})
            self.assertIn(answer.status, (200, 400), answer)
            self.assertNotEqual(answer.headers["x-request-id"], sent)
        made = {self.get(self.ns, "ids").headers["x-request-id"] for _ in range(20)}
        self.assertEqual(len(made), 20)

    def test_a_comment_is_text_that_the_history_shows(self):
        comment = "why:\n\u00e9 \U0001f511"
        self.put(self.ns, "comment", 1, comment=comment)
        self.assertEqual(self.versions(self.ns, "comment")[0]["comment"], comment)
        self.put(self.ns, "comment", 1, comment="a\0b", code="invalid-request", field="comment")
        self.put(self.ns, "comment", 1, comment=1, code="invalid-request", field="comment")


@on_every_storage
class ConditionalReads:
    """A read with the ETag of before is answered 304, and recorded all the same."""

    def test_an_entry_that_did_not_change(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        etag = self.get(ns, "a").headers["etag"]
        for tags in (etag, "W/" + etag, '"other", ' + etag, "*"):
            answer = self.get(ns, "a", headers={"If-None-Match": tags, "X-Request-Id": "unchanged"}, status=304)
            self.assertEqual(answer.headers["etag"], etag)
        rows = self.rows_of("unchanged")
        self.assertEqual([(r["action"], r["keyPath"], r["success"]) for r in rows], [("READ", "a", True)] * 4)
        self.call("HEAD", self.entry_path(ns, "a"), headers={"If-None-Match": etag}, status=304)
        self.get(ns, "a", headers={"If-None-Match": '"other"'}, status=200)
        self.call("PATCH", self.entry_path(ns, "a"), {"metadata": {"x": 1}})
        self.get(ns, "a", headers={"If-None-Match": etag}, status=200)

    def test_everything_that_is_read_can_be_asked_conditionally(self):
        ns = self.namespace()
        for key in ("f/a", "f/b"):
            self.put(ns, key, "x")
        one = "/" + ns["id"]
        reads = [("GET", one + "/entries", None, "entry.list"), ("GET", one + "/entries?includeValues=true", None, "entry.list"),
                 ("GET", one + "/entries?delimiter=/", None, "entry.list"), ("POST", one + "/bulk/get", {"keys": ["f/a", "f/b", "c"]}, "bulk.get"),
                 ("GET", one + "/export", None, "entry.export"), ("GET", one + "/export?format=json", None, "entry.export"),
                 ("GET", one + "/entries/f/a/versions", None, "entry.versions"), ("GET", "/namespaces", None, "namespace.list")]
        for number, (method, path, body, operation) in enumerate(reads):
            with self.subTest(path=path):
                etag = self.call(method, path, body, status=200).headers["etag"]
                answer = self.call(method, path, body, headers={"If-None-Match": etag, "X-Request-Id": f"cond-{number}"}, status=304)
                self.assertEqual(answer.headers["etag"], etag)
                rows = self.rows_of(f"cond-{number}")
                self.assertGreaterEqual(len(rows), 1)
                self.assertEqual({(r["action"], r["operation"]) for r in rows}, {("READ", operation)})
                self.call(method, path, body, headers={"If-None-Match": '"other"'}, status=200)
                self.put(ns, "f/a", path)
                # Folders do not say what is in them; all else moved.
                wanted = 304 if "delimiter" in path else 200
                changed = self.call(method, path, body, headers={"If-None-Match": etag}, status=wanted)
                self.assertEqual(changed.headers["etag"] == etag, wanted == 304)

    def test_a_namespace_has_an_etag_of_its_own(self):
        ns = self.namespace()
        path = "/namespaces/" + ns["id"]
        etag = self.call("GET", path).headers["etag"]
        self.call("GET", path, headers={"If-None-Match": etag}, status=304)
        self.call("PUT", path, {"description": "x"})
        self.call("GET", path, headers={"If-None-Match": etag}, status=200)


@on_every_storage
class TimesToLive:
    def wait_for_expiry(self, ns, key):
        return until(lambda: self.kvd.request("GET", self.entry_path(ns, key)).status == 404, "the entry expires", 10)

    def test_an_absent_ttl_is_the_default_of_the_namespace(self):
        ns = self.namespace(defaultTtlSeconds=600)
        self.assertEqual(self.put(ns, "absent", 1).json()["ttlSeconds"], 600)
        never = self.put(ns, "null", 1, ttlSeconds=None).json()
        self.assertEqual((never["ttlSeconds"], never["expiresAt"]), (None, None))
        self.assertEqual(self.put(ns, "given", 1, ttlSeconds=60).json()["ttlSeconds"], 60)
        # A new default touches later writes only.
        self.call("PUT", "/namespaces/" + ns["id"], {"defaultTtlSeconds": 900})
        self.assertEqual(self.get(ns, "absent").json()["ttlSeconds"], 600)
        self.assertEqual(self.put(ns, "absent", 1).json()["ttlSeconds"], 900)
        self.call("PUT", "/namespaces/" + ns["id"], {"defaultTtlSeconds": None})
        self.assertEqual(self.put(ns, "absent", 1).json()["ttlSeconds"], None)

    def test_an_update_takes_the_default_again(self):
        ns = self.namespace()
        self.put(ns, "a", 1, ttlSeconds=60)
        self.assertIsNone(self.put(ns, "a", 1).json()["ttlSeconds"])

    def test_rotation_and_rollback_arm_the_entrys_own_ttl_again(self):
        ns = self.namespace(defaultTtlSeconds=100)
        first = self.put(ns, "a", 1, ttlSeconds=600).json()
        path = self.entry_path(ns, "a")
        rotated = self.call("POST", path + "/rotate", {"value": 2}).json()
        self.assertEqual(rotated["ttlSeconds"], 600)
        self.assertGreaterEqual(rotated["expiresAt"], first["expiresAt"])
        back = self.call("POST", path + "/rollback", {}).json()
        self.assertEqual(back["ttlSeconds"], 600)
        self.assertGreaterEqual(back["expiresAt"], rotated["expiresAt"])
        self.assertEqual(self.call("POST", path + "/rotate", {"value": 3, "ttlSeconds": 60}).json()["ttlSeconds"], 60)
        self.assertIsNone(self.call("POST", path + "/rotate", {"value": 3, "ttlSeconds": None}).json()["ttlSeconds"])
        self.assertIsNone(self.call("POST", path + "/rotate", {"value": 4}).json()["ttlSeconds"])
        self.assertEqual(self.call("POST", path + "/rollback", {"version": 1, "ttlSeconds": 50}).json()["ttlSeconds"], 50)

    def test_times_to_live_out_of_range_are_refused(self):
        ns = self.namespace()
        self.put(ns, "a", 1)
        path = self.entry_path(ns, "a")
        for literal in ("0", "-1", "315360001", "1.5", "1e2", '"60"', "true", "[]", "9223372036854775808", "1E400"):
            for method, where, body in (("PUT", path, '{"value": 1, "ttlSeconds": %s}'), ("PATCH", path, '{"ttlSeconds": %s}'),
                                        ("POST", path + "/rotate", '{"value": 1, "ttlSeconds": %s}'), ("POST", path + "/rollback", '{"ttlSeconds": %s}')):
                with self.subTest(literal=literal, method=method):
                    self.call(method, where, body % literal, code="invalid-request", field="ttlSeconds")
        for seconds in (1, 315360000):
            self.assertEqual(self.put(ns, "b", 1, ttlSeconds=seconds).json()["ttlSeconds"], seconds)

    def test_what_expired_is_hidden_everywhere(self):
        for secret in (False, True):
            with self.subTest(secret=secret):
                ns = self.namespace(isSecretNamespace=secret)
                self.put(ns, "stays", "x")
                self.put(ns, "goes", "one")
                self.put(ns, "goes", "two", ttlSeconds=1)
                self.wait_for_expiry(ns, "goes")
                path = self.entry_path(ns, "goes")
                self.assertEqual(self.keys(ns), ["stays"])
                bulk = self.call("POST", f"/{ns['id']}/bulk/get", {"keys": ["goes", "stays"]}).json()
                self.assertEqual(([e["keyPath"] for e in bulk["entries"]], bulk["missing"]), (["stays"], ["goes"]))
                self.call("GET", path + "/versions", code="not-found")
                for version in (1, 2):
                    self.call("GET", path + f"?version={version}", code="not-found")
                self.call("POST", path + "/rollback", {}, code="not-found")
                self.call("POST", path + "/rollback", {"version": 1}, code="not-found")
                self.call("POST", path + "/rotate", {"value": "x"}, code="not-found")
                self.call("PATCH", path, {"ttlSeconds": None}, code="not-found")
                self.call("DELETE", path, code="not-found")
                self.assertEqual(self.call("GET", f"/{ns['id']}/export").body, b"STAYS='x'\n")
                # A later value is a new one, with a version above all before.
                again = self.put(ns, "goes", "three", expectedVersion=0, status=201).json()
                self.assertGreater(again["version"], 2)
                self.assertEqual([v["reason"] for v in self.versions(ns, "goes")], ["CREATE"])

    def test_an_expiry_is_recorded(self):
        ns = self.namespace()
        self.put(ns, "goes", 1, ttlSeconds=1)
        def expired():
            return [row for row in self.audit(namespaceId=ns["id"], keyPath="goes") if row["operation"] == "entry.expire"]
        rows = until(expired, "the expiry is recorded", 15)
        self.assertEqual([(r["userId"], r["action"], r["success"]) for r in rows], [("system", "DELETE", True)])

    def test_lists_can_ask_for_what_expires_before(self):
        ns = self.namespace()
        self.put(ns, "soon", 1, ttlSeconds=100)
        self.put(ns, "late", 1, ttlSeconds=100000)
        self.put(ns, "never", 1)
        late = self.get(ns, "late").json()["expiresAt"]
        self.assertEqual(self.keys(ns, expiringBefore=late), ["soon"])
        self.assertEqual(self.keys(ns, expiringBefore="2999-01-01T00:00:00Z"), ["late", "soon"])
        self.assertEqual(self.keys(ns, expiringBefore="2999-01-01T00:00:00+01:00"), ["late", "soon"])
        for text in ("tomorrow", "2024-01-01", "2024-01-01T00:00:00", ""):
            self.call("GET", f"/{ns['id']}/entries" + query(expiringBefore=text), code="invalid-request", field="expiringBefore")


if __name__ == "__main__":
    main()
