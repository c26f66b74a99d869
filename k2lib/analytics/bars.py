"""Bars by time, by number of trades, by volume and by turnover."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

import polars as pl

from k2lib.analytics.exact import (
    SCALE,
    TURNOVER_SCALE,
    decimals,
    threshold_units,
    units,
    vwap,
    with_turnover,
)
from k2lib.analytics.frames import INSTRUMENT, RUN, check, in_order
from k2lib.analytics.venue_time import start_of, trading_date_of
from k2lib.errors import QueryError
from k2lib.schema.calendar import bar_length

FIGURES: Final = ("open", "high", "low", "close", "volume", "trades", "vwap", "turnover")


def time_bars(trades: pl.DataFrame, every: str | timedelta) -> pl.DataFrame:
    """Fold trades into bars of `[start, start + every)`, as `k2.bars` does.

    Args:
        every: for example `30s`, `5m`, `2h`, or `1d`. Below a day, bars start at whole multiples
            since the epoch; a day is the venue's trading date, from its midnight.
    Returns:
        A row for each bar with a trade, by exchange, symbol and start: these, open, high, low,
        close, volume, trades (their number), vwap, turnover. Volume and turnover are exact;
        vwap is turnover / volume, rounded half away from 0 to 8 decimals, null without volume.
    Raises:
        QueryError: no such length, or a column is missing.
    """
    length = bar_length(every)
    rows = traded(trades)
    rows = rows.with_columns(start=start_of(rows, length))
    return fold(rows, [*INSTRUMENT, "start"]).select(*INSTRUMENT, "start", *FIGURES)


def tick_bars(trades: pl.DataFrame, count: int) -> pl.DataFrame:
    """Fold trades into bars of `count` trades each.

    Returns:
        A row for each bar, by exchange, symbol and time: exchange, symbol, start and end (times of
        its first and last trade), then as `time_bars`, and complete: whether it has `count`
        trades, which only an instrument's last bar may lack.
    Raises:
        QueryError: the count is not positive, or a column is missing.
    """
    if not isinstance(count, int) or not 0 < count < 2**63:
        raise QueryError(f"count={count!r}: give a whole number of trades, 1 or more")
    return _filled(traded(trades), pl.lit(1, pl.Int128), count)


def volume_bars(trades: pl.DataFrame, volume: int | Decimal) -> pl.DataFrame:
    """Fold trades into bars of `volume` each.

    The volume is counted from an instrument's first trade of the frame on. Bar k = 0, 1, ... has
    the trades before which at least k and less than k + 1 times `volume` had been traded: a bar
    closes with the trade that reaches the next multiple. What that trade has beyond it counts
    for the bars after it: the bar after a large trade may have less than `volume`, and a trade
    that reaches several multiples closes one bar.

    Returns:
        As `tick_bars`; complete says whether the bar's multiple was reached.
    Raises:
        QueryError: the volume is not positive or no exact number, or a column is missing.
    """
    whole = threshold_units("volume", volume, scale=SCALE)
    return _filled(traded(trades), units("quantity"), whole)


def dollar_bars(trades: pl.DataFrame, turnover: int | Decimal) -> pl.DataFrame:
    """Fold trades into bars of `turnover` each, in the currency of the prices.

    The rule is that of `volume_bars`, with price times quantity in place of the quantity.

    Returns:
        As `tick_bars`; complete says whether the bar's multiple was reached.
    Raises:
        QueryError: the turnover is not positive or no exact number, or a column is missing.
    """
    whole = threshold_units("turnover", turnover, scale=TURNOVER_SCALE)
    return _filled(traded(trades), pl.col("turnover"), whole)


def traded(trades: pl.DataFrame) -> pl.DataFrame:
    """Return checked trades in order, with the turnover of each in units."""
    check(trades, "trades", ["timestamp", "price", "quantity"])
    return with_turnover(in_order(trades, ["price", "quantity"]))


def fold(rows: pl.DataFrame, by: Sequence[str], *more: pl.Expr) -> pl.DataFrame:
    """Fold ordered trades with their turnover into one row a group, by instrument and time.

    Args:
        more: what else to tell of a group.
    """
    folded = rows.group_by(by, maintain_order=True).agg(
        *more,
        open=pl.col("price").first(),
        high=pl.col("price").max(),
        low=pl.col("price").min(),
        close=pl.col("price").last(),
        volume=pl.col("quantity").sum(),
        trades=pl.len().cast(pl.Int64),
        turnover=pl.col("turnover").sum(),
    )
    return folded.with_columns(
        vwap=vwap(pl.col("turnover"), units("volume")),
        turnover=decimals(pl.col("turnover"), TURNOVER_SCALE),
    )


def _filled(rows: pl.DataFrame, measure: pl.Expr, threshold: int) -> pl.DataFrame:
    full = pl.lit(threshold, pl.Int128)
    rows = rows.with_columns(measure=measure)
    rows = rows.with_columns(reached=pl.col("measure").cum_sum().over(RUN))
    rows = rows.with_columns(bar=(pl.col("reached") - pl.col("measure")) // full)
    complete = pl.col("reached").last() >= (pl.col("bar").first() + 1) * full
    folded = fold(
        rows,
        [*INSTRUMENT, "bar"],
        pl.col("timestamp").first().alias("start"),
        pl.col("timestamp").last().alias("end"),
        complete.alias("complete"),
    )
    return folded.select(*INSTRUMENT, "start", "end", *FIGURES, "complete")


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
