"""What each snapshot kept of the trades says of one instrument."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import polars as pl

from k2lib.client import K2
from k2lib.errors import NotFoundError

PAST: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "snapshot_id": pl.Int64,
    "committed": pl.Datetime("us", "UTC"),
    "cause": pl.String,
    "tags": pl.List(pl.String),
    "rows_total": pl.Int64,
    "newest": pl.Datetime("us", "UTC"),
    "trades": pl.Int64,
    "bars": pl.Int64,
}


@dataclass(frozen=True)
class Past:
    """An instrument as one snapshot has it.

    Attributes:
        snapshot: a row of `k2.snapshots()`.
        bars: None where the snapshot has no trade of the instrument.
        newest: time of its newest trade.
        currency: of its prices; empty without a trade.
    """

    snapshot: Mapping[str, Any]
    bars: pl.DataFrame | None = None
    newest: datetime | None = None
    currency: str = ""

    @property
    def trades(self) -> int:
        """How many trades the bars are made of."""
        return 0 if self.bars is None else int(self.bars["trades"].sum())

    def row(self) -> dict[str, Any]:
        """Return it with the columns of `PAST`: `trades` and `bars` are numbers."""
        of_snapshot = {name: self.snapshot[name] for name in PAST if name in self.snapshot}
        bars = 0 if self.bars is None else self.bars.height
        return {**of_snapshot, "newest": self.newest, "trades": self.trades, "bars": bars}


def past(
    k2: K2,
    snapshot: Mapping[str, Any],
    symbol: str,
    *,
    exchange: str,
    every: str | timedelta = "1m",
    day: date | None = None,
) -> Past:
    """Ask one snapshot for an instrument's bars.

    Args:
        snapshot: a row of `k2.snapshots()`.
        day: only those of this trading date of the venue.
    Raises:
        QueryError: the snapshot is no longer kept, or there is no such length.
    """
    as_of = int(snapshot["snapshot_id"])
    until = None if day is None else day + timedelta(days=1)
    try:
        bars = k2.bars(symbol, exchange=exchange, every=every, start=day, end=until, as_of=as_of)
        last = k2.trades(symbol, exchange=exchange, as_of=as_of, last=1)
    except NotFoundError:
        if as_of not in k2.snapshots()["snapshot_id"]:
            raise
        return Past(snapshot)
    return Past(snapshot, bars, last["timestamp"][0], last["currency"][0])


def past_table(pasts: list[Past]) -> pl.DataFrame:
    """Return a row a snapshot, with the columns of `PAST`."""
    return pl.DataFrame([one.row() for one in pasts], schema=PAST)
