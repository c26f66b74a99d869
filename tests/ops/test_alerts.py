"""Alerts: everything that goes wrong is told once, and once more when it is right again."""

import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.fake_clock import FakeClock
from support.waiting import wait_until
from support.webhook_receiver import Receiver

from k2lib.events import (
    BatchDone,
    BreakerChanged,
    ClockMeasured,
    ConnectionLost,
    ConnectionOpened,
    DeadLettersSent,
    Event,
    FeedEvent,
    FeedFailed,
    FeedLagMeasured,
    FeedPaused,
    FeedResumed,
    FeedStarted,
    FeedStopped,
    FilesWritten,
    FramesRefused,
    GapClosed,
    GapFillFailed,
    GapNoticed,
    HostBanned,
    SinkPaused,
    SinkStopped,
    StateLost,
    StateRestored,
    StreamResumed,
    StreamStale,
)
from k2lib.ops.alerts import ALERT_NAMES, AlertLimits, Alerts, AlertsThread
from k2lib.ops.firing_alerts import Alert, log_alert
from k2lib.ops.metrics import Metrics
from k2lib.ops.webhook import Webhook

BTC = {"symbol": "BTCUSDT"}
GAP = {**BTC, "from_id": 5, "to_id": 9, "gap_id": "g1"}
COUNTS = {"filled": 2, "covered": 3, "absent": 0}


class Watched:
    """Alerts with a clock that stands still, and what they told."""

    def __init__(self, *more: Callable[[Alert], None]) -> None:
        self.told: list[Alert] = []
        self.clock = FakeClock(1_773_480_600.0)
        self.alerts = Alerts(notify=[self.told.append, *more], clock=self.clock)

    def on(self, kind: type[Event], /, **fields: Any) -> None:
        """Report an event; one of a feed is of BINANCE_SIM."""
        venue = {"exchange": "BINANCE_SIM"} if issubclass(kind, FeedEvent) else {}
        self.alerts.on_event(kind(**venue | fields))

    def after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.alerts.check()

    def said(self) -> list[tuple[str, str, bool]]:
        return [(alert.name, alert.subject, alert.firing) for alert in self.told]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def lag(watched: Watched, lag_s: float, *, seconds: int) -> None:
    for _ in range(seconds):
        watched.on(FeedLagMeasured, **BTC, lag_s=lag_s)
        watched.after(1)


def clock(watched: Watched, behind_s: float, *, seconds: int) -> None:
    for _ in range(seconds):
        watched.on(ClockMeasured, behind_s=behind_s)
        watched.after(1)


def stale(watched: Watched) -> None:
    watched.on(StreamStale, **BTC, kind="trade", silent_s=31.0)


def resumed(watched: Watched) -> None:
    watched.on(StreamResumed, **BTC, kind="trade")


def closed(watched: Watched, state: str) -> None:
    watched.on(GapClosed, **GAP, state=state, **COUNTS)


def gap_stays(watched: Watched) -> None:
    watched.on(GapNoticed, **GAP)
    watched.after(10)


RULES: dict[tuple[str, str], tuple[Callable[[Watched], None], Callable[[Watched], None]]] = {
    ("stream_stale", "BTCUSDT"): (stale, resumed),
    ("breaker_open", "a"): (
        lambda w: w.on(BreakerChanged, host="a", state="open"),
        lambda w: w.on(BreakerChanged, host="a", state="closed"),
    ),
    ("host_banned", "a"): (
        lambda w: w.on(HostBanned, host="a", reason="HTTP 451"),
        lambda w: w.on(ConnectionOpened, host="b"),
    ),
    ("gap_not_filled", "g1"): (gap_stays, lambda w: closed(w, "filled")),
    ("gap_unfillable", "g1"): (lambda w: closed(w, "covered"), lambda w: w.after(60)),
    ("feed_lag", "BTCUSDT"): (
        lambda w: lag(w, 5.1, seconds=6),
        lambda w: lag(w, 0.1, seconds=1),
    ),
    ("clock_behind", "BINANCE_SIM"): (
        lambda w: clock(w, 3600.0, seconds=6),
        lambda w: clock(w, -0.1, seconds=1),
    ),
    ("feed_down", ""): (
        lambda w: w.on(FeedFailed, reason="let in nowhere"),
        lambda w: w.on(FeedStarted, symbols=("BTCUSDT",)),
    ),
    ("dead_letters", "trades_v2"): (
        lambda w: w.on(DeadLettersSent, table="trades_v2", count=3),
        lambda w: w.after(60),
    ),
    ("sink_paused", "trades_v2"): (
        lambda w: w.on(SinkPaused, table="trades_v2", reason="the catalog is locked"),
        lambda w: w.on(BatchDone, table="trades_v2", added=1, duplicates=0, dead_letters=0),
    ),
    ("feed_paused", ""): (
        lambda w: w.on(FeedPaused, reason="Kafka does not answer"),
        lambda w: w.on(FeedResumed),
    ),
    ("redis_gone", ""): (
        lambda w: w.on(StateLost, reason="refused"),
        lambda w: w.on(StateRestored),
    ),
}


