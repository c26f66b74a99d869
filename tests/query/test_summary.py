"""A trading date in one row, and what the tables hold, equal a count without k2lib."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from support.asx_facts import exchange_of, symbols, trade_facts
from support.lake_rows import append, at, catalog_in, trade

from k2lib import K2
from k2lib.errors import NotFoundError, QueryError
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.query.sql import BARS
from k2lib.query.statistics import read_summary, read_symbols

DAY = date(2014, 3, 10)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    catalog = catalog_in(tmp_path)
    sold_off_market = trade(2, vendor_data={"venue": "X"}, price="1")
    append(catalog, [trade(1), sold_off_market | {"price": trade(1)["price"] * 2}, trade(3)])
    append(catalog, [trade(90_000), trade(4, exchange="ASX_SIM")])
    with Engine(catalog) as engine:
        yield engine


def test_a_day_is_one_row(engine: Engine) -> None:
    row = read_summary(engine, ReadRequest("BHP", "ASX"), DAY).frame.row(0, named=True)
    assert row["trading_date"] == DAY and row["trades"] == 3
    assert (row["first"], row["last"]) == (at(1), at(3))
    assert row["high"] == trade(1)["price"] * 2 and row["close"] == trade(1)["price"]


def test_off_market_prints_can_be_left_out(engine: Engine) -> None:
    frame = read_summary(engine, ReadRequest("BHP", "ASX", market="on"), DAY).frame
    assert frame.select("trades", "high").row(0) == (2, trade(1)["price"])


def test_off_market_prints_are_summed_up_alone_with_the_times_of_all(engine: Engine) -> None:
    request = ReadRequest("BHP", "ASX", market="off")
    row = read_summary(engine, request, DAY).frame.row(0, named=True)
    assert (row["trades"], row["low"]) == (1, trade(1)["price"] * 2)
    assert (row["first"], row["last"]) == (at(1), at(3))
    with pytest.raises(NotFoundError, match="ASX has no off-market trade of BHP on 2014-03-11"):
        read_summary(engine, request, DAY + timedelta(days=1))


def test_sql_has_the_bars_of_all_trades_and_those_on_market(engine: Engine) -> None:
    def high(view: str) -> object:
        found = engine.sql(f"SELECT high FROM {view} WHERE exchange = 'ASX' ORDER BY start LIMIT 1")
        return found["high"].item()

    for name in BARS:
        on_market = engine.sql(f"SELECT max(high) FROM on_market.{name} WHERE exchange = 'ASX'")
        assert on_market.item() == trade(1)["price"], name
    assert high("bars_1d") == high("main.bars_1d") == trade(1)["price"] * 2
    assert high("on_market.bars_1d") == trade(1)["price"]


@pytest.mark.parametrize(
    ("symbol", "day", "error", "told"),
    [
        ("BHP", date(2014, 3, 12), NotFoundError, "ASX has no trade of BHP on 2014-03-12"),
        ("XYZ", DAY, NotFoundError, "XYZ is not in trades_v2, which holds ASX:BHP"),
        ("BHP", date.max, QueryError, "there is no day after it"),
        ("BHP", date.min, QueryError, "start=0001-01-01T00:00:00.* is out of the range of times"),
    ],
)
def test_a_day_that_is_none_is_refused(
    symbol: str, day: date, error: type[Exception], told: str, engine: Engine
) -> None:
    with pytest.raises(error, match=told):
        read_summary(engine, ReadRequest(symbol, "ASX"), day)


def test_symbols_are_counted_by_venue(engine: Engine) -> None:
    held = read_symbols(engine).frame
    assert held.rows() == [
        ("ASX", "BHP", 4, at(1), at(90_000)),
        ("ASX_SIM", "BHP", 1, at(4), at(4)),
    ]
    assert read_symbols(engine, exchange="ASX_SIM").frame.equals(held[1:])


@pytest.mark.slow
def test_files_are_summed_up_as_the_csv_module_counts_them(k2: K2, asx_sample: Path) -> None:
    k2.load_asx(asx_sample)
    held = {symbol: (rows, first, last) for _, symbol, rows, first, last in k2.symbols().rows()}
    for symbol, facts in trade_facts(asx_sample).items():
        assert held[symbol] == (facts.rows, facts.first, facts.last)
    assert set(k2.symbols()["exchange"]) == {exchange_of(asx_sample)}
    assert set(held) <= set(symbols(asx_sample).values())


@pytest.mark.slow
def test_days_of_files_add_up_to_the_files(k2: K2, asx_sample: Path) -> None:
    k2.load_asx(asx_sample)
    for symbol, facts in trade_facts(asx_sample).items():
        days = k2.bars(symbol, every="1d")["trading_date"]
        rows = [k2.summary(symbol, day).row(0, named=True) for day in days]
        assert sum(row["trades"] for row in rows) == facts.rows
        assert sum(row["turnover"] for row in rows) == facts.turnover
        assert (rows[0]["first"], rows[-1]["last"]) == (facts.first, facts.last)
