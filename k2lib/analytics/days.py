"""The day of an instrument, by its venue's trading date."""

import polars as pl

from k2lib.analytics.bars import FIGURES, fold, traded
from k2lib.analytics.frames import INSTRUMENT
from k2lib.analytics.venue_time import trading_date_of


def day_summary(trades: pl.DataFrame) -> pl.DataFrame:
    """Sum up the trades of each trading date: Sydney's for the ASX, UTC's for crypto.

    Returns:
        A row for each day with a trade, by exchange, symbol and trading_date: these, open, high,
        low, close, volume, trades (their number), vwap, turnover as in `time_bars`, and first and
        last, the times of the first and the last trade.
    Raises:
        QueryError: a column is missing.
    """
    rows = traded(trades)
    rows = rows.with_columns(trading_date=trading_date_of(rows))
    first, last = pl.col("timestamp").first(), pl.col("timestamp").last()
    by = [*INSTRUMENT, "trading_date"]
    folded = fold(rows, by, first.alias("first"), last.alias("last"))
    return folded.select(*by, *FIGURES, "first", "last")
