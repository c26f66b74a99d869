"""A guarded engine cuts what takes too long or too much, and reads nothing but the lake."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lake_rows import append, catalog_in, trade
from pyiceberg.catalog import Catalog

from k2lib.errors import LimitError, QueryError
from k2lib.query.engine import Engine
from k2lib.query.guard import Guard

MANY = 10**11
ENDLESS = f"SELECT count(*) FROM range({MANY}) AS t(n) WHERE hash(n) % 7 = 1"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def guarded(catalog: Catalog, tmp_path: Path) -> Iterator[Engine]:
    guard = Guard(timeout_s=2, memory_bytes=64 * 2**20, folders=(f"{tmp_path}/warehouse",))
    with Engine(catalog, guard=guard) as engine:
        yield engine


def test_a_query_that_takes_too_long_is_cut(guarded: Engine) -> None:
    began = time.monotonic()
    with pytest.raises(LimitError, match=r"cut after 2 s: ask for a shorter span"):
        guarded.sql(ENDLESS)
    assert time.monotonic() - began < 5


def test_a_script_is_cut_where_its_statements_are_short(guarded: Engine) -> None:
    with pytest.raises(LimitError, match="cut after 2 s"):
        guarded.sql("SELECT count(*) FROM range(10000000); " * 2000)


def test_a_query_that_takes_too_much_memory_is_cut(guarded: Engine) -> None:
    with pytest.raises(LimitError, match="more than the 64 MiB"):
        guarded.sql("SELECT list(n) FROM range(100000000) AS t(n)")


def test_after_a_cut_the_next_query_is_answered(catalog: Catalog, guarded: Engine) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(LimitError):
        guarded.sql(ENDLESS)
    assert guarded.trades("BHP")["message_id"].to_list() == ["m000001"]


def test_instruments_and_views_are_read_under_guard(catalog: Catalog, guarded: Engine) -> None:
    append(catalog, [trade(1), trade(2)])
    assert guarded.trades("BHP", last=1)["message_id"].to_list() == ["m000002"]
    assert guarded.sql("SELECT sum(trades) AS n FROM bars_1m").item() == 2


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM read_text('{home}/warehouse/../secret.csv')",
        "COPY (SELECT 1) TO '{outside}'",
        "ATTACH '{outside}.db'",
        "SET memory_limit = '99GB'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ],
)
def test_nothing_but_the_lake_can_be_reached(text: str, guarded: Engine, tmp_path: Path) -> None:
    outside = tmp_path / "secret.csv"
    outside.write_text("a\n1\n")
    with pytest.raises(QueryError, match=r"file system operations|Cannot"):
        guarded.sql(text.format(outside=outside, home=tmp_path))
    assert outside.read_text() == "a\n1\n"
