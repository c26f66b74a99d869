"""The book of alerts: what fires, what will, and that each change is told exactly once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

# What Alertmanager writes where an alert has not ended.
NOT_ENDED: Final = "0001-01-01T00:00:00Z"

# An alert's name and subject.
Key = tuple[str, str]


@dataclass(frozen=True)
class Alert:
    """Something wrong, or the same thing right again.

    `subject` is the symbol, host, table or gap id, empty if there is none. `since` is when it
    fired, `ended` when it was resolved.
    """

    name: str
    subject: str
    firing: bool
    since: datetime
    summary: str
    ended: datetime | None = None

    def as_json(self) -> dict[str, Any]:
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


class AlertBook:
    """Keeps what fires; to be used by one thread at a time."""

    def __init__(
        self, notify: Sequence[Callable[[Alert], None]], *, clock: Callable[[], float]
    ) -> None:
        self._notify = tuple(notify)
        self._clock = clock
        self._firing: dict[Key, Alert] = {}
        self._to_fire: dict[Key, tuple[float, str]] = {}
        self._to_resolve: dict[Key, tuple[float, str]] = {}

    @property
    def firing(self) -> Mapping[Key, Alert]:
        """What fires now, the oldest first."""
        return self._firing

    def keys(self, *names: str) -> list[Key]:
        """Return which alerts of these names fire or are about to."""
        return [key for key in {**self._firing, **self._to_fire} if key[0] in names]

    def fire(self, key: Key, summary: str) -> None:
        """Fire now, unless it fires already."""
        self._to_fire.pop(key, None)
        if key not in self._firing:
            alert = Alert(*key, firing=True, since=self._now(), summary=summary)
            self._firing[key] = alert
            self._tell(alert)

    def fire_later(self, key: Key, after_s: float, summary: str) -> None:
        """Fire unless resolved in time; said again, only the summary is newer."""
        if key not in self._firing:
            due, _ = self._to_fire.get(key, (self._clock() + after_s, ""))
            self._to_fire[key] = (due, summary)

    def resolve(self, key: Key, summary: str) -> None:
        """Resolve now, and forget what was to come; nothing is told if it did not fire."""
        self._to_fire.pop(key, None)
        self._to_resolve.pop(key, None)
        alert = self._firing.pop(key, None)
        if alert is not None:
            self._tell(replace(alert, firing=False, summary=summary, ended=self._now()))

    def resolve_later(self, key: Key, after_s: float, summary: str) -> None:
        """Resolve after a while; said again, the while begins again."""
        self._to_resolve[key] = (self._clock() + after_s, summary)

    def check(self) -> None:
        """Do what is due by now."""
        now = self._clock()
        for key, (due, summary) in list(self._to_fire.items()):
            if now >= due:
                self.fire(key, summary)
        for key, (due, summary) in list(self._to_resolve.items()):
            if now >= due:
                self.resolve(key, summary)

    def _tell(self, alert: Alert) -> None:
        for notify in self._notify:
            notify(alert)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
