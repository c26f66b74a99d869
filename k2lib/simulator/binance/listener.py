"""A listening socket on the loopback address, and the stream connections made to it."""

import asyncio
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from k2lib.errors import ConfigError
from k2lib.simulator.binance.stream_connection import Connection

ADDRESS = "127.0.0.1"
_BACKLOG = 128


class Listener:
    """A port, taken until it is given back; all in the thread of one event loop."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self.connections: set[Connection] = set()
        self._ssl = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()
        self._holder = socket.socket()
        self._server: asyncio.Server | None = None
        self._factory: Any = None

    @property
    def port(self) -> int:
        """The port that this host has, listening or not."""
        port: int = self._holder.getsockname()[1]
        return port

    def bind(self, port: int) -> None:
        """Take a port for as long as the host lives.

        Raises:
            ConfigError: something else has it.
        """
        # A socket that never listens keeps the port ours while connections are refused.
        try:
            self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._holder.bind((ADDRESS, port))
        except (OSError, OverflowError) as exc:
            raise ConfigError(f"cannot listen on {ADDRESS}:{port} ({exc}): choose a port") from exc

    def unbind(self) -> None:
        """Give the port back."""
        self._holder.close()

    async def listen(self, factory: Any = None) -> None:
        """Accept connections; the factory makes the protocol that speaks with each."""
        self._factory = factory or self._factory
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._factory, ADDRESS, self.port, ssl=self._ssl, backlog=_BACKLOG
            )
        except OSError as exc:
            message = f"cannot listen on {ADDRESS}:{self.port} ({exc}): choose a port"
            raise ConfigError(message) from exc

    def keep_up(self, now: float, *, most: int | None = None) -> None:
        """Ping who is due, end whose time is over, and write what waits, or so many bytes."""
        for connection in list(self.connections):
            end = connection.upkeep(now)
            if end is not None:
                self._later(connection.close(*end))
            connection.flush(most)

    def end_all(self, code: int, reason: str) -> None:
        """Say goodbye to every client, and go on listening."""
        for connection in list(self.connections):
            self._later(connection.close(code, reason))

    async def end(self) -> None:
        """Let go of everything."""
        for connection in list(self.connections):
            connection.reset()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.unbind()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
