"""Gaps: holes in a venue's ids, from the moment they are noticed until they are explained. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.model.identity import message_id
from k2lib.model.schemas import GAP
from k2lib.sources.binance.ids import Hole, IdArray, Ids

OPEN: Final = ("noticed", "covered")


@dataclass(frozen=True)
class Gap:
    """One hole, [from_id, to_id], and what became of its ids.

    `after_us` and `before_us` are the event times of the trades on both sides, where known: a
    venue that gives no single trades is asked by time.
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

    @property
    def gap_id(self) -> str:
        """The gap's identity over all of its revisions."""
        return message_id(self.exchange, self.symbol, str(self.from_id))

    @property
    def size(self) -> int:
        """How many ids were missing."""
        return self.to_id - self.from_id + 1

    @property
    def filled(self) -> int:
        """How many of them came as single trades; known once the gap is closed."""
        return 0 if self.state == "noticed" else self.size - self.covered - self.absent

    def closed(self, *, covered: int, absent: int, note: str) -> "Gap":
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

    def lost(self, *, absent: int, note: str, covered: int = 0) -> "Gap":
        """Return the gap's next revision where `absent` of its ids will never be had."""
        return replace(
            self,
            revision=self.revision + 1,
            state="lost",
            covered=covered,
            absent=absent,
            note=note,
        )


def gap_rows(gaps: Sequence[Gap], noticed: datetime) -> pa.Table:
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


def absent_ids(missing: Hole, answered: IdArray) -> list[Hole]:
    """Return the ids of `missing` that the venue does not have either.

    An answer proves the absence of an id only if it goes on past it: the newest trades reach a
    venue's database late.
    """
    low, high = missing
    inside = np.unique(answered[(answered >= low) & (answered <= high)]).tolist()
    edges = [low - 1, *inside, *([high + 1] if (answered > high).any() else [])]
    return [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]


def uncovered(holes: Iterable[Hole], explained: Iterable[Hole]) -> list[Hole]:
    """Return the parts of holes, which are apart from each other, that no range explains."""
    left = Ids(None, holes)
    for low, high in explained:
        left.explain(low, high)
    return left.holes
