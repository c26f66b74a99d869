"""PostgreSQL as the catalog: exact, and each fault of it one line with its remedy."""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from support.feeding import produce, running_sink
from support.kafkas import opened
from support.lake_rows import rows_table, trade
from support.log_rows import many_trades, message_ids
from support.ports import refusing_port, silent_port
from support.postgres_server import PASSWORD, PostgresServer, postgres_server
from support.waiting import first

from k2lib import K2
from k2lib.events import SinkPaused
from k2lib.iceberg.tables import TABLES, ensure_table, load_table, open_catalog
from k2lib.kafka.connect import Kafka
from k2lib.schema.records import TRADE
from k2lib.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TRADES = "market.equities.trades.asx"
NUMBERS = itertools.count(1)
WITHOUT_DRIVER = """
import sys
from importlib.abc import MetaPathFinder

class NoDriver(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoDriver())
from k2lib.cli import main
main()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as one:
        yield one


@pytest.fixture
def uri(server: PostgresServer) -> str:
    return server.make_database(f"k2_{next(NUMBERS)}")


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    with opened({}, tmp_path / "kafka") as one:
        yield one


def settings_of(uri: str, home: Path, warehouse: Path) -> Settings:
    return Settings(home=home, catalog_uri=uri, warehouse=str(warehouse))


def make_table(settings: Settings) -> None:
    with closing(open_catalog(settings)) as catalog:
        ensure_table(catalog, TABLES["trades_v2"])


def stored(settings: Settings) -> list[str]:
    with closing(open_catalog(settings)) as catalog:
        table = load_table(catalog, "trades_v2")
        assert table is not None
        rows = table.scan(selected_fields=("message_id",)).to_arrow()
    return sorted(rows["message_id"].to_pylist())


def test_what_is_written_is_read_with_what_kafka_has(uri: str, tmp_path: Path) -> None:
    options = {"catalog_uri": uri, "warehouse": str(tmp_path / "lake")}
    with K2.open(home=tmp_path / "home", commit_interval_s=1000, **options) as k2:
        k2.pipeline.produce(TRADES, rows_table([trade(1)]), TRADE)
        k2.pipeline.settle()
        k2.pipeline.produce(TRADES, rows_table([trade(1), trade(2)]), TRADE)
        k2.pipeline.flush()
        first(lambda: k2.complete_to("trades_v2"), lambda told: told.behind == 0)
        assert len(k2.trades("BHP")) == 2
        assert len(k2.trades("BHP", tail=False)) == 1
        assert PASSWORD not in f"{k2!r} {k2.settings!r}"


def test_two_sinks_that_share_no_lock_do_no_harm(uri: str, kafka: Kafka, tmp_path: Path) -> None:
    one, other = (settings_of(uri, tmp_path / name, tmp_path / "lake") for name in ("a", "b"))
    make_table(one)
    with running_sink(kafka, one) as first_sink, running_sink(kafka, other) as second_sink:
        for number in range(5):
            produce(kafka, many_trades(200, first=200 * number))
            first_sink.sink.discover.set()
            second_sink.sink.discover.set()
        first_sink.wait(lambda: len(stored(one)) >= 1_000)
    assert not first_sink.errors and not second_sink.errors
    assert stored(one) == message_ids(1_000)


def test_a_server_that_ends_pauses_the_sink_and_loses_nothing(
    server: PostgresServer, uri: str, kafka: Kafka, tmp_path: Path
) -> None:
    settings = settings_of(uri, tmp_path / "home", tmp_path / "lake")
    with running_sink(kafka, settings) as running:
        produce(kafka, many_trades(500))
        running.sink.discover.set()
        running.wait(lambda: running.added() == 500)
        server.stop()
        produce(kafka, many_trades(500, first=500))
        running.wait(lambda: running.named(SinkPaused))
        server.start()
        running.wait(lambda: running.added() == 1_000)
    assert stored(settings) == message_ids(1_000)


def test_a_lock_of_another_is_waited_for_so_long_and_then_named(
    uri: str, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    make_table(settings_of(uri, tmp_path / "home", tmp_path / "lake"))
    with psycopg.connect(uri) as other:
        other.execute("LOCK TABLE iceberg_tables IN ACCESS EXCLUSIVE MODE")
        line = refused(run, K2_CATALOG_URI=uri, K2_TIMEOUT_S="1")
    assert "lock timeout" in line and "another process holds it" in line


def refused(run: Callable[..., tuple[int, str, str]], **variables: str) -> str:
    """Return the one line that a query ends with."""
    began = time.monotonic()
    code, _, err = run("sql", "select 1", **variables)
    assert time.monotonic() - began < 60
    assert code == 1
    assert "Traceback" not in err and PASSWORD not in err and "wrong-1" not in err
    line = err.splitlines()[-1]
    assert line.startswith("k2: the catalog at postgresql://") or "table" in line, line
    return line


def test_a_wrong_password_and_a_missing_database_are_named(
    server: PostgresServer, run: Callable[..., tuple[int, str, str]]
) -> None:
    line = refused(run, K2_CATALOG_URI=server.uri(password="wrong-1"))
    assert "password authentication failed" in line
    assert line.endswith("correct user and password in K2_CATALOG_URI")
    line = refused(run, K2_CATALOG_URI=server.uri("nowhere"))
    assert line.endswith('"nowhere" does not exist: make it, or correct K2_CATALOG_URI')


def test_a_server_that_is_not_reached_or_silent_is_named(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    with refusing_port() as port:
        line = refused(run, K2_CATALOG_URI=f"postgresql://k2:{PASSWORD}@127.0.0.1:{port}/k2")
    assert "Connection refused" in line and line.endswith("start it, or correct its address")
    with silent_port() as port:
        uri = f"postgresql://k2:{PASSWORD}@127.0.0.1:{port}/k2"
        line = refused(run, K2_CATALOG_URI=uri, K2_TIMEOUT_S="2")
    assert line.endswith("start it, or correct its address")


def test_a_missing_driver_is_named_with_what_installs_it(tmp_path: Path) -> None:
    program = [sys.executable, "-c", WITHOUT_DRIVER, "sql", "select 1"]
    variables = {"K2_CATALOG_URI": f"postgresql://k2:{PASSWORD}@127.0.0.1/k2", "K2_HOME": "home"}
    done = subprocess.run(
        program, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "k2: the catalog at postgresql://127.0.0.1/k2: No module named 'psycopg': "
        "install it: pip install 'k2lib[postgres]'"
    )
