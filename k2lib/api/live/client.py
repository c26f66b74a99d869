"""One client of the live stream: what it listens to, and what waits to be sent to it."""

import asyncio
import json
from collections import deque
from typing import Any, Final

from k2lib.api.live.frames import Frame, Wanted

GOING_AWAY: Final = (1001, "the server ends")
POLICY: Final = (1008, "too many messages")
TRY_AGAIN: Final = (1013, "too slow")
SLOW: Final = (
    "records came faster than this client reads, and it is cut: "
    "read what it missed with /v1/trades or /v1/quotes, and connect again"
)
Close = tuple[int, str]


class Client:
    """Holds so many bytes for one connection; who reads too slowly is told so and ended."""

    def __init__(self, *, queue_bytes: int) -> None:
        self.wanted: frozenset[Wanted] = frozenset()
        self.close: Close | None = None
        self.ended = asyncio.Event()
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[str, int]] = deque()
        self._queued = 0
        self._changed = asyncio.Event()

    @property
    def is_slow(self) -> bool:
        """Whether it is ended because it reads too slowly."""
        return self.close == TRY_AGAIN

    def tell(self, **message: Any) -> None:
        """Send a message of ours, after what waits already."""
        if self.close is None:
            self._put(json.dumps(message), 0)

    def give(self, frame: Frame) -> None:
        """Send records, unless too much waits already."""
        if self.close is not None:
            return
        if self._queued + len(frame.text) <= self._queue_bytes:
            self._put(frame.text, frame.rows)
            return
        missed = frame.rows + sum(rows for _, rows in self._queue)
        self._queue.clear()
        self.tell(type="slow", missed=missed, detail=SLOW)
        self.end(TRY_AGAIN)

    def end(self, close: Close) -> None:
        """Close the connection once what waits is sent."""
        if self.close is None:
            self.close = close
            self.ended.set()
            self._changed.set()

    async def next(self) -> str | None:
        """Wait for what is to be sent next; None at the end."""
        while not self._queue:
            if self.close is not None:
                return None
            self._changed.clear()
            await self._changed.wait()
        text, _ = self._queue.popleft()
        self._queued -= len(text)
        return text

    def _put(self, text: str, rows: int) -> None:
        self._queue.append((text, rows))
        self._queued += len(text)
        self._changed.set()
