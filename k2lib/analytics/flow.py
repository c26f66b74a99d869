"""Order-flow imbalance of quotes, and imbalance of trades."""

from datetime import timedelta
from typing import Final

import polars as pl

from k2lib.analytics.exact import SCALE, decimals, units
from k2lib.analytics.frames import INSTRUMENT, RUN, SIDES, check, in_order
from k2lib.analytics.venue_time import start_of
from k2lib.schema.calendar import bar_length

LOWEST: Final = -(10**18)
HIGHEST: Final = 10**18


def order_flow_imbalance(quotes: pl.DataFrame, every: str | timedelta) -> pl.DataFrame:
    """Sum the changes of the best bid and ask by interval.

    A bid that rises adds its quantity, one that falls takes away the quantity before, one that
    stays adds the difference of the two; the ask does the same with the opposite sign, its rise
    being a retreat. A side that is empty has no quantity, and any price is better.

    Args:
        every: as in `time_bars`.
    Returns:
        A row for each interval with a quote, by exchange, symbol and start: these, imbalance (in
        quantity, exact; positive where buyers press) and quotes (their number). An instrument's
        first quote changes nothing.
    Raises:
        QueryError: no such length, or a column is missing.
    Source: Cont, Kukanov and Stoikov (2014), "The Price Impact of Order Book Events".
    """
    length = bar_length(every)
    check(quotes, "quotes", ["timestamp", *SIDES])
    rows = in_order(quotes, SIDES)
    rows = rows.with_columns(start=start_of(rows, length), change=_bought() - _sold())
    summed = rows.group_by(*INSTRUMENT, "start", maintain_order=True).agg(
        imbalance=pl.col("change").sum(), quotes=pl.len().cast(pl.Int64)
    )
    return summed.with_columns(imbalance=decimals(pl.col("imbalance"), SCALE))


def trade_imbalance(signed: pl.DataFrame, every: str | timedelta) -> pl.DataFrame:
    """Weigh what was bought against what was sold, by interval.

    Args:
        signed: trades with a sign, as of `tick_rule` or `lee_ready`.
        every: as in `time_bars`.
    Returns:
        A row for each interval with a trade, by exchange, symbol and start: these, buy_volume,
        sell_volume and volume (exact; the volume is of all trades, those without a sign too),
        and imbalance, (buy_volume - sell_volume) / volume, a float, null without volume.
    Raises:
        QueryError: no such length, or a column is missing.
    """
    length = bar_length(every)
    check(signed, "signed", ["timestamp", "quantity", "sign"])
    rows = in_order(signed, ["quantity", "sign"])
    quantity, sign = pl.col("quantity"), pl.col("sign")
    summed = (
        rows.with_columns(start=start_of(rows, length))
        .group_by(*INSTRUMENT, "start", maintain_order=True)
        .agg(
            buy_volume=quantity.filter(sign == 1).sum(),
            sell_volume=quantity.filter(sign == -1).sum(),
            volume=quantity.sum(),
        )
    )
    return summed.with_columns(imbalance=_ratio())


def _bought() -> pl.Expr:
    return _change("bid", LOWEST, rises=1)


def _sold() -> pl.Expr:
    return _change("ask", HIGHEST, rises=-1)


def _change(side: str, worst: int, *, rises: int) -> pl.Expr:
    """The quantity counts where the price is as good or better, that before where as bad or worse.

    The price of an empty side may tie with a real one: it has no quantity.
    """
    price = units(f"{side}_price").fill_null(pl.lit(worst, pl.Int128)) * rises
    quantity = units(f"{side}_quantity").fill_null(0)
    before, quantity_before = price.shift(), quantity.shift()
    now = pl.when(price >= before).then(quantity).otherwise(0)
    gone = pl.when(price <= before).then(quantity_before).otherwise(0)
    follows = pl.col(RUN) == pl.col(RUN).shift()
    return pl.when(follows).then(now - gone).otherwise(0)


def _ratio() -> pl.Expr:
    surplus = units("buy_volume") - units("sell_volume")
    some = pl.when(units("volume") != 0).then(units("volume"))
    return surplus.cast(pl.Float64) / some.cast(pl.Float64)
