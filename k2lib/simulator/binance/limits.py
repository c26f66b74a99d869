"""Limits of the exchange: connections, messages and request weight, and what exceeds them."""

import math
from collections import deque
from dataclasses import dataclass

_MINUTE_S = 60
# Rejected requests in one minute after which 429 becomes a ban.
_REJECTIONS_BEFORE_BAN = 20


@dataclass(frozen=True)
class ExchangeLimits:
    """Limits as Binance documents them; tests set shorter ones."""

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


class AttemptLimit:
    """At most so many attempts within the last seconds, rejected ones included."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count an attempt; return whether it is within the limit."""
        while self._times and self._times[0] <= now - self._window_s:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self._limit


@dataclass(frozen=True)
class Rejection:
    """Status of a rejected request, and when to try again."""

    status: int
    retry_after_s: int


class WeightLimiter:
    """Request weight used in the current minute, and bans of clients that go on."""

    def __init__(self, limits: ExchangeLimits) -> None:
        self._limits = limits
        self._minute = 0
        self._rejected = 0
        self._banned_until = 0.0
        self.used = 0

    def take(self, weight: int, *, now: float) -> Rejection | None:
        """Use weight; return a rejection if none is left."""
        if now < self._banned_until:
            return Rejection(418, math.ceil(self._banned_until - now))
        self._start_minute(int(now // _MINUTE_S))
        self.used += weight
        if self.used <= self._limits.weight_per_minute:
            return None
        self._rejected += 1
        if self._rejected > _REJECTIONS_BEFORE_BAN:
            self._banned_until = now + self._limits.ban_s
            return Rejection(418, math.ceil(self._limits.ban_s))
        return Rejection(429, math.ceil((self._minute + 1) * _MINUTE_S - now))

    def _start_minute(self, minute: int) -> None:
        if minute != self._minute:
            self._minute, self.used, self._rejected = minute, 0, 0
