"""The live view's parts, and the view itself on a real feed without a browser."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.recorded_events import events_of
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import TransientError
from k2lib.events import (
    BreakerChanged,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRotated,
    Event,
    FaultCaused,
    FeedStopped,
    FramesReceived,
    FramesRefused,
    GapClosed,
    ReconnectWaiting,
)
from k2lib.feed.status import FeedStatus, HostStatus, SymbolStatus, TapeRow
from k2lib.notebook import feed_plots
from k2lib.notebook.faults import BUTTONS, EventLog, Faults, LoggedEvent, fault_buttons
from k2lib.notebook.feed_plots import draw_gaps, draw_hosts
from k2lib.notebook.live_figure import (
    AMBER,
    GREEN,
    RED,
    TAPE_ROWS,
    FeedHistory,
    alerts_html,
    draw,
    live_figure,
    panels,
    status_html,
    tape_html,
)
from k2lib.notebook.live_view import LiveView
from k2lib.notebook.measurements import compare_ids, wait_until_healed
from k2lib.notebook.venue import OFFLINE, offline_venue, reachable_venue
from k2lib.ops.alerts import AlertLimits
from k2lib.ops.firing_alerts import Alert
from k2lib.simulator import GroundTruth, OfflineExchange
from k2lib.venues.binance.venue import binance

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
HOSTS = ["ws://127.0.0.1:1", "ws://127.0.0.1:2"]


def _symbol(name: str = "BTCUSDT", *, trades: int = 0, price: str = "65000") -> SymbolStatus:
    tape = tuple(
        TapeRow(NOON + timedelta(seconds=n), Decimal(price) + n, Decimal("0.5"), "BUY")
        for n in range(trades)
    )
    last = tape[-1].price if tape else None
    lag_s = 0.02 if tape else None
    return SymbolStatus(name, trades=trades, lag_s=lag_s, last_price=last, tape=tape)


def _status(*symbols: SymbolStatus, state: str = "live", after_s: float = 0) -> FeedStatus:
    return FeedStatus(
        at=NOON + timedelta(seconds=after_s),
        exchange=OFFLINE,
        state=state,
        host=HOSTS[0] if state == "live" else None,
        reason="cut" if state == "waiting" else "",
        delay_s=1.5,
        reconnects=2,
        queue_depth=0,
        queue_limit=0,
        queue_waited_s=0.0,
        dead_letters=0,
        symbols=symbols,
        hosts=(HostStatus(HOSTS[0], connected=True), HostStatus(HOSTS[1], breaker="half_open")),
    )


def _entries(*events: tuple[float, Event]) -> list[LoggedEvent[Event]]:
    return [LoggedEvent(at_s, event) for at_s, event in events]


def test_a_history_has_a_fixed_length() -> None:
    history = FeedHistory(["BTCUSDT"], length=3)
    for n in range(10):
        history.add(_status(_symbol(trades=n + 1), after_s=n))
    assert len(history) == len(history.times_ms()) == 3
    assert list(history.series("BTCUSDT", "price")) == [65007, 65008, 65009]


def test_a_quiet_symbol_has_no_lag() -> None:
    history = FeedHistory(["BTCUSDT"], length=3)
    for trades in (0, 1, 1):
        history.add(_status(_symbol(trades=trades)))
    assert list(np.isnan(history.series("BTCUSDT", "lag_ms"))) == [True, False, True]


def test_the_lag_of_a_silent_connection_is_drawn_as_it_grows() -> None:
    history = FeedHistory(["BTCUSDT"], length=3)
    for lag_s in (0.5, 30.5, 60.5):
        row = SymbolStatus("BTCUSDT", trades=7, lag_s=lag_s)
        history.add(_status(row))
    assert list(history.series("BTCUSDT", "lag_ms")) == [500.0, 30_500.0, 60_500.0]


def test_a_frame_moves_every_line_and_the_window() -> None:
    history = FeedHistory(["BTCUSDT"], length=200)
    figure = live_figure(OFFLINE, {"BTCUSDT": "USDT"})
    for n in range(100):
        history.add(_status(_symbol(trades=n + 1), after_s=n))
    draw(figure, history, exchange=OFFLINE, window_s=60)
    assert {len(trace.y) for trace in figure.data} == {100}
    assert figure.layout.xaxis.range == (-60, 0) and figure.data[0].x[-1] == 0
    assert figure.layout.title.text == "BINANCE_SIM until 12:01:39 UTC"


def test_a_figure_has_room_for_four_symbols() -> None:
    names = [f"A{n}USDT" for n in range(6)]
    figure = live_figure(OFFLINE, dict.fromkeys(names, "USDT"))
    assert len(figure.data) == 3 * len(panels(names)) == 12
    assert "A3USDT, USDT" in str(figure.layout) and "A4USDT, USDT" not in str(figure.layout)


@pytest.mark.parametrize(
    ("state", "color", "told"),
    [("live", GREEN, "live"), ("waiting", AMBER, "waiting 1.5 s: cut")],
)
def test_the_lamp_has_the_colour_of_the_state(state: str, color: str, told: str) -> None:
    html = status_html(_status(_symbol(), state=state))
    assert f'k2-lamp" style="color:{color}' in html and f">{told}<" in html
    assert "breaker half open" in html


def test_the_lamp_shows_a_problem_as_text_not_as_markup() -> None:
    html = status_html(_status(_symbol()), problem="<b>no</b>")
    assert "&lt;b&gt;no" in html and f"color:{RED}" in html


def test_the_tape_has_the_newest_trades_of_all_symbols_first() -> None:
    html = tape_html([_symbol(trades=30), _symbol("ETHUSDT", trades=40, price="3400")])
    rows = html.split("<tr>")[1:]
    assert len(rows) == TAPE_ROWS and "12:00:39.000" in rows[0] and "3,439" in rows[0]
    assert "65,029" in html


def test_alerts_that_fire_are_told() -> None:
    alert = Alert("stream_stale", "BTCUSDT", firing=True, since=NOON, summary="no trade")
    assert "<b>stream stale BTCUSDT</b> since 12:00:00" in alerts_html([alert])
    assert "no alert fires" in alerts_html([])


def test_spans_follow_connections_and_breakers_until_the_end() -> None:
    entries = _entries(
        (1.0, ConnectionOpened(OFFLINE, HOSTS[0])),
        (2.0, ConnectionLost(OFFLINE, HOSTS[0], "cut")),
        (2.0, BreakerChanged(OFFLINE, HOSTS[0], "open")),
        (3.0, ConnectionOpened(OFFLINE, HOSTS[1])),
        (9.0, FeedStopped(OFFLINE, "closed")),
    )
    found = feed_plots.spans(entries, HOSTS, until_s=10.0)
    kept = found.filter(~found["state"].is_in(["none", "closed"])).rows()
    assert kept == [
        ("127.0.0.1:1 connection", "connected", 1.0, 2.0),
        ("127.0.0.1:1 breaker", "open", 2.0, 10.0),
        ("127.0.0.1:2 connection", "connected", 3.0, 9.0),
    ]


def test_a_rotation_ends_one_connection_and_not_the_other() -> None:
    entries = _entries(
        (1.0, ConnectionOpened(OFFLINE, HOSTS[0])),
        (2.0, ConnectionOpened(OFFLINE, HOSTS[1])),
        (2.5, ConnectionRotated(OFFLINE, HOSTS[0], HOSTS[1], "silent")),
    )
    found = feed_plots.spans(entries, HOSTS, until_s=4.0).filter(state="connected")
    ends = dict(found.select("lane", "end_s").iter_rows())
    assert ends == {"127.0.0.1:1 connection": 2.5, "127.0.0.1:2 connection": 4.0}


def test_a_log_tells_when_alerts_fired_and_were_resolved() -> None:
    now = [100.0]
    with EventLog(limits=AlertLimits(quiet_s=4.0), clock=lambda: now[0]) as log:
        now[0] = 101.0
        log.on_event(FramesRefused(OFFLINE, "not_json", 3))
        now[0] = 106.0
        log.alerts.check()
        [row] = log.alert_rows().rows(named=True)
    assert (row["alert"], row["fired_s"], row["resolved_s"]) == ("dead_letters", 1.0, 6.0)


def test_a_log_keeps_the_newest_events_and_not_the_noise() -> None:
    with EventLog(most=2) as log:
        for n in range(5):
            log.on_event(ReconnectWaiting(OFFLINE, float(n), "x"))
            log.on_event(FramesReceived(OFFLINE, "BTCUSDT", "trade", HOSTS[0], count=1, last_us=1))
    assert log.frame(ReconnectWaiting)["delay_s"].to_list() == [3.0, 4.0]


def test_the_offline_exchange_stands_in_where_the_venue_does_not_answer() -> None:
    nowhere = binance(["ws://127.0.0.1:1"], ["http://127.0.0.1:1"])
    with reachable_venue(["BTCUSDT"], venue=nowhere) as chosen:
        assert chosen.exchange is not None and chosen.venue.exchange == OFFLINE
        assert "http://127.0.0.1:1: " in repr(chosen)


def test_a_venue_that_answers_is_taken() -> None:
    with OfflineExchange(["BTCUSDT"]) as exchange:
        there = offline_venue(exchange)
        with reachable_venue(["BTCUSDT"], venue=there, within_s=60) as chosen:
            assert chosen.exchange is None and chosen.venue is there


@dataclass(frozen=True)
class Healed:
    """A view, and what it left."""

    k2: K2
    log: EventLog
    view: LiveView
    accounts: pl.DataFrame


def absent_ids(log: EventLog) -> list[int]:
    """Return how many ids the venue did not have, of each gap that closed."""
    return [entry.event.absent for entry in log.events(GapClosed)]


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Healed]:
    """Run a view through a cut and a void, stopped and started on the way, until all is filled."""
    home: Path = tmp_path_factory.mktemp("widgets") / "home"
    with (
        EventLog() as log,
        OfflineExchange(["BTCUSDT"], rate=200, hosts=2) as exchange,
        K2.open(home=home, commit_interval_s=0.5, on_event=log.on_event) as k2,
        Faults(exchange, on_event=log.on_event) as faults,
    ):
        open_feed = partial(k2.feed, ["BTCUSDT"], venue=offline_venue(exchange))
        with LiveView(open_feed, alerts=log.alerts, below=fault_buttons(faults)) as view:
            wait_until(lambda: view.status().symbols[0].trades > 20)
            faults.play([(0.0, "cut", {}), (0.1, "void", {"n": 5})])
            wait_until(lambda: sum(absent_ids(log)) == 5)
            view.stop()
            stopped, made = view.status().state, exchange.truth("BTCUSDT").last_id
            wait_until(lambda: exchange.truth("BTCUSDT").last_id > made)
            view.start()
            wait_until(lambda: view.status().symbols[0].gaps_closed)
            assert stopped == "stopped"
            truth = {"BTCUSDT": exchange.truth("BTCUSDT")}
            last = {"BTCUSDT": truth["BTCUSDT"].last_id}
            wait_until_healed(k2.engine, view.feed, last, alerts=log.alerts)
            asyncio.run(view.wait(0.5))
            view.stop()
            k2.pipeline.settle()
            accounts = compare_ids(k2.engine, truth, exchange=OFFLINE)
            yield Healed(k2, log, view, accounts)


@pytest.mark.slow
def test_every_id_is_accounted_for_over_a_cut_and_a_restart(healed: Healed) -> None:
    [row] = healed.accounts.rows(named=True)
    assert row["made"] == row["in_lake"] > 100 and row["twice"] == row["invented"] == 0
    assert row["never_made"] == row["listed_absent"] == 5


@pytest.mark.slow
def test_an_id_that_is_not_in_the_lake_does_not_pass(healed: Healed) -> None:
    k2 = healed.k2
    last = k2.contiguity()["last_id"][0]
    more = {"BTCUSDT": GroundTruth(0, last + 10, frozenset())}
    [row] = compare_ids(k2.engine, more, exchange=OFFLINE).rows(named=True)
    assert row["made"] - row["in_lake"] == 15
    wanted, alerts = {"BTCUSDT": last + 10}, healed.log.alerts
    with pytest.raises(TransientError, match=rf"not healed .* \[\('BTCUSDT', {last}, 0\)\]"):
        wait_until_healed(k2.engine, healed.view.feed, wanted, alerts=alerts, within_s=0)


@pytest.mark.slow
def test_a_view_leaves_a_table_and_a_tape(healed: Healed) -> None:
    table, tape = healed.view.table(), healed.view.tape(5)
    assert table["symbol"].to_list() == ["BTCUSDT"] and table["trades"][0] > 0
    assert len(tape) == 5 and tape["timestamp"].is_sorted(descending=True)


@pytest.mark.slow
def test_plots_show_what_happened(healed: Healed) -> None:
    k2, log, view = healed.k2, healed.log, healed.view
    hosts = draw_hosts(log, list(view.feed.venue.stream_hosts))
    assert {"connected", "attempt failed"} <= {trace.name for trace in hosts.data}
    gaps = draw_gaps(k2.engine, log, exchange=OFFLINE, symbol="BTCUSDT")
    assert len(gaps.layout.shapes) == len(log.events(GapClosed)) > 1
    assert len(gaps.data[1].x) > 0


def test_every_button_causes_its_fault() -> None:
    events: list[Event] = []
    with (
        OfflineExchange(["BTCUSDT"]) as exchange,
        Faults(exchange, on_event=events.append) as faults,
    ):
        row = fault_buttons(faults).children[0]
        for button in row.children:
            button.click()
    assert [one.fault for one in events_of(events, FaultCaused)] == [
        fault for _, fault, _, _ in BUTTONS
    ]
