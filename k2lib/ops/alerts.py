"""Alerts: problems found in events; each fires once and is resolved once."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from k2lib.events import (
    BatchDone,
    BreakerChanged,
    ClockMeasured,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRotated,
    DeadLettersSent,
    Event,
    FeedEvent,
    FeedFailed,
    FeedLagMeasured,
    FeedPaused,
    FeedResumed,
    FeedStarted,
    FeedStopped,
    FramesRefused,
    GapClosed,
    GapEvent,
    GapFillFailed,
    GapNoticed,
    HostBanned,
    SinkEvent,
    SinkPaused,
    SinkResumed,
    SinkStopped,
    StateLost,
    StateRestored,
    StreamResumed,
    StreamStale,
)
from k2lib.lifecycle import Closing
from k2lib.ops.firing_alerts import Alert, FiringAlerts

STREAM_STALE: Final = "stream_stale"
BREAKER_OPEN: Final = "breaker_open"
HOST_BANNED: Final = "host_banned"
GAP_NOT_FILLED: Final = "gap_not_filled"
GAP_UNFILLABLE: Final = "gap_unfillable"
FEED_LAG: Final = "feed_lag"
CLOCK_BEHIND: Final = "clock_behind"
FEED_DOWN: Final = "feed_down"
DEAD_LETTERS: Final = "dead_letters"
SINK_PAUSED: Final = "sink_paused"
FEED_PAUSED: Final = "feed_paused"
REDIS_GONE: Final = "redis_gone"
ALERT_NAMES: Final = (
    STREAM_STALE,
    BREAKER_OPEN,
    HOST_BANNED,
    GAP_NOT_FILLED,
    GAP_UNFILLABLE,
    FEED_LAG,
    CLOCK_BEHIND,
    FEED_DOWN,
    DEAD_LETTERS,
    SINK_PAUSED,
    FEED_PAUSED,
    REDIS_GONE,
)
ENDS_WITH_THE_FEED: Final = (
    STREAM_STALE,
    BREAKER_OPEN,
    HOST_BANNED,
    FEED_LAG,
    CLOCK_BEHIND,
    FEED_PAUSED,
)
LATE: Final = "Look at the connection, the queue, Kafka, this machine's load and its clock"
UNCONNECTED: Final = (
    "No host is connected: look at this machine's network, and at each host's alert"
)
UNFILLED: Final = {
    "covered": "the host gives them only merged, and they are recorded so; "
    "they are filled once a host gives single trades, or load the day from the archive",
    "lost": "no host gives them any more; load the day from the archive",
}


@dataclass(frozen=True)
class AlertLimits:
    """Thresholds of alerts.

    Args:
        lag_s, lag_for_s: a symbol behind the venue by more than `lag_s`, for `lag_for_s`; or this
            machine's clock.
        gap_open_s: a gap noticed and not closed for so long.
        quiet_s: an alert of a single occurrence is resolved after so long without another.
    """

    lag_s: float = 5.0
    lag_for_s: float = 5.0
    gap_open_s: float = 10.0
    quiet_s: float = 60.0


class Alerts:
    """A listener that keeps firing alerts and notifies of each change once; thread-safe.

    Call `check()` about every second. `notify` functions must return at once.
    """

    def __init__(
        self,
        *,
        notify: Sequence[Callable[[Alert], None]],
        limits: AlertLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._alerts = FiringAlerts(notify, clock=clock)
        self._limits = limits or AlertLimits()
        self._lock = threading.RLock()
        self._stale: set[tuple[str, str]] = set()
        self._banned: set[str] = set()
        self._rested: set[str] = set()
        self._connected: Counter[str] = Counter()
        self._letters: dict[str, Counter[str]] = {}

    @property
    def firing(self) -> tuple[Alert, ...]:
        """The alerts that fire now, the oldest first."""
        with self._lock:
            return tuple(self._alerts.firing.values())

    def on_event(self, event: Event) -> None:
        """Take the event into account; one that says nothing of an alert is ignored."""
        with self._lock:
            match event:
                case SinkEvent():
                    self._on_sink(event)
                case GapEvent():
                    self._on_gap(event)
                case FeedStarted() | FeedStopped() | FeedFailed() | FeedPaused() | FeedResumed():
                    self._on_feed(event)
                case FeedEvent():
                    self._on_data(event)
                    self._on_host(event)
                case StateLost(reason):
                    text = f"Redis is gone: {reason}. The feed goes on in memory; see K2_REDIS_URL"
                    self._alerts.fire((REDIS_GONE, ""), text)
                case StateRestored():
                    self._alerts.resolve((REDIS_GONE, ""), "Redis answers again")
            self._alerts.check()

    def check(self) -> None:
        """Fire and resolve what is due by now."""
        with self._lock:
            self._alerts.check()

    def _on_data(self, event: Event) -> None:
        match event:
            case StreamStale():
                self._stream_stale(event)
            case StreamResumed(symbol=symbol, kind=kind):
                self._stale.discard((symbol, kind))
                if symbol not in {stale for stale, _ in self._stale}:
                    self._alerts.resolve((STREAM_STALE, symbol), f"{symbol} arrives again")
            case FeedLagMeasured():
                self._lag_measured(event)
            case ClockMeasured():
                self._clock_measured(event)
            case FramesRefused(reason=reason, count=count):
                self._add_dead_letters("feed", count, reason)

    def _stream_stale(self, event: StreamStale) -> None:
        symbol = event.symbol
        self._stale.add((symbol, event.kind))
        self._alerts.fire(
            (STREAM_STALE, symbol),
            f"{symbol}: no {event.kind} for {event.silent_s:.0f} s on an open connection. The feed "
            "connects again by itself; if that does not help, ask the venue's status page",
        )

    def _lag_measured(self, event: FeedLagMeasured) -> None:
        symbol, lag_s, limits = event.symbol, event.lag_s, self._limits
        key = (FEED_LAG, symbol)
        if lag_s > limits.lag_s:
            remedy = LATE if +self._connected else UNCONNECTED
            text = (
                f"{symbol} is {lag_s:.1f} s behind the venue (limit {limits.lag_s:g} s). {remedy}"
            )
            self._alerts.fire_later(key, limits.lag_for_s, text)
        else:
            self._alerts.resolve(key, f"{symbol} is {lag_s:.1f} s behind the venue")

    def _clock_measured(self, event: ClockMeasured) -> None:
        key, limits = (CLOCK_BEHIND, event.exchange), self._limits
        if event.behind_s > limits.lag_s:
            text = (
                f"this machine's clock is {event.behind_s:.1f} s behind that of {event.exchange}. "
                "Trades are stored with the venue's time; lag, ages and ingestion times are wrong "
                "by that: set the clock"
            )
            self._alerts.fire_later(key, limits.lag_for_s, text)
        else:
            self._alerts.resolve(key, "this machine's clock is right again")

    def _on_host(self, event: Event) -> None:
        match event:
            case BreakerChanged(host=host, state=state):
                self._breaker_changed(host, state)
            case HostBanned(host=host, reason=reason):
                self._host_banned(host, reason)
            case ConnectionOpened(host=host):
                self._connection_opened(host)
            case ConnectionLost(host=host) | ConnectionRotated(old=host):
                self._connected[host] -= 1

    def _breaker_changed(self, host: str, state: str) -> None:
        if state == "open":
            self._alerts.fire(
                (BREAKER_OPEN, host),
                f"{host} failed repeatedly and rests; other hosts are tried meanwhile. "
                "If all rest, check this machine's network",
            )
            self._rested.discard(host)
        elif state == "closed":
            self._alerts.resolve((BREAKER_OPEN, host), f"{host} works again")
        else:
            self._rested.add(host)
            self._resolve_rested()

    def _host_banned(self, host: str, reason: str) -> None:
        if host not in self._banned:
            self._banned.add(host)
            self._alerts.fire(
                (HOST_BANNED, host),
                f"{host} refuses this machine and is not tried again: {reason}. "
                "The next host is used; see K2_BINANCE_WS_URLS",
            )

    def _connection_opened(self, host: str) -> None:
        self._connected[host] += 1
        self._resolve_rested()
        self._banned.discard(host)
        for key in self._alerts.keys(HOST_BANNED):
            self._alerts.resolve(key, f"{key[1]} was refused; connected to {host}")

    def _resolve_rested(self) -> None:
        """A host that rested and is not needed stays half open: that is no alarm."""
        if +self._connected:
            for host in self._rested:
                self._alerts.resolve((BREAKER_OPEN, host), f"{host} may be tried again; connected")

    def _on_gap(self, event: GapEvent) -> None:
        key, ids = (GAP_NOT_FILLED, event.gap_id), _ids(event)
        match event:
            case GapNoticed():
                limit_s = self._limits.gap_open_s
                text = f"{ids} are missing for {limit_s:g} s: see whether REST is reached"
                self._alerts.fire_later(key, limit_s, text)
            case GapFillFailed(reason=reason):
                self._alerts.fire(key, f"{ids} are missing and could not be filled: {reason}")
            case GapClosed():
                self._gap_closed(event, ids)

    def _gap_closed(self, gap: GapClosed, ids: str) -> None:
        counts = f"{gap.filled} filled, {gap.covered} covered, {gap.absent} absent"
        self._alerts.resolve((GAP_NOT_FILLED, gap.gap_id), f"{ids}: {gap.state} ({counts})")
        key = (GAP_UNFILLABLE, gap.gap_id)
        if gap.state in ("filled", "none_at_venue"):
            self._alerts.resolve(key, f"{ids}: nothing is missing after all")
        else:
            refused = f"they came and were refused ({gap.refused}): read the table dead_letters"
            remedy = refused if gap.refused else UNFILLED[gap.state]
            self._alerts.fire(key, f"{ids}: {gap.state} ({counts}): {remedy}")
            text = f"{ids}: recorded as {gap.state} in the table gaps"
            self._alerts.resolve_later(key, self._limits.quiet_s, text)

    def _add_dead_letters(self, source: str, count: int, reason: str) -> None:
        key = (DEAD_LETTERS, source)
        if key not in self._alerts.firing:
            self._letters[source] = Counter()
        self._letters[source][reason] += count
        records = _records(self._letters[source])
        self._alerts.fire(key, f"{records}: set aside, read them in the table dead_letters")
        quiet = f"no more for {self._limits.quiet_s:g} s: {records} since it fired"
        self._alerts.resolve_later(key, self._limits.quiet_s, quiet)

    def _on_sink(self, event: SinkEvent) -> None:
        table = event.table
        match event:
            case SinkPaused(reason=reason):
                text = (
                    f"{table} is not written: {reason}. Kafka keeps what arrives and the sink "
                    "tries again by itself; see whether the catalog and Kafka are reached"
                )
                self._alerts.fire((SINK_PAUSED, table), text)
            case SinkStopped(reason=reason):
                text = (
                    f"{table} is not written: {reason}. Kafka keeps what arrives; once that is "
                    "done, start its sink again"
                )
                self._alerts.fire((SINK_PAUSED, table), text)
            case BatchDone() | SinkResumed():
                self._alerts.resolve((SINK_PAUSED, table), f"{table} is written again")
            case DeadLettersSent(count=count):
                self._add_dead_letters(table, count, f"that {table} cannot take")

    def _on_feed(self, event: Event) -> None:
        match event:
            case FeedPaused(reason=reason):
                self._alerts.fire(
                    (FEED_PAUSED, ""),
                    f"Kafka does not take what arrives: {reason}. The feed tries again by itself "
                    "and then fills what is missing; see whether Kafka is reached",
                )
            case FeedResumed():
                self._alerts.resolve((FEED_PAUSED, ""), "Kafka takes what arrives again")
            case FeedStarted():
                self._alerts.resolve((FEED_DOWN, ""), "the feed runs again")
            case FeedStopped(reason=reason):
                self._feed_ended(reason)
            case FeedFailed(reason=reason):
                text = f"the feed has ended: {reason}. Start it again once that is mended"
                self._alerts.fire((FEED_DOWN, ""), text)
                self._feed_ended(reason)

    def _feed_ended(self, reason: str) -> None:
        self._stale.clear()
        self._banned.clear()
        self._rested.clear()
        self._connected.clear()
        for key in self._alerts.keys(*ENDS_WITH_THE_FEED):
            self._alerts.resolve(key, f"the feed has ended: {reason}")


def _records(letters: Counter[str]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(letters.items()))
    return f"{letters.total()} records refused ({counts})"


def _ids(gap: GapEvent) -> str:
    return f"{gap.exchange} {gap.symbol} trades {gap.from_id} to {gap.to_id}"


class AlertsThread(Closing):
    """Checks alerts once a second, from a thread of its own."""

    def __init__(self, alerts: Alerts, *, interval_s: float = 1.0) -> None:
        self._alerts = alerts
        self._interval_s = interval_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Check no more; a second time does nothing."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._interval_s):
            self._alerts.check()
