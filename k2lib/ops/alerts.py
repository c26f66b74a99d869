"""Alerts: what is wrong now, made from what is told; each fires once and is resolved once."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from k2lib.events import Event
from k2lib.lifecycle import Closing
from k2lib.ops.alert_book import Alert, AlertBook

__all__ = ["ALERT_NAMES", "Alert", "Alerts", "AlertsThread", "Limits", "log_alert"]

STREAM_STALE: Final = "stream_stale"
BREAKER_OPEN: Final = "breaker_open"
HOST_BANNED: Final = "host_banned"
GAP_NOT_FILLED: Final = "gap_not_filled"
GAP_UNFILLABLE: Final = "gap_unfillable"
FEED_LAG: Final = "feed_lag"
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
    FEED_DOWN,
    DEAD_LETTERS,
    SINK_PAUSED,
    FEED_PAUSED,
    REDIS_GONE,
)
ENDS_WITH_THE_FEED: Final = (STREAM_STALE, BREAKER_OPEN, HOST_BANNED, FEED_LAG, FEED_PAUSED)
UNFILLED: Final = {
    "covered": "the host gives them only merged, and they are recorded so; "
    "they are filled once a host gives single trades, or load the day from the archive",
    "lost": "no host gives them any more; load the day from the archive",
}

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """From when on something is an alert.

    Args:
        lag_s, lag_for_s: a symbol behind the venue by more than `lag_s`, for `lag_for_s`.
        gap_open_s: a gap noticed and not closed for so long.
        quiet_s: what happens rather than lasts is resolved after so long without another.
    """

    lag_s: float = 5.0
    lag_for_s: float = 5.0
    gap_open_s: float = 10.0
    quiet_s: float = 60.0


class Alerts:
    """A listener that keeps what is wrong and tells each change once; any thread may tell it.

    `check()` wants to be called about every second. Whoever is notified must return at once.
    """

    def __init__(
        self,
        *,
        notify: Sequence[Callable[[Alert], None]],
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book = AlertBook(notify, clock=clock)
        self._limits = limits or Limits()
        self._lock = threading.RLock()
        self._stale: set[tuple[str, str]] = set()
        self._banned: set[str] = set()
        self._rested: set[str] = set()
        self._connected: Counter[str] = Counter()
        self._letters: dict[str, int] = {}

    @property
    def firing(self) -> tuple[Alert, ...]:
        """What is wrong now, the oldest first."""
        with self._lock:
            return tuple(self._book.firing.values())

    def heard(self, event: Event) -> None:
        """Take the event into account; one that is not known is ignored."""
        rule = _RULES.get(event.name)
        if rule is not None:
            with self._lock:
                rule(self, event.fields)
                self._book.check()

    def check(self) -> None:
        """Fire and resolve what has lasted long enough by now."""
        with self._lock:
            self._book.check()

    def _stream_stale(self, of: Fields) -> None:
        symbol, kind = of["symbol"], of["type"]
        self._stale.add((symbol, kind))
        self._book.fire(
            (STREAM_STALE, symbol),
            f"{symbol}: no {kind} for {of['silent_s']:.0f} s on an open connection. The feed "
            "connects again by itself; if that does not help, ask the venue's status page",
        )

    def _stream_resumed(self, of: Fields) -> None:
        symbol = of["symbol"]
        self._stale.discard((symbol, of["type"]))
        if symbol not in {stale for stale, _ in self._stale}:
            self._book.resolve((STREAM_STALE, symbol), f"{symbol} arrives again")

    def _breaker_changed(self, of: Fields) -> None:
        host, state = of["host"], of["state"]
        if state == "open":
            self._book.fire(
                (BREAKER_OPEN, host),
                f"{host} failed repeatedly and rests; other hosts are tried meanwhile. "
                "If all rest, check this machine's network",
            )
            self._rested.discard(host)
        elif state == "closed":
            self._book.resolve((BREAKER_OPEN, host), f"{host} works again")
        else:
            self._rested.add(host)
            self._resolve_rested()

    def _host_banned(self, of: Fields) -> None:
        host = of["host"]
        if host not in self._banned:
            self._banned.add(host)
            self._book.fire(
                (HOST_BANNED, host),
                f"{host} refuses this machine and is not tried again: {of['reason']}. "
                "The next host is used; see K2_BINANCE_WS_URLS",
            )

    def _connection_opened(self, of: Fields) -> None:
        host = of["host"]
        self._connected[host] += 1
        self._resolve_rested()
        self._banned.discard(host)
        for key in self._book.keys(HOST_BANNED):
            self._book.resolve(key, f"{key[1]} was refused; connected to {host}")

    def _connection_lost(self, of: Fields) -> None:
        self._connected[of["host"]] -= 1

    def _connection_rotated(self, of: Fields) -> None:
        self._connected[of["old"]] -= 1

    def _resolve_rested(self) -> None:
        """A host that rested and is not needed stays half open: that is no alarm."""
        if +self._connected:
            for host in self._rested:
                self._book.resolve((BREAKER_OPEN, host), f"{host} may be tried again; connected")

    def _gap_noticed(self, of: Fields) -> None:
        limit_s = self._limits.gap_open_s
        text = f"{_ids(of)} are missing for {limit_s:g} s: see whether REST is reached"
        self._book.fire_later((GAP_NOT_FILLED, of["gap_id"]), limit_s, text)

    def _gap_fill_failed(self, of: Fields) -> None:
        text = f"{_ids(of)} are missing and could not be filled: {of['reason']}"
        self._book.fire((GAP_NOT_FILLED, of["gap_id"]), text)

    def _gap_closed(self, of: Fields) -> None:
        gap_id, state, ids = of["gap_id"], of["state"], _ids(of)
        counts = f"{of['filled']} filled, {of['covered']} covered, {of['absent']} absent"
        self._book.resolve((GAP_NOT_FILLED, gap_id), f"{ids}: {state} ({counts})")
        key = (GAP_UNFILLABLE, gap_id)
        if state in ("filled", "none_at_venue"):
            self._book.resolve(key, f"{ids}: nothing is missing after all")
        else:
            self._book.fire(key, f"{ids}: {state} ({counts}): {UNFILLED[state]}")
            self._book.resolve_later(
                key, self._limits.quiet_s, f"{ids}: recorded as {state} in the table gaps"
            )

    def _feed_lag_measured(self, of: Fields) -> None:
        symbol, lag_s, limits = of["symbol"], of["lag_s"], self._limits
        key = (FEED_LAG, symbol)
        if lag_s > limits.lag_s:
            text = (
                f"{symbol} is {lag_s:.1f} s behind the venue (limit {limits.lag_s:g} s). "
                "Look at the queue, Kafka, this machine's load and its clock"
            )
            self._book.fire_later(key, limits.lag_for_s, text)
        else:
            self._book.resolve(key, f"{symbol} is {lag_s:.1f} s behind the venue")

    def _frames_refused(self, of: Fields) -> None:
        self._letters_came("feed", of["count"], f"malformed frames, {of['reason']}")

    def _dead_letters_sent(self, of: Fields) -> None:
        self._letters_came(of["table"], of["count"], f"records that {of['table']} cannot take")

    def _letters_came(self, source: str, count: int, what: str) -> None:
        key = (DEAD_LETTERS, source)
        before = self._letters.get(source, 0) if key in self._book.firing else 0
        self._letters[source] = before + count
        self._book.fire(key, f"{count} {what}: set aside, read them in the table dead_letters")
        quiet = f"no more since {self._limits.quiet_s:g} s; {before + count} {what} in all"
        self._book.resolve_later(key, self._limits.quiet_s, quiet)

    def _sink_paused(self, of: Fields) -> None:
        text = (
            f"{of['table']} is not written: {of['reason']}. Kafka keeps what arrives and the sink "
            "tries again by itself; see whether the catalog and Kafka are reached"
        )
        self._book.fire((SINK_PAUSED, of["table"]), text)

    def _batch_done(self, of: Fields) -> None:
        self._book.resolve((SINK_PAUSED, of["table"]), f"{of['table']} is written again")

    def _feed_paused(self, of: Fields) -> None:
        self._book.fire(
            (FEED_PAUSED, ""),
            f"Kafka does not take what arrives: {of['reason']}. The feed tries again by itself and "
            "then fills what is missing; see whether Kafka is reached",
        )

    def _feed_resumed(self, _: Fields) -> None:
        self._book.resolve((FEED_PAUSED, ""), "Kafka takes what arrives again")

    def _state_lost(self, of: Fields) -> None:
        text = f"Redis is gone: {of['reason']}. The feed goes on in memory; see K2_REDIS_URL"
        self._book.fire((REDIS_GONE, ""), text)

    def _state_restored(self, _: Fields) -> None:
        self._book.resolve((REDIS_GONE, ""), "Redis answers again")

    def _feed_started(self, _: Fields) -> None:
        self._book.resolve((FEED_DOWN, ""), "the feed runs again")

    def _feed_stopped(self, of: Fields) -> None:
        self._stale.clear()
        self._banned.clear()
        self._rested.clear()
        self._connected.clear()
        for key in self._book.keys(*ENDS_WITH_THE_FEED):
            self._book.resolve(key, f"the feed has ended: {of['reason']}")

    def _feed_failed(self, of: Fields) -> None:
        text = f"the feed has ended: {of['reason']}. Start it again once that is mended"
        self._book.fire((FEED_DOWN, ""), text)
        self._feed_stopped(of)


def _ids(of: Fields) -> str:
    return f"{of['exchange']} {of['symbol']} trades {of['from_id']} to {of['to_id']}"


_RULES: Final[Mapping[str, Callable[[Alerts, Fields], None]]] = {
    "stream_stale": Alerts._stream_stale,
    "stream_resumed": Alerts._stream_resumed,
    "breaker_changed": Alerts._breaker_changed,
    "host_banned": Alerts._host_banned,
    "connection_opened": Alerts._connection_opened,
    "connection_lost": Alerts._connection_lost,
    "connection_rotated": Alerts._connection_rotated,
    "gap_noticed": Alerts._gap_noticed,
    "gap_fill_failed": Alerts._gap_fill_failed,
    "gap_closed": Alerts._gap_closed,
    "feed_lag_measured": Alerts._feed_lag_measured,
    "frames_refused": Alerts._frames_refused,
    "dead_letters_sent": Alerts._dead_letters_sent,
    "sink_paused": Alerts._sink_paused,
    "batch_done": Alerts._batch_done,
    "sink_resumed": Alerts._batch_done,
    "feed_paused": Alerts._feed_paused,
    "feed_resumed": Alerts._feed_resumed,
    "state_lost": Alerts._state_lost,
    "state_restored": Alerts._state_restored,
    "feed_started": Alerts._feed_started,
    "feed_stopped": Alerts._feed_stopped,
    "feed_failed": Alerts._feed_failed,
}


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


def log_alert(alert: Alert) -> None:
    """Write the alert to the log `k2lib.alerts`: a warning if it fires, else information."""
    level, said = (logging.WARNING, "firing") if alert.firing else (logging.INFO, "resolved")
    name = f"{alert.name} {alert.subject}".strip()
    logging.getLogger("k2lib.alerts").log(level, "%s %s: %s", name, said, alert.summary)
