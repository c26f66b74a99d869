"""The account of every trade id: until none is missing, and against what the exchange made."""

import time
from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl

from k2lib.errors import TransientError
from k2lib.feed.feed import Feed
from k2lib.ops.alerts import Alerts
from k2lib.query.engine import Engine
from k2lib.query.statistics import contiguity
from k2lib.simulator import GroundTruth

LOOK_S: Final = 0.25
IDS: Final = "SELECT source_sequence AS id FROM lake.trades_v2 WHERE exchange = ? AND symbol = ?"
ABSENT: Final = """
    SELECT coalesce(sum(absent), 0)::BIGINT AS ids FROM gaps
    WHERE exchange = ? AND symbol = ? AND to_id <= ?"""


def wait_until_healed(
    engine: Engine,
    feed: Feed,
    past: Mapping[str, int],
    *,
    alerts: Alerts,
    within_s: float = 60.0,
) -> pl.DataFrame:
    """Wait until the lake is past these ids, none before is unexplained, and no alert fires.

    Args:
        past: by symbol, an id that the venue has made.
    Returns:
        What `contiguity` says of the feed's venue then.
    Raises:
        K2Error: what ended the feed.
        TransientError: not within the time: it says what is missing.
    """
    until = time.monotonic() + within_s
    while True:
        is_over = feed.wait(LOOK_S) or time.monotonic() > until
        ids = contiguity(engine, feed.venue.exchange)
        if _is_past(ids, past) and not ids["unexplained"].sum() and not alerts.firing:
            return ids
        if is_over:
            told = ids.select("symbol", "last_id", "unexplained").rows()
            firing = [alert.name for alert in alerts.firing]
            raise TransientError(f"not healed within {within_s:g} s: {told}, alerts {firing}")


def account(engine: Engine, truths: Mapping[str, GroundTruth], *, exchange: str) -> pl.DataFrame:
    """Compare the ids made with those in the lake, from the first id in the lake on.

    Args:
        truths: by symbol, what the exchange says it made.
    Returns:
        A row a symbol: first_id, last_id, made (ids that exist), in_lake (of those, how many the
        lake has), twice, invented (in the lake, but never made), never_made (ids that exist
        nowhere), listed_absent (those that the table gaps says the venue does not have).
    """
    return pl.DataFrame([_row(engine, name, of, exchange) for name, of in truths.items()])


def _is_past(ids: pl.DataFrame, past: Mapping[str, int]) -> bool:
    reached = dict(ids.select("symbol", "last_id").iter_rows())
    return all(reached.get(symbol, -1) >= last for symbol, last in past.items())


def _row(engine: Engine, symbol: str, truth: GroundTruth, exchange: str) -> dict[str, str | int]:
    there = engine.sql(IDS, [exchange, symbol])["id"].to_numpy()
    first = int(there.min()) if len(there) else truth.first_id
    ids, counts = np.unique(there[there <= truth.last_id], return_counts=True)
    void = np.array([one for one in truth.void if first <= one <= truth.last_id], dtype=np.int64)
    made = np.setdiff1d(np.arange(first, truth.last_id + 1), void, assume_unique=True)
    return {
        "symbol": symbol,
        "first_id": first,
        "last_id": truth.last_id,
        "made": len(made),
        "in_lake": int(np.isin(made, ids).sum()),
        "twice": int((counts > 1).sum()),
        "invented": int((~np.isin(ids, made)).sum()),
        "never_made": len(void),
        "listed_absent": engine.sql(ABSENT, [exchange, symbol, truth.last_id])["ids"][0],
    }
