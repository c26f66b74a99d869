"""Measurements that notebooks show: ids made and stored, files a query reads, replay times."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, Protocol

import numpy as np
import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table

from k2lib.errors import TransientError
from k2lib.feed.feed import Feed
from k2lib.ops.alerts import Alerts
from k2lib.query.engine import Engine
from k2lib.query.statistics import contiguity
from k2lib.simulator import GroundTruth

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
POLL_S: Final = 0.25
IDS: Final = "SELECT source_sequence AS id FROM lake.trades_v2 WHERE exchange = ? AND symbol = ?"
ABSENT: Final = """
    SELECT coalesce(sum(absent), 0)::BIGINT AS ids FROM gaps
    WHERE exchange = ? AND symbol = ? AND to_id <= ?"""
SCAN_PLAN: Final[Schema] = {
    "question": pl.String,
    "files": pl.Int64,
    "rows": pl.Int64,
    "bytes": pl.Int64,
}
ARRIVAL: Final[Schema] = {
    "kind": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "clock_s": pl.Float64,
}


def wait_until_healed(
    engine: Engine,
    feed: Feed,
    target_ids: Mapping[str, int],
    *,
    alerts: Alerts,
    within_s: float = 60.0,
) -> pl.DataFrame:
    """Wait until the lake has reached these ids, every gap is explained, and no alert fires.

    Args:
        target_ids: by symbol, an id that the venue has made.
    Returns:
        The result of `contiguity` for the feed's venue at that moment.
    Raises:
        K2Error: the error that ended the feed.
        TransientError: not healed within the time; the message names what is missing.
    """
    until = time.monotonic() + within_s
    while True:
        is_over = feed.wait(POLL_S) or time.monotonic() > until
        ids = contiguity(engine, feed.venue.exchange)
        if _reached(ids, target_ids) and not ids["unexplained"].sum() and not alerts.firing:
            return ids
        if is_over:
            found = ids.select("symbol", "last_id", "unexplained").rows()
            firing = [alert.name for alert in alerts.firing]
            raise TransientError(f"not healed within {within_s:g} s: {found}, alerts {firing}")


def compare_ids(
    engine: Engine, truths: Mapping[str, GroundTruth], *, exchange: str
) -> pl.DataFrame:
    """Compare the ids that an exchange made with those in the lake, from the lake's first id on.

    Args:
        truths: by symbol, the ids that the exchange reports to have made.
    Returns:
        A row per symbol: first_id, last_id, made (ids that exist), in_lake (of those, how many the
        lake has), twice, invented (in the lake, but never made), never_made (ids that exist
        nowhere), listed_absent (those that the table gaps lists as absent at the venue).
    """
    rows = [_id_row(engine, symbol, truth, exchange) for symbol, truth in truths.items()]
    return pl.DataFrame(rows)


def _reached(ids: pl.DataFrame, target_ids: Mapping[str, int]) -> bool:
    last_ids = dict(ids.select("symbol", "last_id").iter_rows())
    return all(last_ids.get(symbol, -1) >= last_id for symbol, last_id in target_ids.items())


def _id_row(engine: Engine, symbol: str, truth: GroundTruth, exchange: str) -> dict[str, str | int]:
    in_lake = engine.sql(IDS, [exchange, symbol])["id"].to_numpy()
    first = int(in_lake.min()) if len(in_lake) else truth.first_id
    ids, counts = np.unique(in_lake[in_lake <= truth.last_id], return_counts=True)
    void = np.array([n for n in truth.void if first <= n <= truth.last_id], dtype=np.int64)
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


def plan_scans(table: Table, filters: Mapping[str, str | None]) -> pl.DataFrame:
    """Plan scans with pyiceberg, and count what each would read, without reading data.

    Args:
        filters: by question, its filter in pyiceberg's syntax; None selects every row.
    Returns:
        A row per question: question, files, and the rows and bytes that those files hold.
    """
    rows = [_plan(table, question, row_filter) for question, row_filter in filters.items()]
    return pl.DataFrame(rows, SCAN_PLAN, orient="row")


def _plan(table: Table, question: str, row_filter: str | None) -> tuple[str, int, int, int]:
    scan = table.scan(row_filter=AlwaysTrue() if row_filter is None else row_filter)
    files = [task.file for task in scan.plan_files()]
    rows = sum(file.record_count for file in files)
    return question, len(files), rows, sum(file.file_size_in_bytes for file in files)


class Timed(Protocol):
    """An object with an event time: a trade, a quote or a gap."""

    @property
    def timestamp(self) -> datetime:
        """The venue's time."""
        ...


def arrival_times(
    events: Iterable[Timed], *, clock: Callable[[], float] = time.monotonic
) -> pl.DataFrame:
    """Read the events of a replay to its end, and note when each one arrived.

    Returns:
        A row per event in order of arrival: kind (trade, quote or gap), timestamp, event_s and
        wall_s, the seconds since the first one by event time and by the clock.
    """
    rows = [(type(event).__name__.lower(), event.timestamp, clock()) for event in events]
    frame = pl.DataFrame(rows, schema=ARRIVAL, orient="row")
    first = pl.col("timestamp").first()
    return frame.with_columns(
        event_s=(pl.col("timestamp") - first).dt.total_microseconds() / 1e6,
        wall_s=pl.col("clock_s") - pl.col("clock_s").first(),
    ).drop("clock_s")


def replay_speed(arrivals: pl.DataFrame) -> float:
    """Return seconds of event time per second of the clock: the median of the later arrivals.

    One late event does not change the speed: those after it are on time again.
    """
    is_late_half = pl.col("event_s") >= pl.col("event_s").max() / 2
    later = arrivals.filter(is_late_half, pl.col("wall_s") > 0)
    return float(later.select((pl.col("event_s") / pl.col("wall_s")).median()).item())
