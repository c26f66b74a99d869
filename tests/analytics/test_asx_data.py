"""Over ASX files the analytics equal plain SQL over the CSV text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from support import asx_facts

from k2lib import analytics
from k2lib.venues.asx.rows import parse
from k2lib.venues.base import Instrument
from k2lib.venues.csv_lines import find_lines

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MONEY = "DECIMAL(18, 8)"
TRADES = f"""
    SELECT row_number() OVER (ORDER BY timestamp, line) AS row, *
    FROM (SELECT row_number() OVER () AS line,
            strptime(d || ' ' || t, '%m/%d/%Y %H:%M:%S.%g') AS local,
            timezone('Australia/Sydney', local) AS timestamp, price::{MONEY} AS price,
            volume::{MONEY} AS quantity, price::DECIMAL(38, 8) * volume::{MONEY} AS turnover
        FROM (SELECT d, t, p AS price, v AS volume
            FROM read_csv('{{path}}', header = false, all_varchar = true, parallel = false,
                names = ['d', 't', 'p', 'v', 'qualifiers', 'venue', 'buyer'])))"""
QUOTES = f"""
    SELECT row_number() OVER () AS row,
        timezone('Australia/Sydney', strptime(d || ' ' || t, '%m/%d/%Y %H:%M:%S.%g')) AS timestamp,
        if(0 IN (b::{MONEY}, bv::{MONEY}), NULL, b::{MONEY}) AS bid,
        if(0 IN (a::{MONEY}, av::{MONEY}), NULL, a::{MONEY}) AS ask,
        if(bid IS NULL, NULL, bv::{MONEY}) AS bid_quantity,
        if(ask IS NULL, NULL, av::{MONEY}) AS ask_quantity
    FROM read_csv('{{path}}', header = false, all_varchar = true, parallel = false,
        names = ['d', 't', 'b', 'a', 'bv', 'av'])"""
SIGNED = """
    WITH last_quotes AS (
        SELECT timestamp AS quoted, arg_max({bid: bid, ask: ask}, row) AS q
        FROM quotes GROUP BY timestamp),
    changed AS (
        SELECT *, nullif(sign(price - lag(price) OVER (ORDER BY row)), 0) AS change
        FROM trades ASOF LEFT JOIN last_quotes ON timestamp > quoted),
    ticked AS (
        SELECT *, last_value(change IGNORE NULLS) OVER (ORDER BY row) AS tick FROM changed)
    SELECT quoted, q.bid AS bid, q.ask AS ask, tick::TINYINT AS tick,
        if(q.bid <= q.ask, nullif(sign(2 * price - q.bid - q.ask), 0), NULL) AS by_mid,
        coalesce(by_mid, tick)::TINYINT AS sign
    FROM ticked ORDER BY row"""
BARS = """
    SELECT arg_min(timestamp, row) AS start, arg_max(timestamp, row) AS end,
        arg_min(price, row) AS open, max(price) AS high, min(price) AS low,
        arg_max(price, row) AS close, sum(quantity) AS volume, count(*) AS trades,
        sum(turnover) AS turnover
    FROM {trades} GROUP BY {bar} ORDER BY {bar}"""


@dataclass(frozen=True)
class Files:
    """A company's trades and quotes as frames, and as tables of `sql` made of the CSV text."""

    trades: pl.DataFrame
    quotes: pl.DataFrame
    sql: Callable[[str], pl.DataFrame]


def _frame(path: Path, kind: str, instrument: Instrument) -> pl.DataFrame:
    lines = find_lines(path.read_bytes())
    frame = pl.from_arrow(parse(lines, kind, instrument=instrument, ingested=NOW).rows)
    assert isinstance(frame, pl.DataFrame)
    return frame.sample(fraction=1, shuffle=True, seed=1)


@pytest.fixture(scope="module", params=[0, 1], ids=["first", "second"])
def files(request: pytest.FixtureRequest, asx_sample: Path) -> Iterator[Files]:
    """Return the files of a company; of the real ones, of BHP and then of MWR."""
    symbols = asx_facts.symbols(asx_sample)
    ids = {symbols[path.stem]: path.stem for path in (asx_sample / "trades").glob("*.csv")}
    symbol = sorted(ids)[request.param]
    instrument = Instrument(asx_facts.exchange_of(asx_sample), symbol, company_id=ids[symbol])
    paths = {kind: asx_sample / kind / f"{ids[symbol]}.csv" for kind in ("trades", "quotes")}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for kind, text in (("trades", TRADES), ("quotes", QUOTES)):
            connection.execute(f"CREATE TABLE {kind} AS {text.format(path=paths[kind])}")
        yield Files(
            *(_frame(path, kind, instrument) for kind, path in paths.items()),
            lambda query: connection.sql(query).pl(),
        )


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort("timestamp", "platform_sequence")


def test_vwap_equals_plain_sql(files: Files) -> None:
    found = analytics.vwap(files.trades).row(0, named=True)
    totals = "count(*) AS trades, sum(quantity) AS volume, sum(turnover) AS turnover"
    expected = files.sql(f"SELECT {totals} FROM trades").row(0, named=True)
    assert {name: found[name] for name in expected} == expected
    assert round(expected["turnover"] / expected["volume"], 8) == found["vwap"]


