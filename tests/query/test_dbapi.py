"""JupySQL and other tools read through a DB-API connection; views are bars of everything."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from pyiceberg.catalog import Catalog
from support.lake_rows import append, at, catalog_in, trade

from k2lib.errors import QueryError
from k2lib.query.dbapi import DbApiConnection
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.query.statistics import read_bars

JUPYSQL = """
import sys
from IPython.testing.globalipapp import start_ipython
from k2lib import K2
shell = start_ipython()
with K2.open(home=sys.argv[1]) as k2:
    shell.user_ns["connection"] = k2.connection()
    shell.run_line_magic("load_ext", "sql")
    shell.run_line_magic("sql", "connection --alias k2")
    shell.run_line_magic("config", "SqlMagic.autopolars = True")
    text = "SELECT symbol, count(*) AS n FROM bars_1s GROUP BY ALL"
    print(shell.run_line_magic("sql", text).rows())
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = catalog_in(tmp_path)
    append(catalog, [trade(n) for n in range(4)])
    return catalog


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as engine:
        yield engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[DbApiConnection]:
    with DbApiConnection(engine) as connection:
        yield connection


def test_rows_come_one_by_one_some_and_all(connection: DbApiConnection) -> None:
    cursor = connection.cursor().execute("SELECT platform_sequence + ? FROM trades_v2", [7])
    assert cursor.rowcount == 4 and [one[0] for one in cursor.description or []]
    assert cursor.fetchone() == (7,)
    assert list(cursor.fetchmany(2)) == [(7,), (7,)]
    assert list(cursor) == [(7,)]
    assert cursor.fetchone() is None


def test_each_statement_sees_what_came_since(catalog: Catalog, connection: DbApiConnection) -> None:
    counts = []
    for number in (4, 5):
        append(catalog, [trade(number)])
        counts.append(connection.execute("SELECT count(*) FROM trades_v2").fetchone())
    assert counts == [(5,), (6,)]


def test_a_cursor_has_a_result_of_its_own(connection: DbApiConnection) -> None:
    connection.execute("SELECT 1 AS one")
    other = connection.cursor()
    assert other.description is None and other.rowcount == -1
    with pytest.raises(QueryError, match="execute something first"):
        other.fetchall()
    assert connection.pl().to_dicts() == connection.df().to_dict("records") == [{"one": 1}]


@pytest.mark.slow
def test_jupysql_runs_on_the_connection(catalog: Catalog, tmp_path: Path) -> None:
    env = os.environ | {"PLOOMBER_STATS_ENABLED": "false", "HOME": str(tmp_path)}
    ran = [sys.executable, "-c", JUPYSQL, str(tmp_path)]
    done = subprocess.run(ran, env=env, capture_output=True, text=True, check=True)
    assert "[('BHP', 4)]" in done.stdout.splitlines()


@pytest.mark.parametrize("every", ["1s", "1m", "5m", "1h", "1d"])
def test_views_of_bars_are_the_bars(every: str, catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(n, symbol="MWR", exchange="BINANCE") for n in (5, 50_000, 60_000)])
    for symbol in ("BHP", "MWR"):
        text = f"SELECT * FROM bars_{every} WHERE symbol = ? ORDER BY start"
        assert engine.sql(text, [symbol]).equals(
            read_bars(engine, ReadRequest(symbol), every=every).frame
        )


def test_a_day_of_the_view_is_the_venues(catalog: Catalog, engine: Engine) -> None:
    night = at(0) + timedelta(hours=12, minutes=30)
    append(catalog, [trade(n, timestamp=night, exchange=one) for n, one in ((7, "ASX"), (8, "X"))])
    days = engine.sql("SELECT exchange, trading_date FROM bars_1d WHERE start > ?", [at(0)])
    assert days.rows() == [("ASX", date(2014, 3, 11))]
