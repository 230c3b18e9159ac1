"""JWTs as credentials: key sets from files and URLs, what claims grant, and keys that are replaced while kvd serves."""

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import unittest

from api import grant, query
from certificates import Authority, openssl
from fake_service import FakeService, hang, response
from harness import BASE, REVOKED_WITHIN, Kvd, main, make_key, run, until

ISSUER, AUDIENCE = "https://issuer.example", "kvd"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """An RSA key, and JWTs that it signs."""

    def __init__(self, folder, kid):
        self.kid, self.path = kid, os.path.join(folder, kid + ".pem")
        openssl("genrsa", "-out", self.path, "2048")

    def jwk(self):
        modulus = openssl("rsa", "-in", self.path, "-noout", "-modulus").stdout.strip().split("=")[1]
        return {"kty": "RSA", "kid": self.kid, "use": "sig", "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}

    def sign(self, **claims):
        text = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": self.kid}, good_claims(**claims)))
        done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.path], input=text.encode(), capture_output=True, check=True, timeout=60)
        return text + "." + base64url(done.stdout)


def good_claims(**claims):
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "nbf": now - 5, "exp": now + 600, "sub": "ann", "application_id": "app", "permissions": ["kv-namespace:read"], **claims}
    return {name: value for name, value in whole.items() if value is not None}


def key_set(*signers):
    return {"keys": [signer.jwk() for signer in signers]}


class JwtTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvd-test-jwt-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.one, cls.two = Signer(cls.folder, "one"), Signer(cls.folder, "two")

    def set_file(self, *signers):
        path = os.path.join(self.folder, "jwks.json")
        with open(path + ".new", "w", encoding="ascii") as file:
            json.dump(key_set(*signers), file)
        os.replace(path + ".new", path)
        return path

    def kvd(self, *flags, jwks=None, **options):
        jwks = jwks or self.set_file(self.one)
        kvd = Kvd("--jwt-jwks", jwks, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--denial-window", "0", *flags, **options)
        self.addCleanup(kvd.stop)
        return kvd

    def status(self, kvd, token):
        return kvd.request("GET", "/namespaces", token=token).status


class File(JwtTestCase):
    def test_what_a_jwt_grants_is_limited_to_its_application(self):
        kvd = self.kvd()
        for application in ("app", "other"):
            self.assertEqual(kvd.request("POST", "/namespaces", {"name": "n", "applicationId": application}).status, 201)
        seen = kvd.request("GET", "/namespaces", token=self.one.sign()).json()["items"]
        self.assertEqual([ns["applicationId"] for ns in seen], ["app"])
        record = kvd.request("GET", "/audit" + query(userId="ann")).json()["items"][0]
        self.assertEqual((record["userId"], record["applicationId"], record["credentialId"][:4]), ("ann", "app", "jwt:"))
        everywhere = self.one.sign(permissions=None, kv_grants=[grant("*")])
        self.assertEqual([ns["applicationId"] for ns in kvd.request("GET", "/namespaces", token=everywhere).json()["items"]], ["app"])
        for nothing in (self.one.sign(application_id=None), self.one.sign(permissions=[]), self.one.sign(permissions=None), self.one.sign(permissions=["other:read"])):
            self.assertEqual(self.status(kvd, nothing), 403)

    def test_what_is_not_good_is_refused_and_recorded(self):
        kvd = self.kvd()
        good = self.one.sign()
        self.assertEqual(self.status(kvd, good), 200)
        for bad in (self.two.sign(), self.one.sign(exp=int(time.time()) - 100), self.one.sign(aud="other"), good[:-4], good + "x", ".".join(good.split(".")[:2]) + "."):
            answer = kvd.request("GET", "/namespaces", token=bad)
            self.assertEqual((answer.status, answer.code), (401, "unauthenticated"))
            self.assertNotIn(bad[:20], answer.body.decode())
        refused = [r for r in kvd.request("GET", "/audit" + query(operation="namespace.list", success=False)).json()["items"] if r["reason"] == "unauthenticated"]
        self.assertEqual(len(refused), 6)
        self.assertNotIn(good, kvd.read("stderr"))

    def test_one_that_was_good_is_refused_when_it_expires(self):
        """Broken on purpose, and noticed: what was remembered was good for ever."""
        kvd = self.kvd()
        short = self.one.sign(nbf=0, exp=int(time.time()) - 57)  # with 60 s of leeway
        self.assertEqual(self.status(kvd, short), 200)
        until(lambda: self.status(kvd, short) == 401, "it expires")

    def test_keys_are_read_again_on_sighup_and_a_removed_one_ends_watches(self):
        kvd = self.kvd()
        ns = kvd.request("POST", "/namespaces", {"name": "n", "applicationId": "app"}).json()["id"]
        token = self.one.sign()
        with kvd.connect() as connection:
            connection.send(f"GET {BASE}/{ns}/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n")
            while b"id: " not in connection.buffer:
                connection.receive()
            self.set_file(self.two)
            kvd.signal(signal.SIGHUP)
            until(lambda: self.status(kvd, self.two.sign()) == 200, "the new key counts")
            self.assertEqual(self.status(kvd, token), 401)
            connection.socket.settimeout(REVOKED_WITHIN)
            while b"event: end" not in connection.buffer:
                self.assertTrue(connection.receive())
        with open(os.path.join(self.folder, "jwks.json"), "w", encoding="ascii") as file:
            file.write("nothing")
        kvd.signal(signal.SIGHUP)
        until(lambda: kvd.metrics()["kvd_jwt_key_failures_total"] == 1, "it does not read")
        self.assertEqual(self.status(kvd, self.two.sign()), 200)

    def test_other_credentials_are_as_good(self):
        kvd = self.kvd()
        self.assertEqual(kvd.request("GET", "/namespaces").status, 200)
        made = kvd.request("POST", "/tokens", {"name": "n", "userId": "u", "grants": [grant("kv-namespace:read")]}).json()["token"]
        self.assertEqual(self.status(kvd, made), 200)

    def test_jwts_alone_are_enough_to_start(self):
        kvd = self.kvd(environment={"KVD_ROOT_TOKEN": ""})
        self.assertEqual(self.status(kvd, self.one.sign()), 200)

    def test_a_secret_instead_of_keys(self):
        path = os.path.join(self.folder, "secret")
        secret = os.urandom(32)
        with open(path, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(secret)
        with Kvd("--jwt-secret-file", path, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE) as kvd:
            text = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "HS256"}, good_claims()))
            token = text + "." + base64url(hmac.new(secret, text.encode(), hashlib.sha256).digest())
            self.assertEqual(self.status(kvd, token), 200)
            self.assertEqual(self.status(kvd, self.one.sign()), 401)

    def test_settings_that_do_not_fit(self):
        jwks = self.set_file(self.one)
        for flags, said in ((("--jwt-jwks", jwks), "--jwt-issuer"), (("--jwt-issuer", "x"), "--jwt-jwks"), (("--jwt-jwks", jwks, "--jwt-issuer", "x", "--jwt-audience", "x", "--jwt-secret-file", jwks), "give one"),
                            (("--jwt-jwks", "http://192.0.2.1/keys", "--jwt-issuer", "x", "--jwt-audience", "x"), "https"), (("--jwt-jwks", "nowhere", "--jwt-issuer", "x", "--jwt-audience", "x"), "nowhere"),
                            (("--jwt-jwks", self.one.path, "--jwt-issuer", "x", "--jwt-audience", "x"), "the key set")):
            done = run("serve", "--check-config", "--storage", "memory:", *flags, environment={"KV_MASTER_KEY": make_key(), "KVD_ROOT_TOKEN": "t" * 40})
            self.assertIn(done.returncode, (64, 78), flags)
            self.assertIn(said, done.stderr)


