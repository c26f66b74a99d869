"""Stream hosts on 127.0.0.1 that misbehave on script, in the loop of the test."""

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from support.fake_clock import FakeClock
from support.recorded_events import AnEvent, events_of
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from k2lib.events import BreakerChanged, ConnectionOpening, Event
from k2lib.feed.connections import Inbox
from k2lib.feed.options import StreamLimits
from k2lib.feed.stream import ReconnectingStream
from k2lib.resilience.failover import Hosts
from k2lib.resilience.rate_window import RateWindow
from k2lib.venues.base import StreamSubscription
from k2lib.venues.binance.venue import BinanceVenue

BTC = "btcusdt@trade"
BTC_TRADES = StreamSubscription("BTCUSDT", "trade")
QUICK = StreamLimits(first_delay_s=0.5, longest_delay_s=60.0, life_s=3600.0, stale_s=3600.0)
Script = Callable[["StreamHost", ServerConnection], Awaitable[None]]


@dataclass(frozen=True)
class Refuse:
    """A script for an attempt that gets no connection, but a status."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


class StreamHost:
    """Plays a script for each attempt in turn; past the last one, the last one again."""

    def __init__(
        self,
        *scripts: Script | Refuse,
        tls: ssl.SSLContext | None = None,
        exchange: str | None = None,
    ) -> None:
        self._scripts = scripts or (gives_trades,)
        self._tls = tls
        self._exchange = exchange
        self._server: Server | None = None
        self.attempts = 0
        self.open: list[ServerConnection] = []
        self.most_open = 0
        self.heard: list[tuple[float, dict[str, Any]]] = []
        self.paths: list[str] = []
        self.sent = 0
        self.url = ""

    @property
    def subscribed(self) -> list[str]:
        """All streams that were asked for."""
        return [name for _, told in self.heard for name in told["params"]]

    async def __aenter__(self) -> "StreamHost":
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            ssl=self._tls,
            process_request=self._let_in,
            process_response=self._name,
            close_timeout=0.2,
            ping_interval=None,
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'ws' if self._tls is None else 'wss'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def replies(self, ws: ServerConnection) -> None:
        """Answer one SUBSCRIBE."""
        told = json.loads(await ws.recv())
        self.heard.append((time.monotonic(), told))
        await ws.send(json.dumps({"result": None, "id": told["id"]}))

    async def send(self, ws: ServerConnection, frame: str | bytes) -> None:
        """Send a frame and count it."""
        await ws.send(frame)
        self.sent += 1

    def _script(self) -> Script | Refuse:
        return self._scripts[min(self.attempts, len(self._scripts)) - 1]

    def _let_in(self, ws: ServerConnection, request: Request) -> Response | None:
        self.attempts += 1
        self.paths.append(request.path)
        script = self._script()
        ws.script = script  # type: ignore[attr-defined]
        if not isinstance(script, Refuse):
            return None
        response = ws.respond(HTTPStatus(script.status), "no\n")
        response.headers.update(script.headers)
        return response

    def _name(self, ws: ServerConnection, request: Request, response: Response) -> None:
        if self._exchange is not None:
            response.headers["X-K2-Exchange"] = self._exchange

    async def _handle(self, ws: ServerConnection) -> None:
        self.open.append(ws)
        self.most_open = max(self.most_open, len(self.open))
        try:
            with contextlib.suppress(ConnectionClosed):
                await ws.script(self, ws)  # type: ignore[attr-defined]
        finally:
            self.open.remove(ws)


def trade_frame(number: int, stream: str = BTC) -> str:
    return json.dumps(
        {"stream": stream, "data": {"e": "trade", "t": number}}, separators=(",", ":")
    )


async def gives_trades(host: StreamHost, ws: ServerConnection) -> None:
    """Subscribe, then trade after trade."""
    await host.replies(ws)
    await goes_on(host, ws)


async def goes_on(host: StreamHost, ws: ServerConnection) -> None:
    for number in itertools.count(1):
        await host.send(ws, trade_frame(number))
        await asyncio.sleep(0.002)


async def is_silent(host: StreamHost, ws: ServerConnection) -> None:
    """Subscribe, and give nothing."""
    await host.replies(ws)
    await ws.wait_closed()


async def closes_at_once(host: StreamHost, ws: ServerConnection) -> None:
    """Subscribe, and go."""
    await host.replies(ws)


def sends(*frames: str | bytes, then: Script = is_silent) -> Script:
    """Return a script: subscribe, these frames, then another script's ending."""

    async def script(host: StreamHost, ws: ServerConnection) -> None:
        await host.replies(ws)
        for frame in frames:
            await host.send(ws, frame)
        if then is goes_on:
            await goes_on(host, ws)
        elif then is is_silent:
            await ws.wait_closed()
        else:
            await then(host, ws)

    return script


async def closes_1001(host: StreamHost, ws: ServerConnection) -> None:
    await ws.close(1001, "going away")


async def is_cut(host: StreamHost, ws: ServerConnection) -> None:
    """End the TCP connection without a word of WebSocket."""
    ws.transport.abort()


async def is_reset(host: StreamHost, ws: ServerConnection) -> None:
    """End it with a TCP reset."""
    raw = ws.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ws.transport.abort()


async def until(fact: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once the fact holds; fail if it does not in time."""
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.002)


class Running:
    """A stream on its hosts: the events it told, how long it slept, what arrived."""

    def __init__(
        self,
        hosts: Sequence[StreamHost],
        *,
        tls: ssl.SSLContext | None = None,
        subscriptions: Sequence[StreamSubscription] = (BTC_TRADES,),
        limits: StreamLimits = QUICK,
        inbox: Inbox | None = None,
        attempts: int = 300,
    ) -> None:
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.slept: list[float] = []
        self.attempts: list[tuple[str, float]] = []
        self.inbox = Inbox(1_000_000) if inbox is None else inbox
        urls = tuple(host.url for host in hosts)
        extra = {} if tls is None else {"tls": tls}
        self.stream = ReconnectingStream(
            subscriptions,
            venue=BinanceVenue("BINANCE", urls, ("https://127.0.0.1:1",), **extra),
            hosts=Hosts(urls, clock=self.clock, on_change=self._breaker_changed),
            inbox=self.inbox,
            attempts=RateWindow(attempts, 300.0, clock=self.clock),
            limits=limits,
            on_event=self._on_event,
            draw=lambda: 0.0,
            sleep=self._sleep,
        )
        self.task = asyncio.create_task(self.stream.run())

    async def __aenter__(self) -> "Running":
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def named(self, kind: type[AnEvent]) -> list[AnEvent]:
        """Return the events of a class."""
        return events_of(self.events, kind)

    def between_attempts(self, host: StreamHost | None = None) -> list[float]:
        """Return the seconds between the attempts to connect, to any host or to this one."""
        times = [at for url, at in self.attempts if host is None or url == host.url]
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    async def reported(self, kind: type[AnEvent], count: int = 1) -> list[AnEvent]:
        """Wait until so many events of a class were reported, and return them."""
        await until(lambda: self.task.done() or len(self.named(kind)) >= count)
        assert len(self.named(kind)) >= count, (self.task, self.events)
        return self.named(kind)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ConnectionOpening):
            self.attempts.append((event.host, self.clock()))

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    def _breaker_changed(self, host: str, state: str) -> None:
        self.events.append(BreakerChanged("BINANCE", host, str(state)))


@contextlib.asynccontextmanager
async def hosted(*hosts: StreamHost, **options: Any) -> AsyncIterator[Running]:
    """Run a stream on these hosts."""
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(host)
        yield await stack.enter_async_context(Running(hosts, **options))
