"""The trades of a symbol: what each id is follows from the seed, in any order of requests.

Ids come in blocks of `BLOCK`; a block holds `AGG_TRADES` aggregate trades (fills of
one taker order at one price and time) and takes the same time as any other, so that an id gives
its time, and a time its id, without generating the trades between.
"""

import functools
import math
from datetime import UTC, datetime

import numpy as np

from k2lib.simulator.binance.columns import (
    AggTradeColumns,
    Bools,
    Floats,
    Int64s,
    TradeColumns,
    UInt64s,
    aggregate,
    concat_trades,
    no_trades,
)
from k2lib.simulator.binance.instruments import SimulatedInstrument, fraction_of, instrument, key_of

BLOCK = 1024
AGG_TRADES = 640
PUBLISHED_AFTER_US = 500
US = 1_000_000

_LISTED = datetime(2017, 8, 17, tzinfo=UTC)
_LISTING_SPREAD_S = 90 * 86_400
_DRIFT_PER_ROOT_S = 1e-4
_WIDEST_DRIFT = 0.05
_SIZE_SPREAD = 1.4
_SWEEPS, _TURNS, _QUICK = 0.12, 0.35, 0.6
# Blocks kept of a symbol; of one that hardly trades, there may be hundreds of symbols.
_KEPT_BLOCKS, _KEPT_QUIET_BLOCKS = 64, 2
_GOLDEN = 0x9E3779B97F4A7C15


