"""Ports of 127.0.0.1 behind which something is wrong."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port at which nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that takes connections and answers nothing, TLS handshakes included."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@dataclass(frozen=True)
class DrippingServer:
    """A server whose answers have no end; `was_asked` is set with the first request."""

    port: int
    was_asked: threading.Event


@contextmanager
def dripping_server(*, every_s: float = 0.05) -> Iterator[DrippingServer]:
    """Serve HTTP answers byte by byte, each byte in time and never the last one."""
    stop, was_asked = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if connection.recv(1):
                was_asked.set()
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(every_s):
                connection.sendall(b"a")

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield DrippingServer(int(server.getsockname()[1]), was_asked)
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
