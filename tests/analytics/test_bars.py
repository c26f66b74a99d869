"""Bars and day summaries of frames equal what a plain loop over the trades makes of them."""

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.analytics_rows import (
    Row,
    Rows,
    by_instrument,
    decimals,
    figures,
    grouped,
    interval_start,
    many_trades,
    trades_frame,
)
from support.lake_rows import at, rows_table, trade

from k2lib import analytics
from k2lib.errors import QueryError
from k2lib.query.statistics import bars_sql

SYDNEY = ZoneInfo("Australia/Sydney")
ZONES = {"ASX": SYDNEY, "BINANCE": ZoneInfo("UTC")}
thresholds = st.one_of(st.sampled_from([Decimal(1), Decimal(100), Decimal(7000)]), decimals)


def filled_by_loop(
    rows: Rows, threshold: Decimal, measure: Callable[[Row], Decimal]
) -> Iterator[Row]:
    for (exchange, symbol), of_it in by_instrument(rows):
        bars: dict[int, list[Row]] = {}
        reached = Decimal(0)
        closed = {}
        with localcontext(prec=80):
            for row in of_it:
                bar = int(reached // threshold)
                bars.setdefault(bar, []).append(row)
                reached += measure(row)
                closed[bar] = reached >= (bar + 1) * threshold
        for bar, traded in bars.items():
            yield {
                "exchange": exchange,
                "symbol": symbol,
                "start": traded[0]["timestamp"],
                "end": traded[-1]["timestamp"],
                **figures(traded),
                "complete": closed[bar],
            }


@pytest.mark.slow
@given(many_trades(), st.integers(1, 5))
def test_tick_bars_equal_the_loop(rows: list[Row], count: int) -> None:
    found = analytics.tick_bars(trades_frame(rows), count).to_dicts()
    assert found == list(filled_by_loop(rows, Decimal(count), lambda row: Decimal(1)))


@pytest.mark.slow
@given(many_trades(), thresholds)
def test_volume_bars_equal_the_loop(rows: list[Row], volume: Decimal) -> None:
    found = analytics.volume_bars(trades_frame(rows), volume).to_dicts()
    assert found == list(filled_by_loop(rows, volume, lambda row: row["quantity"]))


@pytest.mark.slow
@given(many_trades(), thresholds)
def test_dollar_bars_equal_the_loop(rows: list[Row], turnover: Decimal) -> None:
    def measure(row: Row) -> Decimal:
        product: Decimal = row["price"] * row["quantity"]
        return product

    found = analytics.dollar_bars(trades_frame(rows), turnover).to_dicts()
    assert found == list(filled_by_loop(rows, turnover, measure))


@pytest.mark.slow
@given(many_trades(), st.sampled_from([1, 60, 420, 7 * 3600, 86_399]))
def test_time_bars_equal_the_loop(rows: list[Row], seconds: int) -> None:
    every = timedelta(seconds=seconds)
    groups = grouped(rows, lambda row: interval_start(row, every))
    expected = [
        {"exchange": at["exchange"], "symbol": at["symbol"], "start": at["key"], **figures(traded)}
        for at, traded in groups
    ]
    assert analytics.time_bars(trades_frame(rows), every).to_dicts() == expected


@pytest.mark.slow
@given(many_trades())
def test_day_summary_equals_the_loop(rows: list[Row]) -> None:
    def day(row: Row) -> date:
        local: datetime = row["timestamp"].astimezone(ZONES[row["exchange"]])
        return local.date()

    expected = [
        {
            "exchange": at["exchange"],
            "symbol": at["symbol"],
            "trading_date": at["key"],
            **figures(traded),
            "first": traded[0]["timestamp"],
            "last": traded[-1]["timestamp"],
        }
        for at, traded in grouped(rows, day)
    ]
    assert analytics.day_summary(trades_frame(rows)).to_dicts() == expected


@pytest.mark.parametrize("every", ["1m", "1d"])
def test_time_bars_have_the_columns_and_types_of_bars_by_sql(every: str) -> None:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("trades", rows_table([trade(1), trade(90)]))
    length = timedelta(days=1) if every == "1d" else timedelta(minutes=1)
    by_sql = connection.sql(bars_sql("SELECT * FROM trades", length, of_venue=SYDNEY)).pl()
    found = analytics.time_bars(trades_frame([trade(1), trade(90)]), every)
    assert found.equals(by_sql.select(found.columns))
    assert found.schema == by_sql.select(found.columns).schema
    assert set(by_sql.columns) - set(found.columns) <= {"trading_date"}


def test_a_large_trade_closes_one_bar_and_counts_for_those_after_it() -> None:
    quantities = [60, 250, 30, 20, 40]
    rows = [trade(n, quantity=Decimal(q)) for n, q in enumerate(quantities)]
    found = analytics.volume_bars(trades_frame(rows), 100)
    assert found.select("volume", "complete").rows() == [(310, True), (90, True)]
    rows.append(trade(5, quantity=Decimal(1)))
    assert not analytics.volume_bars(trades_frame(rows), 100)["complete"][-1]


@pytest.mark.slow
@given(many_trades(), st.integers(1, 5))
def test_only_the_last_bar_of_an_instrument_is_unfinished(rows: list[Row], count: int) -> None:
    found = analytics.tick_bars(trades_frame(rows), count)
    last = found.select(pl.struct("exchange", "symbol").is_last_distinct()).to_series()
    assert found.filter(~last)["complete"].all()


@pytest.mark.slow
@given(many_trades(), thresholds)
def test_bars_lose_nothing(rows: list[Row], volume: Decimal) -> None:
    found = analytics.volume_bars(trades_frame(rows), volume)
    with localcontext(prec=80):
        assert sum(found["volume"], Decimal(0)) == sum((r["quantity"] for r in rows), Decimal(0))
        turnover = sum((row["price"] * row["quantity"] for row in rows), Decimal(0))
        assert sum(found["turnover"], Decimal(0)) == turnover
    assert found["trades"].sum() == len(rows)


def test_days_of_a_clock_change_have_25_and_23_hours() -> None:
    hours = [timedelta(hours=h) for h in range(72)]
    april = datetime(2014, 4, 4, 13, tzinfo=ZoneInfo("UTC"))
    october = datetime(2014, 10, 3, 14, tzinfo=ZoneInfo("UTC"))
    rows = [
        trade(n, timestamp=begin + hour)
        for n, (begin, hour) in enumerate((b, h) for b in (april, october) for h in hours)
    ]
    found = analytics.day_summary(trades_frame(rows))
    trades = dict(found.select("trading_date", "trades").rows())
    assert (trades[date(2014, 4, 5)], trades[date(2014, 4, 6)]) == (24, 25)
    assert (trades[date(2014, 10, 4)], trades[date(2014, 10, 5)]) == (24, 23)
    daily = analytics.time_bars(trades_frame(rows), "1d")
    assert daily["trades"].to_list() == found["trades"].to_list()
    assert daily["start"][1] - daily["start"][0] == timedelta(hours=24)
    assert daily["start"][2] - daily["start"][1] == timedelta(hours=25)


def test_a_turnover_beyond_all_digits_is_refused() -> None:
    most = Decimal("9999999999.99999999")
    rows = [trade(n, price=most, quantity=most) for n in range(100)]
    with pytest.raises(QueryError, match=r"turnover of these 100 trades is over 10\^22"):
        analytics.vwap(trades_frame(rows))
    assert analytics.vwap(trades_frame(rows[:98]))["vwap"].item() == most


@pytest.mark.parametrize("count", [0, -1, 1.5, 2**63])
def test_bars_of_no_number_of_trades_are_refused(count: Any) -> None:
    with pytest.raises(QueryError, match=rf"count={count}: give a whole number of trades"):
        analytics.tick_bars(trades_frame([]), count)


@pytest.mark.parametrize(
    ("volume", "remedy"),
    [
        (0, "give more than 0"),
        (Decimal(-1), "give more than 0"),
        (10**30, "less than 10"),
        (Decimal("NaN"), "give more than 0"),
        (Decimal("0.000000001"), "at most 8 decimals"),
        (1.5, "a float is not exact"),
        ("100", "give an int or a Decimal"),
    ],
)
def test_thresholds_that_are_no_exact_amount_are_refused(volume: Any, remedy: str) -> None:
    with pytest.raises(QueryError, match=f"^volume=.*{remedy}"):
        analytics.volume_bars(trades_frame([]), volume)
    with pytest.raises(QueryError, match=r"turnover=0: give more than 0"):
        analytics.dollar_bars(trades_frame([]), 0)


@pytest.mark.parametrize("every", ["", "m", "0m", "1.5h", "1w", "2d", timedelta(0), 5])
def test_lengths_that_are_none_are_refused(every: Any) -> None:
    with pytest.raises(QueryError, match="every="):
        analytics.time_bars(trades_frame([]), every)


def test_intervals_begin_at_whole_multiples_before_the_epoch_too() -> None:
    moment = datetime(1969, 12, 31, 23, 59, 59, tzinfo=ZoneInfo("UTC"))
    bar = analytics.time_bars(trades_frame([trade(1, timestamp=moment)]), "1h")
    assert bar["start"].item() == moment.replace(minute=0, second=0)
    assert at(0) > moment
