"""The hosts of the exchange, and the engine that makes trades and faults happen at all of them."""

import asyncio
import contextlib
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiohttp import WSCloseCode

from k2lib.errors import ConfigError
from k2lib.simulator.binance.archive import ArchiveFiles
from k2lib.simulator.binance.faults import (
    ActiveFaults,
    FaultOptions,
    FaultScript,
    StreamFaults,
    complete_options,
)
from k2lib.simulator.binance.frames import MarketUpdate, broken_frames
from k2lib.simulator.binance.limits import AttemptLimit, ExchangeLimits, WeightLimiter
from k2lib.simulator.binance.market import QUOTES_PER_S, Market
from k2lib.simulator.binance.statistics_streams import ALL, STATISTICS_KINDS, StatisticsPublisher
from k2lib.simulator.binance.stream_connection import FrameSource, ServerConnection
from k2lib.simulator.binance.stream_server import StreamServer
from k2lib.simulator.binance.trade_generator import US
from k2lib.simulator.binance.trade_summary import SummaryCache, SummaryStoppedError


class ExchangeHost(StreamServer):
    """Connections and faults of one host; all in the exchange's own thread."""

    def __init__(
        self,
        market: Market,
        limits: ExchangeLimits,
        *,
        ssl_context: ssl.SSLContext | None,
        address: str,
    ):
        super().__init__(ssl_context=ssl_context, host=address)
        self.market = market
        self.limits = limits
        self.active_faults = ActiveFaults()
        self.attempts = AttemptLimit(limits.attempts, limits.attempts_s)
        self._stream_faults: defaultdict[str, StreamFaults] = defaultdict(StreamFaults)
        self._listening = False
        self._ticked_at: float | None = None
        self._owed_bytes = 0.0

    async def listen(self, factory: Any = None) -> None:
        """Accept connections; the factory makes a protocol for each."""
        self._listening = True
        await super().listen(factory)

    def tick(self, now: float) -> None:
        """Ping, write pending frames, and end faults that are over."""
        passed_s = 0.0 if self._ticked_at is None else now - self._ticked_at
        self._ticked_at = now
        self.upkeep(now, max_bytes=self._allowed_bytes(passed_s, now))
        if not self._listening and self.active_faults.find("refused", now=now) is None:
            self._listening = True
            self._spawn(self.listen())

    def publish(self, update: MarketUpdate) -> None:
        """Send trades to the connections, changed by the stream faults of this host."""
        faults = self._stream_faults.get(update.symbol)
        if faults is not None:
            update = update.with_trades(faults.apply(update.trades))
        self.broadcast(update)

    def broadcast(self, events: FrameSource) -> None:
        """Send events to the connections as they are."""
        for connection in list(self.connections):
            connection.publish(events)

    def fault(self, name: str, options: FaultOptions, *, now: float) -> None:
        """Cause a fault at this host; its options are complete and checked."""
        if name in _IMMEDIATE:
            _IMMEDIATE[name](self, options, now)
        else:
            self.active_faults.begin(name, options, now=now)

    def admit(self, connection: ServerConnection, *, now: float) -> None:
        """Count a new connection; a stall may apply to it too."""
        self.connections.add(connection)
        stall = self.active_faults.find("stall", now=now)
        if stall is not None and stall.options["new"]:
            connection.stall(stall.ends_at)

    def _allowed_bytes(self, passed_s: float, now: float) -> int | None:
        if self.active_faults.find("burst", now=now) is not None:
            return 0
        slow = self.active_faults.find("slow", now=now)
        if slow is None:
            return None
        self._owed_bytes += slow.options["bytes_per_s"] * passed_s
        max_bytes = int(self._owed_bytes)
        self._owed_bytes -= max_bytes
        return max_bytes

    def _cut(self, _options: FaultOptions, _now: float) -> None:
        for connection in list(self.connections):
            connection.reset()

    def _close(self, options: FaultOptions, _now: float) -> None:
        self.close_all(options["code"], "closed on request")

    def _expire(self, _options: FaultOptions, _now: float) -> None:
        self.close_all(WSCloseCode.GOING_AWAY, "connection has reached its longest life")

    def _shutdown(self, options: FaultOptions, now: float) -> None:
        for connection in list(self.connections):
            connection.announce_shutdown(now, after_s=options["s"])

    def _stall(self, options: FaultOptions, now: float) -> None:
        stall = self.active_faults.begin("stall", options, now=now)
        for connection in list(self.connections):
            connection.stall(stall.ends_at)

    def _garbage(self, options: FaultOptions, _now: float) -> None:
        symbol = next(iter(self.market.tapes))
        for connection in list(self.connections):
            for broken in broken_frames(options["n"], symbol):
                connection.send(broken)

    def _duplicate(self, options: FaultOptions, _now: float) -> None:
        self._queue_stream_fault("duplicate", options)

    def _reorder(self, options: FaultOptions, _now: float) -> None:
        self._queue_stream_fault("reorder", options)

    def _skip(self, options: FaultOptions, _now: float) -> None:
        self._queue_stream_fault("skip", options)

    def _queue_stream_fault(self, name: str, options: FaultOptions) -> None:
        for tape in self.market.tapes_of(options["symbol"]):
            self._stream_faults[tape.instrument.symbol].add(name, options["n"])

    def _refused(self, options: FaultOptions, now: float) -> None:
        self.active_faults.begin("refused", options, now=now)
        self._listening = False
        if self._server is not None:
            self._server.close()
        if options["cut"]:
            self._cut(options, now)

    def _heal(self, _options: FaultOptions, now: float) -> None:
        self.active_faults.clear()
        for symbol, faults in self._stream_faults.items():
            withheld = faults.clear()
            if withheld is not None:
                self.publish(MarketUpdate(self.market.tapes[symbol], withheld, None))
        for connection in list(self.connections):
            connection.wake(now)
            connection.close_at = None


