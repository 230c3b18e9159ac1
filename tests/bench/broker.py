"""Requests at a fixed rate while events go to RabbitMQ, and while it is away, stands still or takes nothing: how long they take.

A request's time counts from when it was to be sent, not from when a connection was free for it: what stalls is not hidden.
"""

import json
import os
import selectors
import socket
import sys
import time

import report
from servers import PATIENCE, BenchError

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "rabbitmq"))
from rabbitmq_server import RabbitmqServer  # noqa: E402

RATE = 2000
CONNECTIONS = 16
KEYS = 1000
CHANGES = 500  # one after the other, for the time until a queue has the event


class Sender:
    """Puts, so many in a second."""

    def __init__(self, server):
        self.selector = selectors.DefaultSelector()
        self.free = []
        for _ in range(CONNECTIONS):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(one, selectors.EVENT_READ)
            self.free.append(one)
        body = json.dumps({"value": "v" * 128})
        self.requests = [(f"PUT /api/v1/kv/bench~told/entries/service/setting-{key} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {server.token}\r\n"
                          f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode() for key in range(KEYS)]

    def run(self, seconds):
        """The times of the requests in seconds, sorted."""
        count, sent, times = int(RATE * seconds), 0, []
        due = {}  # connection -> when its request was to be sent
        began = time.perf_counter()
        while len(times) < count:
            now = time.perf_counter()
            while self.free and sent < count and now >= began + sent / RATE:
                one = self.free.pop()
                one.sendall(self.requests[sent % KEYS])
                due[one] = began + sent / RATE
                sent += 1
            wait = PATIENCE if sent == count or not self.free else max(began + sent / RATE - time.perf_counter(), 0)
            ready = self.selector.select(wait)
            if not ready and wait == PATIENCE:
                raise BenchError("kvd does not answer")
            for key, _ in ready:
                answer = key.fileobj.recv(65536)
                if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
                    raise BenchError(f"a put was refused: {answer[:200]!r}")
                if not answer.endswith(b"}"):
                    raise BenchError("an answer came in pieces, which is not accounted for")
                times.append(time.perf_counter() - due.pop(key.fileobj))
                self.free.append(key.fileobj)
        return sorted(times)

    def close(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()


def summary(times):
    return {"p50Microseconds": times[len(times) // 2] * 1e6, "p99Microseconds": times[len(times) * 99 // 100] * 1e6, "worstMicroseconds": times[-1] * 1e6}


def delays(server, channel, queue):
    """From a change's acknowledgement until a consumer of the queue has the event, one change at a time, in seconds."""
    times = []
    taken = channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE)
    for number in range(CHANGES):
        if server.request("PUT", f"/api/v1/kv/bench~told/entries/single-{number}", '{"value": 1}')[0] != 201:
            raise BenchError("a change was refused")
        began = time.perf_counter()
        if next(taken)[0] is None:
            raise BenchError("an event did not arrive")
        times.append(time.perf_counter() - began)
    channel.cancel()
    return sorted(times)


def phases(broker):
    """(name, what begins it, what ends it)"""
    return [("stopped", broker.stop, broker.start), ("stands still (SIGSTOP)", broker.pause, broker.resume),
            ("out of memory, blocks", lambda: broker.set_memory_alarm(True), lambda: broker.set_memory_alarm(False))]


def measure(bench):
    seconds = 3 if bench.arguments.quick else 10
    rounds = {}
    with RabbitmqServer() as broker:
        flags = ["--amqp", broker.url(password=True), "--amqp-exchange", "bench"]
        with bench.serve(os.path.join(bench.folder, "told"), flags=flags) as server:
            status, body = server.request("POST", "/api/v1/kv/namespaces", '{"name": "told", "applicationId": "bench", "isSecretNamespace": true}')
            if status != 201:
                raise BenchError(f"no namespace: {status} {body[:200]!r}")
            with broker.connect() as connection:
                channel = connection.channel()
                channel.exchange_declare("bench", exchange_type="topic", durable=True)
                queue = channel.queue_declare("", exclusive=True).method.queue
                channel.queue_bind(queue, "bench", "#")
                arrived = delays(server, channel, queue)
                channel.queue_delete(queue)
                channel.queue_declare("all", durable=True, arguments={"x-max-length": 1000})
                channel.queue_bind("all", "bench", "#")
            sender = Sender(server)
            sender.run(1)
            for _ in range(bench.arguments.rounds):
                for name, begin, end in phases(broker):
                    rounds.setdefault((name, "well"), []).append(summary(sender.run(seconds)))
                    begin()
                    try:
                        rounds.setdefault((name, "ill"), []).append(summary(sender.run(seconds)))
                    finally:
                        end()
            sender.close()
            server.stop()
    return {"arrivedMedianSeconds": arrived[len(arrived) // 2], "arrivedWorstSeconds": arrived[-1],
            "phases": [{"phase": name, "broker": state, "rounds": of} for (name, state), of in rounds.items()]}


def run(bench, targets):
    measured = measure(bench)
    print(f"\n{RATE} puts of secrets a second, each told to RabbitMQ: their times while it is well, and next to it while it is not")
    rows = []
    of = {(one["phase"], one["broker"]): one["rounds"] for one in measured["phases"]}
    for (name, state), rounds in of.items():
        if state == "well":
            continue
        well = of[name, "well"]
        rows.append([f"RabbitMQ {name}", *(f"{report.median(report.column(part, value)) / 1000:.2f}" for value in ("p50Microseconds", "p99Microseconds")
                                           for part in (well, rounds)), f"{max(report.column(rounds, 'worstMicroseconds')) / 1000:.0f}"])
        targets.at_most(f"median put while RabbitMQ {name}: of while it is well",
                        report.ratios(report.column(rounds, "p50Microseconds"), report.column(well, "p50Microseconds")), 1.1)
    print(report.table(["", "p50 ms, well", "ill", "p99 ms, well", "ill", "longest, ill"], rows))
    targets.at_most("from a change's answer to its event at a consumer, median", [measured["arrivedMedianSeconds"] * 1000], 10, " ms")
    targets.at_most("the longest", [measured["arrivedWorstSeconds"] * 1000], 100, " ms")
    return measured
