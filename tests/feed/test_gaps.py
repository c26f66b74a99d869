"""Gaps: their identity, the sum of their ids, and what an answer proves."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.feed.gaps import SequenceGap, gap_rows, uncovered
from k2lib.schema.records import GAP
from k2lib.venues.base import absent_ids

ONE = SequenceGap("BINANCE", "BTCUSDT", 101, 110)
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
RANGES = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 12)).map(lambda one: (one[0], one[0] + one[1]))
)


def each(ranges: list[tuple[int, int]]) -> set[int]:
    return {one for low, high in ranges for one in range(low, high + 1)}


def apart(ids: set[int]) -> list[tuple[int, int]]:
    """Return the ids as ranges of one id each: they are apart from each other."""
    return [(one, one) for one in sorted(ids)]


def test_a_gap_is_itself_in_all_its_revisions() -> None:
    assert ONE.closed(covered=1, absent=2, note="").gap_id == ONE.gap_id
    assert SequenceGap("BINANCE", "ETHUSDT", 101, 110).gap_id != ONE.gap_id
    assert SequenceGap("BINANCE_SIM", "BTCUSDT", 101, 110).gap_id != ONE.gap_id


@pytest.mark.parametrize(
    ("covered", "absent", "state"),
    [(0, 0, "filled"), (0, 3, "none_at_venue"), (4, 3, "covered"), (10, 0, "covered")],
)
def test_a_closed_gap_has_the_worst_state_of_its_ids(covered: int, absent: int, state: str) -> None:
    closed = ONE.closed(covered=covered, absent=absent, note="why")
    assert (closed.state, closed.revision, closed.note) == (state, 1, "why")
    assert closed.filled + closed.covered + closed.absent == closed.size == 10


def test_a_lost_gap_adds_up_too() -> None:
    lost = ONE.lost(absent=4, covered=3, note="symbol gone")
    assert (lost.state, lost.filled, lost.covered, lost.absent) == ("lost", 3, 3, 4)


def test_of_a_noticed_gap_nothing_is_filled_yet() -> None:
    assert (ONE.state, ONE.filled, ONE.size) == ("noticed", 0, 10)


def test_each_revision_is_a_row_of_its_own() -> None:
    rows = gap_rows([ONE, ONE.closed(covered=0, absent=1, note="n")], NOON)
    assert rows.schema == GAP.arrow
    assert rows["gap_id"].unique().to_pylist() == [ONE.gap_id]
    assert len(rows["message_id"].unique()) == 2
    assert rows["revision"].to_pylist() == [0, 1]
    assert rows["filled"].to_pylist() == [0, 9]


@given(st.integers(0, 40), st.integers(1, 12), st.sets(st.integers(0, 60)))
def test_absent_is_what_an_answer_leaves_out_and_goes_on_past(
    low: int, size: int, answered: set[int]
) -> None:
    high = low + size - 1
    proven = max(answered, default=-1) if any(one >= low for one in answered) else -1
    absent = absent_ids((low, high), np.array(sorted(answered), np.int64))
    assert each(absent) == {one for one in range(low, high + 1) if one < proven} - answered


def test_an_answer_in_disorder_proves_the_same() -> None:
    assert absent_ids((5, 9), np.array([12, 8, 6])) == [(5, 5), (7, 7), (9, 9)]


def test_an_empty_answer_proves_nothing() -> None:
    assert absent_ids((5, 9), np.array([], np.int64)) == []


@given(st.sets(st.integers(0, 60)), RANGES)
def test_uncovered_is_what_no_range_explains(
    holes: set[int], explained: list[tuple[int, int]]
) -> None:
    assert each(uncovered(apart(holes), explained)) == holes - each(explained)


def test_uncovered_keeps_what_is_left_in_one_piece() -> None:
    assert uncovered([(10, 30)], [(1, 12), (20, 21), (29, 40)]) == [(13, 19), (22, 28)]
