"""A real redis-server for one test: started, killed, and started again on the same port."""

import socket
import subprocess
from itertools import chain
from pathlib import Path
from typing import Self

import redis
from waiting import wait_until


class RedisServer:
    """A redis-server on a free port of this machine that keeps nothing on disk."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

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
        wait_until(self._answers, 20)

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
