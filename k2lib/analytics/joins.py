"""As-of joins of trades with the quotes in force."""

from datetime import timedelta
from typing import Final

import polars as pl

from k2lib.analytics.frames import INSTRUMENT, RUN, SIDES, add, check, in_order, refuse_columns
from k2lib.errors import QueryError

QUOTE: Final = (*SIDES, "quote_timestamp")


def trades_with_quotes(
    trades: pl.DataFrame, quotes: pl.DataFrame, *, tolerance: timedelta | None = None
) -> pl.DataFrame:
    """Put beside each trade the quote of its instrument that was in force.

    That is the last quote in the order of events whose timestamp is before the trade's: a quote
    of the trade's own moment may be what the trade made of the book.

    Args:
        tolerance: a quote older than this by the trade's time is none.
    Returns:
        The trades as given, with bid_price, bid_quantity, ask_price, ask_quantity, and
        quote_timestamp, the quote's time; all null where there is no quote. A side that was empty
        is null, with a quote_timestamp.
    Raises:
        QueryError: a column is missing, or the trades have one of these already.
    """
    if tolerance is not None and not _is_span(tolerance, at_least=timedelta.resolution):
        raise QueryError(
            f"tolerance={tolerance}: give a timedelta of more than nothing, or None for any age"
        )
    check(trades, "trades", ["timestamp"])
    refuse_columns(trades, "trades", QUOTE)
    return add(trades, with_quotes(in_order(trades, []), quotes, tolerance=tolerance), QUOTE)


def with_quotes(
    rows: pl.DataFrame,
    quotes: pl.DataFrame,
    *,
    delay: timedelta = timedelta(0),
    tolerance: timedelta | None = None,
) -> pl.DataFrame:
    """Return ordered trades with the quotes in force `delay` before them.

    Raises:
        QueryError: the delay is negative, or a column is missing.
    """
    if not _is_span(delay, at_least=timedelta(0)):
        raise QueryError(f"delay={delay}: give a timedelta, of nothing or more")
    check(quotes, "quotes", ["timestamp", *SIDES])
    in_force = _numbered_as(rows, in_order(quotes, SIDES))
    return rows.with_columns(before=pl.col("timestamp") - delay).join_asof(
        in_force.rename({"timestamp": "quote_timestamp"}),
        left_on="before",
        right_on="quote_timestamp",
        by=RUN,
        allow_exact_matches=False,
        tolerance=tolerance,
        coalesce=False,
        check_sortedness=False,
    )


def _is_span(value: object, *, at_least: timedelta) -> bool:
    return isinstance(value, timedelta) and value >= at_least


def _numbered_as(rows: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """Number the quotes' instruments as those of the trades: a join by names takes thrice as long.

    Quotes of other instruments are left out.
    """
    numbers = (
        quotes.select(*INSTRUMENT, RUN)
        .unique(RUN)
        .join(rows.select(*INSTRUMENT, number=RUN).unique("number"), on=INSTRUMENT)
    )
    run = pl.col(RUN).replace_strict(
        numbers[RUN], numbers["number"], default=None, return_dtype=pl.UInt32
    )
    return quotes.select("timestamp", *SIDES, run).drop_nulls(RUN)
