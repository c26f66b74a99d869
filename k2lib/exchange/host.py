"""One host of the exchange: its connections, its listening socket and its faults."""

import ssl
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from k2lib.exchange.batch import Batch
from k2lib.exchange.connection import GOING_AWAY, Connection
from k2lib.exchange.faults import Conditions, Options
from k2lib.exchange.frames import broken_frames
from k2lib.exchange.limits import Limits, Recent
from k2lib.exchange.listener import Listener
from k2lib.exchange.market import Market
from k2lib.exchange.shaping import Shaper


class Host(Listener):
    """Connections, conditions and shapers of one host; all in the exchange's own thread."""

    def __init__(self, market: Market, limits: Limits, *, ssl_context: ssl.SSLContext | None):
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
