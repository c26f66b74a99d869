"""Bars equal what a plain loop over the trades makes of them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lake_rows import append, at, catalog_in, rows_table, trade

from k2lib.errors import QueryError
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.query.sql import bars_sql
from k2lib.query.statistics import read_bars
from k2lib.schema.calendar import DAY, bar_length, zone
from k2lib.schema.market import Market
from k2lib.schema.order import EVENT_ORDER

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SYDNEY = ZoneInfo("Australia/Sydney")
UTC_ZONE = ZoneInfo("UTC")
DUCKDB = duckdb.connect()
DUCKDB.execute("SET TimeZone = 'UTC'")
# Sydney's clocks go back in the first of these nights and forward in the second.
CLOCK_CHANGES = (datetime(2014, 4, 5, 16, tzinfo=UTC), datetime(2014, 10, 4, 16, tzinfo=UTC))

decimals = st.integers(0, 10**18 - 1).map(lambda unscaled: Decimal(unscaled).scaleb(-8))
prices = st.one_of(st.sampled_from([Decimal("36.67"), Decimal("36.68")]), decimals)
sequences = st.one_of(st.none(), st.integers(0, 2))
times = st.builds(
    lambda night, us: night + timedelta(microseconds=us),
    st.sampled_from(CLOCK_CHANGES),
    st.one_of(st.integers(0, 3), st.integers(-2 * 10**11, 2 * 10**11)),
)
vendors = st.sampled_from([None, {}, {"venue": "X"}, {"venue": "Y"}])


@st.composite
def many_trades(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Trades with the same time and place as often as not, in any order."""
    return [
        trade(
            number,
            timestamp=draw(times),
            price=draw(prices),
            quantity=draw(decimals),
            source_sequence=draw(sequences),
            platform_sequence=draw(sequences),
            vendor_data=draw(vendors),
        )
        for number in draw(st.permutations(range(draw(st.integers(0, 12)))))
    ]


def bars_by_loop(
    rows: Sequence[dict[str, Any]], every: timedelta, of_venue: ZoneInfo
) -> Iterator[dict[str, Any]]:
    def start_of(row: dict[str, Any]) -> datetime:
        if every == DAY:
            local: datetime = row["timestamp"].astimezone(of_venue)
            midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
            return midnight.astimezone(UTC)
        since: timedelta = row["timestamp"] - EPOCH
        return EPOCH + since // every * every

    in_order = sorted(rows, key=lambda row: [(row[n] is not None, row[n]) for n in EVENT_ORDER])
    for start, group in groupby(in_order, key=start_of):
        traded = list(group)
        price = [row["price"] for row in traded]
        with localcontext(prec=80):
            volume = sum((row["quantity"] for row in traded), Decimal(0))
            turnover = sum((row["price"] * row["quantity"] for row in traded), Decimal(0))
            exact = turnover / volume if volume else None
            vwap = exact and exact.quantize(Decimal("1e-8"), ROUND_HALF_UP)
        yield {
            "exchange": "ASX",
            "symbol": "BHP",
            "start": start,
            **({"trading_date": start.astimezone(of_venue).date()} if every == DAY else {}),
            "open": price[0],
            "high": max(price),
            "low": min(price),
            "close": price[-1],
            "volume": volume,
            "trades": len(traded),
            "vwap": vwap,
            "turnover": turnover,
        }


def folded(
    rows: Sequence[dict[str, Any]],
    every: timedelta,
    *,
    of_venue: ZoneInfo = UTC_ZONE,
    market: Market = "all",
) -> pl.DataFrame:
    DUCKDB.register("trades", rows_table(rows))
    query = bars_sql("SELECT * FROM trades", every, of_venue=of_venue, market=market)
    frame: pl.DataFrame = DUCKDB.sql(query).pl()
    return frame


@pytest.mark.slow
@given(many_trades(), st.sampled_from([1, 60, 420, 7 * 3600, 86_399]))
def test_bars_below_a_day_equal_the_loop(rows: list[dict[str, Any]], seconds: int) -> None:
    every = timedelta(seconds=seconds)
    assert folded(rows, every).to_dicts() == list(bars_by_loop(rows, every, UTC_ZONE))


@pytest.mark.slow
@given(many_trades(), st.sampled_from([SYDNEY, UTC_ZONE]))
def test_daily_bars_equal_the_loop(rows: list[dict[str, Any]], of_venue: ZoneInfo) -> None:
    found = folded(rows, DAY, of_venue=of_venue).to_dicts()
    assert found == list(bars_by_loop(rows, DAY, of_venue))


