"""How much the exchange takes from one address before it says no."""

import math
from collections import deque
from dataclasses import dataclass

_MINUTE_S = 60
# So many refused requests in one minute turn 429 into a ban.
_PATIENCE = 20


@dataclass(frozen=True)
class ExchangeLimits:
    """The numbers of Binance's documentation, settable so that tests need not wait."""

    ping_s: float = 20.0
    pong_within_s: float = 60.0
    life_s: float = 24 * 3600.0
    messages_per_s: int = 5
    streams: int = 1024
    attempts: int = 300
    attempts_s: float = 300.0
    weight_per_minute: int = 6000
    ban_s: float = 120.0
    buffer_bytes: int = 32 << 20


class Recent:
    """How often something happened within the last seconds."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count one more, and tell whether it is within the limit."""
        while self._times and self._times[0] <= now - self._window_s:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self._limit


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused, and when to come back."""

    status: int
    retry_after_s: int


class Weights:
    """The request weight used in the current minute, and bans of who does not stop."""

    def __init__(self, limits: ExchangeLimits) -> None:
        self._limits = limits
        self._minute = 0
        self._refused = 0
        self._banned_until = 0.0
        self.used = 0

    def take(self, weight: int, *, now: float) -> Refusal | None:
        """Use weight; return why not, if there is none left."""
        if now < self._banned_until:
            return Refusal(418, math.ceil(self._banned_until - now))
        self._turn(int(now // _MINUTE_S))
        self.used += weight
        if self.used <= self._limits.weight_per_minute:
            return None
        self._refused += 1
        if self._refused > _PATIENCE:
            self._banned_until = now + self._limits.ban_s
            return Refusal(418, math.ceil(self._limits.ban_s))
        return Refusal(429, math.ceil((self._minute + 1) * _MINUTE_S - now))

    def _turn(self, minute: int) -> None:
        if minute != self._minute:
            self._minute, self.used, self._refused = minute, 0, 0
