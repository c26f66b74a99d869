"""Trades and aggregate trades as columns."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TradeColumns:
    """Columns of trades: `time_us` since the epoch, price in ticks, quantity in lot steps.

    `agg_id` is the aggregate trade that a trade is a fill of.
    """

    id: Int64s
    time_us: Int64s
    ticks: Int64s
    steps: Int64s
    buyer_maker: Bools
    agg_id: Int64s

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Int64s | Bools | slice) -> "TradeColumns":
        """Return the rows at these indices, or where a mask is true."""
        return TradeColumns(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class AggTradeColumns:
    """Columns of aggregate trades, each the fills `first` to `last` of one order at one price."""

    id: Int64s
    time_us: Int64s
    ticks: Int64s
    steps: Int64s
    buyer_maker: Bools
    first: Int64s
    last: Int64s

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Int64s | Bools | slice) -> "AggTradeColumns":
        """Return the rows at these indices, or where a mask is true."""
        return AggTradeColumns(*(getattr(self, field.name)[rows] for field in fields(self)))


def concat_trades(parts: list[TradeColumns]) -> TradeColumns:
    """Concatenate trades."""
    if len(parts) == 1:
        return parts[0]
    names = [name.name for name in fields(TradeColumns)]
    return TradeColumns(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
    )


def aggregate(trades: TradeColumns) -> AggTradeColumns:
    """Fold trades into aggregate trades; one cut off at an end stays cut off."""
    begins = np.flatnonzero(np.diff(trades.agg_id, prepend=-1))
    ends = np.append(begins[1:], len(trades)) - 1
    steps = np.add.reduceat(trades.steps, begins) if len(begins) else trades.steps
    at = trades.take(begins)
    last = trades.id[ends] if len(begins) else trades.id
    return AggTradeColumns(at.agg_id, at.time_us, at.ticks, steps, at.buyer_maker, at.id, last)


def no_trades() -> TradeColumns:
    """Return columns without rows."""
    none = np.zeros(0, dtype=np.int64)
    return TradeColumns(none, none, none, none, np.zeros(0, dtype=np.bool_), none)


UNIT = 10**8
_BOOLS = ("false", "true")


def decimal_text(units: int) -> str:
    """Write units of 10^-8 with all eight decimals."""
    return f"{units // UNIT}.{units % UNIT:08d}"


def decimals(units: Int64s) -> tuple[list[int], list[int]]:
    """Split units of 10^-8 into whole numbers and the rest, for `%d.%08d`."""
    whole = units // UNIT
    return whole.tolist(), (units - whole * UNIT).tolist()


def times(time_us: Int64s, *, micros: bool) -> list[int]:
    """Return times in µs, or cut to ms."""
    listed: list[int] = (time_us if micros else time_us // 1000).tolist()
    return listed


def flags(values: Bools) -> list[str]:
    """Write booleans as JSON does."""
    return [_BOOLS[value] for value in values.tolist()]
