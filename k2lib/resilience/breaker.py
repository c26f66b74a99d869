"""A circuit breaker: after some failures in a row a host is left alone for a while."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

from k2lib.errors import RecordError


class Circuit(StrEnum):
    """Closed: attempts pass. Open: none does. Half open: one at a time, on trial."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class Memory:
    """What a breaker knows, to be kept outside of the process.

    `failures` are those in a row, `successes` the trials passed since it was half open, and
    `retry_at` the end of the newest rest in the clock's seconds (0 before the first).
    """

    state: Circuit = Circuit.CLOSED
    failures: int = 0
    successes: int = 0
    retry_at: float = 0.0

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Memory":
        """Read what `as_json` wrote.

        Raises:
            RecordError: the text is something else.
        """
        try:
            return _checked(json.loads(text))
        except (ValueError, TypeError, KeyError) as exc:
            raise RecordError(f"{text!r} is no memory of a breaker; delete it ({exc})") from exc


def _checked(values: dict[str, str | int | float]) -> Memory:
    memory = Memory(
        state=Circuit(str(values["state"])),
        failures=int(values["failures"]),
        successes=int(values["successes"]),
        retry_at=float(values["retry_at"]),
    )
    if not math.isfinite(memory.retry_at):
        raise ValueError("retry_at is no time")
    return memory


class Breaker:
    """Count what attempts on one host came to, and say whether another may be made.

    Some failures in a row open it for a rest. Then one attempt at a time is let through as a
    trial: some successes close it, a failure opens it again. A trial without an outcome
    for the length of a rest is given up, and another one may be made.

    Args:
        clock: seconds; comparable from one process to the next where the memory is kept.
        memory: what an earlier process knew; a rest in it is never longer than `rest_s` from now.
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        rest_s: float = 30.0,
        successes: int = 2,
        clock: Callable[[], float],
        memory: Memory | None = None,
    ) -> None:
        self._failures_to_open = failures
        self._successes_to_close = successes
        self._rest_s = rest_s
        self._clock = clock
        self._trial_until: float | None = None
        start = memory or Memory()
        self._state = start.state
        self._failures = start.failures
        self._successes = start.successes
        self._retry_at = min(start.retry_at, clock() + rest_s)

    @property
    def state(self) -> Circuit:
        """Say where it stands now; an open one is half open once its rest is over."""
        if self._state is Circuit.OPEN and self._clock() >= self._retry_at:
            self._state = Circuit.HALF_OPEN
        return self._state

    @property
    def retry_at(self) -> float | None:
        """Say when an attempt may be made, in the clock's seconds; None where one may be now."""
        if self.state is Circuit.OPEN:
            return self._retry_at
        return self._trial_until if self._on_trial() else None

    @property
    def memory(self) -> Memory:
        """Return what to keep outside of the process."""
        return Memory(self.state, self._failures, self._successes, self._retry_at)

    def allows(self) -> bool:
        """Say whether an attempt may be made now; where it is half open, this takes the trial."""
        if self.retry_at is not None:
            return False
        if self.state is Circuit.HALF_OPEN:
            self._trial_until = self._clock() + self._rest_s
        return True

    def failed(self) -> None:
        """Count a failed attempt; while it is open, a late one changes nothing."""
        if self.state is Circuit.OPEN:
            return
        self._failures += 1
        if self._state is Circuit.HALF_OPEN or self._failures >= self._failures_to_open:
            self._open()

    def succeeded(self) -> None:
        """Count a success; while it is open, a late one changes nothing."""
        if self.state is Circuit.OPEN:
            return
        self._trial_until = None
        self._failures = 0
        if self._state is Circuit.HALF_OPEN:
            self._successes += 1
            if self._successes >= self._successes_to_close:
                self._state, self._successes = Circuit.CLOSED, 0

    def _open(self) -> None:
        self._state = Circuit.OPEN
        self._successes = 0
        self._retry_at = self._clock() + self._rest_s

    def _on_trial(self) -> bool:
        return self._trial_until is not None and self._clock() < self._trial_until


def steady_wall_clock(
    wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a clock that starts at the wall clock's seconds and is never set afterwards."""
    offset = wall() - steady()
    return lambda: offset + steady()