def test_every_alert_has_a_rule_here() -> None:
    assert [name for name, _ in RULES] == list(ALERT_NAMES)


def test_a_clock_that_is_behind_is_named_with_its_offset(watched: Watched) -> None:
    clock(watched, 3600.25, seconds=6)
    [alert] = watched.alerts.firing
    assert "this machine's clock is 3600.2 s behind that of BINANCE_SIM" in alert.summary


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[0])
def test_a_rule_fires_once_and_is_resolved_once_however_often_it_is_told(
    watched: Watched, rule: tuple[str, str]
) -> None:
    wrong, right = RULES[rule]
    for _ in range(3):
        wrong(watched)
    assert watched.said() == [(*rule, True)]
    assert [(alert.name, alert.subject) for alert in watched.alerts.firing] == [rule]
    for _ in range(3):
        right(watched)
    assert watched.said() == [(*rule, True), (*rule, False)]
    assert watched.alerts.firing == ()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[0])
def test_what_was_never_wrong_is_not_resolved(watched: Watched, rule: tuple[str, str]) -> None:
    _, right = RULES[rule]
    right(watched)
    assert watched.told == []


@pytest.mark.parametrize("rule", sorted(set(RULES) - {("host_banned", "a")}), ids=lambda r: r[0])
def test_what_goes_wrong_again_is_told_again(watched: Watched, rule: tuple[str, str]) -> None:
    wrong, right = RULES[rule]
    for _ in range(2):
        wrong(watched)
        right(watched)
    assert watched.said() == [(*rule, True), (*rule, False)] * 2


def test_an_event_without_a_rule_is_ignored(watched: Watched) -> None:
    watched.on(FilesWritten, table="trades_v2", files=1)
    assert watched.told == []


def test_an_alert_says_when_it_began_and_ended(watched: Watched) -> None:
    stale(watched)
    watched.after(90)
    resumed(watched)
    fired, resolved = watched.told
    assert fired.since == resolved.since == datetime(2026, 3, 14, 9, 30, tzinfo=UTC)
    assert fired.ended is None
    assert resolved.ended == datetime(2026, 3, 14, 9, 31, 30, tzinfo=UTC)


def test_an_alert_is_json(watched: Watched) -> None:
    stale(watched)
    told = json.loads(json.dumps(watched.told[0].to_json()))
    assert told["labels"] == {"alertname": "stream_stale", "subject": "BTCUSDT"}
    assert told["status"] == "firing" and "no trade for 31 s" in told["annotations"]["summary"]


def test_a_symbol_is_well_again_when_all_its_streams_are(watched: Watched) -> None:
    stale(watched)
    watched.on(StreamStale, **BTC, kind="quote", silent_s=31.0)
    resumed(watched)
    assert watched.said() == [("stream_stale", "BTCUSDT", True)]
    watched.on(StreamResumed, **BTC, kind="quote")
    assert watched.said()[1:] == [("stream_stale", "BTCUSDT", False)]


def test_two_symbols_are_two_alerts(watched: Watched) -> None:
    stale(watched)
    watched.on(StreamStale, symbol="ETHUSDT", kind="trade", silent_s=31.0)
    resumed(watched)
    assert [alert.subject for alert in watched.alerts.firing] == ["ETHUSDT"]


def test_a_half_open_breaker_is_still_an_alert(watched: Watched) -> None:
    for state in ("open", "half_open", "open", "half_open"):
        watched.on(BreakerChanged, host="a", state=state)
    assert watched.said() == [("breaker_open", "a", True)]


def test_a_host_that_stays_banned_is_told_once_while_others_serve(watched: Watched) -> None:
    for _ in range(3):
        watched.on(HostBanned, host="a", reason="HTTP 451")
        watched.on(ConnectionOpened, host="b")
    assert watched.said() == [("host_banned", "a", True), ("host_banned", "a", False)]
    assert "connected to b" in watched.told[1].summary