class Url(JwtTestCase):
    def serve(self, answer):
        ca = Authority(self.folder)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*ca.issue("issuer", "IP:127.0.0.1"))
        service = FakeService(lambda *_: answer(), context)
        self.addCleanup(service.__exit__)
        return service, ["--services-ca", ca.file]

    def test_a_key_that_comes_later_is_found(self):
        """Broken on purpose, and noticed: a key that is not known was no reason to ask."""
        signers = [self.one]
        service, flags = self.serve(lambda: response(key_set(*signers)))
        kvd = self.kvd(*flags, jwks=service.url("/keys"))
        self.assertEqual(self.status(kvd, self.one.sign()), 200)
        self.assertEqual(service.asked[0][0], "/keys")
        self.assertEqual(self.status(kvd, self.two.sign()), 401)
        signers.append(self.two)
        until(lambda: self.status(kvd, self.two.sign()) == 200, "it is asked for")
        self.assertLess(len(service.asked), 5)

    def test_without_keys_jwts_are_refused_with_503_until_there_are_some(self):
        answers = [lambda: hang]
        service, flags = self.serve(lambda: answers[0]())
        kvd = self.kvd(*flags, jwks=service.url())
        self.assertEqual(self.status(kvd, self.one.sign()), 503)
        self.assertEqual(kvd.request("GET", "/namespaces").status, 200)
        self.assertEqual(kvd.metrics()["kvd_jwt_keys_ready"], 0)
        answers[0] = lambda: response(key_set(self.one))
        until(lambda: self.status(kvd, self.one.sign()) == 200, "they come")
        answers[0] = lambda: response("no longer", status="500 Internal Server Error")
        kvd.signal(signal.SIGHUP)
        until(lambda: kvd.metrics()["kvd_jwt_key_failures_total"] >= 2, "it fails")
        self.assertEqual(self.status(kvd, self.one.sign()), 200)

    def test_who_is_silent_of_grants_has_those_that_the_service_tells(self):
        told = {"permissions": ["kv-namespace:read"]}
        with FakeService(lambda *_: response(told)) as service:
            kvd = self.kvd("--permissions-url", service.url(), jwks=self.set_file(self.one))
            self.assertEqual(self.status(kvd, self.one.sign(permissions=None)), 200)
            self.assertEqual(service.asked[0][1], {"userId": "ann", "applicationId": "app"})
            self.assertEqual(self.status(kvd, self.one.sign(sub="bob")), 200)
            self.assertEqual(len(service.asked), 1)  # bob's says it itself
            told["permissions"] = []
            until(lambda: self.status(kvd, self.one.sign(permissions=None)) == 403, "it is taken away", patience=REVOKED_WITHIN + 0.5)


if __name__ == "__main__":
    main()
