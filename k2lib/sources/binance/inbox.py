"""The bounded queue between the socket's thread and the thread that produces."""

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

LOOK_AGAIN_S: Final = 0.002
FLOOD: Final = 5000
FLOOD_LINGERS: Final = 10


@dataclass(frozen=True)
class Arrived:
    """Frames in order of arrival, each with its receipt time in µs since the epoch and its host."""

    frames: list[bytes]
    received_us: list[int]
    hosts: list[str]


class Inbox:
    """Holds at most `limit` frames; a full one makes the socket wait, and counts how long."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waited_s = 0.0
        self._held: deque[tuple[bytes, int, str]] = deque()
        self._taken_us: int | None = None
        self._some = threading.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def behind_s(self) -> float:
        """How long ago the oldest frame came that is not dealt with: held, or taken last."""
        try:
            oldest_us = self._taken_us or self._held[0][1]
        except IndexError:
            return 0.0
        return max(0.0, _now_us() / 1e6 - oldest_us / 1e6)

    async def put(self, frame: bytes, host: str) -> None:
        """Add a frame, waiting while the queue is full."""
        if len(self._held) >= self.limit:
            await self._room()
        self._held.append((frame, _now_us(), host))
        if not self._some.is_set():
            self._some.set()

    def take(self, timeout_s: float, *, linger_s: float, enough: int) -> Arrived:
        """Return what has arrived: nothing after `timeout_s`; what was taken before is dealt with.

        Fewer than `enough` frames wait `linger_s` for others, so that small batches stay few; more
        of them are a flood, which waits the longer the more they are, as a frame of a large batch
        costs a fifth.
        """
        self._taken_us = None
        if self._some.wait(timeout_s):
            self._linger(linger_s, enough)
        self._some.clear()
        self._taken_us = self._held[0][1] if self._held else None
        held = [self._held.popleft() for _ in range(len(self._held))]
        frames, received_us, hosts = map(list, zip(*held, strict=True)) if held else ([], [], [])
        return Arrived(frames, received_us, hosts)

    def _linger(self, linger_s: float, enough: int) -> None:
        if len(self._held) < enough:
            time.sleep(linger_s)
            return
        lingers = min(FLOOD_LINGERS, 2 * len(self._held) // enough)
        until = time.monotonic() + lingers * linger_s
        while len(self._held) < min(FLOOD, self.limit // 2) and time.monotonic() < until:
            time.sleep(linger_s)

    async def _room(self) -> None:
        began = time.monotonic()
        while len(self._held) >= self.limit:
            await asyncio.sleep(LOOK_AGAIN_S)
            now = time.monotonic()
            self.waited_s += now - began
            began = now


def _now_us() -> int:
    return time.time_ns() // 1000
