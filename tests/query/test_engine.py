"""The engine answers from one snapshot of each table, or says what can be asked."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.types import StringType
from support.lake_rows import NOON, append, at, catalog_in, gap, quote, trade

from k2lib.errors import DamagedFileError, QueryError
from k2lib.iceberg.manifests import plan_files
from k2lib.iceberg.tables import TABLES, load_table
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.schema.order import EVENT_ORDER


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as engine:
        yield engine


def trades(engine: Engine, symbol: str, **request: Any) -> pl.DataFrame:
    return engine.read("trades_v2", ReadRequest(symbol, **request)).frame


def quotes(engine: Engine, symbol: str, **request: Any) -> pl.DataFrame:
    return engine.read("quotes_v2", ReadRequest(symbol, **request)).frame


def test_tables_never_written_are_empty_and_typed(engine: Engine) -> None:
    for name, spec in TABLES.items():
        for asked in (name, f"lake.{name}"):
            frame = engine.sql(f"SELECT * FROM {asked}")
            assert frame.is_empty()
            assert frame.columns == spec.schema.arrow.names
    assert frame.schema["noticed"] == pl.Datetime("us", "UTC")


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.1, 0.3])
def test_ctrl_c_in_the_middle_of_a_query_is_ctrl_c(engine: Engine, after_s: float) -> None:
    press = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        press.start()
        engine.sql("SELECT sum(a.range * b.range) FROM range(1000000) a, range(10000000) b")
    assert engine.sql("SELECT 1").item() == 1


def test_sql_returns_native_types(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    found = engine.sql("SELECT * FROM trades_v2").row(0, named=True)
    assert found == trade(1)


def test_sql_sees_rows_appended_since(catalog: Catalog, engine: Engine) -> None:
    counts = []
    for number in range(3):
        append(catalog, [trade(number)])
        counts.append(engine.sql("SELECT count(*) AS n FROM lake.trades_v2").item())
    assert counts == [1, 2, 3]


def test_only_sql_over_a_whole_lake_keeps_footers(catalog: Catalog, engine: Engine) -> None:
    for number in range(5):
        append(catalog, [trade(number)])
    for _ in range(2):
        assert len(trades(engine, "BHP", last=5)) == 5
        assert engine.sql("SELECT count(*) FROM trades_v2", start=at(0)).item() == 5
    few = footer_bytes(engine)
    assert engine.sql("SELECT max(price) FROM trades_v2 WHERE symbol > 'B'").height == 1
    assert few < 5_000 < footer_bytes(engine)


def footer_bytes(engine: Engine) -> int:
    held = "SELECT sum(memory_usage_bytes)::BIGINT FROM duckdb_memory() WHERE tag = 'OBJECT_CACHE'"
    return int(engine.sql(held, start=at(0)).item())


def test_sql_sees_a_column_added_since(catalog: Catalog, engine: Engine) -> None:
    table = append(catalog, [trade(1)])
    assert "broker" not in engine.sql("SELECT * FROM trades_v2").columns
    with table.update_schema() as update:
        update.add_column("broker", StringType())
    assert engine.sql("SELECT broker FROM trades_v2")["broker"].to_list() == [None]


def test_gaps_are_shown_at_their_newest_revision(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [gap("a", 0), gap("b", 0), gap("a", 2), gap("a", 1)], "gaps")
    newest = engine.sql("SELECT gap_id, revision FROM gaps ORDER BY gap_id")
    assert newest.rows() == [("a", 2), ("b", 0)]
    assert engine.sql("SELECT count(*) FROM lake.gaps").item() == 4


def test_sql_takes_parameters_by_place_and_by_name(engine: Engine) -> None:
    assert engine.sql("SELECT ? + ? AS n", [1, 2]).item() == 3
    assert engine.sql("SELECT $a || $b AS t", {"a": "x", "b": "y"}).item() == "xy"


def test_sql_without_a_result_is_an_empty_frame(engine: Engine) -> None:
    assert engine.sql("").is_empty()


def test_sql_returns_the_last_statements_rows(engine: Engine) -> None:
    assert engine.sql("CREATE TABLE t AS SELECT 7 AS n; SELECT n FROM t").item() == 7
    assert engine.sql("SELECT n FROM t").item() == 7


def test_differences_of_times_are_durations(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1), trade(4)])
    span = engine.sql("SELECT max(timestamp) - min(timestamp) AS span FROM trades_v2").item()
    assert span == timedelta(seconds=3)


def test_interval_inside_a_list_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(QueryError, match=r"column x is INTERVAL\[\]: cast the interval"):
        engine.sql("SELECT [INTERVAL 1 DAY] AS x")


def test_refused_sql_is_told_in_duckdbs_first_lines(engine: Engine) -> None:
    with pytest.raises(QueryError) as caught:
        engine.sql("SELECT prise FROM trades_v2")
    assert 'Referenced column "prise" not found' in str(caught.value)
    assert "LINE 1" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_product_too_large_for_its_type_is_answered_with_the_cast(
    catalog: Catalog, engine: Engine
) -> None:
    append(catalog, [trade(1, price=Decimal(20_000))])
    with pytest.raises(QueryError, match="For example price::DECIMAL"):
        engine.sql("SELECT sum(price * price) FROM trades_v2")
    squares = engine.sql("SELECT sum(price::DECIMAL(38, 8) * price) FROM trades_v2").item()
    assert squares == Decimal(400_000_000)


def test_price_times_quantity_is_exact_as_typed(catalog: Catalog, engine: Engine) -> None:
    most = {"price": Decimal("9999999999.99999999"), "quantity": Decimal("92233720368.54775807")}
    append(catalog, [trade(1, **most), trade(2, quantity=Decimal(-1)), trade(3)])
    turnover, vwap = engine.sql(
        "SELECT sum(price * quantity), sum(price * quantity) / sum(quantity) FROM trades_v2"
    ).row(0)
    with localcontext(prec=38):
        assert turnover == most["price"] * most["quantity"] + 99 * Decimal("36.67")
    assert vwap == pytest.approx(9999999989.27, abs=1e-2)


def test_a_failed_script_leaves_nothing_behind(engine: Engine) -> None:
    with pytest.raises(QueryError):
        engine.sql("CREATE TABLE t AS SELECT 1 AS n; SELECT nothing FROM t")
    assert engine.sql("SELECT 1 AS n").item() == 1
    with pytest.raises(QueryError, match="t does not exist"):
        engine.sql("SELECT * FROM t")


def test_sql_reads_no_variables_of_python(engine: Engine) -> None:
    with pytest.raises(QueryError, match="text does not exist"):
        engine.sql("SELECT * FROM text")


@pytest.mark.slow
def test_statements_of_one_call_see_one_snapshot(catalog: Catalog, engine: Engine) -> None:
    script = """
        CREATE TEMP TABLE first AS SELECT count(*) AS n FROM trades_v2;
        SELECT n, (SELECT count(*) FROM lake.trades_v2) AS again FROM first"""
    stop = threading.Event()

    def ask() -> list[tuple[int, int]]:
        found = [engine.sql(script).row(0)]
        while not stop.is_set():
            found.append(engine.sql(script).row(0))
        return found

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        for number in range(8):
            append(catalog, [trade(number)])
        stop.set()
    answers = [answer for one in asked for answer in one.result()]
    assert all(first == again for first, again in answers)


def test_trades_come_in_the_order_of_events(catalog: Catalog, engine: Engine) -> None:
    places = [(None, None), (None, 0), (None, 1), (1, None), (2, None)]
    rows = [
        trade(number, timestamp=at(number % 2), source_sequence=s, platform_sequence=p)
        for number, (s, p) in enumerate(places * 2)
    ]
    append(catalog, random.Random(1).sample(rows, len(rows)))
    in_order = sorted(rows, key=lambda row: [(row[n] is not None, row[n]) for n in EVENT_ORDER])
    assert trades(engine, "BHP").to_dicts() == in_order
    assert trades(engine, "BHP", last=3).to_dicts() == in_order[-3:]
    assert trades(engine, "BHP", last=0).is_empty()


def test_quotes_keep_an_empty_side_null(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [quote(1)], "quotes_v2")
    found = quotes(engine, "BHP").row(0, named=True)
    assert (found["bid_price"], found["ask_price"]) == (Decimal("36.66"), None)


def test_span_is_half_open(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(number) for number in range(5)])
    found = trades(engine, "BHP", start=at(1), end=at(3))
    assert found["timestamp"].to_list() == [at(1), at(2)]
    assert trades(engine, "BHP", start=at(9)).is_empty()
    assert trades(engine, "BHP", start=at(1), end=at(1)).is_empty()


def test_dates_are_trading_dates_of_the_venue(catalog: Catalog, engine: Engine) -> None:
    sydney_midnight = datetime(2014, 3, 9, 13, tzinfo=UTC)
    times = [sydney_midnight + timedelta(microseconds=us) for us in (-1, 0, 86_400_000_000)]
    append(catalog, [trade(n, timestamp=t) for n, t in enumerate(times)])
    bought = [trade(n, timestamp=t, exchange="BINANCE") for n, t in enumerate(times)]
    append(catalog, bought)
    day, next_day = date(2014, 3, 10), date(2014, 3, 11)
    in_sydney = trades(engine, "BHP", exchange="ASX", start=day, end=next_day)
    in_utc = trades(engine, "BHP", exchange="BINANCE", start=day, end=next_day)
    assert in_sydney["timestamp"].to_list() == times[1:2]
    assert in_utc["timestamp"].to_list() == times[2:]


def test_span_of_days_opens_only_their_files(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(n, timestamp=NOON + timedelta(days=n)) for n in range(3)])
    chosen = engine.select("trades_v2", ReadRequest("BHP", start=NOON + timedelta(days=2)))
    assert chosen.sql.count(".parquet'") == 1


def test_symbol_at_two_venues_needs_the_venue(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1), trade(2, exchange="ASX_SIM")])
    with pytest.raises(
        QueryError, match="BHP is held at ASX, ASX_SIM: say which one with exchange="
    ):
        trades(engine, "BHP")
    assert trades(engine, "BHP", exchange="ASX_SIM")["message_id"].to_list() == ["m000002"]


def test_symbol_held_elsewhere_is_told_where(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(QueryError, match="BHP is not held at BINANCE, but at ASX"):
        trades(engine, "BHP", exchange="BINANCE")


def test_unknown_symbol_is_told_what_there_is(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(n, symbol=f"S{n:02d}") for n in range(11)])
    with pytest.raises(QueryError, match=r"BHP is not in trades_v2, .* ASX:S00, .*ASX:S09, …"):
        trades(engine, "BHP")


def test_symbol_with_a_quotation_mark_is_only_a_symbol(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1, symbol="O'X")])
    assert trades(engine, "O'X").height == 1


def test_nothing_loaded_yet_is_told(engine: Engine) -> None:
    with pytest.raises(QueryError, match="BHP is not in quotes_v2, which holds nothing: load"):
        quotes(engine, "BHP")


def test_moment_without_a_time_zone_names_argument_and_remedy(
    catalog: Catalog, engine: Engine
) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(QueryError, match="end=2014-03-10T01:00:00 has no time zone: give one"):
        trades(engine, "BHP", end=NOON.replace(tzinfo=None))


def test_end_before_start_is_refused(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(QueryError, match="is before start="):
        trades(engine, "BHP", start=at(2), end=at(1))


def test_negative_last_is_refused(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(QueryError, match="last=-1: give the number of rows"):
        trades(engine, "BHP", last=-1)


def test_as_of_reads_the_table_as_it_was(catalog: Catalog, engine: Engine) -> None:
    first = append(catalog, [trade(1)]).metadata.current_snapshot_id
    append(catalog, [trade(2), trade(3, symbol="MWR")])
    assert first is not None
    assert trades(engine, "BHP").height == 2
    assert trades(engine, "BHP", as_of=first).height == 1
    with pytest.raises(QueryError, match="MWR is not in trades_v2, which holds ASX:BHP"):
        trades(engine, "MWR", as_of=first)


def test_threads_get_the_answer_that_one_gets(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(number) for number in range(50)])
    alone = trades(engine, "BHP", last=20)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(trades, engine, "BHP", last=20) for _ in range(20)]
    assert all(one.result().equals(alone) for one in asked)


def test_reading_commits_nothing(catalog: Catalog, engine: Engine) -> None:
    before = append(catalog, [trade(1)]).metadata_location
    trades(engine, "BHP")
    engine.sql("SELECT * FROM trades_v2, quotes_v2, gaps")
    after = load_table(catalog, "trades_v2")
    assert after is not None
    assert after.metadata_location == before
    assert load_table(catalog, "quotes_v2") is None


def test_sql_of_a_span_sees_that_span_only(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(n, timestamp=at(0) + timedelta(days=n)) for n in range(4)])
    span = {"start": at(0) + timedelta(days=1), "end": at(0) + timedelta(days=3)}
    for text in ("SELECT * FROM trades_v2", "SELECT * FROM bars_1m"):
        assert len(engine.sql(text, **span)) == 2
    assert len(engine.sql("SELECT * FROM lake.trades_v2", **span)) == 4
    assert len(engine.sql("SELECT * FROM trades_v2")) == 4


def test_sql_of_a_span_opens_no_file_of_another_time(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1)])
    table = append(catalog, [trade(2, timestamp=at(0) + timedelta(days=9))])
    [first, _] = sorted(plan_files(table), key=lambda file: file.oldest_us)
    assert len(engine.sql("SELECT * FROM trades_v2")) == 2
    Path(first.path).unlink()
    assert len(engine.sql("SELECT * FROM trades_v2", start=at(60))) == 1
    with pytest.raises(DamagedFileError, match=f"{first.path} is missing: restore it"):
        engine.sql("SELECT * FROM trades_v2")
