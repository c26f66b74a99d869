"""The book: of every id it is known whether it came, is absent, covered, dead or still missing."""

import pickle
from collections.abc import Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.fake_clock import FakeClock

from k2lib.feed.gaps import Ids, SequenceGap
from k2lib.feed.sequence_tracker import SequenceTracker, SymbolSequence

BTC = "BTCUSDT"
GRACE_S = 0.5
LAST = 60


class Ledger:
    """A book with a clock, and every revision that it told."""

    def __init__(
        self,
        next_id: int | None = 1,
        holes: Iterable[tuple[int, int]] = (),
        gaps: Iterable[tuple[SequenceGap, list[tuple[int, int]]]] = (),
    ) -> None:
        self.clock = FakeClock()
        known = {BTC: SymbolSequence(Ids(next_id, holes))}
        self.book = SequenceTracker("BINANCE", known, gaps=gaps, grace_s=GRACE_S, clock=self.clock)
        self.told: list[SequenceGap] = []

    def came(self, *ids: int, at_us: int = 0) -> list[bool]:
        return self.book.add(BTC, np.array(ids, np.int64), np.full(len(ids), at_us)).tolist()

    def later(self) -> list[SequenceGap]:
        """Let the grace pass, and return what is told then."""
        self.clock.advance(GRACE_S)
        told = self.book.noticed() + self.book.closed()
        self.told += told
        return told


def ledger_with_gap() -> tuple[Ledger, SequenceGap]:
    """Return a book in which ids 5 to 9 are missing."""
    ledger = Ledger()
    ledger.came(1, 2, 3, 4, 10)
    return ledger, ledger.later()[0]


def sums(gap: SequenceGap) -> tuple[str, int, int, int]:
    return gap.state, gap.filled, gap.covered, gap.absent


def test_a_hole_is_a_gap_after_the_grace() -> None:
    ledger = Ledger()
    ledger.came(1, 2, 5, at_us=70)
    ledger.clock.advance(GRACE_S / 2)
    assert ledger.book.noticed() == []
    [gap] = ledger.later()
    assert (gap.from_id, gap.to_id, gap.state, gap.before_us) == (3, 4, "noticed", 70)
    assert ledger.later() == []


def test_disorder_within_the_grace_is_no_gap() -> None:
    ledger = Ledger()
    assert ledger.came(1, 4) == [True, True]
    assert ledger.came(3, 2) == [True, True]
    assert ledger.later() == []


def test_a_gap_knows_the_times_on_both_sides() -> None:
    ledger = Ledger()
    ledger.came(1, 2, at_us=100)
    ledger.came(5, at_us=200)
    ledger.came(8, at_us=300)
    first, second = ledger.later()
    assert (first.after_us, first.before_us) == (100, 200)
    assert (second.after_us, second.before_us) == (200, 300)


def test_a_gap_closes_when_all_its_ids_came() -> None:
    ledger, _ = ledger_with_gap()
    ledger.came(5, 6, 7, 8)
    assert ledger.later() == []
    ledger.came(9)
    assert [sums(one) for one in ledger.later()] == [("filled", 5, 0, 0)]
    assert ledger.book.open == ()


def test_a_trade_that_comes_twice_is_new_once() -> None:
    ledger, _ = ledger_with_gap()
    assert ledger.came(5, 5, 4) == [True, False, False]
    assert ledger.came(5) == [False]


def test_absent_ids_are_counted_and_noted() -> None:
    ledger, gap = ledger_with_gap()
    ledger.came(5, 6, 7)
    ledger.book.explain(gap.gap_id, absent=[(8, 9)], note="REST has no 8..9 either")
    [closed] = ledger.later()
    assert sums(closed) == ("none_at_venue", 3, 0, 2)
    assert closed.note == "REST has no 8..9 either"


def test_a_covered_gap_is_filled_when_its_trades_come_singly() -> None:
    ledger, gap = ledger_with_gap()
    ledger.book.explain(gap.gap_id, covered=[(5, 9)], note="5..9 1.0 x 2.0")
    assert [sums(one) for one in ledger.later()] == [("covered", 0, 5, 0)]
    assert ledger.came(5, 6) == [True, True]
    assert [sums(one) for one in ledger.later()] == [("covered", 2, 3, 0)]
    assert ledger.came(6, 7, 8, 9) == [False, True, True, True]
    assert [(sums(one), one.revision) for one in ledger.later()] == [(("filled", 5, 0, 0), 3)]


def test_covered_ids_may_turn_out_to_be_absent() -> None:
    ledger, gap = ledger_with_gap()
    ledger.book.explain(gap.gap_id, covered=[(5, 9)])
    ledger.later()
    ledger.came(5, 6, 7)
    ledger.book.explain(gap.gap_id, absent=[(8, 9)])
    assert [sums(one) for one in ledger.later()] == [("none_at_venue", 3, 0, 2)]


def test_an_aggregate_that_reaches_into_another_gap_covers_its_own_only() -> None:
    ledger = Ledger()
    ledger.came(1, 4, 7)
    first, second = ledger.later()
    ledger.book.explain(first.gap_id, covered=[(2, 6)])
    assert [sums(one) for one in ledger.later()] == [("covered", 0, 2, 0)]
    assert ledger.book.missing(second) == [(5, 6)]


def test_dead_trades_make_a_gap_lost() -> None:
    ledger, gap = ledger_with_gap()
    ledger.came(5, 6)
    ledger.book.explain(gap.gap_id, dead=[(7, 7)], reasons=["overflow"], covered=[(8, 9)])
    [lost] = ledger.later()
    assert (sums(lost), lost.refused) == (("lost", 2, 2, 1), ("overflow",))


