"""Order flow, imbalance of trades, returns and volatility equal plain loops over the rows."""

import math
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.analytics_rows import (
    Row,
    Rows,
    by_instrument,
    grouped,
    interval_start,
    many_quotes,
    many_trades,
    quotes_frame,
    trades_frame,
)
from support.lake_rows import at, quote, trade

from k2lib import analytics
from k2lib.errors import QueryError

lengths = st.sampled_from([timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=7)])


def pressure(quote: Row, before: Row) -> Decimal:
    """Cont, Kukanov and Stoikov's e_n, with infinite prices where a side is empty."""

    def side(row: Row, name: str, empty: float) -> tuple[Any, Decimal]:
        price = row[f"{name}_price"]
        quantity = Decimal(0) if price is None else row[f"{name}_quantity"]
        return empty if price is None else price, quantity

    bid, bid_quantity = side(quote, "bid", -math.inf)
    bid_before, bid_quantity_before = side(before, "bid", -math.inf)
    ask, ask_quantity = side(quote, "ask", math.inf)
    ask_before, ask_quantity_before = side(before, "ask", math.inf)
    return (
        (bid >= bid_before) * bid_quantity
        - (bid <= bid_before) * bid_quantity_before
        - (ask <= ask_before) * ask_quantity
        + (ask >= ask_before) * ask_quantity_before
    )


@pytest.mark.slow
@given(many_quotes(), lengths)
def test_order_flow_imbalance_equals_the_loop(rows: list[Row], every: timedelta) -> None:
    pressures = {}
    for _, of_it in by_instrument(rows):
        pressures[of_it[0]["message_id"]] = Decimal(0)
        for before, row in pairwise(of_it):
            pressures[row["message_id"]] = pressure(row, before)
    expected = [
        {
            "exchange": at["exchange"],
            "symbol": at["symbol"],
            "start": at["key"],
            "imbalance": sum((pressures[row["message_id"]] for row in quotes), Decimal(0)),
            "quotes": len(quotes),
        }
        for at, quotes in grouped(rows, lambda row: interval_start(row, every))
    ]
    assert analytics.order_flow_imbalance(quotes_frame(rows), every).to_dicts() == expected


def test_a_bid_that_comes_and_goes_presses_by_its_quantity() -> None:
    sides = [(None, None), (Decimal(10), Decimal(7)), (Decimal(10), Decimal(9)), (None, None)]
    rows = [
        quote(n, bid_price=price, bid_quantity=quantity, timestamp=at(n * 60))
        for n, (price, quantity) in enumerate(sides)
    ]
    found = analytics.order_flow_imbalance(quotes_frame(rows), "1m")
    assert found["imbalance"].to_list() == [0, 7, 2, -9]


@pytest.mark.slow
@given(many_trades(), lengths)
def test_trade_imbalance_equals_the_loop(rows: list[Row], every: timedelta) -> None:
    signed = analytics.tick_rule(trades_frame(rows))
    signs = dict(signed.select("message_id", "sign").rows())
    found = analytics.trade_imbalance(signed, every).to_dicts()
    groups = list(grouped(rows, lambda row: interval_start(row, every)))
    for (group, trades), shown in zip(groups, found, strict=True):
        of_sign = {
            sign: sum((r["quantity"] for r in trades if signs[r["message_id"]] == sign), Decimal(0))
            for sign in (1, -1, None)
        }
        volume = sum(of_sign.values(), Decimal(0))
        ratio = float((of_sign[1] - of_sign[-1]) / volume) if volume else None
        assert [shown[name] for name in ("exchange", "symbol", "start")] == list(group.values())
        assert (shown["buy_volume"], shown["sell_volume"]) == (of_sign[1], of_sign[-1])
        assert shown["volume"] == volume
        assert shown["imbalance"] == (ratio if ratio is None else pytest.approx(ratio))


def returns_by_loop(
    rows: Rows, kind: str, *, overnight: bool = True
) -> Iterator[tuple[int, float | None]]:
    """Yield each bar's place and its return."""
    for _, of_it in by_instrument(rows):
        before = None
        for row in of_it:
            days_apart = before is not None and before["day"] != row["day"]
            if before is None or (days_apart and not overnight):
                yield row["place"], None
            else:
                ratio = float(row["price"]) / float(before["price"])
                yield row["place"], math.log(ratio) if kind == "log" else ratio - 1
            before = row


