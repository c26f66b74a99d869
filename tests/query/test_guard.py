"""A guarded engine cuts what takes too long or too much, and reads nothing but the lake."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from pyiceberg.catalog import Catalog
from support.lake_rows import append, catalog_in, trade

from k2lib.errors import LimitError, QueryError
from k2lib.query.engine import Engine
from k2lib.query.guard import Guard
from k2lib.query.request import ReadRequest

CUT_S = 2.0
MANY = 10**11
T = TypeVar("T")
ENDLESS = f"SELECT count(*) FROM range({MANY}) AS t(n) WHERE hash(n) % 7 = 1"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


def guard_of(home: Path, timeout_s: float) -> Guard:
    return Guard(timeout_s, memory_bytes=64 * 2**20, folders=(f"{home}/warehouse",))


@pytest.fixture
def guarded(catalog: Catalog, tmp_path: Path) -> Iterator[Engine]:
    with Engine(catalog, guard=guard_of(tmp_path, 60)) as engine:
        yield engine


@pytest.fixture
def hasty(catalog: Catalog, tmp_path: Path) -> Iterator[Engine]:
    with Engine(catalog, guard=guard_of(tmp_path, CUT_S)) as engine:
        yield engine


def in_time(ask: Callable[[], T]) -> T:
    """Ask; and again where the machine paused for as long as an answer may take."""
    for _ in range(30):
        began = time.monotonic()
        with suppress(LimitError):
            return ask()
        assert time.monotonic() - began >= CUT_S
    raise AssertionError("cut, however often it is asked")


@pytest.mark.slow
def test_a_query_that_takes_too_long_is_cut(hasty: Engine) -> None:
    began = time.monotonic()
    with pytest.raises(LimitError, match=r"cut after 2 s: ask for a shorter span"):
        hasty.sql(ENDLESS)
    assert CUT_S <= time.monotonic() - began < 60


@pytest.mark.slow
def test_a_script_is_cut_where_its_statements_are_short(hasty: Engine) -> None:
    with pytest.raises(LimitError, match="cut after 2 s"):
        hasty.sql("SELECT count(*) FROM range(10000000); " * 20_000)


def test_a_query_that_takes_too_much_memory_is_cut(guarded: Engine) -> None:
    with pytest.raises(LimitError, match="more than the 64 MiB"):
        guarded.sql("SELECT list(n) FROM range(100000000) AS t(n)")


@pytest.mark.slow
def test_after_a_cut_the_next_query_is_answered(catalog: Catalog, hasty: Engine) -> None:
    append(catalog, [trade(1)])
    with pytest.raises(LimitError):
        hasty.sql(ENDLESS)
    found = in_time(lambda: hasty.read("trades_v2", ReadRequest("BHP")).frame)
    assert found["message_id"].to_list() == ["m000001"]


def test_instruments_and_views_are_read_under_guard(catalog: Catalog, guarded: Engine) -> None:
    append(catalog, [trade(1), trade(2)])
    newest = guarded.read("trades_v2", ReadRequest("BHP", last=1)).frame
    assert newest["message_id"].to_list() == ["m000002"]
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
