"""A replay, watched: when each event came, by its own clock and by the clock on the wall."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, Protocol

import polars as pl

NOTED: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "kind": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "came_s": pl.Float64,
}


class Timed(Protocol):
    """What has an event time: a trade, a quote or a gap."""

    @property
    def timestamp(self) -> datetime:
        """The venue's time."""
        ...


def arrivals(
    events: Iterable[Timed], *, clock: Callable[[], float] = time.monotonic
) -> pl.DataFrame:
    """Take the events of a replay to its end, and note when each one came.

    Returns:
        A row an event, as they came: kind (trade, quote or gap), timestamp, event_s and wall_s,
        the seconds from the first one on by event time and by the clock.
    """
    came = [(type(one).__name__.lower(), one.timestamp, clock()) for one in events]
    frame = pl.DataFrame(came, schema=NOTED, orient="row")
    first = pl.col("timestamp").first()
    return frame.with_columns(
        event_s=(pl.col("timestamp") - first).dt.total_microseconds() / 1e6,
        wall_s=pl.col("came_s") - pl.col("came_s").first(),
    ).drop("came_s")


def speed_of(came: pl.DataFrame) -> float:
    """Return seconds of event time in a second of the clock: the median of the later arrivals.

    One event that the machine brings late is no other speed: those after it are on time again.
    """
    speeds = came.filter(pl.col("event_s") >= pl.col("event_s").max() / 2, pl.col("wall_s") > 0)
    return float(speeds.select((pl.col("event_s") / pl.col("wall_s")).median()).item())
