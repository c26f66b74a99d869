"""Returns of bars and how much they vary: floats, because logarithms are."""

from typing import Final, Literal

import polars as pl

from k2lib.analytics.frames import RUN, add, check, in_order, refuse_columns
from k2lib.analytics.venue_time import trading_date_of
from k2lib.errors import QueryError

Kind = Literal["log", "simple"]
KINDS: Final = ("log", "simple")


def returns(bars: pl.DataFrame, kind: Kind = "log", *, overnight: bool = True) -> pl.DataFrame:
    """Add the return of each bar's close on that of the instrument's bar before.

    Where nothing was traded there is no bar, and none is invented: the return of the next bar
    is over the longer time.

    Args:
        bars: of any kind, with start; or a day summary, with trading_date. Bars that start in
            the same moment follow each other as given.
        kind: `log`, the logarithm of close / close before; or `simple`, this ratio less 1.
        overnight: whether a trading date's first bar has a return, from the date before.
    Returns:
        The bars as given, with `return`, a float; null for an instrument's first bar, and where
        a close is not above 0.
    Raises:
        QueryError: a column is missing, `return` is there already, or there is no such kind.
    """
    if kind not in KINDS:
        raise QueryError(f"kind={kind!r}: give 'log' or 'simple'")
    rows = _with_ratio(bars, overnight=overnight)
    refuse_columns(bars, "bars", ["return"])
    ratio = pl.col("ratio")
    found = ratio.log() if kind == "log" else ratio - 1
    return add(bars, rows.with_columns(found.alias("return")), ["return"])


def realised_volatility(
    bars: pl.DataFrame, periods_per_year: float, *, overnight: bool = True
) -> pl.DataFrame:
    """Return how much each instrument's log returns varied.

    Args:
        bars: as in `returns`.
        periods_per_year: how many bars a year of trading has: 252 for days of the ASX, 365 of
            crypto, 525,600 for its minutes.
        overnight: as in `returns`.
    Returns:
        A row for each instrument, by exchange and symbol: these, returns (their number),
        realised_variance (the sum of their squares), and volatility, the root of the mean square
        times periods_per_year; floats, null without a return.
    Raises:
        QueryError: a column is missing, or periods_per_year is not positive.
    """
    if not isinstance(periods_per_year, int | float) or not periods_per_year > 0:
        raise QueryError(
            f"periods_per_year={periods_per_year!r}: give more than 0, for example 252"
        )
    rows = _with_ratio(bars, overnight=overnight)
    found = pl.col("ratio").log()
    number = found.count().cast(pl.Int64)
    some = pl.when(number > 0).then(number)
    variance = pl.when(number > 0).then((found**2).sum())
    return rows.group_by("exchange", "symbol", maintain_order=True).agg(
        returns=number,
        realised_variance=variance,
        volatility=(variance / some * periods_per_year).sqrt(),
    )


def _with_ratio(bars: pl.DataFrame, *, overnight: bool) -> pl.DataFrame:
    time = _time_column(bars)
    check(bars, "bars", [time, "close"])
    if not bars.schema["close"].is_numeric():
        raise QueryError(f"bars: column close is {bars.schema['close']!r}: give a number")
    rows = in_order(bars, ["close"], time=time)
    date = pl.col(time) if time == "trading_date" else trading_date_of(rows, time)
    close = pl.col("close").cast(pl.Float64)
    price = pl.when(close > 0).then(close)
    follows = pl.col(RUN) == pl.col(RUN).shift()
    if not overnight:
        follows &= date == date.shift()
    return rows.with_columns(ratio=pl.when(follows).then(price / price.shift()))


def _time_column(bars: pl.DataFrame) -> str:
    days = isinstance(bars, pl.DataFrame) and "start" not in bars.columns
    return "trading_date" if days and "trading_date" in bars.columns else "start"