def test_a_gap_given_up_counts_every_id() -> None:
    ledger, gap = ledger_with_gap()
    ledger.came(5)
    ledger.book.explain(gap.gap_id, dead=[(6, 6)], covered=[(7, 7)], absent=[(8, 8)])
    lost = ledger.book.lost(gap.gap_id, "no such symbol")
    assert lost is not None and sums(lost) == ("lost", 1, 1, 3)
    assert ledger.later() == [] and ledger.book.missing(gap) == []
    assert ledger.book.lost(gap.gap_id, "again") is None


def test_what_is_told_of_a_gap_that_is_no_longer_open_is_ignored() -> None:
    ledger, gap = ledger_with_gap()
    ledger.came(5, 6, 7, 8, 9)
    ledger.later()
    ledger.book.explain(gap.gap_id, absent=[(5, 9)])
    assert ledger.later() == []


def test_a_known_hole_is_a_gap_at_once() -> None:
    ledger = Ledger(20, [(5, 9)])
    [gap] = ledger.book.noticed()
    assert (gap.from_id, gap.to_id) == (5, 9)


def test_a_gap_of_an_earlier_run_goes_on_with_its_revisions() -> None:
    noticed = SequenceGap("BINANCE", BTC, 5, 9, revision=3)
    ledger = Ledger(20, [(5, 9)], [(noticed, [])])
    assert ledger.book.open == (noticed,)
    assert ledger.later() == []
    ledger.came(5, 6, 7, 8, 9)
    assert [(one.state, one.revision) for one in ledger.later()] == [("filled", 4)]


def test_a_covered_gap_of_an_earlier_run_is_told_when_more_of_it_came() -> None:
    covered = SequenceGap("BINANCE", BTC, 5, 9, revision=1, state="covered", covered=4, absent=1)
    same = Ledger(20, gaps=[(covered, [(5, 9)])])
    assert same.later() == []
    meanwhile = Ledger(20, gaps=[(covered, [])])
    assert [(sums(one), one.revision) for one in meanwhile.later()] == [(("filled", 5, 0, 0), 2)]


def test_ids_beside_an_open_gap_are_a_gap_of_their_own() -> None:
    ledger = Ledger(10, gaps=[(SequenceGap("BINANCE", BTC, 10, 12), [])])
    ledger.came(20)
    [gap] = ledger.later()
    assert (gap.from_id, gap.to_id) == (13, 19)


def test_memory_does_not_grow_with_disorder() -> None:
    ledger, sizes = Ledger(), list[int]()
    for first in range(1, 6_001, 2):
        ledger.came(first + 1)
        ledger.came(first)
        ledger.clock.advance(0.1)
        assert ledger.book.noticed() == []
        if first % 1000 == 1:
            sizes.append(len(pickle.dumps(ledger.book)))
    assert sizes[-1] < 1.1 * sizes[-3]


KINDS = ("absent", "covered", "dead")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("came"), st.lists(st.integers(1, LAST), max_size=8)),
        st.tuples(st.sampled_from(KINDS), st.tuples(st.integers(1, LAST), st.integers(0, 6))),
        st.tuples(st.just("later"), st.none()),
    ),
    max_size=30,
)


class Account:
    """What a person with a list of all ids would say."""

    def __init__(self) -> None:
        self.of: dict[int, str] = {}

    def came(self, ids: Iterable[int]) -> list[bool]:
        told = []
        for one in ids:
            told.append(self.of.get(one, "covered") == "covered")
            self.of.setdefault(one, "came")
            if told[-1]:
                self.of[one] = "came"
        return told

    def explain(self, gap: SequenceGap, kind: str, low: int, high: int) -> None:
        for one in range(max(low, gap.from_id), min(high, gap.to_id) + 1):
            missing = one not in self.of
            if missing or (kind != "covered" and self.of[one] == "covered"):
                self.of[one] = kind

    def count(self, gap: SequenceGap, *kinds: str) -> int:
        return sum(self.of.get(one) in kinds for one in range(gap.from_id, gap.to_id + 1))


def agrees(account: Account, gap: SequenceGap) -> bool:
    gone = account.count(gap, "absent", "dead")
    counted = (account.count(gap, "came"), account.count(gap, "covered"), gone)
    return (gap.filled, gap.covered, gap.absent) == counted and sum(counted) == gap.size


@given(STEPS)
def test_the_book_agrees_with_an_account_of_every_id(steps: list[tuple[str, object]]) -> None:
    ledger, account, gaps = Ledger(), Account(), dict[str, SequenceGap]()
    for kind, what in [*steps, ("came", [LAST + 1]), ("later", None), ("later", None)]:
        if kind == "came":
            assert ledger.came(*what) == account.came(what)  # type: ignore[misc, arg-type]
        elif kind == "later":
            for gap in ledger.later():
                assert gap.state == "noticed" or agrees(account, gap)
                gaps[gap.gap_id] = gap
        else:
            low, more = what  # type: ignore[misc]
            for gap in gaps.values():
                if gap.state in ("noticed", "covered"):
                    ledger.book.explain(gap.gap_id, **{kind: [(low, low + more)]})
                    account.explain(gap, kind, low, low + more)
    assert_every_id_is_accounted_for(ledger, account, list(gaps.values()))


def assert_every_id_is_accounted_for(
    ledger: Ledger, account: Account, gaps: list[SequenceGap]
) -> None:
    for gap in gaps:
        left = {one for low, high in ledger.book.missing(gap) for one in range(low, high + 1)}
        ids = range(gap.from_id, gap.to_id + 1)
        assert left == {one for one in ids if one not in account.of}
        assert bool(left) == (gap in ledger.book.open)
    told = {one for gap in gaps for one in range(gap.from_id, gap.to_id + 1)}
    assert {one for one in range(1, LAST + 1) if one not in account.of} <= told