@pytest.mark.slow
@given(many_trades())
def test_bars_on_market_leave_out_the_off_market_prints(rows: list[dict[str, Any]]) -> None:
    every = timedelta(hours=1)
    on_market = [row for row in rows if (row["vendor_data"] or {}).get("venue") != "X"]
    off_market = [row for row in rows if row not in on_market]
    found = folded(rows, every, market="on").to_dicts()
    assert found == list(bars_by_loop(on_market, every, UTC_ZONE))
    prints = folded(rows, every, market="off").to_dicts()
    assert prints == list(bars_by_loop(off_market, every, UTC_ZONE))


@pytest.mark.slow
@given(many_trades())
def test_bars_lose_no_volume(rows: list[dict[str, Any]]) -> None:
    found = folded(rows, timedelta(minutes=5))
    with localcontext(prec=80):
        volume = sum((row["quantity"] for row in rows), Decimal(0))
        assert sum(found["volume"].to_list(), Decimal(0)) == volume
    assert found["trades"].sum() == len(rows)


def test_bar_begins_with_its_start_and_ends_before_the_next() -> None:
    edges = [at(0), at(60) - timedelta(microseconds=1), at(60)]
    found = folded([trade(n, timestamp=t) for n, t in enumerate(edges)], timedelta(minutes=1))
    assert found.select("start", "trades").rows() == [(at(0), 2), (at(60), 1)]


def test_days_of_a_clock_change_have_23_and_25_hours() -> None:
    hours = [CLOCK_CHANGES[0] + timedelta(hours=h) for h in range(-48, 48)]
    found = folded([trade(n, timestamp=t) for n, t in enumerate(hours)], DAY, of_venue=SYDNEY)
    trades = dict(found.select("trading_date", "trades").iter_rows())
    assert trades[date(2014, 4, 5)] == 24
    assert trades[date(2014, 4, 6)] == 25


def test_vwap_is_rounded_to_eight_decimals_half_away_from_zero() -> None:
    tiny = Decimal("0.00000001")
    half = [trade(1, price=tiny, quantity=Decimal(1)), trade(2, price=Decimal(0), quantity=1)]
    assert folded(half, DAY)["vwap"].item() == tiny
    below = [trade(n, price=-row["price"], quantity=row["quantity"]) for n, row in enumerate(half)]
    assert folded(below, DAY)["vwap"].item() == -tiny


def test_bar_without_volume_has_no_vwap() -> None:
    assert folded([trade(1, quantity=Decimal(0))], DAY)["vwap"].to_list() == [None]


def test_no_trades_make_no_bars_of_the_same_types() -> None:
    some, none = folded([trade(1)], DAY), folded([], DAY)
    assert none.is_empty()
    assert none.schema == some.schema


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("12h", timedelta(hours=12)),
        ("1d", DAY),
        ("24h", DAY),
    ],
)
def test_bar_length_has_a_number_and_a_unit(text: str, length: timedelta) -> None:
    assert bar_length(text) == bar_length(length) == length


@pytest.mark.parametrize("every", ["", "m", "0m", "1.5h", "-1m", "1 m", "1w", "5"])
def test_text_that_is_no_length_is_refused(every: str) -> None:
    with pytest.raises(QueryError, match="give a number and s, m, h or d"):
        bar_length(every)


@pytest.mark.parametrize("every", ["2d", "25h", timedelta(0), timedelta(days=-1), DAY * 7])
def test_bars_over_a_day_or_of_no_length_are_refused(every: str | timedelta) -> None:
    with pytest.raises(QueryError, match="one day at most"):
        bar_length(every)


def test_unknown_market_is_refused() -> None:
    with pytest.raises(QueryError, match="market='dark': give 'all', 'on' or 'off'"):
        bars_sql("SELECT 1", DAY, of_venue=UTC_ZONE, market="dark")  # type: ignore[arg-type]


def test_bars_of_the_lake_are_of_one_venue_and_by_its_dates(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    midnight = datetime(2014, 3, 9, 13, tzinfo=UTC)
    rows = [trade(n, timestamp=midnight + timedelta(hours=n - 1)) for n in range(3)]
    append(catalog, [*rows, trade(9, exchange="BINANCE")])
    with Engine(catalog) as engine:
        with pytest.raises(QueryError, match="held at ASX, BINANCE"):
            read_bars(engine, ReadRequest("BHP"), every="1d")
        daily = read_bars(engine, ReadRequest("BHP", "ASX"), every="1d").frame
        part = read_bars(engine, ReadRequest("BHP", "ASX", date(2014, 3, 10))).frame
    assert daily["trading_date"].to_list() == [date(2014, 3, 9), date(2014, 3, 10)]
    assert daily["trades"].to_list() == [1, 2]
    assert daily["start"].to_list() == [midnight - DAY, midnight]
    assert part["start"].to_list() == [midnight, midnight + timedelta(hours=1)]


def test_zone_of_an_unknown_venue_is_utc() -> None:
    assert zone("ASX") == zone("ASX_SIM") == SYDNEY
    assert zone("BINANCE").key == zone("elsewhere").key == "UTC"
