"""Stream connections as Binance takes them: opened by their address, served until they end."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from k2lib.simulator.binance.frames import PONG, frame, text_frame
from k2lib.simulator.binance.limits import ExchangeLimits
from k2lib.simulator.binance.stream_connection import (
    POLICY,
    Connection,
    Subscriptions,
    answer,
    too_many,
)

_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_MICROS = "microsecond"
_TOO_MANY = '{"code": 2, "msg": "too many streams"}'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def routes(handler: Handler) -> list[web.RouteDef]:
    """Return the addresses of raw and combined streams."""
    paths = ("/ws", "/ws/{names:.*}", "/stream")
    return [web.get(path, handler) for path in paths]


@web.middleware
async def loopback_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse who does not call this server by a loopback name."""
    # A web page elsewhere that points its own name here must not get to speak with us.
    if request.host.rpartition(":")[0] not in _LOOPBACK and request.host not in _LOOPBACK:
        return web.Response(status=403, text="This server answers to loopback names only.\n")
    return await handler(request)


async def accept(
    request: web.Request, symbols: frozenset[str], *, limits: ExchangeLimits, now: float
) -> tuple[web.WebSocketResponse, Connection]:
    """Open a connection with the streams that its address names.

    Raises:
        HTTPBadRequest: more of them than a connection may have.
    """
    subscriptions = Subscriptions(symbols, limits.streams, combined=request.path == "/stream")
    if too_many(_names(request), subscriptions):
        raise web.HTTPBadRequest(text=_TOO_MANY, content_type="application/json")
    ws = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
    await ws.prepare(request)
    connection = Connection(
        ws,
        _transport(request),
        subscriptions=subscriptions,
        micros=request.query.get("timeUnit", "").lower() == _MICROS,
        limits=limits,
        now=now,
    )
    return ws, connection


async def serve(
    ws: web.WebSocketResponse, connection: Connection, *, clock: Callable[[], float]
) -> None:
    """Do what the client asks until it goes, or asks too often."""
    while True:
        message = await ws.receive()
        if message.type not in (WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG):
            return
        if not connection.took(clock()):
            await connection.close(POLICY, "Too many requests")
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


def _respond(kind: WSMsgType, data: Any, connection: Connection) -> None:
    if kind is WSMsgType.TEXT:
        connection.send(text_frame(answer(data, connection.subscriptions)))
    elif kind is WSMsgType.PING:
        connection.send(frame(bytes(data), PONG))
    else:
        connection.ponged(bytes(data))