def test_a_host_banned_in_the_next_feed_is_told_again(watched: Watched) -> None:
    for _ in range(2):
        watched.on(HostBanned, host="a", reason="HTTP 451")
        watched.on(FeedStopped, reason="asked to")
    assert watched.said() == [("host_banned", "a", True), ("host_banned", "a", False)] * 2


def test_a_gap_filled_in_time_is_no_alert(watched: Watched) -> None:
    watched.on(GapNoticed, **GAP)
    watched.after(9.9)
    closed(watched, "filled")
    watched.after(60)
    assert watched.told == []


def test_a_gap_that_cannot_be_filled_now_fires_at_once(watched: Watched) -> None:
    watched.on(GapNoticed, **GAP)
    watched.on(GapFillFailed, **GAP, reason="HTTP 503")
    assert watched.said() == [("gap_not_filled", "g1", True)]
    assert "BINANCE_SIM BTCUSDT trades 5 to 9" in watched.told[0].summary
    assert "HTTP 503" in watched.told[0].summary


def test_ids_that_the_venue_does_not_have_are_no_alarm(watched: Watched) -> None:
    watched.on(GapNoticed, **GAP)
    closed(watched, "none_at_venue")
    assert watched.said() == []


@pytest.mark.parametrize("state", ["covered", "lost"])
def test_a_gap_closed_without_its_trades_says_so(watched: Watched, state: str) -> None:
    gap_stays(watched)
    closed(watched, state)
    assert watched.said() == [
        ("gap_not_filled", "g1", True),
        ("gap_not_filled", "g1", False),
        ("gap_unfillable", "g1", True),
    ]
    for alert in watched.told[1:]:
        assert f"{state} (2 filled, 3 covered, 0 absent)" in alert.summary


def test_a_gap_filled_after_all_is_resolved_at_once(watched: Watched) -> None:
    closed(watched, "covered")
    closed(watched, "filled")
    assert watched.said() == [("gap_unfillable", "g1", True), ("gap_unfillable", "g1", False)]


def test_lag_for_less_than_its_time_is_no_alert(watched: Watched) -> None:
    for _ in range(10):
        lag(watched, 60.0, seconds=4)
        lag(watched, 5.0, seconds=1)
    assert watched.told == []


def test_the_lag_that_is_told_is_the_newest(watched: Watched) -> None:
    lag(watched, 6.0, seconds=4)
    lag(watched, 8.0, seconds=1)
    assert "8.0 s behind the venue (limit 5 s)" in watched.told[0].summary


def test_a_lag_that_goes_on_is_shown_as_it_is_now(watched: Watched) -> None:
    lag(watched, 6.0, seconds=6)
    lag(watched, 66.0, seconds=1)
    [alert] = watched.alerts.firing
    assert "66.0 s behind the venue" in alert.summary
    assert watched.said() == [("feed_lag", "BTCUSDT", True)]


def test_a_lag_without_any_connection_says_so(watched: Watched) -> None:
    watched.on(ConnectionOpened, host="a")
    lag(watched, 6.0, seconds=6)
    assert "No host is connected" not in watched.told[0].summary
    watched.on(ConnectionLost, host="a", reason="cut")
    lag(watched, 7.0, seconds=1)
    assert "No host is connected" in watched.alerts.firing[0].summary


def test_a_burst_of_dead_letters_ends_a_quiet_minute_after_the_last(watched: Watched) -> None:
    for _ in range(10):
        watched.on(FramesRefused, reason="json", count=2)
        watched.after(59)
    assert watched.said() == [("dead_letters", "feed", True)]
    watched.after(1)
    assert watched.said()[1:] == [("dead_letters", "feed", False)]
    assert "20 records refused (20 json)" in watched.told[1].summary


def test_dead_letters_are_counted_anew_after_a_quiet_minute(watched: Watched) -> None:
    for _ in range(2):
        watched.on(DeadLettersSent, table="trades_v2", count=3)
        watched.after(60)
    assert ": 3 records refused" in watched.told[3].summary


def test_a_firing_alert_counts_on_and_says_what_was_refused_for_what(watched: Watched) -> None:
    for reason, count in (("not_json", 1), ("overflow", 2), ("not_json", 4)):
        watched.on(FramesRefused, reason=reason, count=count)
    [alert] = watched.alerts.firing
    assert alert.summary.startswith("7 records refused (5 not_json, 2 overflow)")
    assert watched.said() == [("dead_letters", "feed", True)]


def test_a_gap_of_trades_that_were_refused_says_for_what(watched: Watched) -> None:
    counts = {"filled": 0, "covered": 0, "absent": 5}
    watched.on(GapClosed, **GAP, state="lost", **counts, refused="overflow")
    [alert] = watched.alerts.firing
    assert "lost (0 filled, 0 covered, 5 absent): they came and were refused (overflow)" in (
        alert.summary
    )
    assert "archive" not in alert.summary


