"""What happened while a notebook ran, kept to be drawn: events in order, and the alerts on them."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from k2lib.events import Event
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import Alert, Alerts, AlertsThread, Limits

MOST_EVENTS: Final = 20_000
# Told many times a second, and counted elsewhere.
NOT_KEPT: Final = frozenset(
    {
        "batch_read",
        "feed_lag_measured",
        "files_written",
        "frames_received",
        "queue_measured",
    }
)


@dataclass(frozen=True)
class Heard:
    """An event, and how many seconds after the log began it came."""

    at_s: float
    event: Event


class EventLog(Closing):
    """A listener that remembers; any thread may tell it.

    Args:
        limits: of its own alerts, which follow the same rules as those of `K2.watch`.
        most: how many events are kept, the newest.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        most: int = MOST_EVENTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: deque[Heard] = deque(maxlen=most)
        self._told: deque[Alert] = deque(maxlen=most)
        self.began = clock()
        self.alerts = Alerts(notify=[self._told.append], limits=limits, clock=clock)
        self._thread = AlertsThread(self.alerts, interval_s=0.25)

    def heard(self, event: Event) -> None:
        """Keep an event, and see whether an alert fires or is resolved by it."""
        self.alerts.heard(event)
        if event.name not in NOT_KEPT:
            with self._lock:
                self._heard.append(Heard(self.now_s(), event))

    def now_s(self) -> float:
        """Return how many seconds ago the log began."""
        return self._clock() - self.began

    def events(self, *names: str) -> list[Heard]:
        """Return the events of these names in the order they came; of all names without any."""
        with self._lock:
            return [one for one in self._heard if not names or one.event.name in names]

    def frame(self, name: str) -> pl.DataFrame:
        """Return the events of one name: `at_s` and their fields, a row each, in order."""
        rows: list[dict[str, Any]] = [
            {"at_s": round(one.at_s, 3), **one.event.fields} for one in self.events(name)
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    def alert_rows(self) -> pl.DataFrame:
        """Return a row for each alert that fired, in order.

        Returns:
            alert, subject, fired_s and resolved_s (null while it fires) since the log began, and
            what was said at either moment.
        """
        ends = {(one.name, one.subject, one.since): one for one in self._told if not one.firing}
        rows = [_alert_row(one, ends, self.began) for one in list(self._told) if one.firing]
        return pl.DataFrame(rows, schema=ALERT_ROW, orient="row")

    def close(self) -> None:
        """Check the alerts no more."""
        self._thread.close()


ALERT_ROW: Final = {
    "alert": pl.String,
    "subject": pl.String,
    "fired_s": pl.Float64,
    "resolved_s": pl.Float64,
    "fired": pl.String,
    "resolved": pl.String,
}


def _alert_row(
    fired: Alert, ends: dict[tuple[str, str, Any], Alert], began: float
) -> tuple[str, str, float, float | None, str, str | None]:
    end = ends.get((fired.name, fired.subject, fired.since))
    fired_s = round(fired.since.timestamp() - began, 1)
    if end is None or end.ended is None:
        return fired.name, fired.subject, fired_s, None, fired.summary, None
    resolved_s = round(end.ended.timestamp() - began, 1)
    return fired.name, fired.subject, fired_s, resolved_s, fired.summary, end.summary
