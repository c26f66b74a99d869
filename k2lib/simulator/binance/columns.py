"""Trades and aggregates as columns."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Trades:
    """Columns of trades: `time_us` since the epoch, price in ticks, quantity in lot steps."""

    id: Int64s
    time_us: Int64s
    ticks: Int64s
    steps: Int64s
    buyer_maker: Bools
    order: Int64s

    def __len__(self) -> int:
        return len(self.id)

    def take(self, places: Int64s | Bools | slice) -> "Trades":
        """Return the rows at these places, in this order."""
        return Trades(*(getattr(self, name.name)[places] for name in fields(self)))


@dataclass(frozen=True)
class Orders:
    """Columns of aggregates, each the fills `first` to `last` of one order at one price."""

    id: Int64s
    time_us: Int64s
    ticks: Int64s
    steps: Int64s
    buyer_maker: Bools
    first: Int64s
    last: Int64s

    def __len__(self) -> int:
        return len(self.id)

    def take(self, places: Int64s | Bools | slice) -> "Orders":
        """Return the rows at these places, in this order."""
        return Orders(*(getattr(self, name.name)[places] for name in fields(self)))


def joined(parts: list[Trades]) -> Trades:
    """Put trades one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = [name.name for name in fields(Trades)]
    return Trades(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def aggregates(trades: Trades) -> Orders:
    """Fold trades into one row an order; orders cut off at the ends stay cut off."""
    begins = np.flatnonzero(np.diff(trades.order, prepend=-1))
    ends = np.append(begins[1:], len(trades)) - 1
    steps = np.add.reduceat(trades.steps, begins) if len(begins) else trades.steps
    at = trades.take(begins)
    last = trades.id[ends] if len(begins) else trades.id
    return Orders(at.order, at.time_us, at.ticks, steps, at.buyer_maker, at.id, last)


def no_trades() -> Trades:
    """Return columns without rows."""
    none = np.zeros(0, dtype=np.int64)
    return Trades(none, none, none, none, np.zeros(0, dtype=np.bool_), none)


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
