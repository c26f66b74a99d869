"""Seeded draws of whole numbers, and the session times and price steps of invented days.

Prices are in thousandths, times in milliseconds since midnight in Sydney.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MINUTE = 60_000
SESSION_START, SESSION_END = 600 * MINUTE, 960 * MINUTE

# Trades in each ten minutes of a large company's session: many at both ends of the day.
_PER_TEN_MINUTES = (
    *(3621, 3630, 3148, 3218, 2960, 2631, 2286, 2752, 2611, 2938, 2550, 1866),
    *(2188, 2060, 2030, 2257, 2479, 2401, 1779, 1961, 1936, 1875, 2236, 1982),
    *(2126, 2124, 2298, 2342, 2249, 2308, 2684, 2629, 2974, 3115, 3119, 4082),
)


@dataclass(frozen=True)
class SampleCompany:
    """An invented company: its usual price and how much of it trades on a day."""

    company_id: int
    symbol: str
    name: str
    price: int
    trades: int
    quotes: int


@dataclass(frozen=True)
class TimedColumns:
    """Columns of equal length, in time order; subclasses add the others."""

    ms: Ints

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Ints | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def parts(self, size: int) -> Iterator[Self]:
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class Draws:
    """Draws from PCG64's raw words, which no machine and no numpy version changes."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def below(self, bound: int | Ints, size: int) -> Ints:
        words = self._bits.random_raw(size) >> np.uint64(32)
        scaled = (words * np.asarray(bound, dtype=np.uint64)) >> np.uint64(32)
        return scaled.astype(np.int64)

    def one(self, bound: int) -> int:
        return int(self.below(bound, 1)[0])

    def hits(self, per_thousand: int, size: int) -> Ints:
        return (self.below(1000, size) < per_thousand).astype(np.int64)

    def moments(self, count: int, *, start: int, end: int) -> Ints:
        return apart(np.sort(start + self.below(end - start, count)))


class WeightedRanges:
    """A distribution of weighted ranges `(weight, low, width)`, even within each."""

    def __init__(self, *rows: tuple[int, int, int]) -> None:
        weights, self._lows, self._widths = np.array(rows, dtype=np.int64).T
        self._ends = np.cumsum(weights)

    def draw(self, draws: Draws, size: int) -> Ints:
        piece = np.searchsorted(self._ends, draws.below(int(self._ends[-1]), size), side="right")
        return np.asarray(self._lows[piece] + draws.below(self._widths[piece], size))


_OFFSETS = WeightedRanges(
    *((w, i * 10 * MINUTE, 10 * MINUTE) for i, w in enumerate(_PER_TEN_MINUTES))
)


def session_moments(draws: Draws, count: int, *, opens: int) -> Ints:
    """Draw distinct milliseconds between the opening and 16:00, in order."""
    offsets = np.sort(_OFFSETS.draw(draws, count))
    length = SESSION_END - opens - 2
    return apart(opens + 1 + offsets * length // (SESSION_END - SESSION_START))


def apart(ordered: Ints) -> Ints:
    """Move equal moments on, a millisecond each, so that all differ."""
    rows = np.arange(len(ordered), dtype=np.int64)
    return np.asarray(np.maximum.accumulate(ordered - rows) + rows)


def sizes_up_to(total: int, sizes: Ints) -> Ints:
    """Cut a list of group sizes so that they sum to `total`."""
    kept = np.diff(np.minimum(np.cumsum(sizes), total), prepend=0)
    return np.asarray(kept[kept > 0])


def opening_ms(symbol: str, draws: Draws) -> int:
    """Draw when a symbol opens: five groups by initial, 2:15 apart, 15 s either way."""
    group = sum(symbol[0] >= first for first in "CGNS")
    return SESSION_START + group * 135_000 + draws.one(30_000) - 15_000


def tick_of(price: int) -> int:
    """Return the price step at a price, both in thousandths."""
    return 1 if price < 100 else 5 if price < 2_000 else 10
