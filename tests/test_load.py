"""The main job: ASX files through Kafka into the lake, once, whatever happens."""

from pathlib import Path

import duckdb
import pytest
from asx_facts import (
    REAL_BHP_DAYS,
    REAL_QUOTES,
    REAL_TRADES,
    TradeFacts,
    exchange_of,
    is_real,
    quote_counts,
    trade_facts,
    trading_days,
)

from k2lib import K2
from k2lib.lake.scan import planned_files


def stored_trades(k2: K2) -> dict[str, TradeFacts]:
    """Read the table's files with DuckDB alone: symbol → facts."""
    files = planned_files(k2.table("trades_v2"))
    rows = duckdb.connect().execute(
        "select symbol, count(*), sum(price), sum(quantity),"
        " sum(price::decimal(38, 8) * quantity::decimal(38, 0)), min(timestamp), max(timestamp)"
        f" from read_parquet({files}) group by symbol"
    )
    return {symbol: TradeFacts(*facts) for symbol, *facts in rows.fetchall()}


@pytest.fixture
def loaded(k2: K2, asx_sample: Path) -> K2:
    report = k2.load_asx(asx_sample)
    assert not report.failed, report
    return k2


def test_every_trade_is_in_the_lake_once(loaded: K2, asx_sample: Path) -> None:
    assert stored_trades(loaded) == trade_facts(asx_sample)


def test_figures_of_the_real_files_are_the_known_ones(loaded: K2, asx_sample: Path) -> None:
    wanted = REAL_TRADES if is_real(asx_sample) else trade_facts(asx_sample)
    assert stored_trades(loaded) == wanted


def test_every_quote_is_in_the_lake_once(loaded: K2, asx_sample: Path) -> None:
    wanted = REAL_QUOTES if is_real(asx_sample) else quote_counts(asx_sample)
    counted = loaded.sql(
        "select symbol, count(distinct message_id) from lake.quotes_v2 group by symbol"
    )
    assert dict(counted.iter_rows()) == wanted


def test_daily_bars_count_the_trades_of_trading_dates(loaded: K2, asx_sample: Path) -> None:
    busiest = max((asx_sample / "trades").glob("*.csv"), key=lambda path: path.stat().st_size)
    wanted = REAL_BHP_DAYS if is_real(asx_sample) else trading_days(busiest)
    symbol = loaded.sql("select symbol from trades_v2 group by all order by count(*) desc")[0, 0]
    bars = loaded.bars(symbol, every="1d", exchange=exchange_of(asx_sample))
    assert bars["trades"].to_list() == wanted


def test_loading_again_adds_nothing_and_says_so(loaded: K2, asx_sample: Path) -> None:
    before = stored_trades(loaded)
    report = loaded.load_asx(asx_sample)
    assert all(file.already_there == file.rows for file in report.files)
    assert stored_trades(loaded) == before


def test_the_first_load_reports_every_row_as_new(k2: K2, asx_sample: Path) -> None:
    report = k2.load_asx(asx_sample)
    assert sum(file.rows for file in report.files) > 0
    assert all(file.already_there == 0 for file in report.files)
