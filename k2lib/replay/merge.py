"""Many runs of rows, each by event time, merged to one: by columns, with little in memory."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.replay.lanes import Int64s, Lane, Parts, in_lane_order, times_us

FOREVER: Final = 2**63 - 1


@dataclass(frozen=True)
class Run:
    """Where rows of a lane stand by event time: none is before `since_us`."""

    lane: Lane
    since_us: int
    read: Callable[[], Parts]


class _Head:
    """What was read of a run and not yet given; one part is read ahead, to know the last one."""

    def __init__(self, run: Run) -> None:
        self.lane = run.lane
        self.parts = run.read()
        self.rows: pa.Table | None = None
        self.times: Int64s = np.empty(0, np.int64)
        self._ahead = next(self.parts, None)
        self.grow()

    @property
    def ended(self) -> bool:
        """Whether all of the run is read."""
        return self._ahead is None

    @property
    def limit(self) -> int:
        """Before this moment, no row is still to be read."""
        return FOREVER if self.ended else int(self.times[-1])

    def grow(self) -> None:
        """Hold one more part."""
        part, self._ahead = self._ahead, next(self.parts, None)
        if part is not None:
            self.rows = part if self.rows is None else pa.concat_tables([self.rows, part])
            self.times = np.concatenate([self.times, times_us(part)])

    def take(self, horizon: int) -> pa.Table | None:
        """Give the rows before a moment."""
        count = int(np.searchsorted(self.times, horizon))
        if self.rows is None or not count:
            return None
        taken, self.times = self.rows.slice(0, count), self.times[count:]
        self.rows = self.rows.slice(count) if len(self.times) else None
        return taken


def spans(runs: Sequence[Run]) -> Generator[list[tuple[Lane, pa.Table]], None, None]:
    """Yield the rows of all runs in spans of time, one after the other.

    Only the runs that have rows of the moment are open, each with a part or two in memory.

    Returns:
        The lanes that have rows of a span, by their place, and the rows of each in its order.
    """
    waiting = sorted(runs, key=lambda run: run.since_us, reverse=True)
    heads: list[_Head] = []
    try:
        while heads or waiting:
            _open_due(heads, waiting)
            horizon = min(
                min((head.limit for head in heads), default=FOREVER),
                waiting[-1].since_us if waiting else FOREVER,
            )
            taken = [(head.lane, head.take(horizon)) for head in heads]
            some = [(lane, rows) for lane, rows in taken if rows is not None]
            if some:
                yield _by_lane(some)
            _refill(heads, horizon)
    finally:
        for head in heads:
            head.parts.close()


def _open_due(heads: list[_Head], waiting: list[Run]) -> None:
    while waiting and waiting[-1].since_us <= _earliest(heads):
        head = _Head(waiting.pop())
        if head.rows is not None:
            heads.append(head)


def _earliest(heads: Sequence[_Head]) -> int:
    return min((int(head.times[0]) for head in heads), default=FOREVER)


def _refill(heads: list[_Head], horizon: int) -> None:
    for head in list(heads):
        if not head.ended and (head.rows is None or head.limit == horizon):
            head.grow()
        if head.rows is None:
            heads.remove(head)


def _by_lane(taken: Sequence[tuple[Lane, pa.Table]]) -> list[tuple[Lane, pa.Table]]:
    lanes = {lane.place: lane for lane, _ in taken}
    return [
        (lane, in_lane_order(pa.concat_tables([rows for one, rows in taken if one is lane])))
        for _, lane in sorted(lanes.items())
    ]
