"""One host of the exchange: its connections, its listening socket and its faults."""

import ssl
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from k2lib.simulator.binance.columns import Trades, joined
from k2lib.simulator.binance.faults import Conditions, Options
from k2lib.simulator.binance.frames import Batch, broken_frames
from k2lib.simulator.binance.limits import ExchangeLimits, Recent
from k2lib.simulator.binance.listener import Listener
from k2lib.simulator.binance.market import Market
from k2lib.simulator.binance.stream_connection import GOING_AWAY, Connection


@dataclass
class Shape:
    """A fault of the stream, and for how many more trades."""

    name: str
    left: int
    held: Trades | None = None


class Shaper:
    """The faults waiting for one symbol's next trades at one host, first come first served."""

    def __init__(self) -> None:
        self.waiting: deque[Shape] = deque()

    def add(self, name: str, count: int) -> None:
        """Let a fault befall the next trades after those of the faults before it."""
        if count > 0:
            self.waiting.append(Shape(name, count))

    def shape(self, trades: Trades) -> Trades:
        """Return the trades as the streams show them; the same object if nothing is the matter."""
        parts: list[Trades] = []
        while self.waiting and len(trades):
            shape = self.waiting[0]
            count = min(shape.left, len(trades))
            parts.append(_SHAPES[shape.name](shape, trades.take(slice(0, count))))
            trades = trades.take(slice(count, None))
            shape.left -= count
            if shape.left == 0:
                self.waiting.popleft()
        return joined([*parts, trades]) if parts else trades

    def clear(self) -> Trades | None:
        """Forget all faults; return the trades that one of them held back."""
        held = [shape.held for shape in self.waiting if shape.held is not None]
        self.waiting.clear()
        return joined(held) if held else None


def _skip(_shape: Shape, trades: Trades) -> Trades:
    return trades.take(slice(0, 0))


def _duplicate(_shape: Shape, trades: Trades) -> Trades:
    return trades.take(np.repeat(np.arange(len(trades)), 2))


def _reorder(shape: Shape, trades: Trades) -> Trades:
    held = trades if shape.held is None else joined([shape.held, trades])
    if shape.left > len(trades):
        shape.held = held
        return trades.take(slice(0, 0))
    shape.held = None
    return held.take(_shuffled(len(held)))


def _shuffled(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # The last half before the first, each backwards in pairs: nothing stays in its place.
    places = np.arange(count, dtype=np.int64)
    halves = np.concatenate([places[count // 2 :], places[: count // 2]])
    halves[: count // 2] = halves[: count // 2][::-1]
    return halves


_SHAPES = {"skip": _skip, "duplicate": _duplicate, "reorder": _reorder}


class Host(Listener):
    """Connections, conditions and shapers of one host; all in the exchange's own thread."""

    def __init__(
        self, market: Market, limits: ExchangeLimits, *, ssl_context: ssl.SSLContext | None
    ):
        super().__init__(ssl_context=ssl_context)
        self.market = market
        self.limits = limits
        self.conditions = Conditions()
        self.attempts = Recent(limits.attempts, limits.attempts_s)
        self._shapers: defaultdict[str, Shaper] = defaultdict(Shaper)
        self._listening = False
        self._ticked_at: float | None = None
        self._owed_bytes = 0.0

    async def listen(self, factory: Any = None) -> None:
        """Accept connections; the factory makes the protocol that speaks with each."""
        self._listening = True
        await super().listen(factory)

    def tick(self, now: float) -> None:
        """Do what time brings: pings, ends of faults, what was held back."""
        passed = 0.0 if self._ticked_at is None else now - self._ticked_at
        self._ticked_at = now
        self.keep_up(now, most=self._allowance(passed, now))
        if not self._listening and self.conditions.find("refused", now=now) is None:
            self._listening = True
            self._later(self.listen())

    def publish(self, batch: Batch) -> None:
        """Show trades on the streams, as the faults of this host let them be seen."""
        shaper = self._shapers.get(batch.book.instrument.symbol)
        if shaper is not None:
            batch = batch.shown_as(shaper.shape(batch.trades))
        for connection in list(self.connections):
            connection.publish(batch)

    def fault(self, name: str, options: Options, *, now: float) -> None:
        """Let a fault befall this host; its options are complete and checked."""
        if name in _AT_ONCE:
            _AT_ONCE[name](self, options, now)
        else:
            self.conditions.begin(name, options, now=now)

    def admit(self, connection: Connection, *, now: float) -> None:
        """Take a new connection; a stall may be meant for it too."""
        self.connections.add(connection)
        stall = self.conditions.find("stall", now=now)
        if stall is not None and stall.options["new"]:
            connection.stall(stall.ends_at)

    def _allowance(self, passed: float, now: float) -> int | None:
        if self.conditions.find("burst", now=now) is not None:
            return 0
        slow = self.conditions.find("slow", now=now)
        if slow is None:
            return None
        self._owed_bytes += slow.options["bytes_per_s"] * passed
        most = int(self._owed_bytes)
        self._owed_bytes -= most
        return most

    def _cut(self, _options: Options, _now: float) -> None:
        for connection in list(self.connections):
            connection.reset()

    def _close(self, options: Options, _now: float) -> None:
        self.end_all(options["code"], "closed on request")

    def _expire(self, _options: Options, _now: float) -> None:
        self.end_all(GOING_AWAY, "connection has reached its longest life")

    def _shutdown(self, options: Options, now: float) -> None:
        for connection in list(self.connections):
            connection.tell_shutdown(now, after_s=options["s"])

    def _stall(self, options: Options, now: float) -> None:
        held = self.conditions.begin("stall", options, now=now)
        for connection in list(self.connections):
            connection.stall(held.ends_at)

    def _garbage(self, options: Options, _now: float) -> None:
        symbol = next(iter(self.market.books))
        for connection in list(self.connections):
            for broken in broken_frames(options["n"], symbol):
                connection.send(broken)

    def _duplicate(self, options: Options, _now: float) -> None:
        self._shape("duplicate", options)

    def _reorder(self, options: Options, _now: float) -> None:
        self._shape("reorder", options)

    def _skip(self, options: Options, _now: float) -> None:
        self._shape("skip", options)

    def _shape(self, name: str, options: Options) -> None:
        for book in self.market.chosen(options["symbol"]):
            self._shapers[book.instrument.symbol].add(name, options["n"])

    def _refused(self, options: Options, now: float) -> None:
        self.conditions.begin("refused", options, now=now)
        self._listening = False
        if self._server is not None:
            self._server.close()
        if options["cut"]:
            self._cut(options, now)

    def _heal(self, _options: Options, now: float) -> None:
        self.conditions.clear()
        for symbol, shaper in self._shapers.items():
            held = shaper.clear()
            if held is not None:
                self.publish(Batch(self.market.books[symbol], held, None))
        for connection in list(self.connections):
            connection.wake(now)
            connection.close_at = None


# What these do is done at once, or counted elsewhere; the other faults are conditions.
_AT_ONCE: dict[str, Callable[[Host, Options, float], None]] = {
    "cut": Host._cut,
    "close": Host._close,
    "expire": Host._expire,
    "shutdown": Host._shutdown,
    "stall": Host._stall,
    "garbage": Host._garbage,
    "duplicate": Host._duplicate,
    "reorder": Host._reorder,
    "skip": Host._skip,
    "refused": Host._refused,
    "heal": Host._heal,
}
