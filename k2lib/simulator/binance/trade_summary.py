"""What a run of trades comes to: prices, volumes and the taker's share, exact, by id ranges.

Nothing here knows how a venue writes it; prices are in ticks, quantities in lot steps.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from k2lib.errors import K2Error
from k2lib.simulator.binance.columns import Int64s, TradeColumns
from k2lib.simulator.binance.market import TradeTape

# Whole pages of so many ids are added up once.
PAGE: Final = 1024
# Of all symbols together; 300 bytes each.
KEPT_PAGES: Final = 60_000
# Of one summary: what takes longer than a client waits is refused.
MOST_TRADES: Final = 50_000_000


class TooManyTradesError(K2Error):
    """A summary would be of more trades than the exchange adds up at once."""


class SummaryStoppedError(K2Error):
    """The exchange ends: nothing is added up any more."""


@dataclass(frozen=True)
class TradeSummary:
    """Count, ids, prices and sums of trades; `amount` is the sum of ticks times steps.

    `bought_steps` and `bought_amount` are of the trades whose taker bought.
    """

    count: int
    first_id: int
    last_id: int
    open: int
    high: int
    low: int
    close: int
    steps: int
    amount: int
    bought_steps: int
    bought_amount: int

    @classmethod
    def flat(cls, ticks: int) -> "TradeSummary":
        """Return the summary of no trades after one at a price."""
        return cls(0, -1, -1, ticks, ticks, ticks, ticks, 0, 0, 0, 0)


def _row(trades: TradeColumns) -> Int64s:
    if not len(trades):
        return np.zeros(11, np.int64)
    amounts, bought = trades.ticks * trades.steps, ~trades.buyer_maker
    ticks = trades.ticks
    return np.array(
        [
            len(trades),
            trades.id[0],
            trades.id[-1],
            ticks[0],
            ticks.max(),
            ticks.min(),
            ticks[-1],
            trades.steps.sum(),
            amounts.sum(),
            trades.steps[bought].sum(),
            amounts[bought].sum(),
        ],
        np.int64,
    )


def _summary(rows: Int64s) -> TradeSummary | None:
    rows = rows[rows[:, 0] > 0]
    if not len(rows):
        return None
    count, *_, steps, amount, bought_steps, bought_amount = rows.sum(axis=0).tolist()
    return TradeSummary(
        count,
        int(rows[0, 1]),
        int(rows[-1, 2]),
        int(rows[0, 3]),
        int(rows[:, 4].max()),
        int(rows[:, 5].min()),
        int(rows[-1, 6]),
        steps,
        amount,
        bought_steps,
        bought_amount,
    )


class SummaryCache:
    """Sums of whole pages of ids of all symbols; the oldest are forgotten."""

    def __init__(self, kept: int = KEPT_PAGES) -> None:
        self._kept = kept
        self._pages: dict[tuple[str, int], Int64s] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Let whatever is being added up end with a SummaryStoppedError."""
        self._stopped = True

    def page(self, tape: TradeTape, number: int) -> Int64s:
        """Return the sums of a page, all of whose ids are made."""
        if self._stopped:
            raise SummaryStoppedError("the exchange is closed")
        key = tape.instrument.symbol, number
        row = self._pages.get(key)
        if row is None:
            row = _row(tape.trades(number * PAGE, (number + 1) * PAGE))
            self._put(key, row)
        return row

    def _put(self, key: tuple[str, int], row: Int64s) -> None:
        with self._lock:
            while len(self._pages) >= self._kept:
                del self._pages[next(iter(self._pages))]
            self._pages[key] = row


class TradeHistory:
    """Summaries of a symbol's trades up to now, for one thread."""

    def __init__(self, tape: TradeTape, cache: SummaryCache) -> None:
        self.tape = tape
        self._cache = cache

    def between(self, first: int, end: int) -> TradeSummary:
        """Summarize the trades that exist with first ≤ id < end, flat if there are none.

        Raises:
            TooManyTradesError: they are too many.
        """
        first, end = max(0, first), min(end, self.tape.next_id)
        if end - first > MOST_TRADES:
            raise TooManyTradesError(f"{end - first} trades: ask for at most {MOST_TRADES}")
        rows = list(self._rows(first, end))
        found = _summary(np.array(rows)) if rows else None
        return found or TradeSummary.flat(self.price_before(first))

    def price_before(self, trade_id: int) -> int:
        """Return the price of the newest trade below an id; of the first one, where none is."""
        before = self.tape.newest(1, end=max(0, trade_id))
        rows = before if len(before) else self.tape.generator.trades(0, 1)
        return int(rows.ticks[0])

    def id_at(self, time_us: int) -> int:
        """Return the first id that is not before a time."""
        if time_us > self.tape.at_us:
            return self.tape.next_id
        return min(self.tape.next_id, self.tape.generator.id_at(time_us))

    def _rows(self, first: int, end: int) -> Iterator[Int64s]:
        while first < end:
            stop = min(end, (first // PAGE + 1) * PAGE)
            if stop - first == PAGE:
                yield self._cache.page(self.tape, first // PAGE)
            else:
                yield _row(self.tape.trades(first, stop))
            first = stop


@dataclass(frozen=True)
class WindowStatistics:
    """The trades of a window that ends now, with what was before it and what is last."""

    start_us: int
    end_us: int
    trades: TradeSummary
    price_before: int
    last_steps: int
    last_time_us: int


def window(history: TradeHistory, *, start_us: int, end_us: int) -> WindowStatistics:
    """Return the statistics of the trades since a time; `end_us` is the time of asking."""
    first = history.id_at(start_us)
    summary = history.between(first, history.tape.next_id)
    newest = history.tape.newest(1, end=history.tape.next_id)
    last_steps = int(newest.steps[-1]) if len(newest) else 0
    last_us = int(newest.time_us[-1]) if len(newest) else start_us
    return WindowStatistics(
        start_us, end_us, summary, history.price_before(first), last_steps, last_us
    )
