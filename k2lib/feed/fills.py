"""What is wanted of a gap, and what one answer of REST gives for it. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.model.dead_letters import DeadLetter
from k2lib.resilience.backoff import delays
from k2lib.sources.binance.gaps import Gap
from k2lib.sources.binance.ids import Hole, IdArray, Ids
from k2lib.sources.binance.pages import Aggregate, Page

NOTED_AT_MOST: Final = 20


@dataclass(frozen=True)
class Fill:
    """What one answer gave for a gap.

    `ids` are those of `rows`; `dead` are in the dead letters. `late`: these ids were known from
    aggregates before. `lost`: the venue refuses the question itself.
    """

    gap: Gap
    rows: pa.Table
    ids: IdArray
    absent: list[Hole] = field(default_factory=list)
    covered: list[Hole] = field(default_factory=list)
    dead: list[Hole] = field(default_factory=list)
    note: str = ""
    refused: list[DeadLetter] = field(default_factory=list)
    late: bool = False
    lost: bool = False


@dataclass(frozen=True)
class Wanted:
    """Ids of a gap that are still to be asked for: the holes of `left`."""

    gap: Gap
    left: Ids
    late: bool = False
    waits: Iterator[float] = field(default_factory=lambda: delays(0.5, 30.0))

    @property
    def key(self) -> tuple[str, bool]:
        """What is asked for at most once at a time."""
        return self.gap.gap_id, self.late

    @property
    def span(self) -> Hole:
        """The first and the last of the ids."""
        return self.left.holes[0][0], self.left.holes[-1][1]

    def missing(self, ranges: Iterable[Hole]) -> list[Hole]:
        """Return the wanted ids among those of the ranges."""
        return [hole for low, high in ranges for hole in self.left.missing(low, high)]


def fill_of(
    wanted: Wanted, page: Page, *, absent: list[Hole], why: str, notes: Iterable[str]
) -> Fill:
    """Return what was wanted of a page.

    Args:
        absent: ids that the venue does not have, wanted ones among them.
        why: what to note of those, with `{}` in their place.
    """
    low, high = wanted.span
    ids: IdArray = page.rows["source_sequence"].to_numpy()
    inside = (ids >= low) & (ids <= high)
    refused = np.setdiff1d(page.ids, ids)
    dead = wanted.missing((int(one), int(one)) for one in refused)
    absent = wanted.missing(absent)
    if len(page.refused) > len(refused):
        # A record without a readable id came, too: what seems absent may be that one.
        dead, absent = dead + absent, []
    told = [*notes]
    told += [why.format(_told(absent))] if absent else []
    told += [f"{_told(dead)} in the dead letters"] if dead else []
    return Fill(
        wanted.gap,
        page.rows.filter(pa.array(inside)),
        ids[inside],
        absent=absent,
        dead=dead,
        note="; ".join(told),
        refused=page.refused,
        late=wanted.late,
    )


def ids_between(aggregates: list[Aggregate]) -> list[Hole]:
    """Return the ids of no trade: they lie between two aggregates that follow each other."""
    return [
        (one.last_id + 1, other.first_id - 1)
        for one, other in pairwise(aggregates)
        if other.aggregate_id == one.aggregate_id + 1 and other.first_id > one.last_id + 1
    ]


def told_aggregate(one: Aggregate) -> str:
    """Say what is known of its trades together."""
    return f"{one.first_id}..{one.last_id} {one.price} x {one.quantity}"


def _told(holes: list[Hole]) -> str:
    some = [f"{low}" if low == high else f"{low}..{high}" for low, high in holes[:NOTED_AT_MOST]]
    return ", ".join(some) + (", …" if len(holes) > NOTED_AT_MOST else "")
