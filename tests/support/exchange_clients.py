"""Plain clients of the offline exchange: they show what it sends and heal nothing."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from support.waiting import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import ClientConnection, connect

from k2lib.simulator import OfflineExchange

START = 1_767_225_600.0
PATIENCE_S = 60.0
# Made once: reading the system's authorities takes longer than a request.
_PUBLIC = ssl.create_default_context()


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def stream(
    exchange: OfflineExchange,
    path: str = "/ws/btcusdt@trade",
    *,
    host: int = 0,
    **options: Any,
) -> Iterator[ClientConnection]:
    """Open a stream connection that sends no pings of its own.

    Not over TLS: with it, the closing of this threaded client may wait for ever.
    """
    url = exchange.ws_urls[host] + path
    defaults = {"compression": None, "ping_interval": None, "close_timeout": 0.2, "max_queue": None}
    options = {**defaults, **options}
    with connect(url, **options) as ws:
        yield ws


def received(ws: ClientConnection, count: int = 1) -> list[Any]:
    """Return the next messages, parsed."""
    return [json.loads(ws.recv(timeout=PATIENCE_S)) for _ in range(count)]


def mute_pongs(ws: ClientConnection) -> None:
    """Let a client answer no ping any more."""
    send = ws.protocol.send_frame
    ws.protocol.send_frame = lambda frame: None if frame.opcode is Opcode.PONG else send(frame)


def trade_ids(ws: ClientConnection, count: int) -> list[int]:
    """Return the ids of the next trades of a raw stream."""
    return [message["t"] for message in received(ws, count)]


def consecutive(ids: list[int]) -> bool:
    """Tell whether these ids count up without a hole."""
    return ids == list(range(ids[0], ids[0] + len(ids)))


def rest_of_frames(ws: ClientConnection) -> tuple[list[str], ConnectionClosed]:
    """Return all frames until the connection ends, and its end."""
    frames: list[str] = []
    while True:
        try:
            frames.append(str(ws.recv(timeout=PATIENCE_S)))
        except ConnectionClosed as end:
            return frames, end


def reply_to(ws: ClientConnection, request: object) -> Any:
    """Send a control message and return the reply to it."""
    ws.send(request if isinstance(request, str) else json.dumps(request))
    return next(message for message in _messages(ws) if not {"e", "stream"} & set(message))


def _messages(ws: ClientConnection) -> Iterator[Any]:
    while True:
        yield received(ws)[0]


def get(exchange: OfflineExchange, path: str, *, host: int = 0, **params: Any) -> httpx2.Response:
    """Ask over REST; `path` without a slash is an endpoint."""
    path = path if path.startswith("/") else f"/api/v3/{path}"
    url = exchange.rest_urls[host] + path
    return httpx2.get(url, params=params or None, verify=_PUBLIC, timeout=60)


def pass_time(exchange: OfflineExchange, clock: SetClock, seconds: float) -> int:
    """Let time pass, wait until the exchange has done what it brings, and count its trades."""
    made = exchange.truth("BTCUSDT").last_id
    clock.advance(seconds)
    due = exchange.tape("BTCUSDT").generator.next_id(int(clock.now * 1e6)) - 1
    wait_until(lambda: exchange.truth("BTCUSDT").last_id >= due)
    return due - made


def historical(exchange: OfflineExchange, from_id: int, *, limit: int = 1000) -> list[int]:
    """Return the ids that REST has from one on."""
    rows = get(exchange, "historicalTrades", symbol="BTCUSDT", fromId=from_id, limit=limit).json()
    return [row["id"] for row in rows]
