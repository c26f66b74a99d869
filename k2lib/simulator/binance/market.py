"""What the exchange has traded so far: the sequences, less what never happened, up to now."""

import math
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from k2lib.errors import ConfigError
from k2lib.simulator.binance.columns import Bools, Int64s, Orders, Trades, aggregates, no_trades
from k2lib.simulator.binance.instruments import Instrument
from k2lib.simulator.binance.sequence import PUBLISHED_AFTER_US, US, Sequence

_LARGEST_STEP = 20_000
QUOTES_PER_S = 10
_NOTHING = no_trades()


@dataclass(frozen=True)
class GroundTruth:
    """The ids made while this exchange ran; those in `void` exist nowhere."""

    first_id: int
    last_id: int
    void: frozenset[int]


@dataclass(frozen=True)
class Quote:
    """The best bid and ask, in ticks and lot steps."""

    update_id: int
    bid: int
    bid_steps: int
    ask: int
    ask_steps: int


@dataclass
class Book:
    """One symbol: its sequence, the ids that are void, and the first id not yet made."""

    sequence: Sequence
    first_id: int
    next_id: int
    at_us: int
    due_us: int = 0
    void: list[range] = field(default_factory=list)

    @property
    def instrument(self) -> Instrument:
        """What the symbol is."""
        return self.sequence.instrument

    def advance(self, now_us: int) -> Trades:
        """Make the trades that are due, and return those that exist."""
        if now_us < self.due_us:
            return _NOTHING
        largest_us = math.ceil(_LARGEST_STEP * US / self.sequence.rate)
        self.at_us = max(self.at_us, min(now_us, self.at_us + largest_us))
        begin, self.next_id = self.next_id, max(self.next_id, self.sequence.next_id(self.at_us))
        due = self.sequence.trades(begin, self.next_id + 1)
        self.due_us = int(due.time_us[-1]) + PUBLISHED_AFTER_US
        return self._existing(due.take(slice(0, len(due) - 1)))

    def truth(self) -> GroundTruth:
        """Return the ids made so far."""
        made = range(self.first_id, self.next_id)
        void = frozenset(number for ids in self.void for number in ids if number in made)
        return GroundTruth(self.first_id, self.next_id - 1, void)

    def told(self) -> dict[str, Any]:
        """Return the ids made so far as JSON, void ones as first and last of each range."""
        made = self.next_id - 1
        void = [[ids.start, min(ids.stop - 1, made)] for ids in self.void if ids.start <= made]
        return {"first_id": self.first_id, "last_id": made, "void": void}

    def copy(self) -> "Book":
        """Return the book as it is now, for use in another thread."""
        return replace(self, sequence=self.sequence.twin(), void=list(self.void))

    def make_void(self, count: int) -> range:
        """Let the next ids never happen, beginning with a whole order; return them."""
        begin = max([self.next_id, *(ids.stop for ids in self.void)])
        while begin > 0 and len(set(self.sequence.trades(begin - 1, begin + 1).order)) == 1:
            begin += 1
        self.void.append(range(begin, begin + count))
        return self.void[-1]

    def stop_void(self) -> None:
        """Let ids that are not made yet exist after all."""
        self.void = [range(ids.start, min(ids.stop, self.next_id)) for ids in self.void]
        self.void = [ids for ids in self.void if len(ids)]

    def before(self, time_us: int) -> int:
        """Return the first id not made at a time in the past."""
        return min(self.next_id, self.sequence.next_id(time_us))

    def trades(self, first: int, end: int) -> Trades:
        """Return the trades made with first ≤ id < end that exist."""
        return self._existing(self.sequence.trades(first, min(end, self.next_id)))

    def trades_from(self, first: int, limit: int, *, end: int) -> Trades:
        """Return the first `limit` trades that exist among first ≤ id < end."""
        rows = self.trades(first, min(end, first + limit + self._spare))
        return rows.take(slice(0, limit))

    def newest(self, limit: int, *, end: int) -> Trades:
        """Return the last `limit` trades that exist below an id."""
        rows = self.trades(end - limit - self._spare, end)
        return rows.take(slice(max(0, len(rows) - limit), len(rows)))

    def orders(self, first: int, end: int) -> Orders:
        """Return the aggregates made with first ≤ aggregate id < end that exist."""
        rows = self.sequence.trades_of_orders(first, end)
        return aggregates(self._existing(rows.take(rows.id < self.next_id)))

    def orders_from(self, first: int, limit: int, *, end: int) -> Orders:
        """Return the first `limit` aggregates that exist among first ≤ aggregate id < end."""
        rows = self.orders(first, min(end, first + limit + self._spare))
        return rows.take(slice(0, limit))

    def newest_orders(self, limit: int, *, end: int) -> Orders:
        """Return the last `limit` aggregates that exist below an aggregate id."""
        rows = self.orders(end - limit - self._spare, end)
        return rows.take(slice(max(0, len(rows) - limit), len(rows)))

    def orders_of(self, trades: Trades) -> Orders:
        """Return the aggregates, from all of their trades, to which any of these belong."""
        if not len(trades):
            return aggregates(trades)
        return self.orders(int(trades.order.min()), int(trades.order.max()) + 1)

    def order_of(self, trade_id: int) -> int:
        """Return the aggregate id to which a trade belongs."""
        return int(self.sequence.trades(trade_id, trade_id + 1).order[0])

    def quote(self, now_us: int) -> Quote:
        """Return best bid and ask, the same for all times of a tenth of a second."""
        slot = now_us * QUOTES_PER_S // US
        newest = self.sequence.trades(self.next_id - 1, self.next_id)
        price, maker = int(newest.ticks[0]), bool(newest.buyer_maker[0])
        bid = max(1, price if maker else price - 1)
        usual = self.instrument.quantity * 10**self.instrument.quantity_decimals
        sizes = [1 + int(usual * (1 + (slot * prime) % 97 / 4)) for prime in (31, 57)]
        return Quote(slot, bid, sizes[0], bid + 1, sizes[1])

    @property
    def _spare(self) -> int:
        return sum(len(ids) for ids in self.void)

    def _existing(self, trades: Trades) -> Trades:
        if not self.void or not len(trades):
            return trades
        kept = ~within(trades.id, self.void)
        return trades if kept.all() else trades.take(kept)


