"""Tracks the ids of one feed: received, missing, and the state of each gap. Pure."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from k2lib.feed.gaps import Ids, SequenceGap, uncovered
from k2lib.venues.base import Hole, IdArray

NOTED_AT_MOST: Final = 20
EDGES_AT_MOST: Final = 500


@dataclass
class SymbolSequence:
    """What is known of one symbol: its ids, and the event time of the newest."""

    ids: Ids = field(default_factory=Ids)
    last_us: int | None = None


@dataclass
class _Open:
    """A gap that is not closed, or is covered and may still be filled.

    `covered` has as holes the ids that are known from aggregates only.
    """

    gap: SequenceGap
    covered: Ids
    absent: int = 0
    dead: int = 0
    reported: int = 0
    notes: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


class SequenceTracker:
    """Keeps account of every id of every symbol.

    A hole becomes a gap after `grace_s`: trades of two connections may come out of order.
    `gaps` are those of earlier runs, each with its ids that are known from aggregates only.
    """

    def __init__(
        self,
        exchange: str,
        sequences: Mapping[str, SymbolSequence],
        *,
        gaps: Iterable[tuple[SequenceGap, Iterable[Hole]]] = (),
        grace_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._sequences = sequences
        self._open = {gap.gap_id: _opened(gap, covered) for gap, covered in gaps}
        self._grace_s = grace_s
        self._clock = clock
        self._reached: dict[str, deque[tuple[float, int]]] = {
            symbol: deque() for symbol in sequences
        }
        self._edges: dict[str, deque[tuple[int, int, int | None, int]]] = {
            symbol: deque(maxlen=EDGES_AT_MOST) for symbol in sequences
        }
        for symbol in sequences:
            self._mark(symbol, float("-inf"))

    @property
    def open(self) -> tuple[SequenceGap, ...]:
        """The gaps that are not closed."""
        return tuple(one.gap for one in self._open.values() if one.gap.state == "noticed")

    def has_begun(self, symbol: str) -> bool:
        """Say whether any id of the symbol is known."""
        return self._sequences[symbol].ids.next_id is not None

    def missing(self, gap: SequenceGap) -> list[Hole]:
        """Return the ids of a gap of which nothing is known yet."""
        return self._sequences[gap.symbol].ids.missing(gap.from_id, gap.to_id)

    def add(self, symbol: str, ids: IdArray, times_us: IdArray) -> npt.NDArray[np.bool_]:
        """Take trades as they came; return which of them are new, as single trades."""
        sequence = self._sequences[symbol]
        before = sequence.ids.next_id
        new = sequence.ids.add(ids)
        after = sequence.ids.next_id
        if after is not None and after != before:
            holes = sequence.ids.holes
            if before is not None and holes and holes[-1][1] >= before:
                self._edges[symbol].append((before, after, sequence.last_us, int(times_us.max())))
            sequence.last_us = int(times_us.max())
            self._mark(symbol, self._clock())
        return new if new.all() else new | self._add_covered(symbol, ids)

    def explain(
        self,
        gap_id: str,
        *,
        absent: Iterable[Hole] = (),
        covered: Iterable[Hole] = (),
        dead: Iterable[Hole] = (),
        reasons: Iterable[str] = (),
        note: str = "",
    ) -> None:
        """Take ids of a gap that will not come as single trades.

        Args:
            absent: the venue has none of these ids.
            covered: the venue has only aggregates of them.
            dead: they came, and are in the dead letters, for these `reasons`.
        """
        one = self._open.get(gap_id)
        if one is None:
            return
        ids = self._sequences[one.gap.symbol].ids
        both = (ids, one.covered)
        one.absent += sum(_explained(where, _within(one.gap, absent)) for where in both)
        one.dead += sum(_explained(where, _within(one.gap, dead)) for where in both)
        one.reasons.update(reasons)
        for low, high in _within(one.gap, covered):
            one.covered = Ids(one.gap.to_id + 1, [*one.covered.holes, *ids.missing(low, high)])
            ids.explain(low, high)
        if note and len(one.notes) < NOTED_AT_MOST:
            one.notes.append(note)

    def noticed(self) -> list[SequenceGap]:
        """Return the holes that have become gaps since the last call."""
        found = [gap for symbol in self._sequences for gap in self._new_gaps(symbol)]
        self._open |= {gap.gap_id: _opened(gap) for gap in found}
        return found

    def closed(self) -> list[SequenceGap]:
        """Return the next revision of each gap that closed, or got better, since the last call."""
        done = []
        for gap_id, one in list(self._open.items()):
            if not self._is_past(one.gap) or self.missing(one.gap) or not self._changed(one):
                continue
            one.reported = _count(one.covered.holes)
            note = "; ".join(one.notes) or "every id came as a single trade"
            if one.dead:
                gone = one.absent + one.dead
                refused = tuple(sorted(one.reasons))
                one.gap = one.gap.lost(
                    covered=one.reported, absent=gone, note=note, refused=refused
                )
            else:
                one.gap = one.gap.closed(covered=one.reported, absent=one.absent, note=note)
            done.append(one.gap)
            if not one.reported:
                del self._open[gap_id]
        return done

    def lost(self, gap_id: str, note: str) -> SequenceGap | None:
        """Return the last revision of a gap whose ids the venue will never give."""
        one = self._open.pop(gap_id, None)
        if one is None:
            return None
        left = self.missing(one.gap)
        self._sequences[one.gap.symbol].ids.explain(one.gap.from_id, one.gap.to_id)
        gone = one.absent + one.dead + _count(left)
        covered, refused = _count(one.covered.holes), tuple(sorted(one.reasons))
        return one.gap.lost(covered=covered, absent=gone, note=note, refused=refused)

    def _add_covered(self, symbol: str, ids: IdArray) -> npt.NDArray[np.bool_]:
        """Take trades that were known from aggregates; return which of them were."""
        new = np.zeros(len(ids), bool)
        for one in self._open.values():
            if one.gap.symbol == symbol and one.covered.holes:
                inside = (ids >= one.gap.from_id) & (ids <= one.gap.to_id)
                new[inside] |= one.covered.add(ids[inside])
        return new

    def _is_past(self, gap: SequenceGap) -> bool:
        next_id = self._sequences[gap.symbol].ids.next_id
        return next_id is not None and next_id > gap.to_id

    def _changed(self, one: _Open) -> bool:
        return one.gap.state == "noticed" or _count(one.covered.holes) != one.reported

    def _new_gaps(self, symbol: str) -> list[SequenceGap]:
        old = self._old_next(symbol)
        holes = self._sequences[symbol].ids.holes
        if old is None or not holes:
            return []
        taken = [
            (one.gap.from_id, one.gap.to_id)
            for one in self._open.values()
            if one.gap.symbol == symbol
        ]
        due = [hole for hole in uncovered(holes, taken) if hole[1] < old]
        return [self._gap(symbol, hole) for hole in due]

    def _gap(self, symbol: str, hole: Hole) -> SequenceGap:
        gap = SequenceGap(self._exchange, symbol, *hole)
        for low, high, after_us, before_us in self._edges[symbol]:
            if low <= hole[0] < high:
                return replace(gap, after_us=after_us, before_us=before_us)
        return gap

    def _old_next(self, symbol: str) -> int | None:
        """Return the next id as it was `grace_s` ago: holes below it had time to fill."""
        reached, due = self._reached[symbol], self._clock() - self._grace_s
        while len(reached) > 1 and reached[1][0] <= due:
            reached.popleft()
        return reached[0][1] if reached and reached[0][0] <= due else None

    def _mark(self, symbol: str, when: float) -> None:
        next_id = self._sequences[symbol].ids.next_id
        if next_id is not None:
            self._reached[symbol].append((when, next_id))


def _opened(gap: SequenceGap, covered: Iterable[Hole] = ()) -> _Open:
    """Of an earlier run's gap, absent ids are among the covered ones until asked for again."""
    return _Open(gap, Ids(gap.to_id + 1, covered), reported=gap.covered + gap.absent)


def _within(gap: SequenceGap, holes: Iterable[Hole]) -> list[Hole]:
    """Cut to the gap: an aggregate may reach into ids that came, or into another gap."""
    cut = ((max(low, gap.from_id), min(high, gap.to_id)) for low, high in holes)
    return [part for part in cut if part[0] <= part[1]]


def _explained(where: Ids, holes: Iterable[Hole]) -> int:
    """Take these ids as explained; return how many of them were missing there."""
    count = 0
    for low, high in holes:
        count += _count(where.missing(low, high))
        where.explain(low, high)
    return count


def _count(holes: Iterable[Hole]) -> int:
    return sum(high - low + 1 for low, high in holes)
