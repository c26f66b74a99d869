"""When an event of a replay is due."""

import math
from collections.abc import Callable

from k2lib.errors import QueryError

US = 1_000_000


class Pace:
    """Turns event times into waits; the first event is due at once.

    Every wait is reckoned from the first event, so that waits which end late do not add up.
    """

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        """Begin with the first event asked for.

        Args:
            speed: seconds of event time in a second of the clock.
        """
        self._speed = speed
        self._clock = clock
        self._first_us: int | None = None
        self._began = 0.0

    def wait_s(self, time_us: int) -> float:
        """Return how long it is until an event is due; negative where it is late."""
        if self._first_us is None:
            self._first_us, self._began = time_us, self._clock()
        due = self._began + (time_us - self._first_us) / US / self._speed
        return due - self._clock()

    def due_us(self) -> int:
        """Return the event time that is due now."""
        passed = (self._clock() - self._began) * self._speed
        return (self._first_us or 0) + math.floor(passed * US)


def check_speed(speed: float | None) -> None:
    """Refuse a speed that is none.

    Raises:
        QueryError: it is not a number above 0.
    """
    if speed is not None and not 0 < speed < math.inf:
        raise QueryError(
            f"speed={speed}: give a number above 0, 1 for real time and 600 for ten minutes a "
            "second, or None for as fast as possible"
        )
