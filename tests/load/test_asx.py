"""The main job: ASX files through Kafka into the lake, once, whatever happens."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from support.asx_facts import (
    REAL_BHP_DAYS,
    REAL_QUOTES,
    REAL_TRADES,
    TradeFacts,
    exchange_of,
    is_real,
    quote_counts,
    symbols,
    trade_facts,
    trading_days,
)
from support.kafkas import emptied

from k2lib import K2
from k2lib.iceberg.manifests import plan_paths
from k2lib.load import LoadReport


def stored_trades(k2: K2) -> dict[str, TradeFacts]:
    """Read the table's files with DuckDB alone: symbol → facts."""
    files = plan_paths(k2.table("trades_v2"))
    rows = duckdb.connect().execute(
        "select symbol, count(*), sum(price), sum(quantity),"
        " sum(price * quantity), min(timestamp), max(timestamp)"
        f" from read_parquet({files}) group by symbol"
    )
    return {symbol: TradeFacts(*facts) for symbol, *facts in rows.fetchall()}


@dataclass(frozen=True)
class Loaded:
    """A lake after two loads of the same files: the reports, and the trades after each."""

    k2: K2
    first: LoadReport
    trades_then: dict[str, TradeFacts]
    second: LoadReport


@pytest.fixture(
    scope="module", params=["embedded", pytest.param("services", marks=pytest.mark.stack)]
)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, asx_sample: Path
) -> Iterator[Loaded]:
    settings = {}
    if request.param == "services":
        settings = emptied(request.getfixturevalue("services"))
    with K2.open(home=tmp_path_factory.mktemp("home"), **settings) as k2:
        first = k2.load_asx(asx_sample)
        then = stored_trades(k2)
        yield Loaded(k2, first, then, k2.load_asx(asx_sample))


@pytest.mark.slow
def test_every_trade_is_in_the_lake_once(loaded: Loaded, asx_sample: Path) -> None:
    assert loaded.trades_then == trade_facts(asx_sample)


@pytest.mark.slow
def test_figures_of_the_real_files_are_the_known_ones(loaded: Loaded, asx_sample: Path) -> None:
    wanted = REAL_TRADES if is_real(asx_sample) else trade_facts(asx_sample)
    assert loaded.trades_then == wanted


@pytest.mark.slow
def test_every_quote_is_in_the_lake_once(loaded: Loaded, asx_sample: Path) -> None:
    wanted = REAL_QUOTES if is_real(asx_sample) else quote_counts(asx_sample)
    counted = loaded.k2.sql(
        "select symbol, count(*), count(distinct message_id) from lake.quotes_v2 group by symbol"
    )
    assert {symbol: rows for symbol, rows, _ in counted.iter_rows()} == wanted
    assert {symbol: distinct for symbol, _, distinct in counted.iter_rows()} == wanted


@pytest.mark.slow
def test_daily_bars_count_the_trades_of_trading_dates(loaded: Loaded, asx_sample: Path) -> None:
    busiest = max((asx_sample / "trades").glob("*.csv"), key=lambda path: path.stat().st_size)
    wanted = REAL_BHP_DAYS if is_real(asx_sample) else trading_days(busiest)
    symbol = symbols(asx_sample)[busiest.stem]
    bars = loaded.k2.bars(symbol, every="1d", exchange=exchange_of(asx_sample))
    assert bars["trades"].to_list() == wanted


@pytest.mark.slow
def test_the_first_load_reports_every_row_as_new(loaded: Loaded) -> None:
    assert sum(file.rows for file in loaded.first.files) > 0
    assert all(file.already_there == 0 for file in loaded.first.files)


@pytest.mark.slow
def test_loading_again_adds_nothing_and_says_so(loaded: Loaded) -> None:
    assert all(file.already_there == file.rows for file in loaded.second.files)
    assert stored_trades(loaded.k2) == loaded.trades_then


@pytest.mark.slow
def test_the_companies_are_in_the_lake_once(loaded: Loaded, asx_sample: Path) -> None:
    stored = loaded.k2.sql("select company_id, symbol from lake.reference_v2")
    assert sorted(stored.iter_rows()) == sorted(symbols(asx_sample).items())
