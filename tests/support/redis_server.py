"""A real redis-server for one test: started, killed, and started again on the same port."""

import socket
import subprocess
from itertools import chain
from pathlib import Path
from typing import Self

import redis
from support.waiting import wait_until


class RedisServer:
    """A redis-server on a port of its own, from now to its end, that keeps nothing on disk.

    Clients by its `url` take it for gone when it is, not when the machine pauses for a moment.
    """

    def __init__(self, folder: Path, *, password: str = "") -> None:
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        # A socket that never listens keeps the port ours while no server runs.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port = int(self._holder.getsockname()[1])
        waits = "socket_timeout=60&socket_connect_timeout=60"
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0?{waits}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._holder.close()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--save": "",
            "--requirepass": self._password,
        }
        self._process = subprocess.Popen(
            ["redis-server", *chain.from_iterable(options.items())], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def kill(self) -> None:
        """Kill it as `kill -9` does; one that does not run stays so."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        """Return a client of its own; close it."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "redis-server ended"
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
