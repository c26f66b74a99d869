"""Alerts that fire: one problem or its end, and the record of those that fire now or later."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

# What Alertmanager writes where an alert has not ended.
NOT_ENDED: Final = "0001-01-01T00:00:00Z"

# An alert's name and subject.
AlertKey = tuple[str, str]


@dataclass(frozen=True)
class Alert:
    """A problem, or its end.

    `subject` is the symbol, host, table or gap id, empty if there is none. `since` is when it
    fired, `ended` when it was resolved.
    """

    name: str
    subject: str
    firing: bool
    since: datetime
    summary: str
    ended: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the alert as one of Alertmanager's `alerts`."""
        key = f"{self.name}|{self.subject}"
        return {
            "status": "firing" if self.firing else "resolved",
            "labels": {"alertname": self.name, "subject": self.subject},
            "annotations": {"summary": self.summary},
            "startsAt": self.since.isoformat(),
            "endsAt": NOT_ENDED if self.ended is None else self.ended.isoformat(),
            "fingerprint": hashlib.sha256(key.encode()).hexdigest()[:16],
        }


class FiringAlerts:
    """The alerts that fire now or later; not thread-safe."""

    def __init__(
        self, notify: Sequence[Callable[[Alert], None]], *, clock: Callable[[], float]
    ) -> None:
        self._notify = tuple(notify)
        self._clock = clock
        self._firing: dict[AlertKey, Alert] = {}
        self._to_fire: dict[AlertKey, tuple[float, str]] = {}
        self._to_resolve: dict[AlertKey, tuple[float, str]] = {}

    @property
    def firing(self) -> Mapping[AlertKey, Alert]:
        """The alerts that fire now, the oldest first."""
        return self._firing

    def keys(self, *names: str) -> list[AlertKey]:
        """Return the keys of alerts of these names that fire or are about to."""
        return [key for key in {**self._firing, **self._to_fire} if key[0] in names]

    def fire(self, key: AlertKey, summary: str) -> None:
        """Fire now; of one that fires already only the summary changes, and nobody is notified."""
        self._to_fire.pop(key, None)
        if key in self._firing:
            self._firing[key] = replace(self._firing[key], summary=summary)
        else:
            alert = Alert(*key, firing=True, since=self._now(), summary=summary)
            self._firing[key] = alert
            self._send(alert)

    def fire_later(self, key: AlertKey, after_s: float, summary: str) -> None:
        """Fire unless resolved in time; a second call changes only the summary."""
        if key in self._firing:
            self.fire(key, summary)
        else:
            due, _ = self._to_fire.get(key, (self._clock() + after_s, ""))
            self._to_fire[key] = (due, summary)

    def resolve(self, key: AlertKey, summary: str) -> None:
        """Resolve now, and cancel what is due later; without a firing alert nobody is notified."""
        self._to_fire.pop(key, None)
        self._to_resolve.pop(key, None)
        alert = self._firing.pop(key, None)
        if alert is not None:
            self._send(replace(alert, firing=False, summary=summary, ended=self._now()))

    def resolve_later(self, key: AlertKey, after_s: float, summary: str) -> None:
        """Resolve after a while; a second call begins the while again."""
        self._to_resolve[key] = (self._clock() + after_s, summary)

    def check(self) -> None:
        """Fire and resolve what is due by now."""
        now = self._clock()
        for key, (due, summary) in list(self._to_fire.items()):
            if now >= due:
                self.fire(key, summary)
        for key, (due, summary) in list(self._to_resolve.items()):
            if now >= due:
                self.resolve(key, summary)

    def _send(self, alert: Alert) -> None:
        for notify in self._notify:
            notify(alert)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def log_alert(alert: Alert) -> None:
    """Write the alert to the log `k2lib.alerts`: a warning if it fires, else information."""
    level, state = (logging.WARNING, "firing") if alert.firing else (logging.INFO, "resolved")
    name = f"{alert.name} {alert.subject}".strip()
    logging.getLogger("k2lib.alerts").log(level, "%s %s: %s", name, state, alert.summary)
