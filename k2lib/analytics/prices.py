"""Average prices and spreads."""

from datetime import timedelta
from typing import Final

import polars as pl

from k2lib.analytics.bars import fold, traded
from k2lib.analytics.exact import SCALE, decimals, units
from k2lib.analytics.frames import INSTRUMENT, RUN, check, in_order, refuse_columns
from k2lib.analytics.sessions import trading_hours
from k2lib.analytics.venue_time import local_time, since_midnight

PRICES: Final = ("bid_price", "ask_price")
BASIS_POINTS: Final = 10_000


def vwap(trades: pl.DataFrame) -> pl.DataFrame:
    """Return the volume-weighted average price of each instrument.

    Returns:
        A row for each, by exchange and symbol: these, vwap, volume, trades (their number),
        turnover. Volume and turnover are exact; vwap is turnover / volume, rounded half away
        from 0 to 8 decimals, null without volume.
    Raises:
        QueryError: a column is missing.
    """
    folded = fold(traded(trades), INSTRUMENT)
    return folded.select(*INSTRUMENT, "vwap", "volume", "trades", "turnover")


def spread(quotes: pl.DataFrame) -> pl.DataFrame:
    """Add what lies between bid and ask of each quote.

    Returns:
        The quotes as given, with spread (ask less bid; negative where they are crossed) and mid,
        both exact, mid with a ninth decimal; and spread_bps, the spread in basis points of mid,
        a float. All three are null where a side is empty.
    Raises:
        QueryError: a column is missing, or one of the three is there already.
    """
    check(quotes, "quotes", PRICES)
    refuse_columns(quotes, "quotes", ["spread", "mid", "spread_bps"])
    return quotes.with_columns(
        spread=decimals(_spread_units(), SCALE),
        mid=decimals(_twice_mid() * 5, SCALE + 1),
        spread_bps=_spread_bps(),
    )


def time_weighted_spread(quotes: pl.DataFrame) -> pl.DataFrame:
    """Average the spread over the time that quotes stood in continuous trading.

    A quote stands from its timestamp until the instrument's next quote, and never past the end of
    its trading date's continuous trading; the last one of the frame counts for no time, because
    its end is not known. No time counts while a side is empty or the quote is crossed.

    Returns:
        A row for each trading date with a quote, by exchange, symbol and trading_date: these,
        spread (in currency) and spread_bps, floats that are null where no time counted; and
        quoted, the time that did.
    Raises:
        QueryError: a column is missing.
    """
    check(quotes, "quotes", ["timestamp", *PRICES])
    rows = in_order(quotes, PRICES)
    rows = rows.with_columns(
        local=local_time(rows), spread=_spread_units().cast(pl.Float64), spread_bps=_spread_bps()
    )
    rows = rows.with_columns(trading_date=pl.col("local").dt.date(), stood=_stood(rows))
    total = pl.col("stood").sum()
    some = pl.when(total > 0).then(total)
    return (
        rows.group_by(*INSTRUMENT, "trading_date", maintain_order=True)
        .agg(
            spread=(pl.col("spread") * pl.col("stood")).sum() / some / 10**SCALE,
            spread_bps=(pl.col("spread_bps") * pl.col("stood")).sum() / some,
            quoted=total.cast(pl.Duration("us")),
        )
        .select(*INSTRUMENT, "trading_date", "spread", "spread_bps", "quoted")
    )


def _spread_units() -> pl.Expr:
    return units("ask_price") - units("bid_price")


def _twice_mid() -> pl.Expr:
    return units("ask_price") + units("bid_price")


def _spread_bps() -> pl.Expr:
    twice = _twice_mid()
    some = pl.when(twice != 0).then(twice).cast(pl.Float64)
    return _spread_units().cast(pl.Float64) * 2 * BASIS_POINTS / some


def _stood(rows: pl.DataFrame) -> pl.Expr:
    """Microseconds that each quote counts for, by the wall clock: no session sees it jump."""
    opens, closes = trading_hours(rows)
    time = since_midnight(pl.col("local"))
    following = pl.when(pl.col(RUN) == pl.col(RUN).shift(-1)).then(pl.col("local").shift(-1))
    until = time + (following.fill_null(pl.col("local")) - pl.col("local"))
    stood = pl.min_horizontal(until, closes) - pl.max_horizontal(time, opens)
    counts = (_spread_units() >= 0) & (stood > timedelta(0))
    return pl.when(counts).then(stood).otherwise(timedelta(0)).to_physical()
