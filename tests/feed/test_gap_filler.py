"""The gap filler: what it asks for, what that proves, and what it asks for again."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from support.binance_facts import INSTRUMENTS, Fact, rest_body
from support.waiting import wait_until

from k2lib.events import Event, GapFillFailed
from k2lib.feed.gap_filler import GapFill, GapFiller
from k2lib.feed.gaps import SequenceGap
from k2lib.venues.base import VenueRefusedError, VenueUnavailableError
from k2lib.venues.binance.backfill import missing_trades
from k2lib.venues.binance.rest import NotOfferedError, Reply

NOON_US = 1_770_000_000_000_000
OVERFLOW = "99999999999.0"


@dataclass
class Venue:
    """Trades that REST tells of: each id up to `newest` but the `void` ones.

    `runs` are the aggregates of more than one trade, [first, last]; without `singly` no host
    offers single trades.
    """

    newest: int
    void: set[int] = field(default_factory=set)
    bad: dict[int, str] = field(default_factory=dict)
    runs: list[tuple[int, int]] = field(default_factory=list)
    singly: bool = True
    aggregated: bool = True
    failing: Exception | None = None
    exchange: str | None = None
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    spent: int = 0

    def get(self, path: str, params: Mapping[str, Any], *, weight: int) -> Reply:
        self.asked.append((path.rpartition("/")[2], params))
        self.spent += weight
        if self.failing is not None:
            raise self.failing
        if not (self.singly if path.endswith("historicalTrades") else self.aggregated):
            raise NotOfferedError(f"{path} is not offered")
        body = self._trades if path.endswith("historicalTrades") else self._aggregates
        return Reply(body(params), "https://127.0.0.1:1", self.exchange)

    def _trades(self, params: Mapping[str, Any]) -> bytes:
        ids = range(params["fromId"], self.newest + 1)
        facts = [self._fact(one) for one in ids if one not in self.void][: params["limit"]]
        return rest_body(facts)

    def _fact(self, one: int) -> Fact:
        return Fact(one, time_us=NOON_US + one * 1000, quantity=self.bad.get(one, "0.5"))

    def _aggregates(self, params: Mapping[str, Any]) -> bytes:
        rows = [
            {"a": number, "p": "10.5", "q": self.bad.get(low, "0.5"), "f": low, "l": high}
            | {"T": NOON_US + low * 1000, "m": True, "M": True}
            for number, (low, high) in enumerate(self._ranges())
        ]
        begin = params.get("fromId", 0)
        since_us = params.get("startTime", 0) * 1000
        wanted = [row for row in rows if int(row["a"]) >= begin and int(row["T"]) >= since_us]
        return json.dumps(wanted[: params["limit"]]).encode()

    def _ranges(self) -> list[tuple[int, int]]:
        merged = {one for low, high in self.runs for one in range(low, high + 1)}
        alone = [(one, one) for one in range(1, self.newest + 1) if one not in merged | self.void]
        return sorted(alone + self.runs)


@dataclass
class Filling:
    """A running filler, and what it delivered."""

    filler: GapFiller
    stop: threading.Event
    fills: list[GapFill]
    events: list[Event]

    def gap(
        self, low: int, high: int, holes: Iterable[tuple[int, int]] = (), **upgrade: bool
    ) -> SequenceGap:
        gap = SequenceGap("BINANCE", "BTCUSDT", low, high, after_us=NOON_US + (low - 5) * 1000)
        self.filler.fill(gap, list(holes) or [(low, high)], **upgrade)
        return gap

    def wait(self, fact: Callable[[], object]) -> None:
        wait_until(fact)

    def ids(self) -> list[int]:
        return [int(one) for fill in self.fills for one in fill.ids]

    def of(self, kind: str) -> list[tuple[int, int]]:
        return [hole for fill in self.fills for hole in getattr(fill, kind)]


@contextmanager
def filling(venue: Venue, *, upgrade_s: float = 3600.0) -> Iterator[Filling]:
    stop, fills, events = threading.Event(), list[GapFill](), list[Event]()
    filler = GapFiller(
        partial(missing_trades, venue, stop=stop),
        instruments=INSTRUMENTS,
        deliver=fills.append,
        source="rest",
        stop=stop,
        upgrade_s=upgrade_s,
        on_event=events.append,
    )
    thread = threading.Thread(target=filler.run)
    thread.start()
    try:
        yield Filling(filler, stop, fills, events)
    finally:
        stop.set()
        thread.join()


def test_a_gap_is_filled_by_pages_for_75_weight_per_3000_trades() -> None:
    venue = Venue(newest=10_000)
    with filling(venue) as run:
        gap = run.gap(1001, 4000)
        run.wait(lambda: len(run.ids()) == 3000)
    assert run.ids() == list(range(1001, 4001))
    assert venue.spent == 75 and run.of("absent") == []
    assert all(fill.gap == gap and len(fill.ids) == fill.rows.num_rows for fill in run.fills)


def test_a_page_fills_all_the_holes_it_passes() -> None:
    venue = Venue(newest=10_000)
    with filling(venue) as run:
        run.gap(101, 900, [(one, one) for one in range(101, 900, 10)])
        run.wait(lambda: run.fills)
    assert set(range(101, 900, 10)) <= set(run.ids())
    assert venue.spent == 25


def test_ids_that_an_answer_leaves_out_are_absent() -> None:
    with filling(Venue(newest=50, void={12, 13, 20})) as run:
        run.gap(10, 20)
        run.wait(lambda: run.of("absent"))
    assert run.of("absent") == [(12, 13), (20, 20)]
    assert run.ids() == [10, 11, *range(14, 20)]
    assert run.fills[0].note == "REST has no 12..13, 20 either"


def test_what_came_meanwhile_is_not_called_absent() -> None:
    with filling(Venue(newest=50, void={12, 15})) as run:
        run.gap(10, 20, [(10, 12), (18, 20)])
        run.wait(lambda: run.fills)
    assert run.of("absent") == [(12, 12)]


def test_an_answer_that_ends_early_proves_nothing_and_is_asked_for_again() -> None:
    venue = Venue(newest=15, void={14})
    with filling(venue) as run:
        run.gap(10, 20)
        run.wait(lambda: len(venue.asked) >= 2)
        assert run.of("absent") == [(14, 14)] and max(run.ids()) == 15
        venue.newest = 30
        run.wait(lambda: 20 in run.ids())
    assert venue.asked[-1][1]["fromId"] == 16
    assert run.events == []


def test_a_trade_that_cannot_pass_is_dead() -> None:
    with filling(Venue(newest=50, bad={12: OVERFLOW})) as run:
        run.gap(10, 14)
        run.wait(lambda: run.fills)
    [fill] = run.fills
    assert fill.dead == [(12, 12)] and [one.reason for one in fill.refused] == ["overflow"]
    assert fill.note == "12 in the dead letters (overflow)" and fill.absent == []
    assert fill.reasons == ("overflow",)


def test_a_record_without_a_readable_id_is_not_called_absent() -> None:
    venue = Venue(newest=50, void={12})
    whole = venue._trades({"fromId": 10, "limit": 6})
    broken = json.dumps([*json.loads(whole)[:2], {"id": "x"}, *json.loads(whole)[2:]]).encode()
    with filling(Answering(broken)) as run:
        run.gap(10, 14)
        run.wait(lambda: run.fills)
    [fill] = run.fills
    assert (fill.absent, fill.dead) == ([], [(12, 12)]) and len(fill.refused) == 1


class Answering(Venue):
    """Gives the same body to every question."""

    def __init__(self, body: bytes) -> None:
        super().__init__(newest=0)
        self._body = body

    def _trades(self, params: Mapping[str, Any]) -> bytes:
        return self._body


def test_where_only_aggregates_are_offered_the_gap_is_covered() -> None:
    venue = Venue(newest=50, runs=[(8, 11), (13, 16)], singly=False)
    with filling(venue) as run:
        run.gap(10, 18)
        run.wait(lambda: run.fills)
    [fill] = run.fills
    assert fill.covered == [(10, 11), (13, 16)]
    assert run.ids() == [12, 17, 18]
    assert fill.note == "8..11 10.5 x 0.5; 13..16 10.5 x 0.5"


def test_covered_ids_are_filled_once_single_trades_are_offered() -> None:
    venue = Venue(newest=50, runs=[(13, 16)], singly=False)
    with filling(venue, upgrade_s=0.05) as run:
        run.gap(10, 18)
        run.wait(lambda: len(venue.asked) > 4)
        venue.singly = True
        run.wait(lambda: len(run.fills) == 2)
    late = run.fills[1]
    assert late.ids.tolist() == [13, 14, 15, 16]
    assert [path for path, _ in venue.asked].count("aggTrades") == 1
    assert run.events == []


def test_covered_ids_of_an_earlier_run_are_asked_for_at_once() -> None:
    with filling(Venue(newest=50, void={15})) as run:
        run.gap(10, 18, [(13, 16)], upgrade=True)
        run.wait(lambda: run.fills)
    assert run.ids() == [13, 14, 16] and run.of("absent") == [(15, 15)]


def test_ids_between_two_aggregates_that_follow_each_other_are_absent() -> None:
    venue = Venue(newest=50, void={12, 13, 18}, runs=[(14, 17)], singly=False)
    with filling(venue) as run:
        run.gap(10, 18)
        run.wait(lambda: run.fills)
    [fill] = run.fills
    assert fill.absent == [(12, 13), (18, 18)] and "no aggregate has 12..13, 18" in fill.note


def test_a_dead_trade_among_aggregates_is_dead() -> None:
    with filling(Venue(newest=50, bad={12: OVERFLOW}, singly=False)) as run:
        run.gap(10, 14)
        run.wait(lambda: run.fills)
    [fill] = run.fills
    assert fill.dead == [(12, 12)] and [one.reason for one in fill.refused] == ["overflow"]


def test_aggregates_are_paged_by_id_from_the_time_before_the_gap() -> None:
    venue = Venue(newest=5000, singly=False)
    with filling(venue) as run:
        run.gap(1001, 3500)
        run.wait(lambda: run.fills)
    assert run.ids() == list(range(1001, 3501))
    asked = [params for path, params in venue.asked if path == "aggTrades"]
    assert [params.get("fromId") for params in asked[1:]] == [1995, 2995]
    assert asked[0]["startTime"] == NOON_US // 1000 + 996
    assert venue.spent == 25 + 3 * 4


def test_a_host_that_repeats_a_page_is_not_asked_forever() -> None:
    class Repeating(Venue):
        def _aggregates(self, params: Mapping[str, Any]) -> bytes:
            return super()._aggregates({"limit": 5})

    venue = Repeating(newest=50, singly=False)
    with filling(venue) as run:
        run.gap(10, 20)
        run.wait(lambda: run.fills)
    assert [path for path, _ in venue.asked[:4]].count("aggTrades") == 2


def test_a_question_refused_for_good_makes_the_gap_lost() -> None:
    with filling(Venue(newest=50, failing=VenueRefusedError("Invalid symbol (code -1121)"))) as run:
        run.gap(10, 20)
        run.wait(lambda: run.fills)
    [fill] = run.fills
    assert fill.lost and fill.note == "Invalid symbol (code -1121)" and len(fill.ids) == 0


def test_covered_ids_stay_covered_when_single_trades_are_refused_for_good() -> None:
    venue = Venue(newest=50, failing=VenueRefusedError("Invalid symbol (code -1121)"))
    with filling(venue) as run:
        run.gap(10, 20, upgrade=True)
        run.wait(lambda: venue.asked)
    assert run.fills == []


@pytest.mark.parametrize(
    "failing",
    [VenueUnavailableError("all rest", wait_s=0.0), NotOfferedError("neither is offered")],
)
def test_a_failure_is_told_and_tried_again(failing: Exception) -> None:
    venue = Venue(newest=50, failing=failing)
    with filling(venue) as run:
        gap = run.gap(10, 20)
        run.wait(lambda: run.events)
        venue.failing = None
        run.wait(lambda: run.fills)
    assert run.ids() == list(range(10, 21))
    assert {(type(one), one.reason) for one in run.events} == {(GapFillFailed, str(failing))}
    event = run.events[0]
    assert (event.gap_id, event.symbol) == (gap.gap_id, "BTCUSDT")


def test_what_a_host_of_another_exchange_says_is_not_taken() -> None:
    venue = Venue(newest=50, exchange="BINANCE_SIM")
    with filling(venue) as run:
        run.gap(10, 20)
        run.wait(lambda: run.events)
    assert run.fills == []
    assert "is BINANCE_SIM, not BINANCE" in str(run.events[0])


def test_pages_that_came_before_a_failure_are_not_asked_for_again() -> None:
    class Failing(Venue):
        def _trades(self, params: Mapping[str, Any]) -> bytes:
            if len(self.asked) == 2:
                raise VenueUnavailableError("gone", wait_s=0.0)
            return super()._trades(params)

    venue = Failing(newest=5000, aggregated=False)
    with filling(venue) as run:
        run.gap(1001, 3000)
        run.wait(lambda: len(run.ids()) >= 2000)
    asked = [params["fromId"] for path, params in venue.asked if path == "historicalTrades"]
    assert asked == [1001, 2001, 2001] and run.ids() == list(range(1001, 3001))


@pytest.mark.slow
def test_a_gap_asked_for_again_is_asked_for_once() -> None:
    venue = Venue(newest=50, failing=VenueUnavailableError("all rest", wait_s=0.0))
    with filling(venue) as run:
        run.gap(10, 20)
        run.gap(10, 20, [(15, 20)])
        run.wait(lambda: len(run.events) >= 2)
        venue.failing = None
        run.wait(lambda: run.fills)
        run.gap(30, 30)
        run.wait(lambda: 30 in run.ids())
    assert run.ids() == [*range(15, 21), 30]


@pytest.mark.slow
def test_all_covered_ids_of_a_gap_are_asked_for_again() -> None:
    venue = Venue(newest=16, runs=[(13, 16)], singly=False)
    with filling(venue, upgrade_s=1.0) as run:
        run.gap(10, 28)
        run.wait(lambda: run.of("covered"))
        venue.newest, venue.runs = 40, [(13, 16), (18, 19)]
        run.wait(lambda: run.of("covered") == [(13, 16), (18, 19)])
        venue.singly = True
        run.wait(lambda: {13, 14, 15, 16, 18, 19} <= set(run.ids()))
    assert sum(len(fill.ids) > 0 and 13 in fill.ids for fill in run.fills) == 1


def test_a_stop_is_no_failure() -> None:
    stopped: list[threading.Event] = []

    class Stopping(Venue):
        def get(self, path: str, params: Mapping[str, Any], *, weight: int) -> Reply:
            stopped[0].set()
            raise VenueUnavailableError("stopped", wait_s=0.0)

    with filling(Stopping(newest=50)) as run:
        stopped.append(run.stop)
        run.gap(10, 20)
        run.wait(run.stop.is_set)
    assert run.events == [] and run.fills == []
