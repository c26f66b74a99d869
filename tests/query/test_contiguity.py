"""The proof of contiguity: its counts are those of a plain account of every id."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from support.lake_rows import append, catalog_in, gap, trade

from k2lib.query.engine import Engine
from k2lib.query.statistics import contiguity

STATES = ("filled", "covered", "none_at_venue", "lost", "noticed")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path / "home")


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as one:
        yield one


def trades(ids: Sequence[int], symbol: str = "BTCUSDT", exchange: str = "BINANCE") -> list[Any]:
    return [
        trade(place, symbol=symbol, exchange=exchange, source_sequence=one)
        for place, one in enumerate(ids)
    ]


def closed(from_id: int, to_id: int, state: str, **changed: Any) -> dict[str, Any]:
    """Return the closed revision of a gap, of which nothing came singly unless told."""
    counts = {"covered": 0, "absent": 0}
    if state != "filled":
        counts["covered" if state == "covered" else "absent"] = to_id - from_id + 1
    row = gap(f"g{from_id}", 1, from_id=from_id, to_id=to_id, state=state)
    return row | counts | changed


def counts(engine: Engine, exchange: str | None = None) -> list[tuple[Any, ...]]:
    """Return (first, last, rows, twice, missing, explained, unexplained) of each symbol."""
    return [row[2:] for row in contiguity(engine, exchange).iter_rows()]


def test_an_empty_lake_has_no_symbols(engine: Engine) -> None:
    assert contiguity(engine).is_empty()


def test_contiguous_ids_miss_nothing(catalog: Catalog, engine: Engine) -> None:
    append(catalog, trades([7, 5, 6]))
    assert counts(engine) == [(5, 7, 3, 0, 0, 0, 0)]


def test_a_trade_that_is_there_twice_is_told(catalog: Catalog, engine: Engine) -> None:
    append(catalog, trades([5, 6, 6, 6, 8]))
    assert counts(engine) == [(5, 8, 5, 2, 1, 0, 1)]


@pytest.mark.parametrize(
    ("state", "explained"),
    [("covered", 3), ("none_at_venue", 3), ("lost", 3), ("filled", 0), ("noticed", 0)],
)
def test_a_closed_gap_explains_what_is_not_to_be_had(
    catalog: Catalog, engine: Engine, state: str, explained: int
) -> None:
    append(catalog, trades([5, 9]))
    append(catalog, [closed(6, 8, state)], "gaps")
    assert counts(engine) == [(5, 9, 2, 0, 3, explained, 3 - explained)]


def test_a_gap_explains_no_more_than_it_says(catalog: Catalog, engine: Engine) -> None:
    append(catalog, trades([1, 20]))
    append(catalog, [closed(2, 19, "none_at_venue", absent=4, filled=14)], "gaps")
    assert counts(engine) == [(1, 20, 2, 0, 18, 4, 14)]


def test_the_newest_revision_counts(catalog: Catalog, engine: Engine) -> None:
    append(catalog, trades([5, 9]))
    newer = closed(6, 8, "filled") | {"revision": 2, "message_id": "newer"}
    append(catalog, [closed(6, 8, "covered"), newer], "gaps")
    assert counts(engine) == [(5, 9, 2, 0, 3, 0, 3)]


def test_gaps_side_by_side_explain_one_hole_together(catalog: Catalog, engine: Engine) -> None:
    append(catalog, trades([5, 12]))
    append(catalog, [closed(6, 8, "covered"), closed(9, 11, "none_at_venue")], "gaps")
    assert counts(engine) == [(5, 12, 2, 0, 6, 6, 0)]


def test_gaps_that_overlap_explain_an_id_once(catalog: Catalog, engine: Engine) -> None:
    append(catalog, trades([5, 12]))
    append(catalog, [closed(6, 9, "lost"), closed(7, 8, "lost"), closed(8, 10, "lost")], "gaps")
    assert counts(engine) == [(5, 12, 2, 0, 6, 5, 1)]


def test_gaps_of_others_explain_nothing(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [*trades([5, 9]), *trades([5, 9], "ETHUSDT", "BINANCE_SIM")])
    append(catalog, [closed(6, 8, "lost", symbol="ETHUSDT")], "gaps")
    assert [row[5] for row in counts(engine)] == [0, 0]


def test_one_exchange_may_be_asked_for(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [*trades([5, 6]), *trades([1, 3], exchange="BINANCE_SIM")])
    append(catalog, [trade(1), trade(2)])
    assert contiguity(engine)["exchange"].to_list() == ["BINANCE", "BINANCE_SIM"]
    assert counts(engine, "BINANCE_SIM") == [(1, 3, 2, 0, 1, 0, 1)]


def account(ids: list[int], gaps: list[tuple[int, int, str]]) -> tuple[int, ...]:
    """Count by hand; the gaps are apart from each other."""
    missing = set(range(min(ids), max(ids) + 1)) - set(ids)
    explained = sum(
        one in missing
        for low, high, state in gaps
        for one in range(low, high + 1)
        if state in STATES[1:4]
    )
    twice = len(ids) - len(set(ids))
    left = len(missing) - explained
    return (min(ids), max(ids), len(ids), twice, len(missing), explained, left)


GAPS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 8), st.sampled_from(STATES)), max_size=5
)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), GAPS)
def test_the_counts_are_those_of_an_account(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], drawn: list[tuple[int, int, str]]
) -> None:
    catalog = catalog_in(tmp_path_factory.mktemp("lake") / "home")
    gaps = [(10 * ten, 10 * ten + more, state) for ten, more, state in drawn]
    gaps = list({low: (low, high, state) for low, high, state in gaps}.values())
    append(catalog, trades(ids))
    if gaps:
        append(catalog, [closed(*one) for one in gaps], "gaps")
    with Engine(catalog) as engine:
        assert counts(engine) == [account(ids, gaps)]
