"""A WebSocket server that sends a replay in the format of Binance's streams."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
from aiohttp import WSCloseCode, web

from k2lib.errors import ConfigError, QueryError
from k2lib.lifecycle import Closing
from k2lib.replay.events import Batch
from k2lib.replay.player import Replay
from k2lib.replay.series import Int64s
from k2lib.schema.decimals import unscaled_values
from k2lib.simulator import (
    ExchangeLimits,
    FrameFormat,
    SimulatedInstrument,
    SimulatedQuote,
    StreamServer,
    TradeColumns,
    loopback_only,
    quote_frame,
    stream_routes,
    trade_frames,
)

# The columns that frames are made of.
COLUMNS: Final = (
    "symbol",
    "timestamp",
    "price",
    "quantity",
    "side",
    "source_sequence",
    "bid_price",
    "bid_quantity",
    "ask_price",
    "ask_quantity",
)
STREAM_OF: Final = {"trades": "trade", "quotes": "bookTicker"}
SIDES: Final = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")


@dataclass(frozen=True)
class Events:
    """Events of one symbol, one after the other: `encode` makes frames of them in one form."""

    symbol: str
    stream: str
    count: int
    encode: Callable[[FrameFormat], bytes]

    def frames(self, kind: str, form: FrameFormat) -> bytes:
        """Return the frames of a kind of stream in one form."""
        return self.encode(form) if kind == self.stream else b""


class FrameEncoder:
    """Makes frames of batches; where a venue has no ids, it counts its own from 1."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    def events(self, batch: Batch) -> Iterator[Events]:
        """Yield what a batch holds, in its order; nothing of gaps: Binance has no word for them."""
        if batch.kind not in STREAM_OF:
            return
        coded = batch.rows["symbol"].dictionary_encode()
        symbols = coded.dictionary.to_pylist()
        codes = coded.indices.to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        ids = self._ids(batch, symbols, codes)
        for low, high in pairwise(edges):
            rows, symbol = batch.rows.slice(low, high - low), symbols[codes[low]]
            yield ENCODERS[batch.kind](rows, ids[low:high], symbol)

    def _ids(self, batch: Batch, symbols: list[str], codes: Int64s) -> Int64s:
        """The venue's ids; the number of the row among its symbol's where it gives none."""
        column = batch.rows["source_sequence"]
        ids: Int64s = column.fill_null(0).to_numpy().copy()
        missing = column.is_null().to_numpy(zero_copy_only=False)
        for code in np.unique(codes[missing]).tolist():
            mine = missing & (codes == code)
            key = (batch.kind, symbols[code])
            ids[mine] = self._counted[key] + 1 + np.arange(mine.sum())
            self._counted[key] += int(mine.sum())
        return ids


def _trades(rows: pa.RecordBatch, ids: Int64s, symbol: str) -> Events:
    @cache
    def encode(form: FrameFormat) -> bytes:
        sold = np.array([side in ("SELL", "SELL_SHORT") for side in rows["side"].to_pylist()])
        trades = TradeColumns(
            ids,
            _times(rows),
            unscaled_values(rows["price"]),
            unscaled_values(rows["quantity"]),
            sold,
            ids,
        )
        return trade_frames(trades, SimulatedInstrument.in_units(symbol), form, after_us=0)

    return Events(symbol, "trade", len(ids), encode)


def _quotes(rows: pa.RecordBatch, ids: Int64s, symbol: str) -> Events:
    @cache
    def encode(form: FrameFormat) -> bytes:
        # An empty side is 0 on the wire.
        item = SimulatedInstrument.in_units(symbol)
        sides = [_units(rows[name]) for name in SIDES]
        quotes = (SimulatedQuote(*numbers) for numbers in zip(ids.tolist(), *sides, strict=True))
        return b"".join(quote_frame(quote, item, form) for quote in quotes)

    return Events(symbol, "bookTicker", len(ids), encode)


ENCODERS: Final[dict[str, Callable[[pa.RecordBatch, Int64s, str], Events]]] = {
    "trades": _trades,
    "quotes": _quotes,
}


def _times(rows: pa.RecordBatch) -> Int64s:
    times: Int64s = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times


def _units(column: pa.Array) -> list[int]:
    there = column.is_valid().to_numpy(zero_copy_only=False)
    units: list[int] = np.where(there, unscaled_values(column), 0).tolist()
    return units


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
    hears it from there. No event is left out for a slow client: while one has a megabyte of
    frames waiting, the replay waits for it, and the others with it; a client that answers no
    ping for a minute is cut off. At the end connections stay open and silent; where the replay
    ends early they are closed (1011), and `wait` says why.
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
        """The address for REST, which knows `/api/v3/ping` and `/api/v3/time`."""
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
        app = web.Application(middlewares=[loopback_only])
        app.on_response_prepare.append(_sign)
        app.add_routes(stream_routes(self._stream))
        app.add_routes([web.get("/api/v3/ping", _ping), web.get("/api/v3/time", self._time)])
        await self._server.serve(app, stack)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self._server.stream(
            request, self._symbols, limits=self._limits, clock=self._clock
        )

    async def _time(self, _request: web.Request) -> web.Response:
        return web.json_response({"serverTime": int(self._clock() * 1000)})

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


def _symbols(replay: Replay) -> frozenset[str]:
    names = [symbol for _, symbol in replay.instruments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise QueryError(
            f"{', '.join(twice)} is replayed of several exchanges, and a stream's name has none: "
            "open a socket for each"
        )
    return frozenset(names)
