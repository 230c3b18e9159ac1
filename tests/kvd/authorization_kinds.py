"""Every route against every kind of credential: each is as good as its grants, and no better."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import ssl
import tempfile
import time
import unittest

from api import element, grant
from authorization import PERMISSIONS, REQUESTS, ROUTES, is_admin, requests_of
from certificates import Authority
from fake_service import FakeService, response
from harness import BASE, PATIENCE, Kvd, UnixConnection, exchange, main

API_ROUTES = [route for route in ROUTES if route["permissions"] and not is_admin(REQUESTS[route["operation"]][0])]
KINDS = ("file", "stored", "jwt", "gateway", "certificate")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def granted(name):
    """What somebody of this name may: "needed-OPERATION" what it needs, "but-OPERATION" everything else."""
    which, operation = name.split("-", 1)
    needed = next(route["permissions"] for route in API_ROUTES if route["operation"] == operation)
    return needed if which == "needed" else [permission for permission in PERMISSIONS if permission not in needed]


NAMES = [f"{which}-{route['operation']}" for which in ("needed", "but") for route in API_ROUTES]


class Kinds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="kvd-test-kinds-")
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.ca = Authority(cls.folder)
        server = cls.ca.issue("server", "IP:127.0.0.1")
        cls.certificates = {name: cls.ca.issue(name, "URI:test:" + name, usage="clientAuth") for name in NAMES}
        cls.service = FakeService(lambda path, query, headers: response({"permissions": granted(query["userId"])}))
        cls.addClassCleanup(cls.service.__exit__)
        cls.secret = os.urandom(32)
        secret_file = os.path.join(cls.folder, "secret")
        with open(secret_file, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(cls.secret)
        cls.socket = os.path.join(cls.folder, "kvd.sock")
        of_app = lambda name: grant(*granted(name), application="app")
        tokens = [element(name, of_app(name), user=name) for name in NAMES]
        tokens += [{"certificateName": "URI:test:" + name, "userId": name, "grants": [of_app(name)]} for name in NAMES]
        cls.kvd = Kvd("--listen", f"127.0.0.1:0,unix:{cls.socket}", "--tls-cert", server[0], "--tls-key", server[1], "--tls-client-ca", cls.ca.file,
                      "--tls-client-auth", "optional", "--gateway-identity", "--permissions-url", cls.service.url(), "--jwt-secret-file", secret_file,
                      "--jwt-issuer", "issuer", "--jwt-audience", "kvd", "--denial-window", "0", tokens=tokens)
        cls.addClassCleanup(cls.kvd.stop)
        cls.kvd.dial = lambda admin=False: cls.dial()
        cls.stored = {name: cls.ask_as_root("POST", "/tokens", {"name": name, "userId": name, "grants": [of_app(name)]}).json()["token"] for name in NAMES}

    @classmethod
    def dial(cls, client=None):
        context = ssl.create_default_context(cafile=cls.ca.file)
        if client:
            context.load_cert_chain(*client)
        return http.client.HTTPSConnection("127.0.0.1", cls.kvd.port, timeout=PATIENCE, context=context)

    @classmethod
    def ask_as_root(cls, method, path, body=None):
        answer = cls.kvd.request(method, path, body)
        assert answer.status < 300, answer
        return answer

    def jwt(self, name):
        now = int(time.time())
        claims = {"iss": "issuer", "aud": "kvd", "nbf": now - 5, "exp": now + 600, "sub": name, "application_id": "app", "permissions": granted(name)}
        text = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
        return text + "." + base64url(hmac.new(self.secret, text.encode(), hashlib.sha256).digest())

    def ask(self, kind, name, method, path, body):
        headers, client = {}, None
        if kind in ("file", "stored", "jwt"):
            headers["Authorization"] = "Bearer " + {"file": lambda: name, "stored": lambda: self.stored[name], "jwt": lambda: self.jwt(name)}[kind]()
        elif kind == "gateway":
            headers.update({"X-User-Id": name, "X-Application-Id": "app"})
        else:
            client = self.certificates[name]
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body)
        return exchange(UnixConnection(self.socket) if kind == "gateway" else self.dial(client), method, BASE + path, body, headers)

    def scene(self, made=[0]):
        """Fresh namespaces of the application, a token, and the key "k" with two versions."""
        ids = {}
        for name, secret in (("ns", False), ("gone", False), ("secret", True)):
            made[0] += 1
            ids[name] = self.ask_as_root("POST", "/namespaces", {"name": f"n{made[0]}", "applicationId": "app", "isSecretNamespace": secret}).json()["id"]
        for value in ("one", "two"):
            self.ask_as_root("PUT", f"/{ids['ns']}/entries/k", {"value": value})
        self.ask_as_root("DELETE", "/namespaces/" + ids["gone"])
        ids["token"] = self.ask_as_root("POST", "/tokens", REQUESTS["token.create"][1]).json()["id"]
        return ids

    def each(self, kind):
        for route in API_ROUTES:
            for method, path, body in requests_of(route):
                with self.subTest(kind=kind, operation=route["operation"], method=method):
                    yield route["operation"], method, path, body

    def check(self, kind):
        scene = self.scene()
        for operation, method, path, body in self.each(kind):
            answer = self.ask(kind, "but-" + operation, method, path.format(**scene), body)
            self.assertEqual(answer.status, 403, answer)
        for number, (operation, method, path, body) in enumerate(self.each(kind)):
            if operation == "namespace.create":
                body = {"name": f"{kind}-{number}", "applicationId": "app"}
            answer = self.ask(kind, "needed-" + operation, method, path.format(**self.scene()), body)
            self.assertLess(answer.status, 300, answer)
            if operation == "namespace.create":  # and not elsewhere
                answer = self.ask(kind, "needed-" + operation, method, path, {"name": f"{kind}-{number}", "applicationId": "other"})
                self.assertEqual(answer.status, 403, answer)

    def test_a_token_of_the_file(self):
        self.check("file")

    def test_a_token_of_the_store(self):
        self.check("stored")

    def test_a_jwt(self):
        self.check("jwt")

    def test_a_gateways_user(self):
        self.check("gateway")

    def test_a_client_certificate(self):
        self.check("certificate")

    def test_the_audit_names_user_and_kind(self):
        scene = self.scene()
        for kind, prefix in zip(KINDS, ("token:", "token:", "jwt:", "gateway", "cert:")):
            self.ask(kind, "needed-entry.get", "GET", f"/{scene['ns']}/entries/k", None)
            record = self.ask_as_root("GET", "/audit?limit=1&operation=entry.get&userId=needed-entry.get").json()["items"][0]
            self.assertTrue(record["credentialId"].startswith(prefix), record)


if __name__ == "__main__":
    main()
