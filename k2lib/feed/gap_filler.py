"""The gap filler: asks the venue for missing ids, at its pace, until they are explained."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.errors import RecordError
from k2lib.events import GapFillFailed, OnEvent
from k2lib.feed.gaps import Ids, SequenceGap
from k2lib.resilience.backoff import delays
from k2lib.schema.dead_letters import DeadLetter
from k2lib.schema.records import TRADE
from k2lib.venues.base import (
    BackfillPage,
    Hole,
    IdArray,
    Instrument,
    MissingTrades,
    VenueRefusedError,
    VenueUnavailableError,
)

NOTED_AT_MOST: Final = 20
LOOK_S: Final = 0.05
NO_ROWS: Final = TRADE.arrow.empty_table()
NO_IDS: Final = np.empty(0, np.int64)


@dataclass(frozen=True)
class GapFill:
    """What one answer gave for a gap.

    `ids` are those of `rows`; `dead` are in the dead letters. `lost`: the venue refuses the
    request itself.
    """

    gap: SequenceGap
    rows: pa.Table
    ids: IdArray
    absent: list[Hole] = field(default_factory=list)
    covered: list[Hole] = field(default_factory=list)
    dead: list[Hole] = field(default_factory=list)
    note: str = ""
    refused: list[DeadLetter] = field(default_factory=list)
    lost: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the `dead` ones are refused."""
        return _reasons(self.refused) if self.dead else ()


@dataclass(frozen=True)
class PendingFill:
    """Ids of a gap that are still to be asked for: the holes of `left`.

    `upgrade`: they are covered by aggregates, and single trades are asked for.
    """

    gap: SequenceGap
    left: Ids
    upgrade: bool = False
    waits: Iterator[float] = field(default_factory=lambda: delays(0.5, 30.0))

    @property
    def key(self) -> tuple[str, bool]:
        """What is asked for at most once at a time."""
        return self.gap.gap_id, self.upgrade

    @property
    def span(self) -> Hole:
        """The first and the last of the ids."""
        return self.left.holes[0][0], self.left.holes[-1][1]

    def missing(self, ranges: Iterable[Hole]) -> list[Hole]:
        """Return the pending ids among those of the ranges."""
        return [hole for low, high in ranges for hole in self.left.missing(low, high)]


def fill_of(pending: PendingFill, page: BackfillPage) -> GapFill:
    """Return what was pending of a page."""
    low, high = pending.span
    ids: IdArray = page.rows["source_sequence"].to_numpy()
    inside = (ids >= low) & (ids <= high)
    refused = np.setdiff1d(page.ids, ids)
    dead = pending.missing((int(one), int(one)) for one in refused)
    absent = pending.missing(page.absent)
    if len(page.refused) > len(refused):
        # A record without a readable id came, too: what seems absent may be that one.
        dead, absent = dead + absent, []
    notes = [*page.notes]
    notes += [page.absent_note.format(_text(absent))] if absent else []
    reasons = ", ".join(_reasons(page.refused))
    notes += [f"{_text(dead)} in the dead letters ({reasons})"] if dead else []
    return GapFill(
        pending.gap,
        page.rows.filter(pa.array(inside)),
        ids[inside],
        absent=absent,
        dead=dead,
        note="; ".join(notes),
        refused=page.refused,
    )


def _reasons(letters: Iterable[DeadLetter]) -> tuple[str, ...]:
    return tuple(sorted({letter.reason for letter in letters}))


def _text(holes: list[Hole]) -> str:
    texts = [f"{low}" if low == high else f"{low}..{high}" for low, high in holes[:NOTED_AT_MOST]]
    return ", ".join(texts) + (", …" if len(holes) > NOTED_AT_MOST else "")


