"""Intervals of time: where each begins."""

from datetime import timedelta

import polars as pl

from k2lib.analytics.frames import TIME
from k2lib.analytics.venue_time import midnight, trading_date_of
from k2lib.model.lengths import DAY, MICROSECOND


def start_of(frame: pl.DataFrame, every: timedelta) -> pl.Expr:
    """Return where the interval of each row's timestamp begins.

    Below a day, intervals start at whole multiples since the epoch; a day is the venue's
    trading date, from its midnight.
    """
    if every == DAY:
        return midnight(frame, trading_date_of(frame))
    length = every // MICROSECOND
    return (pl.col("timestamp").to_physical() // length * length).cast(TIME)