def bars_of(trades: Rows) -> tuple[list[Row], pl.DataFrame]:
    """Take each trade for a bar; all but the last of `few_times` are of one date everywhere."""
    rows = [
        {**row, "place": n, "day": row["timestamp"] >= at(86_400), "source_sequence": None}
        for n, row in enumerate(trades)
    ]
    rows = [{**row, "platform_sequence": n, "message_id": f"{n:03}"} for n, row in enumerate(rows)]
    frame = pl.DataFrame(
        {
            "exchange": [row["exchange"] for row in rows],
            "symbol": [row["symbol"] for row in rows],
            "start": pl.Series([row["timestamp"] for row in rows], dtype=pl.Datetime("us", "UTC")),
            "close": pl.Series([row["price"] for row in rows], dtype=pl.Decimal(18, 8)),
        },
        schema_overrides={"exchange": pl.String, "symbol": pl.String},
    )
    return rows, frame


@given(many_trades(), st.sampled_from(["log", "simple"]), st.booleans())
def test_returns_equal_the_loop(trades: list[Row], kind: Any, overnight: bool) -> None:
    rows, bars = bars_of(trades)
    found = analytics.returns(bars, kind, overnight=overnight)
    expected = dict(returns_by_loop(rows, kind, overnight=overnight))
    assert found.drop("return").equals(bars)
    for place, shown in enumerate(found["return"]):
        wanted = expected[place]
        assert shown == (wanted if wanted is None else pytest.approx(wanted, abs=1e-12))


@given(many_trades())
def test_volatility_equals_the_loop(trades: list[Row]) -> None:
    rows, bars = bars_of(trades)
    moves = dict(returns_by_loop(rows, "log"))
    found = analytics.realised_volatility(bars, 252).to_dicts()
    for ((exchange, symbol), of_it), shown in zip(by_instrument(rows), found, strict=True):
        squares = [moves[row["place"]] for row in of_it]
        squares = [one**2 for one in squares if one is not None]
        assert (shown["exchange"], shown["symbol"]) == (exchange, symbol)
        assert shown["returns"] == len(squares)
        if not squares:
            assert shown["realised_variance"] is shown["volatility"] is None
            continue
        assert shown["realised_variance"] == pytest.approx(sum(squares), abs=1e-12)
        root = math.sqrt(sum(squares) / len(squares) * 252)
        assert shown["volatility"] == pytest.approx(root, abs=1e-9)


@pytest.mark.parametrize("close", [Decimal(0), Decimal(-1)])
def test_closes_that_are_no_price_have_no_return(close: Decimal) -> None:
    _, bars = bars_of(
        [trade(n, price=price) for n, price in enumerate([Decimal(1), close, Decimal(2)])]
    )
    assert analytics.returns(bars)["return"].to_list() == [None, None, None]


def test_days_without_trades_make_no_returns() -> None:
    days = [
        trade(n, timestamp=at(86_400 * day), price=Decimal(2**n)) for n, day in enumerate((0, 4))
    ]
    summary = analytics.day_summary(trades_frame(days))
    found = analytics.returns(summary, "simple")
    assert found.select("trading_date", "return").rows() == [
        (date(2014, 3, 10), None),
        (date(2014, 3, 14), 1.0),
    ]
    assert analytics.realised_volatility(summary, 252)["returns"].item() == 1


def test_bars_of_one_start_follow_each_other_as_given() -> None:
    trades = [trade(n, timestamp=at(0), price=Decimal(2**n), platform_sequence=n) for n in range(3)]
    bars = analytics.tick_bars(trades_frame(trades), 1)
    assert analytics.returns(bars, "simple")["return"].to_list() == [None, 1.0, 1.0]


@pytest.mark.slow
@given(many_trades())
def test_bars_of_one_minute_have_returns(trades: list[Row]) -> None:
    bars = analytics.time_bars(trades_frame(trades), "1m")
    assert analytics.returns(bars).height == bars.height


def test_unknown_kinds_and_years_without_periods_are_refused() -> None:
    _, bars = bars_of([trade(1)])
    with pytest.raises(QueryError, match="kind='ln': give 'log' or 'simple'"):
        analytics.returns(bars, "ln")  # type: ignore[arg-type]
    for periods in (0, -1.5, math.nan, "252"):
        with pytest.raises(QueryError, match=f"periods_per_year={periods!r}: give more than 0"):
            analytics.realised_volatility(bars, periods)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="bars has return already"):
        analytics.returns(analytics.returns(bars))
