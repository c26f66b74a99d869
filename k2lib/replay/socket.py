"""A WebSocket server that sends a replay in the format of Binance's streams."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from aiohttp import WSCloseCode, web

from k2lib.errors import ConfigError, QueryError
from k2lib.lifecycle import Closing
from k2lib.replay.frames import COLUMNS, FrameEncoder
from k2lib.replay.player import Replay
from k2lib.replay.rest import ReplayRest
from k2lib.simulator import ExchangeLimits, RestError, StreamServer, check_host, stream_routes

TICK_S: Final = 0.005
ROWS: Final = 2_048
# Of frames that a client has not taken: while it has more, the replay waits for it.
AHEAD_BYTES: Final = 1 << 20
HEADER: Final = "X-K2-Exchange"
NAME: Final = "REPLAY"


class ReplaySocket(Closing):
    """Tells a replay on 127.0.0.1 as Binance would have told it then, until closed.

    Addresses are Binance's: `/ws/btcusdt@trade`, `/stream?streams=btcusdt@trade/…@bookTicker`,
    then SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS, and `timeUnit=MICROSECOND`. Event times
    are those of the trades. A symbol whose venue counts nothing has ids from 1. A gap is what it
    is on a live stream: ids that do not come.

    There is one replay: it begins a moment after the first subscription, and who comes later
    hears it from there. Over REST, `exchangeInfo` has its symbols and `historicalTrades` what it
    told so far. No event is left out for a slow client: while one has a megabyte of frames
    waiting, the replay waits for it, and the others with it; a client that answers no ping for a
    minute is cut off. At the end connections stay open and silent; where the replay ends early
    they are closed (1011), and `wait` says why.
    """

    def __init__(
        self,
        replay: Replay,
        *,
        port: int = 0,
        begin_after_s: float = 0.25,
        limits: ExchangeLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Listen.

        Args:
            port: 0 for a free one.
            begin_after_s: from the first subscription to the first event, so that those that
                follow it at once miss nothing.
            limits: what clients may do; by default Binance's.
            clock: seconds since the epoch, for pings.
        Raises:
            ConfigError: the port is in use.
            QueryError: a symbol is replayed of two exchanges.
        """
        self._symbols = _symbols(replay)
        self._replay = replay
        self._begin_after_s = begin_after_s
        self._limits = limits or ExchangeLimits()
        self._clock = clock
        self._server = StreamServer()
        self._bind(port)
        self._sent = 0
        self._trades_sent: Counter[str] = Counter()
        self._rest = ReplayRest(replay, limits=self._limits, sent=self._trades_sent.__getitem__)
        self._closed = False
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="k2-replay", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self.close()
            raise self._error

    @property
    def ws_url(self) -> str:
        """The address for stream connections, without a path."""
        return f"ws://{self._server.address}"

    @property
    def rest_url(self) -> str:
        """The address for REST: `ping`, `time`, `exchangeInfo`, `historicalTrades`."""
        return f"http://{self._server.address}"

    @property
    def sent(self) -> int:
        """How many trades and quotes were told so far, heard or not."""
        return self._sent

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all is told; say whether it is.

        Raises:
            K2Error: what ended the replay early.
        """
        over = self._over.wait(timeout_s)
        if self._error is not None:
            raise self._error
        return over

    def close(self) -> None:
        """End all connections and stop listening; a second time does nothing."""
        self._closed = True
        self._thread.join()

    def _bind(self, port: int) -> None:
        try:
            self._server.bind(port)
        except ConfigError:
            self._server.unbind()
            raise

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._live())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _live(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._open(stack)
            except ConfigError as exc:
                self._error = exc
                return
            finally:
                self._ready.set()
            sending = asyncio.create_task(self._send())
            sending.add_done_callback(self._ended)
            while not self._closed:
                self._server.upkeep(self._clock())
                await asyncio.sleep(TICK_S)
            sending.cancel()
            await asyncio.wait([sending])

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        app = web.Application(middlewares=[check_host()])
        app.on_response_prepare.append(_sign)
        app.add_routes(stream_routes(self._stream))
        app.add_routes(
            [
                web.get("/api/v3/ping", _ping),
                web.get("/api/v3/time", self._time),
                web.get("/api/v3/exchangeInfo", self._exchange_info),
                web.get("/api/v3/historicalTrades", self._historical_trades),
            ]
        )
        await self._server.serve(app, stack)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self._server.stream(
            request, self._symbols, limits=self._limits, clock=self._clock
        )

    async def _time(self, _request: web.Request) -> web.Response:
        return web.json_response({"serverTime": int(self._clock() * 1000)})

    async def _exchange_info(self, request: web.Request) -> web.Response:
        now_ms = int(self._clock() * 1000)
        return await _answer(lambda: self._rest.exchange_info(request.query, now_ms=now_ms))

    async def _historical_trades(self, request: web.Request) -> web.Response:
        micros = request.headers.get("X-MBX-TIME-UNIT", "").lower() == "microsecond"
        return await _answer(lambda: self._rest.historical_trades(request.query, micros=micros))

    async def _send(self) -> None:
        while not any(one.subscriptions.by_symbol for one in self._server.connections):
            await asyncio.sleep(TICK_S)
        await asyncio.sleep(self._begin_after_s)
        encoder = FrameEncoder()
        columns = [name for name in COLUMNS if name in self._replay.column_names]
        async with contextlib.aclosing(self._replay.abatches(ROWS, columns=columns)) as batches:
            async for batch in batches:
                for events in encoder.events(batch):
                    for connection in list(self._server.connections):
                        connection.publish(events)
                    self._sent += events.count
                    if events.stream == "trade":
                        self._trades_sent[events.symbol] += events.count
                await self._until_taken()

    def _ended(self, sending: asyncio.Task[None]) -> None:
        if not sending.cancelled():
            self._error = sending.exception()
            self._over.set()
        if self._error is not None:
            self._server.close_all(WSCloseCode.INTERNAL_ERROR, "the replay ended early")

    async def _until_taken(self) -> None:
        for connection in list(self._server.connections):
            connection.flush()
        await asyncio.sleep(0)
        while any(one.pending_bytes > AHEAD_BYTES for one in self._server.connections):
            await asyncio.sleep(TICK_S)


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[HEADER] = NAME


async def _ping(_request: web.Request) -> web.Response:
    return web.json_response({})


async def _answer(body: Callable[[], str]) -> web.Response:
    """Make the body in a thread: it reads files."""
    try:
        return web.Response(text=await asyncio.to_thread(body), content_type="application/json")
    except RestError as exc:
        return web.json_response(exc.body, status=exc.status)


def _symbols(replay: Replay) -> frozenset[str]:
    names = [symbol for _, symbol in replay.instruments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise QueryError(
            f"{', '.join(twice)} is replayed of several exchanges, and a stream's name has none: "
            "open a socket for each"
        )
    return frozenset(names)
