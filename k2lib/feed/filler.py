"""The gap filler: asks REST for missing ids, at the venue's pace, until they are explained."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import pyarrow as pa

from k2lib.errors import RecordError
from k2lib.events import Event, OnEvent
from k2lib.model.dead_letters import DeadLetter
from k2lib.model.schemas import TRADE
from k2lib.resilience.backoff import delays
from k2lib.sources.binance.gaps import Gap, absent_ids, uncovered
from k2lib.sources.binance.ids import Hole, IdArray, Ids
from k2lib.sources.binance.pages import Aggregate, Page, aggregates_page, single_trades, trades_page
from k2lib.sources.binance.rest import (
    Asks,
    NotOfferedError,
    RestRefusedError,
    RestUnavailableError,
)
from k2lib.sources.binance.symbols import Instrument

PAGE: Final = 1000
TRADES_WEIGHT: Final = 25
AGGREGATES_WEIGHT: Final = 4
A_DAY_US: Final = 24 * 3600 * 1_000_000
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
    """Ids of a gap that are still to be asked for."""

    gap: Gap
    holes: list[Hole]
    late: bool = False
    waits: Iterator[float] = field(default_factory=lambda: delays(0.5, 30.0))


class Filler:
    """A thread that turns gaps into fills, one gap after the other, the oldest due first."""

    def __init__(
        self,
        rest: Asks,
        *,
        instruments: Mapping[str, Instrument],
        deliver: Callable[[Fill], None],
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
        self._asked: SimpleQueue[Wanted] = SimpleQueue()
        self._due: list[tuple[float, int, Wanted]] = []
        self._numbers = itertools.count()

    def fill(self, gap: Gap, holes: list[Hole], *, late: bool = False) -> None:
        """Ask for these ids of a gap; returns at once."""
        self._asked.put(Wanted(gap, holes, late))

    def run(self) -> None:
        """Work until `stop` is set."""
        while not self._stop.is_set():
            while not self._asked.empty():
                self._plan(self._asked.get(), 0.0)
            if self._due and self._due[0][0] <= time.monotonic():
                self._work(heapq.heappop(self._due)[2])
            else:
                self._stop.wait(0.05)

    def _plan(self, wanted: Wanted, wait_s: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + wait_s, next(self._numbers), wanted))

    def _work(self, wanted: Wanted) -> None:
        try:
            left = self._ask(wanted)
        except RestRefusedError as exc:
            nothing = TRADE.arrow.empty_table()
            ids = nothing["source_sequence"].to_numpy()
            self._deliver(Fill(wanted.gap, nothing, ids, note=str(exc), lost=True))
            return
        except (RestUnavailableError, RecordError) as exc:
            self._tell("gap_fill_failed", wanted.gap, reason=str(exc))
            asked_s = exc.wait_s if isinstance(exc, RestUnavailableError) else 0.0
            self._plan(wanted, max(asked_s, next(wanted.waits)))
            return
        if left.holes:
            self._plan(left, self._upgrade_s if left.late else next(wanted.waits))

    def _ask(self, wanted: Wanted) -> Wanted:
        """Ask for single trades, and for aggregates where no host that answers has those."""
        try:
            return self._ask_for_trades(wanted)
        except (NotOfferedError, RestUnavailableError):
            if wanted.late:
                return wanted
            return self._ask_for_aggregates(wanted)

    def _ask_for_trades(self, wanted: Wanted) -> Wanted:
        left = Ids(wanted.holes[-1][1] + 1, wanted.holes)
        for low, high in wanted.holes:
            at = low
            while at <= high and not self._stop.is_set():
                fill, reached = self._ask_for_page(wanted, at, high)
                self._deliver(fill)
                left.add(fill.ids)
                for hole in fill.absent + fill.dead:
                    left.explain(*hole)
                if reached < at:
                    break  # the newest reach the venue's database late
                at = reached + 1
        return replace(wanted, holes=left.holes)

    def _ask_for_page(self, wanted: Wanted, low: int, high: int) -> tuple[Fill, int]:
        """Return what one page gives for [low, high], and up to which id all is known now."""
        page = self._trades(wanted.gap, low, high)
        came = page.rows["source_sequence"].to_numpy()
        inside = (came >= low) & (came <= high)
        dead = np.setdiff1d(page.ids[(page.ids >= low) & (page.ids <= high)], came)
        absent = absent_ids((low, high), page.ids)
        notes = [f"REST has no {_told(absent)} either"] if absent else []
        notes += [f"{one} is in the dead letters" for one in dead[:NOTED_AT_MOST]]
        fill = Fill(
            wanted.gap,
            page.rows.filter(pa.array(inside)),
            came[inside],
            absent=absent,
            dead=[(int(one), int(one)) for one in dead],
            note="; ".join(notes),
            refused=page.refused,
            late=wanted.late,
        )
        known = [low - 1, *page.ids[page.ids <= high], *(end for _, end in absent)]
        return fill, int(max(known))

    def _trades(self, gap: Gap, low: int, high: int) -> Page:
        # One more than is missing: an answer past the gap proves what is absent in it.
        limit = min(PAGE, high - low + 2)
        asked = {"symbol": gap.symbol, "fromId": low, "limit": limit}
        reply = self._rest.get("/api/v3/historicalTrades", asked, weight=TRADES_WEIGHT)
        return trades_page(reply.body, unit="us", **self._facts(gap))

    def _ask_for_aggregates(self, wanted: Wanted) -> Wanted:
        low, high = wanted.holes[0][0], wanted.holes[-1][1]
        found: list[Aggregate] = []
        while (page := self._aggregates(wanted.gap, found)) and not self._stop.is_set():
            found += page
            if found[-1].last_id >= high:
                break
        inside = [one for one in found if one.last_id >= low and one.first_id <= high]
        rows = single_trades(inside, **self._facts(wanted.gap)).rows
        ids = rows["source_sequence"].to_numpy()
        merged = [one for one in inside if one.first_id < one.last_id]
        covered = [(one.first_id, one.last_id) for one in merged]
        note = "; ".join(
            f"{one.first_id}..{one.last_id} {one.price} x {one.quantity}"
            for one in merged[:NOTED_AT_MOST]
        )
        self._deliver(Fill(wanted.gap, rows, ids, covered=covered, note=note))
        left = Ids(high + 1, wanted.holes)
        left.add(ids)
        singly = Ids(high + 1, left.holes)
        for hole in covered:
            left.explain(*hole)
        if left.holes:
            self._plan(replace(wanted, holes=left.holes), next(wanted.waits))
        return replace(wanted, holes=uncovered(singly.holes, left.holes), late=True)

    def _aggregates(self, gap: Gap, found: list[Aggregate]) -> list[Aggregate]:
        asked: dict[str, object] = {"symbol": gap.symbol, "limit": PAGE}
        if found:
            asked["fromId"] = found[-1].aggregate_id + 1
        else:
            after_us = gap.after_us or (gap.before_us or time.time_ns() // 1000) - A_DAY_US
            asked["startTime"] = after_us // 1000
        reply = self._rest.get("/api/v3/aggTrades", asked, weight=AGGREGATES_WEIGHT)
        return aggregates_page(reply.body, unit="us")

    def _facts(self, gap: Gap) -> dict[str, Any]:
        now_us = time.time_ns() // 1000
        return {
            "instrument": self._instruments[gap.symbol],
            "exchange": gap.exchange,
            "received_us": now_us,
            "latest_us": now_us + A_DAY_US,
            "source": self._source,
        }

    def _tell(self, name: str, gap: Gap, **fields: object) -> None:
        told = {name: getattr(gap, name) for name in ("exchange", "symbol", "from_id", "to_id")}
        self._on_event(Event(name, {**told, "gap_id": gap.gap_id, **fields}))


def _told(holes: list[Hole]) -> str:
    some = [f"{low}" if low == high else f"{low}..{high}" for low, high in holes[:NOTED_AT_MOST]]
    return ", ".join(some) + (", …" if len(holes) > NOTED_AT_MOST else "")
