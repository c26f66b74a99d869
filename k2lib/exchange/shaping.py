"""What a host does to the order of trades on its streams: leaves out, repeats, shuffles."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from k2lib.exchange.columns import Trades, joined


@dataclass
class Shape:
    """A fault of the stream, and for how many more trades."""

    name: str
    left: int
    held: Trades | None = None


class Shaper:
    """The faults waiting for one symbol's next trades at one host, first come first served."""

    def __init__(self) -> None:
        self.waiting: deque[Shape] = deque()

    def add(self, name: str, count: int) -> None:
        """Let a fault befall the next trades after those of the faults before it."""
        if count > 0:
            self.waiting.append(Shape(name, count))

    def shape(self, trades: Trades) -> Trades:
        """Return the trades as the streams show them; the same object if nothing is the matter."""
        parts: list[Trades] = []
        while self.waiting and len(trades):
            shape = self.waiting[0]
            count = min(shape.left, len(trades))
            parts.append(_SHAPES[shape.name](shape, trades.take(slice(0, count))))
            trades = trades.take(slice(count, None))
            shape.left -= count
            if shape.left == 0:
                self.waiting.popleft()
        return joined([*parts, trades]) if parts else trades

    def clear(self) -> Trades | None:
        """Forget all faults; return the trades that one of them held back."""
        held = [shape.held for shape in self.waiting if shape.held is not None]
        self.waiting.clear()
        return joined(held) if held else None


def _skip(_shape: Shape, trades: Trades) -> Trades:
    return trades.take(slice(0, 0))


def _duplicate(_shape: Shape, trades: Trades) -> Trades:
    return trades.take(np.repeat(np.arange(len(trades)), 2))


def _reorder(shape: Shape, trades: Trades) -> Trades:
    held = trades if shape.held is None else joined([shape.held, trades])
    if shape.left > len(trades):
        shape.held = held
        return trades.take(slice(0, 0))
    shape.held = None
    return held.take(_shuffled(len(held)))


def _shuffled(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # The last half before the first, each backwards in pairs: nothing stays in its place.
    places = np.arange(count, dtype=np.int64)
    halves = np.concatenate([places[count // 2 :], places[: count // 2]])
    halves[: count // 2] = halves[: count // 2][::-1]
    return halves


_SHAPES = {"skip": _skip, "duplicate": _duplicate, "reorder": _reorder}