def test_a_gap_that_got_better_is_counted_as_it_is_now(watched: Watched) -> None:
    watched.on(GapClosed, **GAP, state="covered", filled=2, covered=3, absent=0)
    watched.on(GapClosed, **GAP, state="covered", filled=4, covered=1, absent=0)
    [alert] = watched.alerts.firing
    assert "covered (4 filled, 1 covered, 0 absent)" in alert.summary


def test_another_tables_batch_does_not_resolve_a_paused_sink(watched: Watched) -> None:
    watched.on(SinkPaused, table="trades_v2", reason="locked")
    watched.on(BatchDone, table="gaps", added=1, duplicates=0, dead_letters=0)
    assert len(watched.alerts.firing) == 1


def test_a_sink_that_stopped_says_that_it_is_to_be_started_again(watched: Watched) -> None:
    watched.on(SinkStopped, table="trades_v2", reason="it has delete files: compact it")
    (alert,) = watched.alerts.firing
    assert alert.name == "sink_paused" and "compact it. " in alert.summary
    assert alert.summary.endswith("start its sink again")


@pytest.mark.parametrize("end", [FeedStopped, FeedFailed])
def test_a_feed_that_has_ended_leaves_only_what_outlives_it(
    watched: Watched, end: type[Event]
) -> None:
    for (name, _), (wrong, _) in RULES.items():
        if name not in {"feed_down", "gap_unfillable"}:
            wrong(watched)
    watched.on(end, reason="asked to")
    left = {alert.name for alert in watched.alerts.firing} - {"feed_down"}
    assert left == {"gap_not_filled", "dead_letters", "sink_paused", "redis_gone"}


def test_a_feed_that_has_ended_leaves_no_lag_or_silence_to_come(watched: Watched) -> None:
    stale(watched)
    watched.on(FeedLagMeasured, **BTC, lag_s=60.0)
    watched.on(FeedStopped, reason="asked to")
    watched.after(60)
    watched.on(StreamStale, **BTC, kind="quote", silent_s=31.0)
    watched.on(StreamResumed, **BTC, kind="quote")
    assert (
        watched.said()
        == [
            ("stream_stale", "BTCUSDT", True),
            ("stream_stale", "BTCUSDT", False),
        ]
        * 2
    )


def test_limits_can_be_set() -> None:
    told: list[Alert] = []
    clock = FakeClock()
    alerts = Alerts(notify=[told.append], limits=AlertLimits(lag_s=1, lag_for_s=0), clock=clock)
    alerts.on_event(FeedLagMeasured("BINANCE", "BTCUSDT", 1.5))
    assert [alert.name for alert in told] == ["feed_lag"]


def test_threads_that_tell_the_same_make_one_alert(watched: Watched) -> None:
    def tell() -> None:
        for _ in range(300):
            stale(watched)
            watched.alerts.check()

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watched.said() == [("stream_stale", "BTCUSDT", True)]


def test_a_thread_checks_by_itself_until_closed(watched: Watched) -> None:
    watched.on(GapNoticed, **GAP)
    watched.clock.advance(10)
    with AlertsThread(watched.alerts, interval_s=0.01) as thread:
        wait_until(lambda: watched.told)
        thread.close()
    watched.clock.advance(60)
    assert watched.said() == [("gap_not_filled", "g1", True)]


def test_the_log_warns_of_what_fires_and_informs_of_what_is_resolved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched(log_alert)
    stale(watched)
    resumed(watched)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("k2lib.alerts", "WARNING"),
        ("k2lib.alerts", "INFO"),
    ]
    assert caplog.messages[0].startswith("stream_stale BTCUSDT firing: BTCUSDT: no trade")


def test_every_rule_reaches_webhook_and_metrics_once_firing_and_once_resolved() -> None:
    metrics = Metrics()
    with Receiver(500, 500) as receiver:
        with Webhook(receiver.url) as webhook:
            watched = Watched(webhook, metrics.on_alert)
            for wrong, right in RULES.values():
                wrong(watched)
                right(watched)
            wait_until(lambda: len(receiver.accepted) == 2 * len(RULES))
        assert receiver.said() == [
            (*rule, status) for rule in RULES for status in ("firing", "resolved")
        ]
    shown = [
        metrics.registry.get_sample_value("k2_alerts_firing", {"alert": n}) for n in ALERT_NAMES
    ]
    assert shown == [0] * len(ALERT_NAMES)
