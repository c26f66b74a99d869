"""What tests of the analytics share: rows of several venues with ties, and loops over them."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import polars as pl
from hypothesis import strategies as st
from support.lake_rows import at, quote, rows_table, trade

from k2lib.schema.order import EVENT_ORDER

Row = dict[str, Any]
Rows = Sequence[Row]

# The same symbol at two venues, and two symbols at one.
INSTRUMENTS = (("ASX", "BHP"), ("ASX", "MWR"), ("BINANCE", "BHP"))
decimals = st.integers(1, 10**18 - 1).map(lambda unscaled: Decimal(unscaled).scaleb(-8))
ticks = st.sampled_from([Decimal("36.66"), Decimal("36.67"), Decimal("36.68")])
quantities = st.sampled_from([Decimal(0), Decimal("0.00012"), Decimal(3), Decimal(100)])
sequences = st.one_of(st.none(), st.integers(0, 1))
few_times = st.sampled_from([at(0), at(0.001), at(1), at(61), at(61.5), at(3601), at(90_000)])
sides = st.sampled_from(["UNKNOWN", "UNKNOWN", "BUY", "SELL", "SELL_SHORT"])


def instruments() -> st.SearchStrategy[tuple[str, str]]:
    """Draw an instrument."""
    return st.sampled_from(INSTRUMENTS)


@st.composite
def many_trades(draw: st.DrawFn, at_most: int = 14) -> list[Row]:
    """Draw trades in any order, many at the same time or price."""
    return [_trade(draw, number) for number in _numbers(draw, at_most)]


@st.composite
def many_quotes(draw: st.DrawFn, at_most: int = 14) -> list[Row]:
    """Draw quotes in any order, some without a side, crossed or locked."""
    return [_quote(draw, number) for number in _numbers(draw, at_most)]


def trades_frame(rows: Rows) -> pl.DataFrame:
    """Return trades as `k2.trades` does."""
    return _frame(rows, "trades_v2")


def quotes_frame(rows: Rows) -> pl.DataFrame:
    """Return quotes as `k2.quotes` does."""
    return _frame(rows, "quotes_v2")


def in_event_order(rows: Rows) -> list[Row]:
    """Sort rows by the order of events, nulls first."""
    return sorted(rows, key=lambda row: [(row[n] is not None, row[n]) for n in EVENT_ORDER])


def by_instrument(rows: Rows) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """Yield each instrument, by exchange and symbol, with its rows in order."""
    for instrument in sorted({(row["exchange"], row["symbol"]) for row in rows}):
        of_it = [row for row in rows if (row["exchange"], row["symbol"]) == instrument]
        yield instrument, in_event_order(of_it)


def grouped(rows: Rows, key: Callable[[Row], Any]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield exchange, symbol and key of each group, with its rows in order."""
    for (exchange, symbol), of_it in by_instrument(rows):
        for value in sorted({key(row) for row in of_it}):
            found = [row for row in of_it if key(row) == value]
            yield {"exchange": exchange, "symbol": symbol, "key": value}, found


def figures(rows: Rows) -> Row:
    """Fold trades in order into the figures of a bar."""
    prices = [row["price"] for row in rows]
    with localcontext(prec=80):
        volume = sum((row["quantity"] for row in rows), Decimal(0))
        turnover = sum((row["price"] * row["quantity"] for row in rows), Decimal(0))
        exact = turnover / volume if volume else None
        vwap = exact and exact.quantize(Decimal("1e-8"), ROUND_HALF_UP)
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "trades": len(rows),
        "vwap": vwap,
        "turnover": turnover,
    }


def interval_start(row: Row, every: timedelta) -> datetime:
    """Return the start of a row's interval, whole multiples since the epoch."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    moment: datetime = row["timestamp"]
    return epoch + (moment - epoch) // every * every


def _numbers(draw: st.DrawFn, at_most: int) -> list[int]:
    return draw(st.permutations(range(draw(st.integers(0, at_most)))))


def _frame(rows: Rows, name: str) -> pl.DataFrame:
    frame = pl.from_arrow(rows_table(rows, name))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _common(draw: st.DrawFn) -> Row:
    exchange, symbol = draw(instruments())
    return {
        "exchange": exchange,
        "symbol": symbol,
        "timestamp": draw(few_times),
        "source_sequence": draw(sequences),
        "platform_sequence": draw(sequences),
    }


def _trade(draw: st.DrawFn, number: int) -> Row:
    price, quantity = draw(st.one_of(ticks, decimals)), draw(st.one_of(quantities, decimals))
    return trade(number, **_common(draw), price=price, quantity=quantity, side=draw(sides))


def _quote(draw: st.DrawFn, number: int) -> Row:
    bid, ask = draw(st.one_of(st.none(), ticks)), draw(st.one_of(st.none(), ticks))
    return quote(
        number,
        **_common(draw),
        bid_price=bid,
        bid_quantity=bid and draw(quantities),
        ask_price=ask,
        ask_quantity=ask and draw(quantities),
    )
