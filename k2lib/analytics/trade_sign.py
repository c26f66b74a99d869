"""Trade signs (aggressor side) inferred from prices, by tick rule and Lee-Ready; never stored."""

from datetime import timedelta

import polars as pl

from k2lib.analytics.exact import units
from k2lib.analytics.frames import RUN, add, check, in_order, refuse_columns
from k2lib.analytics.joins import with_quotes
from k2lib.errors import QueryError


def tick_rule(trades: pl.DataFrame, *, keep_sides: bool = True) -> pl.DataFrame:
    """Sign trades by the last change of price: 1 after a rise, -1 after a fall.

    Args:
        keep_sides: take the sign from `side` where the venue gives it; else from prices alone.
    Returns:
        The trades as given, with sign: 1 bought, -1 sold by who took liquidity; null before an
        instrument's first change of price in the frame.
    Raises:
        QueryError: a column is missing, or sign is there already.
    """
    rows = _checked(trades, keep_sides)
    return add(trades, rows.with_columns(sign=_sign(_last_change(), keep_sides)), ["sign"])


def lee_ready(
    trades: pl.DataFrame,
    quotes: pl.DataFrame,
    *,
    delay: timedelta = timedelta(0),
    keep_sides: bool = True,
) -> pl.DataFrame:
    """Sign trades by the mid of the quote in force: 1 above it, -1 below, at it the tick rule.

    The quote is the last one before the trade's time less `delay`, never one of that same moment.
    The tick rule decides too where there is no quote yet, or it lacks a side or is crossed.

    Args:
        delay: by how much the trades' times lag behind the quotes'.
        keep_sides: take the sign from `side` where the venue gives it; else from prices alone.
    Returns:
        The trades as given, with sign: 1 bought, -1 sold by who took liquidity; null where
        neither rule can tell.
    Raises:
        QueryError: a column is missing, sign is there already, or the delay is negative.
    Source: Lee and Ready (1991), "Inferring Trade Direction from Intraday Data".
    """
    rows = with_quotes(_checked(trades, keep_sides), quotes, delay=delay)
    inferred = pl.coalesce(_side_of_mid(), _last_change())
    return add(trades, rows.with_columns(sign=_sign(inferred, keep_sides)), ["sign"])


def _checked(trades: pl.DataFrame, keep_sides: bool) -> pl.DataFrame:
    if keep_sides and isinstance(trades, pl.DataFrame) and "side" not in trades.columns:
        raise QueryError("trades has no column side: give it, or keep_sides=False")
    columns = ["price", "side"] if keep_sides else ["price"]
    check(trades, "trades", ["timestamp", *columns])
    refuse_columns(trades, "trades", ["sign"])
    return in_order(trades, columns)


def _sign(inferred: pl.Expr, keep_sides: bool) -> pl.Expr:
    return (pl.coalesce(_of_side(), inferred) if keep_sides else inferred).cast(pl.Int8)


def _of_side() -> pl.Expr:
    side = pl.col("side")
    return pl.when(side == "BUY").then(1).when(side.is_in(["SELL", "SELL_SHORT"])).then(-1)


def _last_change() -> pl.Expr:
    change = units("price").diff().sign()
    return pl.when(change != 0).then(change).forward_fill().over(RUN)


def _side_of_mid() -> pl.Expr:
    bid, ask = units("bid_price"), units("ask_price")
    distance = units("price") * 2 - bid - ask
    return pl.when((bid <= ask) & (distance != 0)).then(distance.sign())
