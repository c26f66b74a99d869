"""Pages follow each other: no row twice, none left out, whatever arrives in between."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lake_rows import append, at, catalog_in, rows_table, trade

from k2lib.errors import QueryError
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest, RowKey
from k2lib.schema.order import EVENT_ORDER

DUCKDB = duckdb.connect()
DUCKDB.execute("SET TimeZone = 'UTC'")
sequences = st.one_of(st.none(), st.integers(-1, 1))


@st.composite
def many_trades(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Trades that share times and sequences as often as not."""
    return [
        trade(
            number,
            timestamp=at(draw(st.integers(0, 2))) + timedelta(microseconds=draw(st.integers(0, 1))),
            source_sequence=draw(sequences),
            platform_sequence=draw(sequences),
        )
        for number in range(draw(st.integers(1, 12)))
    ]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: [(row[n] is not None, row[n]) for n in EVENT_ORDER])


@given(many_trades(), st.data())
def test_rows_behind_a_key_are_those_that_follow_it(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    ordered = in_order(rows)
    place = data.draw(st.integers(0, len(rows) - 1))
    DUCKDB.register("trades", rows_table(rows))
    condition = RowKey.of(ordered[place]).behind_sql
    found = DUCKDB.sql(f"SELECT message_id FROM trades WHERE {condition}").fetchall()
    assert sorted(found) == sorted((row["message_id"],) for row in ordered[place + 1 :])


def pages(engine: Engine, size: int, between: Callable[[], None]) -> list[str]:
    seen: list[str] = []
    after = None
    while True:
        frame = engine.read("trades_v2", ReadRequest("BHP", first=size, after=after)).frame
        seen.extend(frame["message_id"])
        if frame.height < size:
            return seen
        after = RowKey.of(frame.row(-1, named=True))
        between()


def test_pages_have_every_row_once_and_skip_what_came_behind_them(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    append(catalog, [trade(n) for n in range(0, 20, 2)])
    late = iter(range(1, 40, 2))

    def add_one_behind_and_one_before() -> None:
        append(catalog, [trade(next(late)), trade(100 + next(late))])

    with Engine(catalog) as engine:
        seen = pages(engine, 3, add_one_behind_and_one_before)
    assert len(set(seen)) == len(seen) and seen == sorted(seen)
    assert {f"m{n:06d}" for n in range(0, 20, 2)} <= set(seen)
    assert "m000001" not in seen and "m000103" in seen


def test_a_key_keeps_its_place_inside_one_microsecond(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    same = [trade(n, timestamp=at(0), source_sequence=n % 3 or None) for n in range(9)]
    append(catalog, same)
    with Engine(catalog) as engine:
        seen = pages(engine, 2, lambda: None)
    assert seen == [row["message_id"] for row in in_order(same)]


def test_the_first_so_many_are_the_earliest(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    append(catalog, [trade(n) for n in (5, 1, 3)])
    with Engine(catalog) as engine:
        frame = engine.read("trades_v2", ReadRequest("BHP", first=2)).frame
    assert frame["message_id"].to_list() == ["m000001", "m000003"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"first": -1}, "first=-1: give the number of rows to keep"),
        ({"first": 1, "last": 1}, "first=1 and last=1: give one of them"),
        ({"last": 1, "after": RowKey(at(0), None, None, "")}, "last=1 and after="),
    ],
)
def test_what_no_page_can_be_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(QueryError, match=told):
        ReadRequest("BHP", **asked)
