"""Faults of an offline exchange, by button or by script, and the log of what followed."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import ipywidgets
import polars as pl

from k2lib.errors import K2Error
from k2lib.events import (
    BatchRead,
    Event,
    FaultCaused,
    FeedLagMeasured,
    FilesWritten,
    FramesReceived,
    OnEvent,
    QueueMeasured,
)
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import AlertLimits, Alerts, AlertsThread
from k2lib.ops.firing_alerts import Alert
from k2lib.simulator import FaultScript, OfflineExchange

# Label of a button, the fault, its options, and the tooltip.
BUTTONS: Final[tuple[tuple[str, str, Mapping[str, Any], str], ...]] = (
    ("cut", "cut", {}, "reset every connection"),
    ("stall", "stall", {"s": 6.0}, "connections stay open and send nothing, 6 s"),
    ("refuse", "refused", {"s": 3.0, "cut": True}, "every host ends and refuses, 3 s"),
    ("shutdown", "shutdown", {"s": 2.0}, "serverShutdown, then the end 2 s later"),
    ("skip ids", "skip", {"n": 25}, "25 trades of each symbol are not sent"),
    ("void ids", "void", {"n": 10}, "10 ids of each symbol are never made"),
    ("garbage", "garbage", {"n": 7}, "7 malformed frames"),
    ("duplicate", "duplicate", {"n": 50}, "50 trades of each symbol are sent twice"),
    ("reorder", "reorder", {"n": 20}, "20 trades of each symbol are sent in another order"),
    ("REST down", "rest_missing", {"s": 5.0}, "REST answers 503, 5 s"),
    ("heal", "heal", {}, "end every fault"),
)
MOST_EVENTS: Final = 20_000
# Emitted many times a second, and counted elsewhere.
NOT_LOGGED: Final = (BatchRead, FeedLagMeasured, FilesWritten, FramesReceived, QueueMeasured)
AnEvent = TypeVar("AnEvent", bound=Event)
ALERT_ROW: Final = {
    "alert": pl.String,
    "subject": pl.String,
    "fired_s": pl.Float64,
    "resolved_s": pl.Float64,
    "fired": pl.String,
    "resolved": pl.String,
}


class Faults(Closing):
    """Causes faults at an exchange, each reported as an event; a script plays in a thread."""

    def __init__(self, exchange: OfflineExchange, *, on_event: OnEvent) -> None:
        self._exchange = exchange
        self._on_event = on_event
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def cause(self, name: str, **options: Any) -> None:
        """Cause one fault now.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """
        self._on_event(FaultCaused(name, dict(options)))
        self._exchange.fault(name, **options)

    def play(self, script: FaultScript) -> None:
        """Start a script (seconds, fault, options) and return; a script in progress ends."""
        self.close()
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._play, args=(script,), name="faults", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the script."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _play(self, script: FaultScript) -> None:
        before_s = 0.0
        for at_s, name, options in sorted(script, key=lambda step: step[0]):
            if self._stop.wait(at_s - before_s):
                return
            before_s = at_s
            self.cause(name, **options)


def fault_buttons(faults: Faults) -> Any:
    """Return a row of buttons, each of which causes a fault at every host."""
    text = ipywidgets.HTML()
    buttons = [_button(faults, text, *button) for button in BUTTONS]
    flow = ipywidgets.Layout(display="flex", flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(buttons, layout=flow), text])


def _button(
    faults: Faults, text: Any, label: str, fault: str, options: Mapping[str, Any], tooltip: str
) -> Any:
    def on_click(_: Any) -> None:
        try:
            faults.cause(fault, **options)
            text.value = f"{label}: {tooltip}"
        except K2Error as exc:
            text.value = str(exc)

    button = ipywidgets.Button(
        description=label,
        tooltip=tooltip,
        button_style="success" if fault == "heal" else "warning",
        layout=ipywidgets.Layout(width="auto"),
    )
    button.on_click(on_click)
    return button


@dataclass(frozen=True)
class LoggedEvent(Generic[AnEvent]):
    """An event, and its time in seconds since the log began."""

    at_s: float
    event: AnEvent


class EventLog(Closing):
    """A listener that keeps events to be drawn, and checks alerts on them; for any thread.

    Args:
        limits: of its own alerts, which follow the same rules as those of `K2.watch`.
        most: how many events are kept, the newest.
    """

    def __init__(
        self,
        *,
        limits: AlertLimits | None = None,
        most: int = MOST_EVENTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._events: deque[LoggedEvent[Event]] = deque(maxlen=most)
        self._alerts: deque[Alert] = deque(maxlen=most)
        self.began = clock()
        self.alerts = Alerts(notify=[self._alerts.append], limits=limits, clock=clock)
        self._thread = AlertsThread(self.alerts, interval_s=0.25)

    def on_event(self, event: Event) -> None:
        """Keep an event, and let it fire or resolve alerts."""
        self.alerts.on_event(event)
        if not isinstance(event, NOT_LOGGED):
            with self._lock:
                self._events.append(LoggedEvent(self.now_s(), event))

    def now_s(self) -> float:
        """Return the seconds since the log began."""
        return self._clock() - self.began

    def all_events(self) -> list[LoggedEvent[Event]]:
        """Return all events in order of arrival."""
        with self._lock:
            return list(self._events)

    def events(self, kind: type[AnEvent]) -> list[LoggedEvent[AnEvent]]:
        """Return the events of one class in order of arrival."""
        return events_of(self.all_events(), kind)

    def frame(self, kind: type[Event]) -> pl.DataFrame:
        """Return the events of one class in order, a row each: `at_s` and their fields."""
        rows: list[dict[str, Any]] = [
            {"at_s": round(entry.at_s, 3), **entry.event.to_json()} for entry in self.events(kind)
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    def alert_rows(self) -> pl.DataFrame:
        """Return a row for each alert that fired, in order.

        Returns:
            alert, subject, fired_s and resolved_s (null while it fires) since the log began, and
            the alert's summary at either moment.
        """
        alerts = list(self._alerts)
        ends = {_alert_key(alert): alert for alert in alerts if not alert.firing}
        rows = [
            _alert_row(alert, ends.get(_alert_key(alert)), self.began)
            for alert in alerts
            if alert.firing
        ]
        return pl.DataFrame(rows, schema=ALERT_ROW, orient="row")

    def close(self) -> None:
        """Stop checking alerts."""
        self._thread.close()


def events_of(
    entries: Iterable[LoggedEvent[Any]], kind: type[AnEvent]
) -> list[LoggedEvent[AnEvent]]:
    """Return the entries whose event is of a class, in order."""
    return [entry for entry in entries if isinstance(entry.event, kind)]


def _alert_key(alert: Alert) -> tuple[str, str, Any]:
    return alert.name, alert.subject, alert.since


def _alert_row(
    fired: Alert, end: Alert | None, began: float
) -> tuple[str, str, float, float | None, str, str | None]:
    fired_s = round(fired.since.timestamp() - began, 1)
    if end is None or end.ended is None:
        return fired.name, fired.subject, fired_s, None, fired.summary, None
    resolved_s = round(end.ended.timestamp() - began, 1)
    return fired.name, fired.subject, fired_s, resolved_s, fired.summary, end.summary
