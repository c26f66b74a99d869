"""Metrics: what is told is counted, and what is scraped is what was counted."""

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from k2lib.errors import ConfigError
from k2lib.events import (
    BatchDone,
    BreakerChanged,
    CommitDone,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRefused,
    ConnectionRotated,
    DeadLettersSent,
    Event,
    FeedEvent,
    FeedFailed,
    FeedLagMeasured,
    FeedStopped,
    FilesWritten,
    FramesReceived,
    FramesRefused,
    FramesRepeated,
    GapClosed,
    GapNoticed,
    QueueMeasured,
    ReconnectWaiting,
    RowsVisible,
    SinkLagMeasured,
    SinkPaused,
    SinkResumed,
    StateLost,
    StateRestored,
    TradesBackfilled,
)
from k2lib.ops.alerts import ALERT_NAMES
from k2lib.ops.firing_alerts import Alert
from k2lib.ops.metrics import BatchHistogram, Metrics, MetricsServer

BTC = {"symbol": "BTCUSDT"}
GAP = {**BTC, "from_id": 5, "to_id": 9}

SERVED = {
    "k2_alerts_firing",
    "k2_feed_backfilled_trades",
    "k2_feed_breaker_state",
    "k2_feed_connection_errors",
    "k2_feed_connection_status",
    "k2_feed_gaps_closed",
    "k2_feed_gaps_noticed",
    "k2_feed_gaps_open",
    "k2_feed_lag_seconds",
    "k2_feed_last_message_timestamp_seconds",
    "k2_feed_message_errors",
    "k2_feed_messages_received",
    "k2_feed_queue_depth",
    "k2_feed_queue_waited_seconds",
    "k2_feed_reconnect_delay_seconds",
    "k2_feed_reconnects",
    "k2_feed_repeated",
    "k2_dead_letters",
    "k2_freshness_seconds",
    "k2_lake_bytes",
    "k2_lake_files",
    "k2_lake_last_commit_timestamp_seconds",
    "k2_lake_rows",
    "k2_sink_commit_seconds",
    "k2_sink_doubles",
    "k2_sink_lag_records",
    "k2_sink_paused",
    "k2_sink_rows",
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def on(metrics: Metrics, kind: type[Event], /, **fields: Any) -> Metrics:
    """Report an event; one of a feed is of BINANCE_SIM."""
    venue = {"exchange": "BINANCE_SIM"} if issubclass(kind, FeedEvent) else {}
    metrics.on_event(kind(**venue | fields))
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    venue = {"venue": "BINANCE_SIM"} if name.startswith("feed_") else {}
    return metrics.registry.get_sample_value(f"k2_{name}", venue | labels)


def scraped(url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = httpx2.get(url, timeout=60).raise_for_status().text
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def test_a_sink_that_works_again_is_not_paused(metrics: Metrics) -> None:
    on(metrics, SinkPaused, table="t", reason="locked")
    on(metrics, SinkResumed, table="t")
    assert value(metrics, "sink_paused", table="t") == 0


def test_the_sinks_lag_is_what_kafka_has_beyond_it(metrics: Metrics) -> None:
    on(metrics, SinkLagMeasured, table="t", records=17)
    assert value(metrics, "sink_lag_records", table="t") == 17


@pytest.mark.parametrize(
    ("event", "fields", "name", "labels", "wanted"),
    [
        (ConnectionOpened, {"host": "a"}, "feed_connection_status", {"host": "a"}, 1),
        (
            ConnectionLost,
            {"host": "a", "reason": "cut"},
            "feed_connection_errors_total",
            {"host": "a", "kind": "lost"},
            1,
        ),
        (
            ConnectionRefused,
            {"host": "a", "reason": "x", "status": None},
            "feed_connection_errors_total",
            {"host": "a", "kind": "refused"},
            1,
        ),
        (
            ConnectionRefused,
            {"host": "a", "reason": "x", "status": 451},
            "feed_connection_errors_total",
            {"host": "a", "kind": "http_451"},
            1,
        ),
        (
            ConnectionRefused,
            {"host": "a", "reason": "x", "status": 451},
            "feed_connection_status",
            {"host": "a"},
            0,
        ),
        (
            ReconnectWaiting,
            {"delay_s": 7.5, "reason": "x"},
            "feed_reconnect_delay_seconds",
            {},
            7.5,
        ),
        (
            FramesRefused,
            {"reason": "json", "count": 3},
            "dead_letters_total",
            {"source": "feed"},
            3,
        ),
        (
            FramesRefused,
            {"reason": "json", "count": 3},
            "feed_message_errors_total",
            {"reason": "json"},
            3,
        ),
        (FramesRepeated, {**BTC, "count": 4}, "feed_repeated_total", BTC, 4),
        (TradesBackfilled, {**BTC, "count": 5}, "feed_backfilled_trades_total", BTC, 5),
        (
            QueueMeasured,
            {"depth": 6, "limit": 9, "waited_s": 0.5},
            "feed_queue_depth",
            {},
            6,
        ),
        (FeedLagMeasured, {**BTC, "lag_s": 0.25}, "feed_lag_seconds", BTC, 0.25),
        (
            BatchDone,
            {"table": "t", "added": 8, "duplicates": 2, "dead_letters": 0},
            "sink_rows_total",
            {"table": "t"},
            8,
        ),
        (
            BatchDone,
            {"table": "t", "added": 8, "duplicates": 2, "dead_letters": 0},
            "sink_doubles_total",
            {"table": "t"},
            2,
        ),
        (
            CommitDone,
            {"table": "t", "rows": 8, "seconds": 0.2},
            "sink_commit_seconds_bucket",
            {"table": "t", "le": "0.25"},
            1,
        ),
        (DeadLettersSent, {"table": "t", "count": 9}, "dead_letters_total", {"source": "t"}, 9),
    ],
)
def test_an_event_is_counted(
    metrics: Metrics,
    event: type[Event],
    fields: dict[str, object],
    name: str,
    labels: dict[str, str],
    wanted: float,
) -> None:
    assert value(on(metrics, event, **fields), name, **labels) == wanted


def test_an_event_that_is_not_counted_changes_nothing(metrics: Metrics) -> None:
    before = prometheus_client.generate_latest(metrics.registry)
    on(metrics, FilesWritten, table="t", files=1)
    assert prometheus_client.generate_latest(metrics.registry) == before


def test_frames_are_counted_by_symbol_type_and_host_and_the_newest_is_shown(
    metrics: Metrics,
) -> None:
    for last_us in (1_700_000_000_000_000, 1_700_000_001_500_000):
        on(metrics, FramesReceived, **BTC, kind="trade", host="a", count=10, last_us=last_us)
    of = {**BTC, "type": "trade"}
    assert value(metrics, "feed_messages_received_total", **of, host="a") == 20
    assert value(metrics, "feed_last_message_timestamp_seconds", **of) == 1_700_000_001.5


def test_a_connection_after_a_lost_one_is_a_reconnect_and_the_first_is_not(
    metrics: Metrics,
) -> None:
    on(metrics, ConnectionOpened, host="a")
    assert value(metrics, "feed_reconnects_total", host="a") is None
    on(metrics, ConnectionLost, host="a", reason="cut")
    on(metrics, ReconnectWaiting, delay_s=5.0, reason="every host failed")
    on(metrics, ConnectionOpened, host="b")
    assert value(metrics, "feed_connection_status", host="a") == 0
    assert value(metrics, "feed_connection_status", host="b") == 1
    assert value(metrics, "feed_reconnects_total", host="b") == 1
    assert value(metrics, "feed_reconnect_delay_seconds") == 0


def test_a_rotation_on_the_same_host_stays_connected_and_is_one_reconnect(
    metrics: Metrics,
) -> None:
    on(metrics, ConnectionOpened, host="a")
    on(metrics, ConnectionOpened, host="a")
    on(metrics, ConnectionRotated, old="a", new="a", reason="24 hours")
    assert value(metrics, "feed_connection_status", host="a") == 1
    assert value(metrics, "feed_reconnects_total", host="a") == 1
    on(metrics, ConnectionLost, host="a", reason="cut")
    assert value(metrics, "feed_connection_status", host="a") == 0


@pytest.mark.parametrize("end", [FeedStopped, FeedFailed])
def test_the_end_of_the_feed_is_the_end_of_its_connections(
    metrics: Metrics, end: type[Event]
) -> None:
    on(metrics, ConnectionOpened, host="a")
    on(metrics, end, reason="asked to")
    assert value(metrics, "feed_connection_status", host="a") == 0
    on(metrics, ConnectionOpened, host="a")
    assert value(metrics, "feed_reconnects_total", host="a") is None


def test_venues_are_counted_apart_and_one_may_end(metrics: Metrics) -> None:
    for venue in ("ONE", "OTHER"):
        on(metrics, ConnectionOpened, exchange=venue, host="a")
        on(metrics, QueueMeasured, exchange=venue, depth=1, limit=10, waited_s=2.0)
    on(metrics, ConnectionLost, exchange="ONE", host="a", reason="cut")
    on(metrics, ConnectionOpened, exchange="OTHER", host="b")
    on(metrics, FeedStopped, exchange="ONE", reason="asked to")
    assert value(metrics, "feed_reconnects_total", venue="OTHER", host="b") is None
    assert value(metrics, "feed_connection_status", venue="ONE", host="a") == 0
    assert value(metrics, "feed_connection_status", venue="OTHER", host="a") == 1
    assert value(metrics, "feed_queue_waited_seconds_total", venue="OTHER") == 2.0


def test_the_breaker_shows_its_three_states(metrics: Metrics) -> None:
    shown = [
        value(
            on(metrics, BreakerChanged, host="a", state=state),
            "feed_breaker_state",
            host="a",
        )
        for state in ("open", "half_open", "closed")
    ]
    assert shown == [2, 1, 0]


def test_a_gap_counts_once_however_often_it_is_told(metrics: Metrics) -> None:
    for gap_id in ("g1", "g1", "g2"):
        on(metrics, GapNoticed, **GAP, gap_id=gap_id)
    assert value(metrics, "feed_gaps_noticed_total", **BTC) == 2
    assert value(metrics, "feed_gaps_open", **BTC) == 2
    on(metrics, GapClosed, **GAP, gap_id="g1", state="filled", filled=5, covered=0, absent=0)
    on(
        metrics,
        GapClosed,
        **GAP,
        gap_id="of before",
        state="lost",
        filled=0,
        covered=0,
        absent=5,
    )
    assert value(metrics, "feed_gaps_open", **BTC) == 1
    assert value(metrics, "feed_gaps_closed_total", **BTC, state="filled") == 1
    assert value(metrics, "feed_gaps_closed_total", **BTC, state="lost") == 1


def test_waiting_adds_up_over_feeds_that_each_count_from_zero(metrics: Metrics) -> None:
    for waited_s in (0.5, 2.0, 0.25):
        on(metrics, QueueMeasured, depth=0, limit=10, waited_s=waited_s)
    assert value(metrics, "feed_queue_waited_seconds_total") == 2.25


def test_redis_is_absent_until_something_is_told_of_it(metrics: Metrics) -> None:
    assert value(metrics, "state_up") is None
    assert value(on(metrics, StateLost, reason="refused"), "state_up") == 0
    assert value(on(metrics, StateRestored), "state_up") == 1


def test_a_sink_is_paused_until_its_next_batch(metrics: Metrics) -> None:
    on(metrics, SinkPaused, table="t", reason="locked")
    on(metrics, SinkPaused, table="t", reason="locked")
    assert value(metrics, "sink_paused", table="t") == 1
    on(metrics, BatchDone, table="other", added=1, duplicates=0, dead_letters=0)
    assert value(metrics, "sink_paused", table="t") == 1
    on(metrics, BatchDone, table="t", added=1, duplicates=0, dead_letters=0)
    assert value(metrics, "sink_paused", table="t") == 0


def test_alerts_are_shown_at_zero_before_any_fires(metrics: Metrics) -> None:
    assert {name: value(metrics, "alerts_firing", alert=name) for name in ALERT_NAMES} == (
        dict.fromkeys(ALERT_NAMES, 0)
    )


def test_alerts_that_fire_are_counted_by_name(metrics: Metrics) -> None:
    since = datetime(2026, 3, 14, tzinfo=UTC)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        metrics.on_alert(Alert("stream_stale", symbol, True, since, ""))
    assert value(metrics, "alerts_firing", alert="stream_stale") == 2
    metrics.on_alert(Alert("stream_stale", "BTCUSDT", False, since, "", since))
    assert value(metrics, "alerts_firing", alert="stream_stale") == 1


@pytest.mark.parametrize("seconds", [[0.2, 2.0, 90.0], np.array([0.2, 2.0, 90.0])])
def test_freshness_takes_all_rows_of_a_batch(metrics: Metrics, seconds: object) -> None:
    on(metrics, RowsVisible, table="trades_v2", seconds=seconds)
    on(metrics, RowsVisible, table="trades_v2", seconds=2.5)
    assert value(metrics, "freshness_seconds_count") == 4
    assert value(metrics, "freshness_seconds_sum") == pytest.approx(94.7)
    assert value(metrics, "freshness_seconds_bucket", le="2.0") == 2
    assert value(metrics, "freshness_seconds_bucket", le="60.0") == 3


@given(st.lists(st.floats(0, 20) | st.sampled_from([1.0, 5.0]), max_size=50))
def test_a_batch_is_counted_as_its_values_one_by_one(values: list[float]) -> None:
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("a", "a", buckets=(1.0, 5.0, 10.0), registry=registry)
    ours = BatchHistogram("b", "b", buckets=(1.0, 5.0, 10.0))
    registry.register(ours)
    ours.observe(values)
    for one in values:
        theirs.observe(one)
    for le in ("1.0", "5.0", "10.0", "+Inf"):
        labels = {"le": le}
        assert registry.get_sample_value("a_bucket", labels) == registry.get_sample_value(
            "b_bucket", labels
        )


def test_threads_lose_no_count(metrics: Metrics) -> None:
    def tell() -> None:
        for _ in range(500):
            on(metrics, FramesReceived, **BTC, kind="trade", host="a", count=2, last_us=1)
            on(metrics, RowsVisible, table="t", seconds=[1.0, 2.0])

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    of = {**BTC, "type": "trade", "host": "a"}
    assert value(metrics, "feed_messages_received_total", **of) == 4000
    assert value(metrics, "freshness_seconds_count") == 4000


def test_two_objects_share_nothing_and_the_global_registry_stays_clean() -> None:
    one, other = on(Metrics(), ConnectionOpened, host="a"), Metrics()
    assert value(other, "feed_connection_status", host="a") is None
    names = [family.name for family in prometheus_client.REGISTRY.collect()]
    assert value(one, "feed_connection_status", host="a") == 1
    assert not [name for name in names if name.startswith("k2_")]


@pytest.fixture
def server(metrics: Metrics) -> Iterator[MetricsServer]:
    with MetricsServer(metrics, port=0) as server:
        yield server


def test_what_is_counted_is_served(metrics: Metrics, server: MetricsServer) -> None:
    on(metrics, FramesRepeated, **BTC, count=7)
    on(metrics, RowsVisible, table="t", seconds=[0.2, 0.3])
    assert server.url.startswith("http://127.0.0.1:") and server.url.endswith("/metrics")
    samples = scraped(server.url)
    assert samples["k2_feed_repeated_total"] == [({"venue": "BINANCE_SIM", **BTC}, 7.0)]
    assert samples["k2_freshness_seconds_count"] == [({}, 2.0)]
    assert ({"le": "+Inf"}, 2.0) in samples["k2_freshness_seconds_bucket"]
    assert "k2_state_up" not in samples


def test_every_name_that_is_promised_is_served(metrics: Metrics, server: MetricsServer) -> None:
    families = {
        family.name
        for family in text_string_to_metric_families(httpx2.get(server.url, timeout=60).text)
        if not family.name.endswith("_created")
    }
    assert {family.removesuffix("_total") for family in families} == SERVED


def test_a_port_in_use_is_an_error_that_names_setting_and_port(
    metrics: Metrics, server: MetricsServer
) -> None:
    port = httpx2.URL(server.url).port
    assert port is not None
    with pytest.raises(ConfigError, match=f"K2_METRICS_PORT={port}: .*in use"):
        MetricsServer(metrics, port=port)


def test_closing_frees_the_port(metrics: Metrics) -> None:
    server = MetricsServer(metrics, port=0)
    server.close()
    server.close()
    port = httpx2.URL(server.url).port
    assert port is not None
    with socket.create_server(("127.0.0.1", port)) as taken:
        assert taken.getsockname()[1] == port
