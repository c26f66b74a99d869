"""Bars of a symbol's trades: when they begin, and what was traded in each; of any venue."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Final

from k2lib.simulator.binance.trade_summary import TradeHistory, TradeSummary

_DAY_US: Final = 86_400 * 1_000_000
# The epoch was a Thursday; weeks begin on Monday.
MONDAY_US: Final = 4 * _DAY_US
# Of one answer: more bars than these trades make are left to the next one.
MOST_TRADES: Final = 5_000_000


@dataclass(frozen=True)
class BarLength:
    """How long bars are: µs from an anchor, or calendar months where `us` is None.

    `offset_us` is that of the time zone in which they begin, east of UTC.
    """

    us: int | None
    anchor_us: int = 0
    offset_us: int = 0

    def start_of(self, time_us: int) -> int:
        """Return when the bar of a time begins."""
        local = time_us + self.offset_us
        if self.us is None:
            return _months_us(_month_of(local)) - self.offset_us
        return local - (local - self.anchor_us) % self.us - self.offset_us

    def end_of(self, start_us: int) -> int:
        """Return when the bar that begins at a time ends."""
        if self.us is None:
            return _months_us(_month_of(start_us + self.offset_us) + 1) - self.offset_us
        return start_us + self.us

    def starts_from(self, time_us: int) -> Iterator[int]:
        """Yield the starts that are not before a time."""
        start = self.start_of(time_us)
        start = start if start == time_us else self.end_of(start)
        while True:
            yield start
            start = self.end_of(start)

    def starts_back(self, time_us: int) -> Iterator[int]:
        """Yield the starts up to a time, the newest first."""
        start = self.start_of(time_us)
        while True:
            yield start
            start = self.start_of(start - 1)


def _month_of(local_us: int) -> int:
    at = datetime.fromtimestamp(local_us // 1_000_000, UTC)
    return at.year * 12 + at.month - 1


def _months_us(month: int) -> int:
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True)
class Bar:
    """The trades with start ≤ time < end; without any, the price before."""

    start_us: int
    end_us: int
    trades: TradeSummary


@dataclass(frozen=True)
class BarWindow:
    """Which bars: those that begin between two times, the oldest if a start is given."""

    limit: int
    start_us: int | None
    end_us: int


def bars(history: TradeHistory, length: BarLength, window: BarWindow) -> list[Bar]:
    """Return the bars of a window in order, as many as its limit and `MOST_TRADES` allow.

    The first bar of all is that of the first trade.

    Raises:
        TooManyTradesError: one bar alone has too many trades.
    """
    starts = _starts(history, length, window)
    if not starts:
        return []
    edges = [*starts, length.end_of(starts[-1])]
    ids = [history.id_at(edge) for edge in edges]
    low, high = _affordable(ids, oldest=window.start_us is not None)
    spans = zip(pairwise(edges[low : high + 1]), pairwise(ids[low : high + 1]), strict=True)
    return [Bar(*times, history.between(*between)) for times, between in spans]


def _starts(history: TradeHistory, length: BarLength, window: BarWindow) -> list[int]:
    opening = length.start_of(int(history.tape.generator.trades(0, 1).time_us[0]))
    if window.end_us < opening:
        return []
    if window.start_us is not None:
        starts = length.starts_from(max(opening, window.start_us))
        return [start for start in islice(starts, window.limit) if start <= window.end_us]
    newest = islice(length.starts_back(window.end_us), window.limit)
    return sorted(start for start in newest if start >= opening)


def _affordable(ids: list[int], *, oldest: bool) -> tuple[int, int]:
    """Return the edges between which there are not too many trades, or one bar."""
    low, high = 0, len(ids) - 1
    while high - low > 1 and ids[high] - ids[low] > MOST_TRADES:
        low, high = (low, high - 1) if oldest else (low + 1, high)
    return low, high
