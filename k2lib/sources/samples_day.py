"""One invented trading day of one company, as whole-number columns; nothing here does I/O.

Prices are in thousandths, times in milliseconds since midnight in Sydney. Proportions follow
a real ASX week of a large company (91,631 trades, 77,849 quotes).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

type_ints = np.int64
Ints = npt.NDArray[np.int64]

MINUTE = 60_000
SESSION_START, SESSION_END = 600 * MINUTE, 960 * MINUTE
BID, ASK = 0, 1
MID_CODES = (25, 27, 5, 26)
GARBAGE_VOLUME = 1_000_000_000


@dataclass(frozen=True)
class Company:
    """An invented company and how much of it trades on a day."""

    company_id: int
    symbol: str
    name: str
    price: int
    trades: int
    quotes: int


class Draws:
    """Whole numbers from PCG64's raw words, which no numpy version or machine changes."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def below(self, bound: int | Ints, size: int) -> Ints:
        words = self._bits.random_raw(size) >> np.uint64(32)
        scaled = (words * np.asarray(bound, dtype=np.uint64)) >> np.uint64(32)
        return scaled.astype(np.int64)

    def hits(self, per_thousand: int, size: int) -> npt.NDArray[np.bool_]:
        return self.below(1000, size) < per_thousand


class Pieces:
    """A distribution made of weighted ranges `(weight, low, width)`, even within each."""

    def __init__(self, rows: Sequence[tuple[int, int, int]]) -> None:
        weights, self._lows, self._widths = np.array(rows, dtype=np.int64).T
        self._ends = np.cumsum(weights)

    def draw(self, draws: Draws, size: int) -> Ints:
        piece = np.searchsorted(self._ends, draws.below(int(self._ends[-1]), size), side="right")
        return np.asarray(self._lows[piece] + draws.below(self._widths[piece], size))


# Trades in each ten minutes of the session: many at both ends of the day.
_PER_TEN_MINUTES = (
    *(3621, 3630, 3148, 3218, 2960, 2631, 2286, 2752, 2611, 2938, 2550, 1866),
    *(2188, 2060, 2030, 2257, 2479, 2401, 1779, 1961, 1936, 1875, 2236, 1982),
    *(2126, 2124, 2298, 2342, 2249, 2308, 2684, 2629, 2974, 3115, 3119, 4082),
)
_MOMENTS = Pieces([(w, i * 10 * MINUTE, 10 * MINUTE) for i, w in enumerate(_PER_TEN_MINUTES)])

# How many trades share one millisecond.
_GROUP_COUNTS = (15571, 5027, 2756, 1773, 1319, 1046, 725, 620, 494, 376, 298, 219, 186, 150, 134)
_GROUPS = Pieces(
    [(count, size, 1) for size, count in enumerate(_GROUP_COUNTS, start=1)]
    + [(360, 16, 5), (24, 21, 10)]
)
_CODES = Pieces(
    [(78532, 0, 1), (8051, 25, 1), (3199, 2, 1), (989, 27, 1), (544, 5, 1), (132, 8, 1)]
    + [(51, 26, 1)]
)
_VOLUMES = Pieces(
    [(46, 1, 1), (32, 2, 1), (22, 3, 1), (100, 4, 9), (50, 13, 8), (50, 20, 11), (96, 31, 21)]
    + [(92, 52, 37), (76, 88, 70), (92, 157, 79), (20, 194, 1), (48, 235, 71), (48, 305, 96)]
    + [(72, 400, 385), (50, 784, 469), (40, 1252, 2473), (9, 3724, 6277), (1, 10000, 50000)]
    + [(10, 50, 1), (10, 100, 1), (10, 200, 1), (6, 300, 1), (7, 500, 1), (6, 1000, 1)]
)
_BOOK_VOLUMES = Pieces(
    [(10, 1, 20), (90, 20, 430), (150, 450, 900), (250, 1350, 1850), (250, 3200, 3000)]
    + [(150, 6200, 4300), (90, 10500, 14500), (10, 25000, 25000)]
)
_STEPS = Pieces([(920, 0, 1), (38, -1, 1), (38, 1, 1), (2, -2, 1), (2, 2, 1)])
_WIDER = Pieces([(905, 0, 1), (85, 1, 1), (10, 2, 1)])
_FIRST_REACH = Pieces([(910, 0, 1), (35, 1, 1), (55, -1, 1)])
_NEXT_REACH = Pieces([(500, 0, 1), (500, 1, 1)])

# Off-market prints: (from minute, minutes, code), in turn, so that a few already hold every kind.
_PRINTS = np.array(
    [(425, 115, 3), (610, 340, 9), (972, 80, 3), (425, 1, 1), (610, 340, 3), (610, 340, 9)]
    + [(610, 340, 3), (425, 115, 3), (610, 340, 9), (972, 80, 3), (610, 340, 3)],
    dtype=np.int64,
)


