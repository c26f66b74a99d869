"""Where a feed stands, for people to look at: kept up to date from its events."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import pyarrow as pa

from k2lib.events import (
    BreakerChanged,
    ClockMeasured,
    ConnectionLost,
    ConnectionOpened,
    ConnectionOpening,
    ConnectionRotated,
    Event,
    FeedEvent,
    FeedFailed,
    FeedLagMeasured,
    FeedStopped,
    FramesReceived,
    FramesRefused,
    FramesRepeated,
    GapClosed,
    GapNoticed,
    HostBanned,
    QueueMeasured,
    ReconnectWaiting,
    StreamResumed,
    StreamStale,
    TradesBackfilled,
)

TAPE_ROWS: Final = 50
TAPE: Final = ["timestamp", "price", "quantity", "side"]
RATE_S: Final = 5.0
FeedState = Literal["starting", "connecting", "live", "waiting", "stopped", "failed"]


@dataclass(frozen=True)
class TapeRow:
    """One trade on the tape."""

    timestamp: datetime
    price: Decimal
    quantity: Decimal
    side: str


@dataclass(frozen=True)
class SymbolStatus:
    """One symbol: `trades_per_s` over the last five seconds; by `lag_s` it is behind the venue.

    That is how old its newest trade was on arrival; while its connection is silent it grows.
    """

    symbol: str
    trades: int = 0
    quotes: int = 0
    trades_per_s: float = 0.0
    lag_s: float | None = None
    last_price: Decimal | None = None
    last_side: str | None = None
    last_time: datetime | None = None
    is_stale: bool = False
    repeated: int = 0
    gaps_open: int = 0
    gaps_closed: int = 0
    backfilled: int = 0
    tape: tuple[TapeRow, ...] = ()


@dataclass(frozen=True)
class HostStatus:
    """One stream host; `banned` says why it is not tried again."""

    url: str
    breaker: str = "closed"
    connected: bool = False
    banned: str | None = None


@dataclass(frozen=True)
class FeedStatus:
    """One look at a feed.

    `reason` says why it waits, stopped or failed; `delay_s` is how long it waits. `alerts` says
    what is wrong in its process. `clock_behind_s` is how far this machine's clock is behind the
    venue's, None before that is known.
    """

    at: datetime
    exchange: str
    state: FeedState
    host: str | None
    reason: str
    delay_s: float
    reconnects: int
    queue_depth: int
    queue_limit: int
    queue_waited_s: float
    dead_letters: int
    symbols: tuple[SymbolStatus, ...]
    hosts: tuple[HostStatus, ...]
    alerts: tuple[str, ...] = ()
    clock_behind_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; times and prices become text where JSON is written."""
        return asdict(self)


@dataclass
class _Symbol:
    """What is counted of one symbol."""

    counts: Counter[str] = field(default_factory=Counter)
    arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=5000))
    tape: pa.Table | None = None
    gaps: set[str] = field(default_factory=set)
    lag_s: float | None = None
    is_stale: bool = False


