"""Times by the clocks of the venues of a frame."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl

from k2lib.analytics.frames import TIME
from k2lib.schema.calendar import DAY, MICROSECOND, UTC_ZONE, zone


def local_time(frame: pl.DataFrame, column: str = "timestamp") -> pl.Expr:
    """Return a time as the venue's wall clock shows it, without a zone."""

    def shown(key: str) -> pl.Expr:
        return pl.col(column).dt.convert_time_zone(key).dt.replace_time_zone(None)

    return _by_zone(frame, shown)


def trading_date_of(frame: pl.DataFrame, column: str = "timestamp") -> pl.Expr:
    """Return the venue's date of a time."""
    return local_time(frame, column).dt.date()


def since_midnight(local: pl.Expr) -> pl.Expr:
    """Return how long after midnight a wall clock shows a time."""
    day = timedelta(days=1) // timedelta(microseconds=1)
    return (local.to_physical() % day).cast(pl.Duration("us"))


def midnight(frame: pl.DataFrame, dates: pl.Expr) -> pl.Expr:
    """Return when the venue's date begins, in UTC."""

    def begun(key: str) -> pl.Expr:
        return dates.cast(pl.Datetime("us")).dt.replace_time_zone(key).dt.convert_time_zone("UTC")

    return _by_zone(frame, begun)


def _by_zone(frame: pl.DataFrame, of_zone: Callable[[str], pl.Expr]) -> pl.Expr:
    """Zones that no venue of the frame has are left out, and a zone alone needs no choice."""
    zones: dict[str, list[str]] = {}
    for exchange in frame["exchange"].unique():
        zones.setdefault(zone(exchange).key, []).append(exchange)
    found = of_zone(zones.popitem()[0] if zones else UTC_ZONE.key)
    for key, exchanges in zones.items():
        found = pl.when(pl.col("exchange").is_in(exchanges)).then(of_zone(key)).otherwise(found)
    return found


def start_of(frame: pl.DataFrame, every: timedelta) -> pl.Expr:
    """Return where the interval of each row's timestamp begins.

    Below a day, intervals start at whole multiples since the epoch; a day is the venue's
    trading date, from its midnight.
    """
    if every == DAY:
        return midnight(frame, trading_date_of(frame))
    length = every // MICROSECOND
    return (pl.col("timestamp").to_physical() // length * length).cast(TIME)
