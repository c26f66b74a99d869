"""Ids: every id is seen, missing or not there yet, whatever the order it comes in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from k2lib.feed.gaps import Ids

RANGE = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)
BATCHES = st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=8)


def array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int64)


def missing_one_by_one(ids: Ids) -> set[int]:
    return {one for low, high in ids.holes for one in range(low, high + 1)}


def new_by_hand(batch: list[int], seen: set[int]) -> list[bool]:
    """Say of each id whether it is new, and put it among the seen."""
    told = []
    for one in batch:
        told.append(one not in seen)
        seen.add(one)
    return told


@given(BATCHES)
def test_ids_are_those_of_a_plain_set(batches: list[list[int]]) -> None:
    ids, seen = Ids(), set[int]()
    for batch in batches:
        assert ids.add(array(batch)).tolist() == new_by_hand(batch, seen)
        if seen:
            assert ids.next_id == max(seen) + 1
            assert missing_one_by_one(ids) == set(range(min(seen), max(seen))) - seen


@given(BATCHES)
def test_known_ids_count_from_zero(batches: list[list[int]]) -> None:
    ids, seen = Ids(30, [(10, 14)]), set(range(30)) - set(range(10, 15))
    for batch in batches:
        assert ids.add(array(batch)).tolist() == new_by_hand(batch, seen)
        assert missing_one_by_one(ids) == set(range(max(seen))) - seen


@given(BATCHES, RANGE)
def test_holes_are_sorted_and_apart(batches: list[list[int]], explained: list[int]) -> None:
    ids = Ids()
    for batch in batches:
        ids.add(array(batch))
    ids.explain(*explained)
    ends = [end for hole in ids.holes for end in hole]
    assert ends == sorted(ends)
    assert all(after > before + 1 for before, after in zip(ends[1::2], ends[2::2], strict=False))


@given(BATCHES, RANGE)
def test_what_is_explained_is_missing_no_longer(
    batches: list[list[int]], explained: list[int]
) -> None:
    ids, (low, high) = Ids(), explained
    for batch in batches:
        ids.add(array(batch))
    before = missing_one_by_one(ids)
    cut = {one for start, end in ids.missing(low, high) for one in range(start, end + 1)}
    assert cut == before & set(range(low, high + 1))
    ids.explain(low, high)
    assert missing_one_by_one(ids) == before - cut


def test_nothing_is_known_before_the_first_id() -> None:
    ids = Ids()
    assert ids.add(array([])).tolist() == []
    assert ids.next_id is None and ids.holes == []


def test_a_million_ids_in_order_are_one_step() -> None:
    ids = Ids(5_000_000_000)
    assert ids.add(np.arange(5_000_000_000, 5_001_000_000)).all()
    assert ids.next_id == 5_001_000_000 and ids.holes == []


def test_an_id_below_the_first_opens_a_hole_up_to_it() -> None:
    ids = Ids()
    ids.add(array([100]))
    assert ids.add(array([97])).tolist() == [True]
    assert ids.holes == [(98, 99)]