def within(ids: Int64s, ranges: Many[range]) -> Bools:
    """Tell of each id whether it lies in one of the ranges."""
    inside = np.zeros(len(ids), dtype=np.bool_)
    for part in ranges:
        inside |= (ids >= part.start) & (ids < part.stop)
    return inside


class Market:
    """All symbols of the exchange, made up to one moment."""

    def __init__(
        self,
        symbols: Many[str],
        *,
        rate: float,
        seed: int,
        first_id: int | None,
        now_us: int,
    ) -> None:
        if not symbols or not 0 < rate * len(symbols) <= 50_000:
            raise ConfigError(
                f"{rate:g} trades/s for each of {len(symbols)} symbols: name at least one symbol"
                " and a rate above 0, of at most 50,000 trades/s in all"
            )
        self.rate = rate
        self.books = {
            symbol: _open(symbol, rate=rate, seed=seed, first_id=first_id, now_us=now_us)
            for symbol in symbols
        }

    def advance(self, now_us: int) -> Iterator[tuple[Book, Trades]]:
        """Make the trades that are due in each symbol."""
        for book in self.books.values():
            yield book, book.advance(now_us)

    def chosen(self, symbol: str | None) -> list[Book]:
        """Return the symbol's book, or all of them for None.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """
        if symbol is None:
            return list(self.books.values())
        if symbol not in self.books:
            raise ConfigError(f"no symbol {symbol!r} here; there are " + ", ".join(self.books))
        return [self.books[symbol]]


def _open(symbol: str, *, rate: float, seed: int, first_id: int | None, now_us: int) -> Book:
    if first_id is None:
        sequence = Sequence(symbol, rate=rate, seed=seed)
        first_id = sequence.next_id(now_us)
    else:
        sequence = Sequence.beginning(symbol, rate=rate, seed=seed, first_id=first_id, at_us=now_us)
    return Book(sequence, first_id, first_id, now_us)
