"""Gaps: holes in a venue's ids, from the moment they are noticed until they are explained. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.schema.identity import message_id
from k2lib.schema.records import GAP
from k2lib.venues.base import Hole, IdArray


class Ids:
    """The ids of one symbol: all below `next_id` came, but for those in `holes`.

    Ids are counted from the lowest one that comes; where `next_id` is known, from 0. Holes are
    sorted and apart from each other.
    """

    def __init__(self, next_id: int | None = None, holes: Iterable[Hole] = ()) -> None:
        self.next_id = next_id
        self.holes: list[Hole] = sorted(holes)
        self._first = 0

    def add(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        """Take ids in any order; return which of them are new, the first of equal ones."""
        if not len(ids):
            return np.zeros(0, bool)
        if self.next_id is None:
            self._first = self.next_id = int(ids.min())
        first, last = int(ids[0]), int(ids[-1])
        if first == self.next_id and last - first == len(ids) - 1 and (np.diff(ids) == 1).all():
            self.next_id = last + 1
            return np.ones(len(ids), bool)
        return self._add_runs(ids)

    def missing(self, low: int, high: int) -> list[Hole]:
        """Return the holes within [low, high], cut to it."""
        return [(max(low, start), min(high, end)) for start, end in self.holes[self._at(low, high)]]

    def explain(self, low: int, high: int) -> None:
        """Take the ids of [low, high] as seen: they will not come, and it is known why."""
        at = self._at(low, high)
        self.holes[at] = [
            part
            for start, end in self.holes[at]
            for part in ((start, min(end, low - 1)), (max(start, high + 1), end))
            if part[0] <= part[1]
        ]

    def _at(self, low: int, high: int) -> slice:
        """Return where the holes that reach into [low, high] stand."""
        begin = bisect_left(self.holes, low, key=itemgetter(1))
        return slice(begin, max(begin, bisect_right(self.holes, high, key=itemgetter(0))))

    def _add_runs(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        distinct, first_rows = np.unique(ids, return_index=True)
        new = np.zeros(len(ids), bool)
        for start, end in _runs(distinct):
            for low, high in self._add_run(int(distinct[start]), int(distinct[end - 1])):
                inside = slice(*np.searchsorted(distinct, (low, high + 1)))
                new[first_rows[inside]] = True
        return new

    def _add_run(self, low: int, high: int) -> list[Hole]:
        """Take the ids of [low, high]; return those parts of it that are new."""
        assert self.next_id is not None
        if low < self._first:
            self.holes.insert(0, (low, self._first - 1))
            self._first = low
        fresh = self.missing(low, high)
        self.explain(low, high)
        if high >= self.next_id:
            if low > self.next_id:
                self.holes.append((self.next_id, low - 1))
            fresh.append((max(low, self.next_id), high))
            self.next_id = high + 1
        return fresh


def _runs(distinct: IdArray) -> Iterable[tuple[int, int]]:
    """Return the slices of rising ids that follow each other without a hole."""
    cuts = (np.flatnonzero(np.diff(distinct) != 1) + 1).tolist()
    return zip([0, *cuts], [*cuts, len(distinct)], strict=True)


OPEN: Final = ("noticed", "covered")


@dataclass(frozen=True)
class SequenceGap:
    """One hole, [from_id, to_id], and what became of its ids.

    `after_us` and `before_us` are the event times of the trades on both sides, where known: a
    venue that gives no single trades is asked by time. `refused` are the reasons of dead letters
    among its trades, once it is closed.
    """

    exchange: str
    symbol: str
    from_id: int
    to_id: int
    revision: int = 0
    state: str = "noticed"
    covered: int = 0
    absent: int = 0
    note: str = ""
    after_us: int | None = None
    before_us: int | None = None
    refused: tuple[str, ...] = ()

    @property
    def gap_id(self) -> str:
        """The gap's identity over all of its revisions."""
        return message_id(self.exchange, self.symbol, str(self.from_id))

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """Exchange, symbol, first and last id, and `gap_id`, as events of a gap begin."""
        return self.exchange, self.symbol, self.from_id, self.to_id, self.gap_id

    @property
    def size(self) -> int:
        """How many ids were missing."""
        return self.to_id - self.from_id + 1

    @property
    def filled(self) -> int:
        """How many of them came as single trades; known once the gap is closed."""
        return 0 if self.state == "noticed" else self.size - self.covered - self.absent

    def closed(self, *, covered: int, absent: int, note: str) -> "SequenceGap":
        """Return the gap's next revision, with the worst state of its ids."""
        state = "covered" if covered else "none_at_venue" if absent else "filled"
        return replace(
            self,
            revision=self.revision + 1,
            state=state,
            covered=covered,
            absent=absent,
            note=note,
        )

    def lost(
        self, *, absent: int, note: str, covered: int = 0, refused: tuple[str, ...] = ()
    ) -> "SequenceGap":
        """Return the gap's next revision where `absent` of its ids will never be had."""
        return replace(
            self,
            revision=self.revision + 1,
            state="lost",
            covered=covered,
            absent=absent,
            note=note,
            refused=refused,
        )


def gap_rows(gaps: Sequence[SequenceGap], noticed: datetime) -> pa.Table:
    """Return revisions as rows of `schemas.GAP`, in order."""
    rows = [
        {
            "message_id": message_id(gap.gap_id, str(gap.revision)),
            "gap_id": gap.gap_id,
            "revision": gap.revision,
            "noticed": noticed,
            "exchange": gap.exchange,
            "symbol": gap.symbol,
            "from_id": gap.from_id,
            "to_id": gap.to_id,
            "state": gap.state,
            "filled": gap.filled,
            "covered": gap.covered,
            "absent": gap.absent,
            "note": gap.note,
        }
        for gap in gaps
    ]
    return pa.Table.from_pylist(rows, schema=GAP.arrow)


def uncovered(holes: Iterable[Hole], explained: Iterable[Hole]) -> list[Hole]:
    """Return the parts of holes, which are apart from each other, that no range explains."""
    left = Ids(None, holes)
    for low, high in explained:
        left.explain(low, high)
    return left.holes
