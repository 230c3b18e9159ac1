"""A client of server-sent events as the standard has it (WHATWG HTML, 9.2), over a socket of its own: it knows nothing of kvd's
code, and everything that is sent to it is kept."""

import json
import socket
import time

from harness import BASE, PATIENCE


class Ended(Exception):
    """The connection broke before the end of the body."""


class Event:
    """What was dispatched: its type, the id that counts from then on, and its data, which is JSON."""

    def __init__(self, kind, identifier, data):
        self.kind, self.id, self.text = kind, identifier, data
        self.data = json.loads(data)

    def __repr__(self):
        return f"<{self.kind} {self.id} {self.text}>"


class EventStream:
    """One answer of `port` to a GET of `path`. `events` were dispatched and not yet taken; `comments` and `raw` are all there were.
    `buffer`: of the socket, in bytes, for a client that is going to take nothing."""

    def __init__(self, port, path, token, headers=(), buffer=None, version="1.1"):
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        lines = [f"GET {BASE}{path} HTTP/{version}", "Host: x", f"Authorization: Bearer {token}", *(f"{name}: {value}" for name, value in headers)]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.received = b""
        self.chunk_left = 0
        self.is_ended = False  # properly
        self.raw = b""
        self.line = b""
        self.events, self.comments, self.ids = [], [], []
        self.last_id, self.retry = None, None
        self._begin_event()
        self._read_head()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    # ---- HTTP ----

    def _receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise Ended(f"the connection ended after {self.raw[-200:]!r}")
        self.received += data

    def _take(self, end):
        while end not in self.received:
            self._receive()
        taken, self.received = self.received.split(end, 1)
        return taken

    def _read_head(self):
        first, *lines = self._take(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if "content-length" in self.headers:
            size = int(self.headers["content-length"])
            while len(self.received) < size:
                self._receive()
            self.body, self.received = self.received[:size], self.received[size:]
            self.is_ended = True

    def _read_chunk(self):
        size = int(self._take(b"\r\n"), 16)
        while len(self.received) < size + 2:
            self._receive()
        data, end, self.received = self.received[:size], self.received[size:size + 2], self.received[size + 2:]
        assert end == b"\r\n", end
        self.is_ended = size == 0
        self._feed(data)

    # ---- events ----

    def _begin_event(self):
        self.kind, self.data = "", []

    def _feed(self, data):
        self.raw += data
        *lines, self.line = (self.line + data).split(b"\n")
        for line in lines:
            self._take_line(line.decode("utf-8"))

    def _take_line(self, line):
        assert "\r" not in line, line
        if not line:
            self.last_id = self.ids[-1] if self.ids else self.last_id
            if self.data:
                self.events.append(Event(self.kind or "message", self.last_id, "\n".join(self.data)))
            return self._begin_event()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments.append(value)
        elif name == "event":
            self.kind = value
        elif name == "data":
            self.data.append(value)
        elif name == "id":
            self.ids.append(value)
        elif name == "retry":
            self.retry = int(value)
        else:
            raise AssertionError(f"an unknown field: {line}")
        return None

    # ---- what tests ask ----

    def begin(self):
        """Waits for the first block, which says where the watch begins: its id."""
        return self.until(lambda: self.last_id is not None, "where it begins") and self.last_id

    def until(self, condition, what):
        """Reads until condition() is true, and gives what it gave."""
        deadline = time.monotonic() + PATIENCE
        while not (result := condition()):
            if self.is_ended or time.monotonic() > deadline:
                raise AssertionError(f"not heard: {what}; {self.raw[-500:]!r}")
            self._read_chunk()
        return result

    def next(self):
        """The next event."""
        self.until(lambda: self.events, "an event")
        return self.events.pop(0)

    def take(self, count):
        return [self.next() for _ in range(count)]

    def rest(self):
        """All that comes until the end of the body."""
        while not self.is_ended:
            self._read_chunk()
        taken, self.events = self.events, []
        return taken
