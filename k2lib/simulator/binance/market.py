"""The trades that exist up to now: generated ones, less the void ids of each symbol."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from k2lib.errors import ConfigError
from k2lib.simulator.binance.columns import (
    AggTradeColumns,
    Bools,
    Int64s,
    TradeColumns,
    aggregate,
    no_trades,
)
from k2lib.simulator.binance.instruments import SimulatedInstrument, instrument
from k2lib.simulator.binance.listing import listed_symbols
from k2lib.simulator.binance.trade_generator import PUBLISHED_AFTER_US, US, TradeGenerator

_LARGEST_STEP = 20_000
QUOTES_PER_S = 10
QUIET_RATE = 0.05
_NOTHING = no_trades()


@dataclass(frozen=True)
class GroundTruth:
    """The ids made while this exchange ran; those in `void` exist nowhere."""

    first_id: int
    last_id: int
    void: frozenset[int]


@dataclass(frozen=True)
class SimulatedQuote:
    """The best bid and ask, in ticks and lot steps."""

    update_id: int
    bid: int
    bid_steps: int
    ask: int
    ask_steps: int


@dataclass
class TradeTape:
    """One symbol's trades up to now: their generator, the void ids, the first id not yet made."""

    generator: TradeGenerator
    first_id: int
    next_id: int
    at_us: int
    due_us: int = 0
    void: list[range] = field(default_factory=list)

    @property
    def instrument(self) -> SimulatedInstrument:
        """The symbol's assets, tick and lot step."""
        return self.generator.instrument

    def advance(self, now_us: int) -> TradeColumns:
        """Make the trades that are due, and return those that exist."""
        if now_us < self.due_us:
            return _NOTHING
        largest_us = math.ceil(_LARGEST_STEP * US / self.generator.rate)
        self.at_us = max(self.at_us, min(now_us, self.at_us + largest_us))
        begin, self.next_id = self.next_id, max(self.next_id, self.generator.next_id(self.at_us))
        due = self.generator.trades(begin, self.next_id + 1)
        self.due_us = int(due.time_us[-1]) + PUBLISHED_AFTER_US
        return self._existing(due.take(slice(0, len(due) - 1)))

    def complete_to(self, now_us: int) -> int:
        """Return up to when all trades are made that there are."""
        made_us = now_us if now_us < self.due_us else self.at_us
        return made_us - PUBLISHED_AFTER_US

    def truth(self) -> GroundTruth:
        """Return the ids made so far."""
        made = range(self.first_id, self.next_id)
        void = frozenset(number for ids in self.void for number in ids if number in made)
        return GroundTruth(self.first_id, self.next_id - 1, void)

    def truth_json(self) -> dict[str, Any]:
        """Return the ids made so far as JSON, void ones as first and last id of each range."""
        made = self.next_id - 1
        void = [[ids.start, min(ids.stop - 1, made)] for ids in self.void if ids.start <= made]
        return {"first_id": self.first_id, "last_id": made, "void": void}

    def copy(self) -> "TradeTape":
        """Return a copy of the tape, for use in another thread."""
        return replace(self, generator=self.generator.copy(), void=list(self.void))

    def snapshot(self) -> "TradeTape":
        """Return the tape as it is now, for use in another thread; it shares made blocks."""
        return replace(self, void=list(self.void))

    def make_void(self, count: int) -> range:
        """Skip the next ids, beginning with a whole aggregate trade; return them."""
        begin = max([self.next_id, *(ids.stop for ids in self.void)])
        while begin > 0 and len(set(self.generator.trades(begin - 1, begin + 1).agg_id)) == 1:
            begin += 1
        self.void.append(range(begin, begin + count))
        return self.void[-1]

    def stop_void(self) -> None:
        """Make the void ids that are still to come exist after all."""
        self.void = [range(ids.start, min(ids.stop, self.next_id)) for ids in self.void]
        self.void = [ids for ids in self.void if len(ids)]

    def before(self, time_us: int) -> int:
        """Return the first id not made at a time in the past."""
        return min(self.next_id, self.generator.next_id(time_us))

    def trades(self, first: int, end: int) -> TradeColumns:
        """Return the trades made with first ≤ id < end that exist."""
        return self._existing(self.generator.trades(first, min(end, self.next_id)))

    def trades_from(self, first: int, limit: int, *, end: int) -> TradeColumns:
        """Return the first `limit` trades that exist among first ≤ id < end."""
        rows = self.trades(first, min(end, first + limit + self._void_count))
        return rows.take(slice(0, limit))

    def newest(self, limit: int, *, end: int) -> TradeColumns:
        """Return the last `limit` trades that exist below an id."""
        rows = self.trades(end - limit - self._void_count, end)
        return rows.take(slice(max(0, len(rows) - limit), len(rows)))

    def agg_trades(self, first: int, end: int) -> AggTradeColumns:
        """Return the aggregate trades with first ≤ aggregate id < end that exist."""
        rows = self.generator.trades_of_aggregates(first, end)
        return aggregate(self._existing(rows.take(rows.id < self.next_id)))

    def agg_trades_from(self, first: int, limit: int, *, end: int) -> AggTradeColumns:
        """Return the first `limit` aggregate trades that exist among first ≤ aggregate id < end."""
        rows = self.agg_trades(first, min(end, first + limit + self._void_count))
        return rows.take(slice(0, limit))

    def newest_agg_trades(self, limit: int, *, end: int) -> AggTradeColumns:
        """Return the last `limit` aggregate trades that exist below an aggregate id."""
        rows = self.agg_trades(end - limit - self._void_count, end)
        return rows.take(slice(max(0, len(rows) - limit), len(rows)))

    def agg_trades_of(self, trades: TradeColumns) -> AggTradeColumns:
        """Return the aggregate trades, with all of their fills, to which any of these belong."""
        if not len(trades):
            return aggregate(trades)
        return self.agg_trades(int(trades.agg_id.min()), int(trades.agg_id.max()) + 1)

    def agg_id_of(self, trade_id: int) -> int:
        """Return the aggregate id to which a trade belongs."""
        return int(self.generator.trades(trade_id, trade_id + 1).agg_id[0])

    def quote(self, now_us: int) -> SimulatedQuote:
        """Return best bid and ask, the same for all times of a tenth of a second."""
        slot = now_us * QUOTES_PER_S // US
        newest = self.generator.trades(self.next_id - 1, self.next_id)
        price, maker = int(newest.ticks[0]), bool(newest.buyer_maker[0])
        bid = max(1, price if maker else price - 1)
        usual = self.instrument.quantity * 10**self.instrument.quantity_decimals
        sizes = [1 + int(usual * (1 + (slot * prime) % 97 / 4)) for prime in (31, 57)]
        return SimulatedQuote(slot, bid, sizes[0], bid + 1, sizes[1])

    @property
    def _void_count(self) -> int:
        return sum(len(ids) for ids in self.void)

    def _existing(self, trades: TradeColumns) -> TradeColumns:
        if not self.void or not len(trades):
            return trades
        kept = ~within(trades.id, self.void)
        return trades if kept.all() else trades.take(kept)