@dataclass(frozen=True)
class _Columns:
    """Columns of one length, all int64."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Ints) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Quotes(_Columns):
    """Best bid and ask in time order; an ask of 0 for 0 is an empty side."""

    ms: Ints
    bid: Ints
    ask: Ints
    bid_volume: Ints
    ask_volume: Ints


@dataclass(frozen=True)
class Trades(_Columns):
    """Trades in time order; `off_market` is 0 or 1, a `buyer` of 0 is an empty field."""

    ms: Ints
    price: Ints
    volume: Ints
    code: Ints
    off_market: Ints
    buyer: Ints


def make_day(company: Company, *, seed: int, day: int) -> tuple[Trades, Quotes]:
    """Make a company's day, a function of its arguments alone.

    Args:
        day: the date's ordinal.
    """
    draws = Draws(seed, company.company_id, day)
    opens, closes = _opening_ms(company.symbol, draws), 970 * MINUTE + int(draws.below(20_000, 1)[0])
    quotes = _quotes(company, draws, opens=opens, closes=closes)
    return _trades(company, draws, quotes, opens=opens, closes=closes), quotes


def tick_of(price: int) -> int:
    """Return the price step at a price, both in thousandths.

    Source: ASX Operating Rules Procedures, 4020: 0.1 cent below 10 cents, 0.5 below 2 dollars.
    """
    return 1 if price < 100 else 5 if price < 2_000 else 10


def _opening_ms(symbol: str, draws: Draws) -> int:
    # The venue opens in five groups by initial letter, 2:15 apart, each up to 15 s either way.
    group = sum(symbol[0] >= first for first in "CGNS")
    return SESSION_START + group * 135_000 + int(draws.below(30_000, 1)[0]) - 15_000


def _moments(draws: Draws, count: int, *, opens: int) -> Ints:
    share = SESSION_END - SESSION_START
    offsets = np.sort(_MOMENTS.draw(draws, count))
    return _apart(opens + 1 + offsets * (SESSION_END - opens - 2) // share)


def _apart(ordered: Ints) -> Ints:
    places = np.arange(len(ordered), dtype=np.int64)
    return np.asarray(np.maximum.accumulate(ordered - places) + places)


def _between(draws: Draws, count: int, *, start: int, end: int) -> Ints:
    return _apart(np.sort(start + draws.below(end - start, count)))


def _sizes_up_to(total: int, sizes: Ints) -> Ints:
    ends = np.minimum(np.cumsum(sizes), total)
    kept = np.diff(ends, prepend=0)
    return np.asarray(kept[kept > 0])


def _few(count: int, *, per_100k: int, least: int) -> int:
    return max(least, count * per_100k // 100_000) if count >= 100 else 0


# Quotes: each row changes one side of the book; the other side stays as it was.


def _quotes(company: Company, draws: Draws, *, opens: int, closes: int) -> Quotes:
    tick = tick_of(company.price)
    parts = _part_sizes(company.quotes)
    ms, side = _quote_moments(draws, parts, opens=opens, closes=closes)
    level = _levels(draws, parts, base=company.price // tick)
    price = (level + _offsets(draws, parts, side, reach=company.price // tick // 10)) * tick
    volume = _book_volumes(draws, parts, side)
    return _distinct(_filled(ms, side, price, volume))


def _part_sizes(count: int) -> tuple[int, int, int, int, int]:
    pre = _few(count, per_100k=270, least=6)
    auction = _few(count, per_100k=110, least=4)
    late = _few(count, per_100k=75, least=4)
    return 2, pre, count - 2 - pre - auction - late, auction, late


def _quote_moments(
    draws: Draws, parts: tuple[int, int, int, int, int], *, opens: int, closes: int
) -> tuple[Ints, Ints]:
    _, pre, session, auction, late = parts
    first = 343 * MINUTE + 45_000 + int(draws.below(3_000, 1)[0])
    twice = 1 + draws.hits(294, session).astype(np.int64)
    twice[:1] = 2
    rows = _sizes_up_to(session, twice)
    moments = np.concatenate(([opens], _moments(draws, len(rows) - 1, opens=opens)))
    second = np.concatenate(([0], (np.diff(np.repeat(moments, rows)) == 0).astype(np.int64)))
    paired = np.repeat(rows == 2, rows)
    session_side = np.where(paired, second, draws.below(2, session))
    ms = np.concatenate(
        (
            [first, first],
            _between(draws, pre, start=420 * MINUTE, end=599 * MINUTE),
            np.repeat(moments, rows),
            _between(draws, auction, start=SESSION_END + 1_500, end=969 * MINUTE),
            [closes, closes][:late],
            _between(draws, max(0, late - 3), start=972 * MINUTE, end=1080 * MINUTE),
            [1130 * MINUTE + 900][: late],
        )
    )
    other = [draws.below(2, pre), session_side, draws.below(2, auction), draws.below(2, late)]
    for part in other:
        part[:2] = (BID, ASK)[: len(part)]
    return ms, np.concatenate(([BID, ASK], *other))
