"""Which trade ids of a symbol came: every id is seen, missing, or not there yet. Pure."""

from bisect import bisect_left
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.int64]
Hole = tuple[int, int]


class Ids:
    """The ids of one symbol: all below `next_id` came, but for those in `holes`.

    Ids are counted from the first one that comes, or from `next_id` where that is known.
    """

    def __init__(self, next_id: int | None = None, holes: Iterable[Hole] = ()) -> None:
        self.next_id = next_id
        self.holes: list[Hole] = sorted(holes)
        self._first = 0

    def add(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        """Take ids in any order; return which of them are new, the first of equal ones.

        Ids below the first that ever came count as new: nothing tells whether they came before.
        """
        if not len(ids):
            return np.zeros(0, bool)
        if self.next_id is None:
            self._first = self.next_id = int(ids.min())
        first, last = int(ids[0]), int(ids[-1])
        if first == self.next_id and last - first == len(ids) - 1 and (np.diff(ids) == 1).all():
            self.next_id = last + 1
            return np.ones(len(ids), bool)
        return self._add_one_by_one(ids)

    def missing(self, low: int, high: int) -> list[Hole]:
        """Return the holes within [low, high], cut to it."""
        cut = ((max(low, start), min(high, end)) for start, end in self._holes_in(low, high))
        return list(cut)

    def explain(self, low: int, high: int) -> None:
        """Take the ids of [low, high] as seen: they will not come, and it is known why."""
        rest = [
            part
            for start, end in self._holes_in(low, high)
            for part in ((start, low - 1), (high + 1, end))
            if part[0] <= part[1]
        ]
        outside = [hole for hole in self.holes if hole[1] < low or hole[0] > high]
        self.holes = sorted(outside + rest)

    def _holes_in(self, low: int, high: int) -> list[Hole]:
        return [hole for hole in self.holes if hole[1] >= low and hole[0] <= high]

    def _add_one_by_one(self, ids: IdArray) -> npt.NDArray[np.bool_]:
        distinct, places = np.unique(ids, return_index=True)
        new = ids < self._first
        for start, end in _runs(distinct):
            fresh = self._add_run(int(distinct[start]), int(distinct[end - 1]))
            for low, high in fresh:
                inside = slice(*np.searchsorted(distinct, (low, high + 1)))
                new[places[inside]] = True
        return new

    def _add_run(self, low: int, high: int) -> list[Hole]:
        """Take the ids of [low, high]; return those parts of it that are new."""
        assert self.next_id is not None
        fresh = self.missing(low, high)
        for part in fresh:
            self.explain(*part)
        if high >= self.next_id:
            if low > self.next_id:
                self.holes.insert(
                    bisect_left(self.holes, (self.next_id, 0)), (self.next_id, low - 1)
                )
            fresh.append((max(low, self.next_id), high))
            self.next_id = high + 1
        return fresh


def _runs(distinct: IdArray) -> Iterable[tuple[int, int]]:
    """Return the slices of rising ids that follow each other without a hole."""
    cuts = (np.flatnonzero(np.diff(distinct) != 1) + 1).tolist()
    return zip([0, *cuts], [*cuts, len(distinct)], strict=True)
