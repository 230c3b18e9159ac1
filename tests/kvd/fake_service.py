"""A service that tests play: answers over HTTP on loopback, as well or as badly as a test wants it to."""

import contextlib
import json
import socket
import threading
import time
import urllib.parse


class FakeService:
    """`answer` is called with (path, query, headers) and gives bytes to be sent as they are, or a function that is given the socket.
    `asked` holds what was asked for, `connections` says on how many."""

    def __init__(self, answer, context=None):
        self.answer, self.context = answer, context
        self.asked = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def url(self, path="/permissions"):
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}{path}"

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError):  # whoever asked went away
            connection.settimeout(30)
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                heard = b""
                while True:
                    while b"\r\n\r\n" not in heard:
                        part = connection.recv(65536)
                        if not part:
                            return
                        heard += part
                    head, heard = heard.split(b"\r\n\r\n", 1)
                    first, *lines = head.decode("latin-1").split("\r\n")
                    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                    target = urllib.parse.urlsplit(first.split(" ")[1])
                    query = dict(urllib.parse.parse_qsl(target.query))
                    self.asked.append((target.path, query, headers))
                    answer = self.answer(target.path, query, headers)
                    if callable(answer):
                        return answer(connection)
                    connection.sendall(answer)


def response(body, status="200 OK", content_type="application/json", headers=""):
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    body = body.encode() if isinstance(body, str) else body
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def hang(connection):
    with contextlib.suppress(OSError):
        connection.recv(1)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def drip(connection):
    """A byte now and then, for ever."""
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)


def endless(size):
    """`size` bytes of JSON that is never whole; without a Content-Length if `size` is told by chunks."""
    def send(connection):
        with contextlib.suppress(OSError):
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            piece = b'{"permissions": [' + b'"kv-admin",' * 6000
            for _ in range(size // len(piece)):
                connection.sendall(piece)
    return send


def endless_chunks(connection):
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20000):
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