class GapFiller:
    """A thread that turns gaps into fills, one gap after the other, the oldest due first."""

    def __init__(
        self,
        backfill: Callable[[MissingTrades], Iterable[BackfillPage]],
        *,
        instruments: Mapping[str, Instrument],
        deliver: Callable[[GapFill], None],
        source: str,
        stop: threading.Event,
        upgrade_s: float,
        on_event: OnEvent,
    ) -> None:
        """Take what the filler works with.

        Args:
            backfill: asks the venue; see `VenueRequests.backfill`.
            source: name of the trades' source in dead letters.
        """
        self._backfill = backfill
        self._instruments = instruments
        self._deliver = deliver
        self._source = source
        self._stop = stop
        self._upgrade_s = upgrade_s
        self._on_event = on_event
        self._requested: SimpleQueue[PendingFill] = SimpleQueue()
        self._due: list[tuple[float, int, PendingFill]] = []
        self._pending: dict[tuple[str, bool], PendingFill] = {}
        self._numbers = itertools.count()

    def fill(self, gap: SequenceGap, holes: list[Hole], *, upgrade: bool = False) -> None:
        """Ask for these ids of a gap, in place of those asked for before; returns at once.

        Args:
            upgrade: they are covered by aggregates; only single trades are asked for.
        """
        self._requested.put(PendingFill(gap, Ids(gap.to_id + 1, holes), upgrade))

    def run(self) -> None:
        """Work until `stop` is set."""
        while not self._stop.is_set():
            while not self._requested.empty():
                self._add(self._requested.get(), 0.0)
            if self._due and self._due[0][0] <= time.monotonic():
                self._work(heapq.heappop(self._due)[2])
            else:
                self._stop.wait(LOOK_S)

    def _add(self, pending: PendingFill, wait_s: float) -> None:
        self._pending[pending.key] = pending
        self._plan(pending, wait_s)

    def _plan(self, pending: PendingFill, wait_s: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + wait_s, next(self._numbers), pending))

    def _work(self, pending: PendingFill) -> None:
        if self._pending.get(pending.key) is not pending:
            return  # asked for anew meanwhile
        try:
            for page in self._backfill(self._request(pending)):
                self._take(pending, page)
        except VenueRefusedError as exc:
            self._give_up(pending, str(exc))
        except (VenueUnavailableError, RecordError) as exc:
            self._postpone(pending, exc)
        else:
            self._go_on(pending)

    def _request(self, pending: PendingFill) -> MissingTrades:
        gap = pending.gap
        return MissingTrades(
            self._instruments[gap.symbol],
            tuple(pending.left.holes),
            self._source,
            after_us=gap.after_us,
            before_us=gap.before_us,
            single_only=pending.upgrade,
        )

    def _go_on(self, pending: PendingFill) -> None:
        if pending.left.holes:
            self._plan(pending, self._upgrade_s if pending.upgrade else next(pending.waits))
        else:
            del self._pending[pending.key]

    def _give_up(self, pending: PendingFill, reason: str) -> None:
        """The venue will never answer; what is known from aggregates stays known from them."""
        del self._pending[pending.key]
        if not pending.upgrade:
            self._deliver(GapFill(pending.gap, NO_ROWS, NO_IDS, note=reason, lost=True))

    def _postpone(self, pending: PendingFill, exc: Exception) -> None:
        if self._stop.is_set():
            return
        self._on_event(GapFillFailed(*pending.gap.key, str(exc)))
        asked_s = exc.wait_s if isinstance(exc, VenueUnavailableError) else 0.0
        self._plan(pending, max(asked_s, next(pending.waits)))

    def _take(self, pending: PendingFill, page: BackfillPage) -> None:
        """Deliver what was pending of a page, and ask for it no longer."""
        if not pending.left.holes:
            return
        fill = fill_of(pending, page)
        pending.left.add(fill.ids)
        for hole in fill.absent + fill.dead:
            pending.left.explain(*hole)
        self._deliver(replace(fill, covered=self._upgrade_later(pending, page.covered)))

    def _upgrade_later(self, pending: PendingFill, covered: Iterable[Hole]) -> list[Hole]:
        """Ask again, later, for the single trades of what is known from aggregates now."""
        holes = pending.missing(covered)
        for hole in holes:
            pending.left.explain(*hole)
        if holes:
            later = PendingFill(pending.gap, Ids(pending.gap.to_id + 1, holes), upgrade=True)
            if (before := self._pending.get(later.key)) is not None:
                later.left.holes = sorted([*before.left.holes, *holes])
            self._add(later, self._upgrade_s)
        return holes
