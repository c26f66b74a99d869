"""A limit on what may be spent within any stretch of time."""

from collections import deque
from collections.abc import Callable


class RateWindow:
    """Let at most `limit` be spent within any `span_s` seconds.

    Ask and take again after each wait, as others may have taken in between:
    `while wait := window.wait_s(cost): await sleep(wait)`, then `window.take(cost)`.
    """

    def __init__(self, limit: float, span_s: float, *, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._span_s = span_s
        self._clock = clock
        self._taken: deque[tuple[float, float]] = deque()
        self._used = 0.0

    @property
    def used(self) -> float:
        """Say what was spent within the last `span_s`."""
        self._forget(self._clock())
        return self._used

    def wait_s(self, cost: float = 1) -> float:
        """Say in how many seconds this cost may be taken; 0 for now.

        Raises:
            ValueError: the cost is over the limit, so that no wait would do.
        """
        if cost > self._limit:
            raise ValueError(f"a cost of {cost:g} never fits a limit of {self._limit:g}")
        now = self._clock()
        self._forget(now)
        return max(0.0, self._free_at(cost, now) - now)

    def take(self, cost: float = 1) -> None:
        """Spend this cost now.

        Raises:
            ValueError: it does not fit yet; `wait_s` says when it does.
        """
        if wait := self.wait_s(cost):
            raise ValueError(f"a cost of {cost:g} fits in {wait:g} s; wait as `wait_s` says")
        self._add(cost)

    def raise_to(self, used: float) -> None:
        """Count up to what the other side says was spent: others may share the limit."""
        self._forget(self._clock())
        if used > self._used:
            self._add(used - self._used)

    def _add(self, cost: float) -> None:
        self._taken.append((self._clock() + self._span_s, cost))
        self._used += cost

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] <= now:
            self._used -= self._taken.popleft()[1]
        if not self._taken:
            self._used = 0.0

    def _free_at(self, cost: float, now: float) -> float:
        left = self._used
        free_at = now
        for ends, spent in self._taken:
            if left + cost <= self._limit:
                break
            left -= spent
            free_at = ends
        return free_at
