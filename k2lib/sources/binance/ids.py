"""Which trade ids of a symbol came: every id is seen, missing, or not there yet. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import itemgetter

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.int64]
Hole = tuple[int, int]


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
        distinct, places = np.unique(ids, return_index=True)
        new = np.zeros(len(ids), bool)
        for start, end in _runs(distinct):
            for low, high in self._add_run(int(distinct[start]), int(distinct[end - 1])):
                inside = slice(*np.searchsorted(distinct, (low, high + 1)))
                new[places[inside]] = True
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
