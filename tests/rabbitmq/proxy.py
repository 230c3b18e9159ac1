"""Stands between a client and a server on loopback, and does what a network may do to them."""

import contextlib
import socket
import threading

PIECE = 65536


class Proxy:
    """Passes bytes both ways on `port`. swallow(): what comes on the connections of now is not read any more, and nothing
    is sent, while the connections stay; those made afterwards pass. cut(): all are closed. `buffer`: bytes that the system may
    take from a client before the proxy reads them."""

    def __init__(self, target, buffer=None):
        self.target = target
        self.listener = socket.socket()
        if buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            # The other side's buffer grows with the size of its segments, which are huge on loopback.
            self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.pairs = []       # (client, server, an event: it passes)
        self.is_closed = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            passes = threading.Event()
            passes.set()
            with self.lock:
                self.pairs.append((client, server, passes))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=(source, sink, passes), daemon=True).start()

    @staticmethod
    def copy(source, sink, passes):
        with contextlib.suppress(OSError):
            while passes.is_set():
                data = source.recv(PIECE)
                if not passes.is_set():
                    return  # what was read when it stopped to pass is lost
                if not data:
                    break
                sink.sendall(data)
        if passes.is_set():
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def swallow(self):
        with self.lock:
            for _, _, passes in self.pairs:
                passes.clear()

    def cut(self):
        with self.lock:
            for client, server, passes in self.pairs:
                passes.clear()
                for one in (client, server):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                    one.close()
            self.pairs.clear()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
