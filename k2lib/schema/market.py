"""Which trades count: all, those of the market itself, or its off-market prints alone."""

from typing import Final, Literal, get_args

import polars as pl

from k2lib.errors import QueryError

# `on` and `off` part all trades in two; where a venue says nothing, its trades are `on`.
Market = Literal["all", "on", "off"]
# What `vendor_data` of an off-market print has, a trade that was only reported to the exchange.
VENUE: Final = "venue"
OFF_MARKET: Final = "X"


def check_market(market: object) -> None:
    """Refuse what names no trades.

    Raises:
        QueryError: names what does.
    """
    if market not in get_args(Market):
        raise QueryError(f"market={market!r}: give 'all', 'on' or 'off' (off-market prints alone)")


def market_sql(market: Market) -> str:
    """Return the trades that count as a condition of SQL.

    Raises:
        QueryError: no such market.
    """
    check_market(market)
    same = {"on": "IS DISTINCT FROM", "off": "IS NOT DISTINCT FROM"}
    return f"vendor_data['{VENUE}'] {same[market]} '{OFF_MARKET}'" if market in same else "true"


def is_off_market() -> pl.Expr:
    """Return whether a trade is an off-market print, as an expression of Polars."""
    return pl.col("vendor_data").map.get(VENUE).eq_missing(OFF_MARKET)
