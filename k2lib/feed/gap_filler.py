"""The gap filler: asks REST for missing ids, at the venue's pace, until they are explained."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import pyarrow as pa

from k2lib.errors import RecordError
from k2lib.events import GapFillFailed, OnEvent
from k2lib.feed.gaps import Gap, Hole, IdArray, Ids, absent_ids
from k2lib.resilience.backoff import delays
from k2lib.schema.dead_letters import DeadLetter
from k2lib.schema.records import TRADE
from k2lib.venues.binance.hosts import exchange_of
from k2lib.venues.binance.instruments import Instrument
from k2lib.venues.binance.pages import (
    Aggregate,
    TradesPage,
    aggregates_page,
    single_trades,
    trades_page,
)
from k2lib.venues.binance.rest import (
    Asks,
    NotOfferedError,
    RequestRefusedError,
    VenueUnavailableError,
)

NOTED_AT_MOST: Final = 20


@dataclass(frozen=True)
class GapFill:
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
class PendingFill:
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
    wanted: PendingFill, page: TradesPage, *, absent: list[Hole], why: str, notes: Iterable[str]
) -> GapFill:
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
    return GapFill(
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


LOOK_S: Final = 0.05
PAGE: Final = 1000
TRADES_WEIGHT: Final = 25
AGGREGATES_WEIGHT: Final = 4
A_DAY_US: Final = 24 * 3600 * 1_000_000
NO_ROWS: Final = TRADE.arrow.empty_table()
NO_IDS: Final = np.empty(0, np.int64)


class GapFiller:
    """A thread that turns gaps into fills, one gap after the other, the oldest due first."""

    def __init__(
        self,
        rest: Asks,
        *,
        instruments: Mapping[str, Instrument],
        deliver: Callable[[GapFill], None],
        source: str,
        stop: threading.Event,
        upgrade_s: float,
        on_event: OnEvent,
    ) -> None:
        self._rest = rest
        self._instruments = instruments
        self._deliver = deliver
        self._source = source
        self._stop = stop
        self._upgrade_s = upgrade_s
        self._on_event = on_event
        self._asked: SimpleQueue[PendingFill] = SimpleQueue()
        self._due: list[tuple[float, int, PendingFill]] = []
        self._wanted: dict[tuple[str, bool], PendingFill] = {}
        self._numbers = itertools.count()

    def fill(self, gap: Gap, holes: list[Hole], *, late: bool = False) -> None:
        """Ask for these ids of a gap, in place of those asked for before; returns at once."""
        self._asked.put(PendingFill(gap, Ids(gap.to_id + 1, holes), late))

    def run(self) -> None:
        """Work until `stop` is set."""
        while not self._stop.is_set():
            while not self._asked.empty():
                self._want(self._asked.get(), 0.0)
            if self._due and self._due[0][0] <= time.monotonic():
                self._work(heapq.heappop(self._due)[2])
            else:
                self._stop.wait(LOOK_S)

    def _want(self, wanted: PendingFill, wait_s: float) -> None:
        self._wanted[wanted.key] = wanted
        self._plan(wanted, wait_s)

    def _plan(self, wanted: PendingFill, wait_s: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + wait_s, next(self._numbers), wanted))

    def _work(self, wanted: PendingFill) -> None:
        if self._wanted.get(wanted.key) is not wanted:
            return  # asked for anew meanwhile
        try:
            self._ask(wanted)
        except RequestRefusedError as exc:
            self._give_up(wanted, str(exc))
        except (VenueUnavailableError, NotOfferedError, RecordError) as exc:
            self._postpone(wanted, exc)
        else:
            self._go_on(wanted)

    def _go_on(self, wanted: PendingFill) -> None:
        if wanted.left.holes:
            self._plan(wanted, self._upgrade_s if wanted.late else next(wanted.waits))
        else:
            del self._wanted[wanted.key]

    def _give_up(self, wanted: PendingFill, reason: str) -> None:
        """The venue will never answer; what is known from aggregates stays known from them."""
        del self._wanted[wanted.key]
        if not wanted.late:
            self._deliver(GapFill(wanted.gap, NO_ROWS, NO_IDS, note=reason, lost=True))

    def _postpone(self, wanted: PendingFill, exc: Exception) -> None:
        if self._stop.is_set():
            return
        self._on_event(GapFillFailed(*wanted.gap.key, str(exc)))
        asked_s = exc.wait_s if isinstance(exc, VenueUnavailableError) else 0.0
        self._plan(wanted, max(asked_s, next(wanted.waits)))

    def _ask(self, wanted: PendingFill) -> None:
        """Ask for single trades, and for aggregates where no host that answers has those."""
        try:
            self._ask_for_trades(wanted)
        except (NotOfferedError, VenueUnavailableError):
            if not wanted.late and not self._stop.is_set():
                self._ask_for_aggregates(wanted)

    def _ask_for_trades(self, wanted: PendingFill) -> None:
        at, high = wanted.span
        while at <= high and not self._stop.is_set():
            page = self._trades(wanted.gap, at, high)
            absent = absent_ids((at, high), page.ids)
            self._take(wanted, page, absent=absent, why="REST has no {} either")
            known = [*page.ids[page.ids <= high], *(end for _, end in absent)]
            reached = int(max(known, default=at - 1))
            if reached < at:
                return  # the newest reach the venue's database late
            at = next((low for low, _ in wanted.left.missing(reached + 1, high)), high + 1)

    def _ask_for_aggregates(self, wanted: PendingFill) -> None:
        low, high = wanted.span
        found = [one for one in self._aggregates(wanted.gap, high) if one.last_id >= low - 1]
        inside = [one for one in found if one.last_id >= low and one.first_id <= high]
        merged = [one for one in inside if one.first_id < one.last_id]
        self._take(
            wanted,
            single_trades(inside, **self._facts(wanted.gap)),
            absent=ids_between(found),
            why="no aggregate has {}",
            covered=[(one.first_id, one.last_id) for one in merged],
            notes=[told_aggregate(one) for one in merged[:NOTED_AT_MOST]],
        )

    def _take(
        self,
        wanted: PendingFill,
        page: TradesPage,
        *,
        absent: list[Hole],
        why: str,
        covered: Iterable[Hole] = (),
        notes: Iterable[str] = (),
    ) -> None:
        """Deliver what was wanted of a page, and want it no longer."""
        fill = fill_of(wanted, page, absent=absent, why=why, notes=notes)
        wanted.left.add(fill.ids)
        for hole in fill.absent + fill.dead:
            wanted.left.explain(*hole)
        self._deliver(replace(fill, covered=self._want_later(wanted, covered)))

    def _want_later(self, wanted: PendingFill, covered: Iterable[Hole]) -> list[Hole]:
        """Ask again, later, for the single trades of what is known from aggregates now."""
        holes = wanted.missing(covered)
        for hole in holes:
            wanted.left.explain(*hole)
        if holes:
            later = PendingFill(wanted.gap, Ids(wanted.gap.to_id + 1, holes), late=True)
            if (before := self._wanted.get(later.key)) is not None:
                later.left.holes = sorted([*before.left.holes, *holes])
            self._want(later, self._upgrade_s)
        return holes

    def _trades(self, gap: Gap, low: int, high: int) -> TradesPage:
        # One more than is missing: an answer past the gap proves what is absent in it.
        limit = min(PAGE, high - low + 2)
        asked = {"symbol": gap.symbol, "fromId": low, "limit": limit}
        body = self._get("/api/v3/historicalTrades", gap, asked, weight=TRADES_WEIGHT)
        return trades_page(body, unit="us", **self._facts(gap))

    def _aggregates(self, gap: Gap, high: int) -> Iterator[Aggregate]:
        """Yield aggregates from before the gap on, until one reaches its end."""
        after_us = gap.after_us
        if after_us is None:
            after_us = (gap.before_us or time.time_ns() // 1000) - A_DAY_US
        asked = {"symbol": gap.symbol, "limit": PAGE, "startTime": after_us // 1000}
        last = -1
        while not self._stop.is_set():
            body = self._get("/api/v3/aggTrades", gap, asked, weight=AGGREGATES_WEIGHT)
            page = aggregates_page(body, unit="us")
            yield from page
            if not page or page[-1].last_id >= high or page[-1].aggregate_id <= last:
                return
            last = page[-1].aggregate_id
            asked = {"symbol": gap.symbol, "limit": PAGE, "fromId": last + 1}

    def _get(self, path: str, gap: Gap, asked: Mapping[str, object], *, weight: int) -> bytes:
        reply = self._rest.get(path, asked, weight=weight)
        if (name := exchange_of(reply.host, reply.exchange)) != gap.exchange:
            raise RecordError(f"{reply.host} is {name}, not {gap.exchange}: nothing of it is taken")
        return reply.body

    def _facts(self, gap: Gap) -> dict[str, Any]:
        now_us = time.time_ns() // 1000
        return {
            "instrument": self._instruments[gap.symbol],
            "exchange": gap.exchange,
            "received_us": now_us,
            "latest_us": now_us + A_DAY_US,
            "source": self._source,
        }