class StatusBoard:
    """Listens to a feed's events and shows where it stands; threads may look at any time."""

    def __init__(
        self,
        exchange: str,
        symbols: Sequence[str],
        hosts: Sequence[str],
        *,
        alerts: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._exchange = exchange
        self._symbols = {symbol: _Symbol() for symbol in symbols}
        self._hosts = {url: HostStatus(url) for url in hosts}
        self._connected: Counter[str] = Counter()
        self._facts: dict[str, Any] = {"state": "starting", "reason": "", "delay_s": 0.0}
        self._queue = QueueMeasured(exchange, depth=0, limit=0, waited_s=0.0)
        self._reconnects = 0
        self._dead_letters = 0
        self._behind_s: float | None = None
        self._alerts = alerts
        self._lock = threading.Lock()

    def on_event(self, event: Event) -> None:
        """Take note of an event; one that says nothing of the feed is ignored."""
        with self._lock:
            match event:
                case FeedStopped(reason=reason):
                    self._end("stopped", reason)
                case FeedFailed(reason=reason):
                    self._end("failed", reason)
                case QueueMeasured():
                    self._queue = event
                case FramesRefused(count=count):
                    self._dead_letters += count
                case ClockMeasured(behind_s=behind_s):
                    self._behind_s = behind_s
                case BreakerChanged(host=host, state=state):
                    self._host(host, breaker=state)
                case HostBanned(host=host, reason=reason):
                    self._host(host, banned=reason)
                case FeedEvent():
                    self._on_connection(event)
                    self._on_symbol(event)

    def show(self, symbol: str, trades: pa.Table) -> None:
        """Put the newest of a symbol's trades on its tape; rows of `records.TRADE`."""
        rows = trades.select(TAPE)
        one = self._symbols[symbol]
        with self._lock:
            tape = rows if one.tape is None else pa.concat_tables([one.tape, rows])
            one.tape = tape.slice(max(0, tape.num_rows - TAPE_ROWS))

    def look(self) -> FeedStatus:
        """Return where the feed stands now."""
        alerts = tuple(self._alerts())
        with self._lock:
            return FeedStatus(
                at=datetime.now(UTC),
                exchange=self._exchange,
                host=next(iter(+self._connected), None),
                reconnects=self._reconnects,
                queue_depth=self._queue.depth,
                queue_limit=self._queue.limit,
                queue_waited_s=self._queue.waited_s,
                dead_letters=self._dead_letters,
                symbols=tuple(_symbol_status(name, one) for name, one in self._symbols.items()),
                hosts=tuple(self._hosts.values()),
                alerts=alerts,
                clock_behind_s=self._behind_s,
                **self._facts,
            )

    def _state(self, state: FeedState, reason: str = "", delay_s: float = 0.0) -> None:
        self._facts = {"state": state, "reason": reason, "delay_s": delay_s}

    def _host(self, url: str, **changes: Any) -> None:
        if url in self._hosts:
            self._hosts[url] = HostStatus(**{**vars(self._hosts[url]), **changes})

    def _connect(self, url: str, change: int) -> None:
        self._connected[url] += change
        self._host(url, connected=self._connected[url] > 0)

    def _on_connection(self, event: Event) -> None:
        match event:
            case ConnectionOpening() if not +self._connected:
                self._state("connecting")
            case ConnectionOpened(host=host):
                self._connect(host, 1)
                self._state("live")
            case ConnectionLost(host=host, reason=reason):
                self._connect(host, -1)
                self._reconnects += 1
                if not +self._connected:
                    self._state("connecting", reason)
            case ConnectionRotated(old=old):
                self._connect(old, -1)
                self._reconnects += 1
            case ReconnectWaiting(delay_s=delay_s, reason=reason) if not +self._connected:
                self._state("waiting", reason, delay_s)

    def _end(self, state: FeedState, reason: str) -> None:
        self._connected.clear()
        for url in self._hosts:
            self._host(url, connected=False)
        self._state(state, reason)

    def _on_symbol(self, event: Event) -> None:
        match event:
            case FramesReceived(symbol=symbol, kind=kind, count=count):
                self._symbols[symbol].counts[f"{kind}s"] += count
                if kind == "trade":
                    self._symbols[symbol].arrivals.append((time.monotonic(), count))
            case FramesRepeated(symbol=symbol, count=count):
                self._symbols[symbol].counts["repeated"] += count
            case TradesBackfilled(symbol=symbol, count=count):
                self._symbols[symbol].counts["backfilled"] += count
            case FeedLagMeasured(symbol=symbol, lag_s=lag_s):
                self._symbols[symbol].lag_s = lag_s
            case StreamStale(symbol=symbol) | StreamResumed(symbol=symbol):
                self._symbols[symbol].is_stale = isinstance(event, StreamStale)
            case GapNoticed(symbol=symbol, gap_id=gap_id):
                self._symbols[symbol].gaps.add(gap_id)
            case GapClosed(symbol=symbol, gap_id=gap_id) if gap_id in self._symbols[symbol].gaps:
                # A gap may close again, with more of its trades.
                self._symbols[symbol].gaps.remove(gap_id)
                self._symbols[symbol].counts["gaps_closed"] += 1


def _symbol_status(symbol: str, one: _Symbol) -> SymbolStatus:
    since = time.monotonic() - RATE_S
    recent = sum(count for when, count in one.arrivals if when >= since)
    tape = () if one.tape is None else tuple(TapeRow(**row) for row in one.tape.to_pylist())
    newest = tape[-1] if tape else None
    return SymbolStatus(
        symbol,
        trades_per_s=recent / RATE_S,
        lag_s=one.lag_s,
        last_price=newest.price if newest else None,
        last_side=newest.side if newest else None,
        last_time=newest.timestamp if newest else None,
        is_stale=one.is_stale,
        gaps_open=len(one.gaps),
        tape=tape,
        **one.counts,
    )
