"""Noticing a stream that has fallen silent, one that came back, and how far each is behind."""

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Watchdog(Generic[Key]):
    """Report once each watched key that was silent for `limit_s`, and once its return."""

    def __init__(self, limit_s: float, *, clock: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._last: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._missing: set[Key] = set()
        self._back: list[Key] = []

    def watch(self, key: Key) -> None:
        """Begin to watch; again, as after a reconnect: report it again if still silent."""
        now = self._clock()
        self._last.setdefault(key, now)
        self._due[key] = now + self._limit_s

    def prolong(self, key: Key) -> None:
        """Give a key that is not reported stale yet the whole time again."""
        if key in self._due and key not in self._missing:
            self._due[key] = self._clock() + self._limit_s

    def forget(self, key: Key) -> None:
        """Watch the key no longer."""
        self._last.pop(key, None)
        self._due.pop(key, None)
        self._missing.discard(key)
        self._back = [other for other in self._back if other != key]

    def note_data(self, key: Key) -> None:
        """Count data of the key; of one that is not watched nothing is kept."""
        if key not in self._last:
            return
        now = self._clock()
        self._last[key] = now
        self._due[key] = now + self._limit_s
        if key in self._missing:
            self._missing.remove(key)
            self._back.append(key)

    def stale(self) -> list[tuple[Key, float]]:
        """Return the keys that fell silent, and for how many seconds, each once.

        One whose return was not yet reported by `resumed` waits for that.
        """
        now = self._clock()
        silent = [key for key, due in self._due.items() if due <= now and key not in self._back]
        self._missing.update(silent)
        self._due.update(dict.fromkeys(silent, math.inf))
        return [(key, now - self._last[key]) for key in silent]

    def resumed(self) -> list[Key]:
        """Return the keys that were reported stale and had data again, each once."""
        back, self._back = self._back, []
        return back


class LagTracker(Generic[Key]):
    """Say how far the keys of one connection are behind, also while nothing arrives.

    A key without data is quiet at its source, or the connection brings nothing. So a key is
    behind by the lag of its newest data, and by the time since the connection last proved that
    nothing was on its way: by data of any key, or by an answer to a ping.

    Args:
        quiet_s: a shorter silence of the connection counts as none.
    """

    def __init__(self, keys: Iterable[Key], *, quiet_s: float, clock: Callable[[], float]) -> None:
        self._lags = dict.fromkeys(keys, 0.0)
        self._quiet_s = quiet_s
        self._clock = clock
        self._proven_at = clock()
        self._was_silent = False

    def note_data(self, key: Key, lag_s: float) -> None:
        """Take the lag of a key's newest data, which have just been dealt with."""
        self._lags[key] = lag_s
        self.note_proof(self._clock())

    def note_proof(self, at: float) -> None:
        """Take note that nothing sent before this time is still on its way."""
        self._proven_at = max(self._proven_at, at)

    def grown(self) -> list[tuple[Key, float]]:
        """Return the lag of each key while the connection is silent, and once after that."""
        silent_s = self._clock() - self._proven_at
        was_silent, self._was_silent = self._was_silent, silent_s >= self._quiet_s
        if self._was_silent:
            return [(key, max(0.0, lag_s) + silent_s) for key, lag_s in self._lags.items()]
        return list(self._lags.items()) if was_silent else []