@pytest.mark.parametrize(
    ("function", "measure", "threshold"),
    [
        (analytics.tick_bars, "1", 500),
        (analytics.tick_bars, "1", 3),
        (analytics.volume_bars, "quantity", 50_000),
        (analytics.dollar_bars, "turnover", 10_000),
    ],
)
def test_bars_equal_plain_sql(
    files: Files,
    function: Callable[[pl.DataFrame, int], pl.DataFrame],
    measure: str,
    threshold: int,
) -> None:
    # The floor of a decimal is exact; a quotient of two would be a float.
    before = f"floor(sum({measure}) OVER (ORDER BY row) - {measure})::HUGEINT"
    numbered = f"(SELECT *, {before} // {threshold} AS bar FROM trades)"
    expected = files.sql(BARS.format(trades=numbered, bar="bar"))
    found = function(files.trades, threshold)
    assert found.select(expected.columns).equals(expected)
    assert found["complete"][:-1].all()


def test_time_bars_equal_plain_sql(files: Files) -> None:
    minute = "time_bucket(INTERVAL 5 minutes, timestamp)"
    expected = files.sql(BARS.format(trades="trades", bar=minute)).drop("start", "end")
    assert analytics.time_bars(files.trades, "5m").select(expected.columns).equals(expected)


def test_day_summary_equals_plain_sql(files: Files) -> None:
    expected = files.sql(BARS.format(trades="trades", bar="local::DATE"))
    expected = expected.rename({"start": "first", "end": "last"})
    found = analytics.day_summary(files.trades)
    assert found.select(expected.columns).equals(expected)
    days = files.sql("SELECT DISTINCT local::DATE AS day FROM trades ORDER BY day")
    assert found["trading_date"].to_list() == days["day"].to_list()


def test_spread_equals_plain_sql(files: Files) -> None:
    found = in_order(analytics.spread(files.quotes))
    expected = files.sql("""
        SELECT (ask - bid)::DECIMAL(38, 8) AS spread,
            ((ask + bid)::DECIMAL(28, 8) * 0.5)::DECIMAL(38, 9) AS mid,
            (ask - bid)::DOUBLE / (ask + bid)::DOUBLE * 20000 AS spread_bps
        FROM quotes ORDER BY timestamp, row""")
    assert found.select("spread", "mid").equals(expected.select("spread", "mid"))
    apart = (found["spread_bps"] - expected["spread_bps"]).abs()
    assert apart.null_count() == expected["spread_bps"].null_count()
    assert (apart.max() or 0) < 1e-9


def test_quotes_in_force_equal_plain_sql(files: Files) -> None:
    found = in_order(analytics.trades_with_quotes(files.trades, files.quotes))
    names = {"quote_timestamp": "quoted", "bid_price": "bid", "ask_price": "ask"}
    expected = files.sql(SIGNED).select(names.values())
    assert found.rename(names).select(expected.columns).equals(expected)
    assert found["quote_timestamp"].null_count() < found.height


def test_signs_equal_plain_sql(files: Files) -> None:
    expected = files.sql(SIGNED)
    by_ticks = in_order(analytics.tick_rule(files.trades))
    assert by_ticks["sign"].equals(expected["tick"].rename("sign"))
    by_quotes = in_order(analytics.lee_ready(files.trades, files.quotes))
    assert by_quotes["sign"].equals(expected["sign"])
    counts = dict(by_quotes["sign"].value_counts().rows())
    assert counts[1] + counts[-1] + counts.get(None, 0) == files.trades.height


def test_order_flow_imbalance_equals_plain_sql(files: Files) -> None:
    found = analytics.order_flow_imbalance(files.quotes, "1h")
    expected = files.sql("""
        WITH filled AS (
            SELECT timestamp, row, coalesce(bid, -1) AS bid, coalesce(ask, 1000000) AS ask,
                coalesce(bid_quantity, 0) AS bq, coalesce(ask_quantity, 0) AS aq FROM quotes),
        changed AS (
            SELECT timestamp, if(bid >= lag(bid) OVER w, bq, 0)
                - if(bid <= lag(bid) OVER w, lag(bq) OVER w, 0)
                - if(ask <= lag(ask) OVER w, aq, 0)
                + if(ask >= lag(ask) OVER w, lag(aq) OVER w, 0) AS change
            FROM filled WINDOW w AS (ORDER BY timestamp, row))
        SELECT time_bucket(INTERVAL 1 hour, timestamp) AS start,
            coalesce(sum(change), 0)::DECIMAL(38, 8) AS imbalance, count(*) AS quotes
        FROM changed GROUP BY ALL ORDER BY start""")
    # The first quote has none before it, so that SQL's comparisons say 0 for each part.
    assert found.select(expected.columns).equals(expected)


def test_continuous_trading_equals_plain_sql(files: Files) -> None:
    symbol = files.trades["symbol"][0]
    group = sum(symbol >= letter for letter in "CGNS")
    kept = files.sql(f"""
        SELECT timestamp, price FROM trades
        WHERE local::TIME >= TIME '10:00:15' + INTERVAL ({group} * 135) seconds
            AND local::TIME < TIME '16:00:00' ORDER BY row""")
    found = in_order(analytics.continuous_trading(files.trades))
    assert found.select("timestamp", "price").equals(kept)
    assert found.height > 0
