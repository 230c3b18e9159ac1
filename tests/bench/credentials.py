"""What it costs to find out who asks: the same GETs with a token of the environment, of the store, and with a JWT, in turns."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import time

import report
from servers import BenchError

CONNECTIONS = 64
ENTRIES = 10_000
KINDS = {"root": "the root token", "stored": "a token of the store", "jwt": "a JWT"}


def make_jwt(secret):
    now = int(time.time())
    claims = {"iss": "bench", "aud": "kvd", "nbf": now - 60, "exp": now + 3600, "sub": "bench", "application_id": "bench",
              "kv_grants": [{"permissions": ["*"], "applicationId": "*", "namespaceId": "*", "keys": ["*"]}]}
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    text = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    return text + "." + encode(hmac.new(secret, text.encode(), hashlib.sha256).digest())


def measure(bench):
    secret = secrets.token_bytes(32)
    path = os.path.join(bench.folder, "jwt-secret")
    with open(path, "wb", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(secret)
    flags = ("--jwt-secret-file", path, "--jwt-issuer", "bench", "--jwt-audience", "kvd")
    rounds = []
    with bench.serve(bench.database(ENTRIES, "credentials"), flags=flags) as server:
        grants = [{"permissions": ["kv-entry:read"], "applicationId": "*", "namespaceId": "*", "keys": ["*"]}]
        status, body = server.request("POST", "/api/v1/kv/tokens", json.dumps({"name": "bench", "userId": "bench", "grants": grants}))
        if status != 201:
            raise BenchError(f"no token was made: {status}")
        tokens = {"root": server.token, "stored": json.loads(body)["token"], "jwt": make_jwt(secret)}
        bench.warm_up(server, ENTRIES)
        for number in range(bench.arguments.rounds):
            # Each goes first as often as the others.
            order = list(KINDS)[number % 3:] + list(KINDS)[:number % 3]
            figures = {}
            for kind in order:
                server.token = tokens[kind]
                figures[kind] = bench.load(server, "get", CONNECTIONS, ENTRIES, number)
            server.token = tokens["root"]
            rounds.append(figures)
        server.stop()
    return rounds


def run(bench, targets):
    rounds = measure(bench)
    print(f"\nGET of a secret by who asks, {CONNECTIONS} connections: the root token is known by its hash alone, too")
    rows = []
    for kind, name in KINDS.items():
        results = [one[kind] for one in rounds]
        of_root = report.ratios(report.column(results, "perSecond"), report.column([one["root"] for one in rounds], "perSecond"))
        rows.append(report.load_row(name, results, f"{report.median(of_root):.2f}"))
    print(report.table(report.load_head("of root"), rows))
    for kind, most in (("stored", 1.05), ("jwt", 1.15)):
        cost = report.ratios(*(report.column([one[of] for one in rounds], "cpuMicroseconds") for of in (kind, "root")))
        targets.at_most(f"CPU of a GET with {KINDS[kind]}, of one with the root token", cost, most)
    return rounds
