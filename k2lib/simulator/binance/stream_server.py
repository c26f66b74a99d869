"""The server of stream connections: its loopback port, handshakes, and what clients send."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.typedefs import Middleware

from k2lib.errors import ConfigError
from k2lib.simulator.binance.frames import PONG, frame, text_frame
from k2lib.simulator.binance.limits import ExchangeLimits
from k2lib.simulator.binance.stream_connection import (
    ServerConnection,
    Subscriptions,
    handle_control_message,
    subscribe_all,
)

LOOPBACK = "127.0.0.1"
_BACKLOG = 128
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_MICROS = "microsecond"
_TOO_MANY = '{"code": 2, "msg": "too many streams"}'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StreamServer:
    """Stream connections at a port of its own; all in the thread of one event loop."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, host: str = LOOPBACK) -> None:
        self.host = host
        self.connections: set[ServerConnection] = set()
        self.port = 0
        self._ssl = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()
        self._port_holder = socket.socket()
        self._server: asyncio.Server | None = None
        self._factory: Any = None

    @property
    def address(self) -> str:
        """Host and port, for URLs."""
        return f"{self.host}:{self.port}"

    def bind(self, port: int) -> None:
        """Take a port until `unbind` or `shut_down`.

        Raises:
            ConfigError: the port is in use.
        """
        # A socket that never listens keeps the port ours while connections are refused.
        try:
            self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._port_holder.bind((self.host, port))
            self.port = self._port_holder.getsockname()[1]
        except (OSError, OverflowError) as exc:
            message = f"cannot listen on {self.host}:{port} ({exc}): choose a port"
            raise ConfigError(message) from exc

    def unbind(self) -> None:
        """Give the port back."""
        self._port_holder.close()

    async def listen(self, factory: Any = None) -> None:
        """Accept connections; the factory makes a protocol for each."""
        self._factory = factory or self._factory
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._factory, self.host, self.port, ssl=self._ssl, backlog=_BACKLOG
            )
        except OSError as exc:
            message = f"cannot listen on {self.address} ({exc}): choose a port"
            raise ConfigError(message) from exc

    def upkeep(self, now: float, *, max_bytes: int | None = None) -> None:
        """Ping clients, close connections that are due, and write pending frames.

        Args:
            max_bytes: to write to each client; all of them by default.
        """
        for connection in list(self.connections):
            close_reason = connection.upkeep(now)
            if close_reason is not None:
                self._spawn(connection.close(*close_reason))
            connection.flush(max_bytes)

    def close_all(self, code: int, reason: str) -> None:
        """Close every connection with a close frame, and go on listening."""
        for connection in list(self.connections):
            self._spawn(connection.close(code, reason))

    async def shut_down(self) -> None:
        """End all connections by a reset, stop listening, and give the port back."""
        for connection in list(self.connections):
            connection.reset()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.unbind()

    async def serve(self, app: web.Application, stack: contextlib.AsyncExitStack) -> None:
        """Listen with an application until the stack ends.

        Raises:
            ConfigError: the port is in use.
        """
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(self.shut_down)
        await self.listen(runner.server)

    async def stream(
        self,
        request: web.Request,
        symbols: frozenset[str],
        *,
        limits: ExchangeLimits,
        clock: Callable[[], float],
    ) -> web.StreamResponse:
        """Open the streams that a request names, and serve its connection until it ends.

        Raises:
            HTTPBadRequest: more streams than a connection may have.
        """
        opened_at = clock()
        ws, connection = await _accept(request, symbols, limits=limits, now=opened_at)
        self.admit(connection, now=opened_at)
        try:
            await _serve(ws, connection, clock=clock)
        finally:
            self.connections.discard(connection)
        return ws

    def admit(self, connection: ServerConnection, *, now: float) -> None:
        """Count a new connection among those that get frames."""
        self.connections.add(connection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def stream_routes(handler: Handler) -> list[web.RouteDef]:
    """Return the routes of raw and combined streams."""
    paths = ("/ws", "/ws/{names:.*}", "/stream")
    return [web.get(path, handler) for path in paths]


def check_host(own_name: str = LOOPBACK) -> Middleware:
    """Return what rejects requests whose Host header is neither a loopback name nor its own."""
    names = {*_LOOPBACK, own_name}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        # A web page whose own host name resolves to this address (DNS rebinding) gets no answer.
        if request.host.rpartition(":")[0] not in names and request.host not in names:
            return web.Response(status=403, text="This server answers to loopback names only.\n")
        return await handler(request)

    return check


async def _accept(
    request: web.Request, symbols: frozenset[str], *, limits: ExchangeLimits, now: float
) -> tuple[web.WebSocketResponse, ServerConnection]:
    subscriptions = Subscriptions(symbols, limits.streams, combined=request.path == "/stream")
    if not subscribe_all(_names(request), subscriptions):
        raise web.HTTPBadRequest(text=_TOO_MANY, content_type="application/json")
    ws = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
    await ws.prepare(request)
    connection = ServerConnection(
        ws,
        _transport(request),
        subscriptions=subscriptions,
        micros=request.query.get("timeUnit", "").lower() == _MICROS,
        limits=limits,
        now=now,
    )
    return ws, connection


async def _serve(
    ws: web.WebSocketResponse, connection: ServerConnection, *, clock: Callable[[], float]
) -> None:
    while True:
        message = await ws.receive()
        if message.type not in (WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG):
            return
        if not connection.count_message(clock()):
            await connection.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
            return
        _respond(message.type, message.data, connection)


def _names(request: web.Request) -> list[str]:
    text: str = request.match_info.get("names") or request.query.get("streams", "")
    return [name for name in text.split("/") if name]


def _transport(request: web.Request) -> Any:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client went away during the handshake")
    return transport


def _respond(kind: WSMsgType, data: Any, connection: ServerConnection) -> None:
    if kind is WSMsgType.TEXT:
        connection.send(text_frame(handle_control_message(data, connection.subscriptions)))
    elif kind is WSMsgType.PING:
        connection.send(frame(bytes(data), PONG))
    else:
        connection.receive_pong(bytes(data))
