"""A span of rows of many lanes as one sequence of events."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.replay.lanes import Int64s, Lane, one_chunk, times_us
from k2lib.replay.records import Gap, Maker, Record

KINDS: Final = ("trades", "quotes", "gaps")
GAP: Final = KINDS.index("gaps")
Kinds = npt.NDArray[np.int8]
Placed = tuple[int, int, Gap]


@dataclass(frozen=True)
class Woven:
    """Events in order.

    Attributes:
        rows: of each kind, in order.
        gaps: in order.
        kinds: of each event, the place of its kind in `KINDS`.
        times: of each event, in microseconds.
    """

    rows: Mapping[str, pa.Table]
    gaps: Sequence[Gap]
    kinds: Kinds
    times: Int64s

    def records(self, maker: Maker, at_once: int) -> Iterator[tuple[Int64s, list[Record]]]:
        """Yield all events as records with their times, so many at once."""
        given = np.zeros(len(KINDS), np.int64)
        for low in range(0, len(self.kinds), at_once):
            kinds = self.kinds[low : low + at_once]
            counts = np.bincount(kinds, minlength=len(KINDS))
            yield self.times[low : low + at_once], self._some(maker, kinds, given, counts)
            given += counts

    def _some(self, maker: Maker, kinds: Kinds, given: Int64s, counts: Int64s) -> list[Record]:
        made: list[Sequence[Any]] = []
        for kind, first, count in zip(KINDS, given.tolist(), counts.tolist(), strict=True):
            if kind == "gaps":
                made.append(self.gaps[first : first + count])
            else:
                made.append(
                    maker.records(kind, self.rows[kind].slice(first, count)) if count else ()
                )
        if len(kinds) in counts:
            return list(made[int(kinds[0])])
        sources = list(map(iter, made))
        return [next(sources[kind]) for kind in kinds.tolist()]

    def stretches(self, rows: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield the stretches of one kind, at most so many rows each.

        Returns:
            The kind, the first event and the one after the last, and the first event's place
            among those of its kind.
        """
        edges = np.flatnonzero(np.diff(self.kinds)) + 1
        given = dict.fromkeys(range(len(KINDS)), 0)
        for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(self.kinds)], strict=True):
            kind = int(self.kinds[low])
            for at in range(low, high, rows):
                end = min(high, at + rows)
                yield KINDS[kind], at, end, given[kind]
                given[kind] += end - at


def weave(parts: Sequence[tuple[Lane, pa.Table]], gaps: Sequence[Placed]) -> Woven:
    """Bring rows of lanes, each in order, and the gaps found among them to one order.

    Args:
        parts: at least one, by the place of their lane.
        gaps: of which part, before which row of it, and what.
    """
    sizes = [rows.num_rows for _, rows in parts]
    times = np.concatenate([times_us(rows) for _, rows in parts])
    kinds = np.repeat(np.array([KINDS.index(lane.kind) for lane, _ in parts], np.int8), sizes)
    order = np.arange(len(times)) if len(parts) == 1 else np.argsort(times, kind="stable")
    kinds, times = kinds[order], times[order]
    by_kind = {
        kind: _of_kind(kind, parts, order) for kind in dict.fromkeys(lane.kind for lane, _ in parts)
    }
    if not gaps:
        return Woven(by_kind, [], kinds, times)
    return _with_gaps(by_kind, gaps, kinds, times, order, np.cumsum([0, *sizes]))


def _of_kind(kind: str, parts: Sequence[tuple[Lane, pa.Table]], order: Int64s) -> pa.Table:
    chosen = [rows for lane, rows in parts if lane.kind == kind]
    rows = one_chunk(chosen)
    if len(chosen) == 1:
        return rows
    # The place of each row among those of its kind, in the order of all.
    among = np.concatenate([np.full(part.num_rows, lane.kind == kind) for lane, part in parts])
    places = np.cumsum(among) - 1
    return rows.take(pa.array(places[order][among[order]]))


def _with_gaps(
    by_kind: Mapping[str, pa.Table],
    gaps: Sequence[Placed],
    kinds: Kinds,
    times: Int64s,
    order: Int64s,
    starts: Int64s,
) -> Woven:
    stands = np.empty(len(order), np.int64)
    stands[order] = np.arange(len(order))
    at = np.array([stands[starts[part] + row] for part, row, _ in gaps])
    sorted_at = np.argsort(at, kind="stable")
    at = at[sorted_at]
    return Woven(
        by_kind,
        [gaps[one][2] for one in sorted_at.tolist()],
        np.insert(kinds, at, np.int8(GAP)),
        np.insert(times, at, times[at]),
    )
