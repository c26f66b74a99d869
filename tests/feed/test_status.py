"""The board: where a feed stands, told from its events."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from support.lake_rows import rows_table, trade

from k2lib.events import (
    BreakerChanged,
    CommitDone,
    ConnectionLost,
    ConnectionOpened,
    ConnectionOpening,
    ConnectionRotated,
    Event,
    FeedEvent,
    FeedFailed,
    FeedLagMeasured,
    FeedStopped,
    FramesReceived,
    FramesRefused,
    FramesRepeated,
    GapClosed,
    GapNoticed,
    HostBanned,
    QueueMeasured,
    ReconnectWaiting,
    StreamResumed,
    StreamStale,
    TradesBackfilled,
)
from k2lib.feed.status import TAPE_ROWS, FeedStatus, StatusBoard, SymbolStatus

BTC, ETH = "BTCUSDT", "ETHUSDT"
ONE, TWO = "wss://one", "wss://two"
GAP = {"symbol": BTC, "from_id": 5, "to_id": 9, "gap_id": "g5"}


class Reported:
    """A board, and a short way to report events to it."""

    def __init__(self) -> None:
        self.board = StatusBoard("BINANCE", [BTC, ETH], [ONE, TWO])

    def __call__(self, kind: type[Event], /, **fields: Any) -> FeedStatus:
        venue = {"exchange": "BINANCE"} if issubclass(kind, FeedEvent) else {}
        self.board.on_event(kind(**venue | fields))
        return self.board.look()

    def btc(self) -> SymbolStatus:
        return self.board.look().symbols[0]


@pytest.fixture
def reported() -> Reported:
    return Reported()


def states(status: FeedStatus) -> tuple[str, str | None]:
    return status.state, status.host


def test_a_board_begins_with_nothing(reported: Reported) -> None:
    status = reported.board.look()
    assert (status.exchange, *states(status)) == ("BINANCE", "starting", None)
    assert [one.symbol for one in status.symbols] == [BTC, ETH]
    assert [(one.url, one.breaker, one.connected) for one in status.hosts] == [
        (ONE, "closed", False),
        (TWO, "closed", False),
    ]


def test_it_is_live_while_a_connection_stands(reported: Reported) -> None:
    assert states(reported(ConnectionOpening, host=ONE)) == ("connecting", None)
    assert states(reported(ConnectionOpened, host=ONE)) == ("live", ONE)
    assert states(reported(ConnectionLost, host=ONE, reason="cut")) == ("connecting", None)
    waiting = reported(ReconnectWaiting, delay_s=5.0, reason="every host failed")
    assert (waiting.state, waiting.delay_s, waiting.reconnects) == ("waiting", 5.0, 1)


def test_a_rotation_stays_live_on_the_new_host(reported: Reported) -> None:
    reported(ConnectionOpened, host=ONE)
    assert states(reported(ConnectionOpening, host=TWO)) == ("live", ONE)
    reported(ReconnectWaiting, delay_s=1.0, reason="every host rests")
    reported(ConnectionOpened, host=TWO)
    status = reported(ConnectionRotated, old=ONE, new=TWO, reason="serverShutdown")
    assert states(status) == ("live", TWO)
    assert [one.connected for one in status.hosts] == [False, True]


def test_a_rotation_to_the_same_host_stays_connected(reported: Reported) -> None:
    reported(ConnectionOpened, host=ONE)
    reported(ConnectionOpened, host=ONE)
    status = reported(ConnectionRotated, old=ONE, new=ONE, reason="24 hours")
    assert states(status) == ("live", ONE) and status.hosts[0].connected


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_at_the_end_no_host_is_connected(reported: Reported, end: str) -> None:
    reported(ConnectionOpened, host=ONE)
    status = reported(FeedStopped if end == "stopped" else FeedFailed, reason="closed")
    assert (states(status), status.reason) == ((end, None), "closed")
    assert not any(one.connected for one in status.hosts)


def test_hosts_show_breaker_and_ban(reported: Reported) -> None:
    reported(BreakerChanged, host=ONE, state="open")
    status = reported(HostBanned, host=TWO, reason="HTTP 451")
    assert [one.breaker for one in status.hosts] == ["open", "closed"]
    assert status.hosts[1].banned == "HTTP 451"


def test_what_came_is_counted_by_symbol(reported: Reported) -> None:
    reported(FramesReceived, symbol=BTC, kind="trade", host=ONE, count=10, last_us=1)
    reported(FramesReceived, symbol=BTC, kind="quote", host=ONE, count=3, last_us=1)
    reported(FramesRepeated, symbol=BTC, count=2)
    reported(TradesBackfilled, symbol=BTC, count=5)
    reported(FeedLagMeasured, symbol=BTC, lag_s=0.25)
    one = reported.btc()
    assert (one.trades, one.quotes, one.repeated, one.backfilled) == (10, 3, 2, 5)
    assert (one.trades_per_s, one.lag_s) == (2.0, 0.25)
    assert reported.board.look().symbols[1].trades == 0


def test_a_stale_symbol_is_stale_until_it_resumes(reported: Reported) -> None:
    reported(StreamStale, symbol=BTC, kind="trade", silent_s=30.0)
    assert reported.btc().is_stale
    reported(StreamResumed, symbol=BTC, kind="trade")
    assert not reported.btc().is_stale


def test_a_gap_told_twice_is_one_gap(reported: Reported) -> None:
    reported(GapNoticed, **GAP)
    reported(GapNoticed, **GAP)
    assert (reported.btc().gaps_open, reported.btc().gaps_closed) == (1, 0)
    reported(GapClosed, **GAP, state="covered", filled=2, covered=3, absent=0)
    reported(GapClosed, **GAP, state="filled", filled=5, covered=0, absent=0)
    assert (reported.btc().gaps_open, reported.btc().gaps_closed) == (0, 1)


def test_queue_and_dead_letters_are_shown(reported: Reported) -> None:
    reported(QueueMeasured, depth=7, limit=100, waited_s=1.5)
    reported(FramesRefused, reason="not_json", count=2)
    status = reported(FramesRefused, reason="overflow", count=1)
    assert (status.queue_depth, status.queue_limit, status.queue_waited_s) == (7, 100, 1.5)
    assert status.dead_letters == 3


def test_what_says_nothing_of_the_feed_is_ignored(reported: Reported) -> None:
    before = reported.board.look()
    after = reported(CommitDone, table="trades_v2", rows=5, seconds=0.1)
    assert (after.state, after.symbols) == (before.state, before.symbols)


def test_the_tape_keeps_the_newest_trades_of_each_symbol(reported: Reported) -> None:
    few = [trade(0, symbol=ETH, price=Decimal("7.5"), side="SELL")]
    many = [trade(number, symbol=BTC, price=Decimal(number)) for number in range(1, 501)]
    reported.board.show(ETH, rows_table(few))
    for rows in (many[:30], many[30:]):
        reported.board.show(BTC, rows_table(rows))
    btc, eth = reported.board.look().symbols
    assert [row.price for row in btc.tape] == [Decimal(n) for n in range(451, 501)]
    assert len(btc.tape) == TAPE_ROWS and btc.last_price == Decimal(500)
    assert (eth.last_price, eth.last_side, eth.last_time) == (
        Decimal("7.5"),
        "SELL",
        trade(0)["timestamp"],
    )


def test_a_status_can_be_written_as_json(reported: Reported) -> None:
    reported.board.show(BTC, rows_table([trade(1, symbol=BTC)]))
    status = reported.board.look()
    written = json.loads(msgspec.json.encode(status.to_json()))
    assert written["symbols"][0]["last_price"] == "36.67000000"
    assert datetime.fromisoformat(written["at"]).tzinfo is not None
    assert status.at.tzinfo is UTC