class TradeGenerator:
    """All trades of one symbol, a pure function of seed, symbol, rate and origin.

    Args:
        rate: trades a second, on average over each block.
        origin_id: id of the first trade of block 0; ids below 0 do not exist.
        origin_us: time at which block 0 begins, µs since the epoch; by default a day in 2017
            or so, different from symbol to symbol.
    """

    def __init__(
        self,
        symbol: str,
        *,
        rate: float,
        seed: int,
        origin_id: int = 0,
        origin_us: int | None = None,
    ) -> None:
        self.instrument: SimulatedInstrument = instrument(symbol)
        self.rate = rate
        self._seed = seed
        self._origin_id = origin_id
        self._origin_us = listed_us(symbol) if origin_us is None else origin_us
        name = f"{seed}|{symbol}|{rate:g}"
        self._keys = {lane: key_of(f"{name}|{lane}") for lane in range(12)}
        self._span_us = BLOCK * US / rate
        self._drift = min(_WIDEST_DRIFT, _DRIFT_PER_ROOT_S * math.sqrt(BLOCK / rate))
        self._octaves = 1 + int(2 * math.log2(_WIDEST_DRIFT / self._drift))
        kept_blocks = _KEPT_BLOCKS if rate >= 1 else _KEPT_QUIET_BLOCKS
        self._block = functools.lru_cache(maxsize=kept_blocks)(self._make)

    @classmethod
    def beginning(
        cls, symbol: str, *, rate: float, seed: int, first_id: int, at_us: int
    ) -> "TradeGenerator":
        """Return a generator whose trade `first_id` is the first one after a time."""
        blocks = -(-first_id // BLOCK)
        return cls(
            symbol,
            rate=rate,
            seed=seed,
            origin_id=first_id - blocks * BLOCK,
            origin_us=at_us - math.ceil(blocks * BLOCK * US / rate),
        )

    def copy(self) -> "TradeGenerator":
        """Return an equal generator, for use in another thread."""
        return TradeGenerator(
            self.instrument.symbol,
            rate=self.rate,
            seed=self._seed,
            origin_id=self._origin_id,
            origin_us=self._origin_us,
        )

    def trades(self, first: int, end: int) -> TradeColumns:
        """Return the trades with first ≤ id < end; none have an id below 0."""
        first = max(0, first)
        if end <= first:
            return no_trades()
        low = (first - self._origin_id) // BLOCK
        high = (end - 1 - self._origin_id) // BLOCK
        rows = concat_trades([self._block(number) for number in range(low, high + 1)])
        begin = first - int(rows.id[0])
        return rows.take(slice(begin, begin + end - first))

    def agg_trades(self, first: int, end: int) -> AggTradeColumns:
        """Return the aggregate trades with first ≤ id < end."""
        return aggregate(self.trades_of_aggregates(first, end))

    def trades_of_aggregates(self, first: int, end: int) -> TradeColumns:
        """Return the trades of the aggregate trades with first ≤ id < end."""
        low, high = max(0, first) // AGG_TRADES, max(0, end - 1) // AGG_TRADES
        rows = self.trades(self._block_id(low), self._block_id(high + 1))
        return rows.take((rows.agg_id >= first) & (rows.agg_id < end))

    def next_id(self, at_us: int) -> int:
        """Return the first id that is not yet published at a time."""
        published_us = at_us - PUBLISHED_AFTER_US
        number = math.floor((published_us - self._origin_us) / self._span_us)
        if self._start_us(number) > published_us:
            number -= 1
        if number < 0:
            return max(0, self._origin_id)
        rows = self._block(number)
        return max(
            0, int(rows.id[0]) + int(np.searchsorted(rows.time_us, published_us, side="right"))
        )

    def id_at(self, time_us: int) -> int:
        """Return the first id whose trade time is not before a time."""
        return self.next_id(time_us - 1 + PUBLISHED_AFTER_US)

    def _block_id(self, number: int) -> int:
        return self._origin_id + number * BLOCK

    def _start_us(self, number: int) -> int:
        return self._origin_us + math.ceil(number * self._span_us)

    def _make(self, number: int) -> TradeColumns:
        starts = self._starts(number)
        agg_index = np.cumsum(starts) - 1
        sweeps = self._uniform(1, number, AGG_TRADES) < _SWEEPS
        sweeps[0] = False
        buys = self._buys(number, sweeps)
        order_ticks = self._ticks(number, sweeps, buys)
        return TradeColumns(
            self._block_id(number) + np.arange(BLOCK, dtype=np.int64),
            self._times(number, sweeps)[agg_index],
            order_ticks[agg_index],
            self._steps(number),
            ~buys[agg_index],
            number * AGG_TRADES + agg_index,
        )

    def _starts(self, number: int) -> Bools:
        starts = np.zeros(BLOCK, dtype=np.bool_)
        starts[0] = True
        shuffled = np.argpartition(self._uniform(0, number, BLOCK - 1), AGG_TRADES - 1)
        starts[1 + shuffled[: AGG_TRADES - 1]] = True
        return starts

    def _buys(self, number: int, sweeps: Bools) -> Bools:
        turns = (self._uniform(2, number, AGG_TRADES) < _TURNS) & ~sweeps
        buys: Bools = (np.cumsum(turns) + number) % 2 == 0
        return buys

    def _times(self, number: int, sweeps: Bools) -> Int64s:
        gaps = -np.log1p(-self._uniform(3, number, AGG_TRADES))
        quick = self._uniform(4, number, AGG_TRADES) < _QUICK
        after = np.cumsum(np.where(sweeps, 0.0, np.where(quick, 0.1 * gaps, 2.3 * gaps)))
        share = after / (after[-1] + 1.0)
        inside: Int64s = (share * (self._span_us - 1)).astype(np.int64)
        return self._start_us(number) + inside

    def _ticks(self, number: int, sweeps: Bools, buys: Bools) -> Int64s:
        item = self.instrument
        indices = np.arange(AGG_TRADES)
        begun = np.maximum.accumulate(np.where(sweeps, 0, indices))
        price = item.price * np.exp(self._path(number)[begun])
        bid = np.floor(price * 10**item.price_decimals).astype(np.int64)
        depth = indices - begun
        ticks: Int64s = np.maximum(1, bid + np.where(buys, 1 + depth, -depth))
        return ticks

    def _path(self, number: int) -> Floats:
        here, there = self._level(number), self._level(number + 1)
        walk = np.cumsum(self._normal(5, number, AGG_TRADES))
        share = np.arange(1, AGG_TRADES + 1) / AGG_TRADES
        bridge = (walk - share * walk[-1]) * self._drift / math.sqrt(AGG_TRADES)
        path: Floats = here + (there - here) * share + bridge
        return path

    def _level(self, number: int) -> float:
        octaves = np.arange(self._octaves, dtype=np.int64)
        lattice = number >> octaves
        share = (number - (lattice << octaves)) / 2.0**octaves
        names = (octaves << 44) + lattice
        low, high = self._noise(names), self._noise(names + 1)
        size = 0.7 * self._drift * np.sqrt(2.0**octaves)
        return float(np.sum(size * (low + (high - low) * share)))

    def _noise(self, names: Int64s) -> Floats:
        return (_uniforms(self._keys[7], names.astype(np.uint64)) - 0.5) * math.sqrt(12)

    def _steps(self, number: int) -> Int64s:
        item = self.instrument
        usual = item.quantity * 10**item.quantity_decimals
        sizes = usual * np.exp(_SIZE_SPREAD * self._normal(8, number, BLOCK))
        steps: Int64s = np.maximum(1, sizes.astype(np.int64))
        return steps

    def _normal(self, lane: int, number: int, count: int) -> Floats:
        radius = np.sqrt(-2 * np.log1p(-self._uniform(lane, number, count)))
        angle: Floats = 2 * np.pi * self._uniform(lane + 1, number, count)
        normal: Floats = radius * np.cos(angle)
        return normal

    def _uniform(self, lane: int, number: int, count: int) -> Floats:
        first = number * BLOCK
        return _uniforms(self._keys[lane], np.arange(first, first + count, dtype=np.uint64))


def listed_us(symbol: str) -> int:
    """Return when a symbol's first trade was, by default: ids follow from it and the rate."""
    later_s = int(fraction_of(symbol) * _LISTING_SPREAD_S)
    return (int(_LISTED.timestamp()) + later_s) * US


def _uniforms(key: int, index: UInt64s) -> Floats:
    """Hash each index with the key (splitmix64) to a number in [0, 1)."""
    bits = np.uint64(key) + index * np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = (bits ^ (bits >> np.uint64(31))) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