# These act at once or are counted elsewhere; the others begin an active fault.
_IMMEDIATE: dict[str, Callable[[ExchangeHost, FaultOptions, float], None]] = {
    "cut": ExchangeHost._cut,
    "close": ExchangeHost._close,
    "expire": ExchangeHost._expire,
    "shutdown": ExchangeHost._shutdown,
    "stall": ExchangeHost._stall,
    "garbage": ExchangeHost._garbage,
    "duplicate": ExchangeHost._duplicate,
    "reorder": ExchangeHost._reorder,
    "skip": ExchangeHost._skip,
    "refused": ExchangeHost._refused,
    "heal": ExchangeHost._heal,
}


class ExchangeEngine:
    """Market, clock, script and request weight of all hosts; all in the exchange's own thread."""

    def __init__(
        self,
        market: Market,
        hosts: list[ExchangeHost],
        *,
        limits: ExchangeLimits,
        script: FaultScript,
        clock: Callable[[], float],
        started: float,
    ) -> None:
        self.market = market
        self.hosts = hosts
        self.weights = WeightLimiter(limits)
        self.summaries = SummaryCache()
        self.archive = ArchiveFiles(market)
        self.now = clock
        self._started = started
        self._script = sorted(script, key=lambda fault: fault[0])
        self._quote_slot = 0
        self._statistics = StatisticsPublisher(market, self.summaries)
        self._second = int(started)
        self._publishing: asyncio.Task[None] | None = None

    def inject_fault(self, name: str, host: int | None, options: FaultOptions) -> None:
        """Cause a fault at one host, or at all of them.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """
        complete = check_fault(name, host, options, market=self.market, hosts=len(self.hosts))
        if name == "void":
            for tape in self.market.tapes_of(complete["symbol"]):
                tape.make_void(complete["n"])
            return
        for target in self.hosts if host is None else [self.hosts[host]]:
            target.fault(name, complete, now=self.now())
        if name == "heal" and host is None:
            for tape in self.market.tapes.values():
                tape.stop_void()

    def tick(self) -> None:
        """Cause scripted faults that are due, publish new trades and quotes, tick each host."""
        now = self.now()
        while self._script and now - self._started >= self._script[0][0]:
            (_at_s, name, options), *self._script = self._script
            self.inject_fault(name, *split_host(options))
        self._trade(now)
        self._publish_statistics(now)
        for host in self.hosts:
            host.tick(now)

    async def settle(self) -> None:
        """Stop what is added up, and wait for it."""
        self.summaries.stop()
        if self._publishing is not None:
            with contextlib.suppress(SummaryStoppedError):
                await self._publishing

    def active_faults(self) -> dict[str, Any]:
        """Return the active faults, by host, as JSON."""
        return {
            str(number): [
                {
                    "name": fault.name,
                    "ends_at": fault.ends_at,
                    "left": fault.uses_left,
                    **fault.options,
                }
                for fault in host.active_faults.active(self.now())
            ]
            for number, host in enumerate(self.hosts)
        }

    def truths(self) -> dict[str, Any]:
        """Return the ids made, by symbol, as JSON."""
        return {symbol: tape.truth_json() for symbol, tape in self.market.tapes.items()}

    def _publish_statistics(self, now: float) -> None:
        if int(now) <= self._second or (self._publishing and not self._publishing.done()):
            return
        if self._publishing is not None:
            self._publishing.result()
        self._second, self._publishing = int(now), None
        followed: defaultdict[str, set[str]] = defaultdict(set)
        for symbol, kind in self._followed_streams():
            if symbol == ALL or kind in STATISTICS_KINDS:
                followed[symbol].add(kind)
        if followed:
            work = self._send_statistics(followed, int(now * US))
            self._publishing = asyncio.get_running_loop().create_task(work)

    async def _send_statistics(self, followed: Mapping[str, set[str]], now_us: int) -> None:
        updates = await asyncio.to_thread(self._statistics.updates, followed, now_us=now_us)
        for host in self.hosts:
            for update in updates:
                host.broadcast(update)

    def _followed_streams(self) -> Iterator[tuple[str, str]]:
        for host in self.hosts:
            for connection in host.connections:
                for symbol, streams in connection.subscriptions.by_symbol.items():
                    for _, kind in streams:
                        yield symbol, kind

    def _trade(self, now: float) -> None:
        slot, now_us = int(now * QUOTES_PER_S), int(now * US)
        quotes = slot > self._quote_slot
        self._quote_slot = max(slot, self._quote_slot)
        quoted = {symbol for symbol, _ in self._followed_streams()} if quotes else set()
        for symbol in quoted:
            self.market.tape(symbol, now_us)
        for tape, trades in self.market.advance(now_us):
            quote = tape.quote(now_us) if tape.instrument.symbol in quoted else None
            if len(trades) or quote is not None:
                update = MarketUpdate(tape, trades, quote)
                for host in self.hosts:
                    host.publish(update)


def split_host(options: FaultOptions) -> tuple[int | None, FaultOptions]:
    """Return the host that a script's options name, None for all, and the other options."""
    others = {option: value for option, value in options.items() if option != "host"}
    return options.get("host"), others


def check_fault(
    name: str, host: object, options: FaultOptions, *, market: Market, hosts: int
) -> FaultOptions:
    """Return the complete options of a fault.

    Raises:
        ConfigError: no such fault, host, symbol or option.
    """
    complete = complete_options(name, options)
    market.tapes_of(complete.get("symbol"))
    if host is not None and (type(host) is not int or host not in range(hosts)):
        raise ConfigError(f"no host {host!r}; there are 0 to {hosts - 1}")
    return complete
