"""Metrics of Binance: every metric of a feed under its older name too."""

import httpx2
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.promtool import check_metrics

from k2lib.events import (
    ConnectionLost,
    ConnectionOpened,
    FeedLagMeasured,
    FramesReceived,
    GapNoticed,
    QueueMeasured,
)
from k2lib.ops.metrics import Metrics
from k2lib.ops.monitor import Monitor
from k2lib.settings import Settings
from k2lib.venues.binance.venue import binance, binance_us

SERVED = {
    "k2_binance_backfilled_trades",
    "k2_binance_breaker_state",
    "k2_binance_connection_errors",
    "k2_binance_connection_status",
    "k2_binance_gaps_closed",
    "k2_binance_gaps_noticed",
    "k2_binance_gaps_open",
    "k2_binance_lag_seconds",
    "k2_binance_last_message_timestamp_seconds",
    "k2_binance_message_errors",
    "k2_binance_messages_received",
    "k2_binance_queue_depth",
    "k2_binance_queue_waited_seconds",
    "k2_binance_reconnect_delay_seconds",
    "k2_binance_reconnects",
    "k2_binance_repeated",
}


def counted(*exchanges: str) -> Metrics:
    """Return the metrics of a few events at each exchange."""
    metrics = Metrics()
    metrics.registry.register(binance().metrics(metrics.of_feeds))
    for exchange in exchanges:
        metrics.on_event(ConnectionOpened(exchange, "a"))
        metrics.on_event(ConnectionLost(exchange, "a", "cut"))
        metrics.on_event(FramesReceived(exchange, "BTCUSDT", "trade", "a", 10, 1_500_000))
        metrics.on_event(FeedLagMeasured(exchange, "BTCUSDT", 0.25))
        metrics.on_event(QueueMeasured(exchange, 6, 9, 0.5))
        metrics.on_event(GapNoticed(exchange, "BTCUSDT", 5, 9, f"gap of {exchange}"))
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"k2_binance_{name}", labels)


@pytest.mark.slow
def test_prometheus_finds_nothing_in_the_metrics() -> None:
    text = generate_latest(counted("BINANCE_SIM", "BINANCEUS").registry)
    assert b"k2_feed_" in text and b"k2_binance_" in text and b"k2_sink_" in text
    check_metrics(text)


def test_the_older_names_have_the_older_labels() -> None:
    metrics, of = counted("BINANCE_SIM"), {"symbol": "BTCUSDT", "type": "trade"}
    assert value(metrics, "connection_status", host="a") == 0
    assert value(metrics, "connection_errors_total", host="a", kind="lost") == 1
    assert value(metrics, "messages_received_total", **of, host="a") == 10
    assert value(metrics, "last_message_timestamp_seconds", **of) == 1.5
    assert value(metrics, "lag_seconds", symbol="BTCUSDT") == 0.25
    assert value(metrics, "queue_depth") == 6
    assert value(metrics, "queue_waited_seconds_total") == 0.5
    assert value(metrics, "gaps_open", symbol="BTCUSDT") == 1


def test_another_venue_is_not_counted_as_binance() -> None:
    assert value(counted("THIRD"), "queue_waited_seconds_total") is None


def test_counts_of_two_binance_venues_are_added_up() -> None:
    metrics = counted("BINANCE", "BINANCEUS")
    assert value(metrics, "gaps_noticed_total", symbol="BTCUSDT") == 2


def test_a_monitor_serves_every_name_that_is_promised_however_many_feeds_start() -> None:
    with Monitor(Settings(metrics_port=0)) as monitor:
        for venue in (binance(), binance_us(), object()):
            monitor.add_venue(venue)
        families = text_string_to_metric_families(
            httpx2.get(monitor.metrics_url or "", timeout=60).text
        )
        names = {family.name.removesuffix("_total") for family in families}
    assert {name for name in names if name.startswith("k2_binance_")} == SERVED


def test_metrics_are_served_at_the_address_of_the_settings() -> None:
    with Monitor(Settings(metrics_port=0, metrics_host="127.0.0.2")) as monitor:
        assert (monitor.metrics_url or "").startswith("http://127.0.0.2:")
        assert httpx2.get(monitor.metrics_url or "", timeout=60).status_code == 200