def within(ids: Int64s, ranges: Sequence[range]) -> Bools:
    """Return for each id whether it lies in one of the ranges."""
    inside = np.zeros(len(ids), dtype=np.bool_)
    for part in ranges:
        inside |= (ids >= part.start) & (ids < part.stop)
    return inside


class Market:
    """The trade tapes of the symbols that trade, and of others once somebody asks for them.

    Symbols that Binance lists, but that nobody named, trade at `QUIET_RATE`: each is there for
    any client, and all of them together cost little.
    """

    def __init__(
        self,
        symbols: Sequence[str],
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
        self._seed = seed
        self.tapes = {
            symbol: _open(symbol, rate=rate, seed=seed, first_id=first_id, now_us=now_us)
            for symbol in symbols
        }
        self.instruments = {name: instrument(name) for name in [*symbols, *listed_symbols()]}

    def advance(self, now_us: int) -> Iterator[tuple[TradeTape, TradeColumns]]:
        """Make the trades that are due in each symbol."""
        for tape in list(self.tapes.values()):
            yield tape, tape.advance(now_us)

    def tape(self, symbol: str, now_us: int) -> TradeTape | None:
        """Return the tape of a symbol, begun now if nobody asked before; None if not listed."""
        tape = self.tapes.get(symbol)
        if tape is None and symbol in self.instruments:
            rate = min(self.rate, QUIET_RATE)
            begun = _open(symbol, rate=rate, seed=self._seed, first_id=None, now_us=now_us)
            tape = self.tapes.setdefault(symbol, begun)
        return tape

    def tapes_of(self, symbol: str | None) -> list[TradeTape]:
        """Return the tape of a symbol, or all tapes for None.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """
        if symbol is None:
            return list(self.tapes.values())
        if symbol not in self.tapes:
            raise ConfigError(f"no symbol {symbol!r} here; there are " + ", ".join(self.tapes))
        return [self.tapes[symbol]]


def _open(symbol: str, *, rate: float, seed: int, first_id: int | None, now_us: int) -> TradeTape:
    if first_id is None:
        generator = TradeGenerator(symbol, rate=rate, seed=seed)
        first_id = generator.next_id(now_us)
    else:
        generator = TradeGenerator.beginning(
            symbol, rate=rate, seed=seed, first_id=first_id, at_us=now_us
        )
    return TradeTape(generator, first_id, first_id, now_us)
