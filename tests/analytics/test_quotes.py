"""Spreads, as-of joins and signs of trades equal what plain loops make of the rows."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.analytics_rows import (
    Row,
    Rows,
    by_instrument,
    figures,
    grouped,
    many_quotes,
    many_trades,
    quotes_frame,
    trades_frame,
)
from support.lake_rows import at, quote, trade

from k2lib import analytics
from k2lib.errors import QueryError

SIDES = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")
OF_VENUE = {"BUY": 1, "SELL": -1, "SELL_SHORT": -1}
spans = st.sampled_from([timedelta(0), timedelta(milliseconds=1), timedelta(seconds=1)])


def in_force(row: Row, quotes: Rows, delay: timedelta = timedelta(0)) -> Row | None:
    of_it = dict(by_instrument(quotes)).get((row["exchange"], row["symbol"]), [])
    earlier = [one for one in of_it if one["timestamp"] < row["timestamp"] - delay]
    return earlier[-1] if earlier else None


def tick_signs(rows: Rows) -> dict[str, int | None]:
    signs: dict[str, int | None] = {}
    for _, of_it in by_instrument(rows):
        sign, before = None, of_it[0]["price"]
        for row in of_it:
            if row["price"] != before:
                sign = 1 if row["price"] > before else -1
            signs[row["message_id"]], before = sign, row["price"]
    return signs


def sign_by_mid(row: Row, quote: Row | None) -> int | None:
    if quote is None or quote["bid_price"] is None or quote["ask_price"] is None:
        return None
    if quote["bid_price"] > quote["ask_price"]:
        return None
    mid = (quote["bid_price"] + quote["ask_price"]) / 2
    return None if row["price"] == mid else 1 if row["price"] > mid else -1


@given(many_trades())
def test_vwap_equals_the_loop(rows: list[Row]) -> None:
    named = ("vwap", "volume", "trades", "turnover")
    expected = [
        {"exchange": exchange, "symbol": symbol, **{name: figures(of_it)[name] for name in named}}
        for (exchange, symbol), of_it in by_instrument(rows)
    ]
    assert analytics.vwap(trades_frame(rows)).to_dicts() == expected


@given(many_quotes())
def test_spread_equals_the_loop(rows: list[Row]) -> None:
    quotes = quotes_frame(rows)
    found = analytics.spread(quotes)
    assert found.drop("spread", "mid", "spread_bps").equals(quotes)
    for row, shown in zip(rows, found.iter_rows(named=True), strict=True):
        bid, ask = row["bid_price"], row["ask_price"]
        if bid is None or ask is None:
            assert shown["spread"] is shown["mid"] is shown["spread_bps"] is None
            continue
        assert shown["spread"] == ask - bid
        assert shown["mid"] == (ask + bid) / 2
        assert shown["spread_bps"] == pytest.approx(float((ask - bid) / (ask + bid) * 20_000))


def test_mid_has_its_ninth_decimal() -> None:
    bid, ask = Decimal("0.00000001"), Decimal("0.00000002")
    found = analytics.spread(quotes_frame([quote(1, bid_price=bid, ask_price=ask)]))
    assert found["mid"].item() == Decimal("0.000000015")


def _continuous(row: Row) -> tuple[datetime, datetime]:
    """All rows are of 10 and 11 March, when Sydney is 11 hours ahead."""
    ahead = timedelta(hours=11 if row["exchange"] == "ASX" else 0)
    local: datetime = (row["timestamp"] + ahead).replace(hour=0, minute=0, second=0, microsecond=0)
    midnight = local - ahead
    if row["exchange"] != "ASX":
        return midnight, midnight + timedelta(days=1)
    opens = {"BHP": timedelta(hours=10, seconds=15), "MWR": timedelta(hours=10, seconds=285)}
    return midnight + opens[row["symbol"]], midnight + timedelta(hours=16)


def stood_by_loop(rows: Rows) -> Iterator[tuple[Row, int]]:
    for _, of_it in by_instrument(rows):
        for row, following in zip(of_it, [*of_it[1:], of_it[-1]], strict=True):
            opens, closes = _continuous(row)
            begin, end = max(row["timestamp"], opens), min(following["timestamp"], closes)
            there = row["bid_price"] is not None and row["ask_price"] is not None
            counts = there and row["bid_price"] <= row["ask_price"] and begin < end
            yield row, (end - begin) // timedelta(microseconds=1) if counts else 0


@given(many_quotes(), st.sampled_from([-7200, 0, 14_000]))
def test_time_weighted_spread_equals_the_loop(rows: list[Row], later: int) -> None:
    rows = [
        {**row, "timestamp": row["timestamp"] + timedelta(seconds=later)}
        for row in rows
        if row["timestamp"] < at(90_000)
    ]
    stood = {row["message_id"]: lasted for row, lasted in stood_by_loop(rows)}
    found = analytics.time_weighted_spread(quotes_frame(rows)).to_dicts()
    groups = list(grouped(rows, lambda row: _continuous(row)[0]))
    assert len(found) == len(groups)
    for (group, quotes), shown in zip(groups, found, strict=True):
        weighed = [(row, stood[row["message_id"]]) for row in quotes if stood[row["message_id"]]]
        total = sum(lasted for _, lasted in weighed)
        assert (shown["exchange"], shown["symbol"]) == (group["exchange"], group["symbol"])
        assert shown["quoted"] == timedelta(microseconds=total)
        if not total:
            assert shown["spread"] is shown["spread_bps"] is None
            continue
        spreads = [(float(row["ask_price"] - row["bid_price"]), part) for row, part in weighed]
        spread = sum(one * part for one, part in spreads) / total
        assert shown["spread"] == pytest.approx(spread)
        mids = [float(row["ask_price"] + row["bid_price"]) / 2 for row, _ in weighed]
        parts = zip(spreads, mids, strict=True)
        bps = sum(one / mid * 10_000 * part for (one, part), mid in parts) / total
        assert shown["spread_bps"] == pytest.approx(bps)


def test_a_quote_stands_until_the_end_of_its_day_and_not_overnight() -> None:
    sides = {"bid_price": Decimal(10), "ask_price": Decimal(11)}
    last, next_day = datetime(2014, 3, 10, 4, 59, tzinfo=UTC), datetime(2014, 3, 10, 23, tzinfo=UTC)
    rows = [quote(n, timestamp=time, **sides) for n, time in enumerate([last, next_day])]
    found = analytics.time_weighted_spread(quotes_frame(rows))
    assert found["quoted"].to_list() == [timedelta(minutes=1), timedelta(0)]
    assert found["spread"].to_list() == [1.0, None]


@pytest.mark.slow
@given(many_trades(), many_quotes(), st.sampled_from([None, *[1, 1000, 10**8]]))
def test_quotes_in_force_equal_the_loop(
    trades: list[Row], quotes: list[Row], tolerance_ms: int | None
) -> None:
    tolerance = None if tolerance_ms is None else timedelta(milliseconds=tolerance_ms)
    frame = trades_frame(trades)
    found = analytics.trades_with_quotes(frame, quotes_frame(quotes), tolerance=tolerance)
    assert found.select(frame.columns).equals(frame)
    expected = []
    for row in trades:
        one = in_force(row, quotes)
        if one and tolerance is not None and row["timestamp"] - one["timestamp"] > tolerance:
            one = None
        sides = [one and one[name] for name in SIDES]
        expected.append((*sides, one and one["timestamp"]))
    assert found.select(*SIDES, "quote_timestamp").rows() == expected


@given(many_trades(), st.booleans())
def test_tick_rule_equals_the_loop(rows: list[Row], keep_sides: bool) -> None:
    frame = trades_frame(rows)
    found = analytics.tick_rule(frame, keep_sides=keep_sides)
    assert found.drop("sign").equals(frame)
    assert found["sign"].to_list() == _kept(rows, tick_signs(rows), keep_sides)


@pytest.mark.slow
@given(many_trades(), many_quotes(), spans, st.booleans())
def test_lee_ready_equals_the_loop(
    trades: list[Row], quotes: list[Row], delay: timedelta, keep_sides: bool
) -> None:
    ticks, signs = tick_signs(trades), dict[str, int | None]()
    for row in trades:
        told = sign_by_mid(row, in_force(row, quotes, delay))
        signs[row["message_id"]] = ticks[row["message_id"]] if told is None else told
    frame = trades_frame(trades)
    found = analytics.lee_ready(frame, quotes_frame(quotes), delay=delay, keep_sides=keep_sides)
    assert found.drop("sign").equals(frame)
    assert found["sign"].to_list() == _kept(trades, signs, keep_sides)


def _kept(rows: Rows, signs: dict[str, int | None], keep_sides: bool) -> Sequence[int | None]:
    told = [signs[row["message_id"]] for row in rows]
    if not keep_sides:
        return told
    return [OF_VENUE.get(row["side"], sign) for row, sign in zip(rows, told, strict=True)]


def test_a_quote_of_the_trades_own_moment_is_not_in_force() -> None:
    quotes = [
        quote(n, bid_price=Decimal(bid), ask_price=Decimal(bid + 2), timestamp=at(n))
        for n, bid in enumerate([10, 20])
    ]
    trades = [trade(1, timestamp=at(1), price=Decimal(15))]
    found = analytics.lee_ready(trades_frame(trades), quotes_frame(quotes))
    assert found["sign"].item() == 1
    beside = analytics.trades_with_quotes(trades_frame(trades), quotes_frame(quotes))
    assert beside["quote_timestamp"].item() == at(0)


def test_signs_need_sides_or_leave_to_do_without() -> None:
    trades = trades_frame([trade(1), trade(2, price=Decimal(40))])
    with pytest.raises(QueryError, match="no column side: give it, or keep_sides=False"):
        analytics.tick_rule(trades.drop("side"))
    found = analytics.tick_rule(trades.drop("side"), keep_sides=False)
    assert found["sign"].to_list() == [None, 1]


def test_columns_that_are_there_already_are_not_written_over() -> None:
    trades, quotes = trades_frame([trade(1)]), quotes_frame([quote(1)])
    signed, beside = analytics.tick_rule(trades), analytics.trades_with_quotes(trades, quotes)
    with pytest.raises(QueryError, match="trades has sign already: drop or rename it first"):
        analytics.lee_ready(signed, quotes)
    with pytest.raises(QueryError, match=r"trades has bid_price, .* already"):
        analytics.trades_with_quotes(beside, quotes)
    with pytest.raises(QueryError, match="quotes has spread, mid, spread_bps already"):
        analytics.spread(analytics.spread(quotes))


@pytest.mark.parametrize("tolerance", [timedelta(0), timedelta(seconds=-1), 5])
def test_no_tolerance_at_all_is_refused(tolerance: Any) -> None:
    frames: Any = trades_frame([]), quotes_frame([])
    with pytest.raises(QueryError, match=r"tolerance=.*: give a timedelta of more than nothing"):
        analytics.trades_with_quotes(*frames, tolerance=tolerance)


@pytest.mark.parametrize("delay", [timedelta(seconds=-1), 5])
def test_what_is_no_delay_is_refused(delay: Any) -> None:
    with pytest.raises(QueryError, match=r"delay=.*: give a timedelta, of nothing or more"):
        analytics.lee_ready(trades_frame([]), quotes_frame([]), delay=delay)


def test_quotes_of_other_instruments_are_in_force_nowhere() -> None:
    sides = {"bid_price": Decimal(1), "ask_price": Decimal(2)}
    other = [quote(0, exchange="BINANCE", **sides), quote(0, symbol="MWR", **sides)]
    found = analytics.trades_with_quotes(trades_frame([trade(5)]), quotes_frame(other))
    assert found.select(*SIDES, "quote_timestamp").row(0) == (None,) * 5
    assert found.schema["quote_timestamp"] == pl.Datetime("us", "UTC")
