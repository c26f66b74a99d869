"""A TCP proxy on loopback whose connections can be delayed, reset or swallowed for a while."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Final, Literal, Self

HOST: Final = "127.0.0.1"
CHUNK: Final = 64 * 1024
DELAY_S: Final = (0.05, 0.4)
END_S: Final = 5.0
NO_LINGER: Final = struct.pack("ii", 1, 0)

Mode = Literal["pass", "delay", "reset", "swallow"]
FAULTS: Final[tuple[Mode, ...]] = ("delay", "reset", "swallow")


class Proxies:
    """All proxies of a run, in one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)
        self._loop.close()

    def open(self, target: int, *, port: int, draw: random.Random) -> "Proxy":
        """Listen on a port and pass on to another one."""
        proxy = Proxy(target, port=port, draw=draw, loop=self._loop)
        server = self._run(asyncio.start_server(proxy.serve, HOST, port))
        self._servers.append(server)
        self._proxies.append(proxy)
        return proxy

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for proxy in self._proxies:
            proxy.reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, asyncio.Server]) -> asyncio.Server:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(END_S)


class Proxy:
    """One port before another."""

    def __init__(
        self, target: int, *, port: int, draw: random.Random, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.port = port
        self.mode: Mode = "pass"
        self._target = target
        self._draw = draw
        self._loop = loop
        self._writers: set[asyncio.StreamWriter] = set()

    def set(self, mode: Mode) -> None:
        """Do this to all that comes from now on; a stream that lost bytes is reset."""
        self._loop.call_soon_threadsafe(self._set, mode)

    def _set(self, mode: Mode) -> None:
        if mode == "reset" or self.mode == "swallow":
            self.reset()
        self.mode = mode

    def reset(self) -> None:
        """Reset all connections; call it in the proxies' thread."""
        for writer in list(self._writers):
            _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until one side ends."""
        if self.mode == "reset":
            _reset(writer)
            return
        try:
            other_reader, other = await asyncio.open_connection(HOST, self._target)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, other}
        try:
            await asyncio.gather(self._pass(reader, other), self._pass(other_reader, writer))
        finally:
            self._writers -= {writer, other}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.mode == "delay":
                    await asyncio.sleep(self._draw.uniform(*DELAY_S))
                if self.mode != "swallow":
                    writer.write(data)
                    await writer.drain()
        # A client that goes away inside a run leaves no half-open connection behind.
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    writer.transport.abort()
