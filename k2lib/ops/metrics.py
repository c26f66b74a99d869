"""Metrics of the feed and the sinks, counted from events and served to Prometheus."""

import threading
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

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
    FramesReceived,
    FramesRefused,
    FramesRepeated,
    GapClosed,
    GapEvent,
    GapNoticed,
    QueueMeasured,
    ReconnectWaiting,
    RowsVisible,
    SinkEvent,
    SinkLagMeasured,
    SinkPaused,
    SinkResumed,
    SinkStopped,
    StateLost,
    StateRestored,
    TableMeasured,
    TradesBackfilled,
)
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import ALERT_NAMES
from k2lib.ops.firing_alerts import Alert


class BatchHistogram(Collector):
    """A histogram that takes a batch of values at a time, for a value a row."""

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.asarray(buckets, dtype=np.float64)
        self._counts = np.zeros(len(buckets) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: float | Sequence[float]) -> None:
        """Count one value, or all values of a sequence."""
        batch = np.atleast_1d(np.asarray(values, dtype=np.float64))
        buckets = np.searchsorted(self._bounds, batch, side="left")
        counts = np.bincount(buckets, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(batch.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram."""
        with self._lock:
            up_to, total = self._counts.cumsum().tolist(), self._sum
        bounds = [*(str(bound) for bound in self._bounds.tolist()), "+Inf"]
        buckets = list(zip(bounds, up_to, strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets, total)


BREAKER_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
FRESHNESS_S: Final = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 30.0, 60.0)
COMMIT_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """A listener that counts events in a registry of its own; any thread may call it.

    `of_feeds` are the metrics of feeds, whose first label is the venue. `on_alert` is for
    `Alerts(notify=…)`.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.of_feeds: list[Counter | Gauge] = []
        self._lock = threading.Lock()
        self._connections: Counts[tuple[str, str]] = Counts()
        self._lost: Counts[str] = Counts()
        self._open_gaps: set[str] = set()
        self._waited_s: dict[str, float] = {}
        self._has_state = False

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def feed_counter(name: str, text: str, *labels: str) -> Counter:
            metric = counter(f"k2_feed_{name}", text, "venue", *labels)
            self.of_feeds.append(metric)
            return metric

        def feed_gauge(name: str, text: str, *labels: str) -> Gauge:
            metric = gauge(f"k2_feed_{name}", text, "venue", *labels)
            self.of_feeds.append(metric)
            return metric

        self.connection_status = feed_gauge("connection_status", "1 connected, 0 not", "host")
        self.messages_received = feed_counter(
            "messages_received", "Frames that were read", "symbol", "type", "host"
        )
        self.message_errors = feed_counter("message_errors", "Frames refused", "reason")
        self.reconnects = feed_counter(
            "reconnects", "Connections opened in place of one lost or rotated", "host"
        )
        self.connection_errors = feed_counter(
            "connection_errors", "Lost, refused, or refused with http_<status>", "host", "kind"
        )
        self.last_message_timestamp = feed_gauge(
            "last_message_timestamp_seconds", "Newest event time", "symbol", "type"
        )
        self.reconnect_delay = feed_gauge(
            "reconnect_delay_seconds", "Wait before the next attempt; 0 once connected"
        )
        self.breaker_state = feed_gauge("breaker_state", "0 closed, 1 half-open, 2 open", "host")
        self.repeated = feed_counter("repeated", "Frames dropped as repeated", "symbol")
        self.gaps_noticed = feed_counter("gaps_noticed", "Holes in the trade ids", "symbol")
        self.gaps_closed = feed_counter("gaps_closed", "Gaps closed", "symbol", "state")
        self.gaps_open = feed_gauge("gaps_open", "Gaps not yet closed", "symbol")
        self.backfilled_trades = feed_counter("backfilled_trades", "Trades by REST", "symbol")
        self.queue_depth = feed_gauge("queue_depth", "Frames waiting for Kafka")
        self.queue_waited = feed_counter(
            "queue_waited_seconds", "Time in which reading waited for a full queue"
        )
        self.lag = feed_gauge("lag_seconds", "Now - event time", "symbol")
        # Without labels it would be 0, "Redis is gone", before the first event says so.
        self.state_up = Gauge("k2_state_up", "1 Redis answers, 0 it is gone", registry=None)
        self.freshness = BatchHistogram(
            "k2_freshness_seconds", "Receipt to visible in the lake", buckets=FRESHNESS_S
        )
        registry.register(self.freshness)
        self.sink_rows = counter("k2_sink_rows", "Rows added to the table", "table")
        self.sink_doubles = counter("k2_sink_doubles", "Rows the table had already", "table")
        self.sink_commit = Histogram(
            "k2_sink_commit_seconds", "Commits", ["table"], buckets=COMMIT_S, registry=registry
        )
        self.sink_lag = gauge("k2_sink_lag_records", "Records in Kafka beyond the sink", "table")
        self.lake_rows = gauge("k2_lake_rows", "Rows in the table", "table")
        self.lake_files = gauge("k2_lake_files", "Data files of the table", "table")
        self.lake_bytes = gauge("k2_lake_bytes", "Bytes of the table's data files", "table")
        self.lake_last_commit = gauge(
            "k2_lake_last_commit_timestamp_seconds", "Time of the last commit", "table"
        )
        self.sink_paused = gauge("k2_sink_paused", "1 from a failure to the next batch", "table")
        self.dead_letters = counter("k2_dead_letters", "Dead letters by table, or feed", "source")
        self.alerts_firing = gauge("k2_alerts_firing", "Alerts firing now", "alert")
        for name in ALERT_NAMES:
            self.alerts_firing.labels(name)

    def on_event(self, event: Event) -> None:
        """Count the event; one that is not counted is ignored."""
        match event:
            case SinkEvent():
                self._on_sink(event)
            case GapEvent():
                self._on_gap(event)
            case FramesReceived() | FramesRepeated() | FramesRefused() | TradesBackfilled():
                self._on_rows(event)
            case QueueMeasured() | FeedLagMeasured():
                self._on_measure(event)
            case FeedStopped(exchange=venue) | FeedFailed(exchange=venue):
                self._feed_ended(venue)
            case FeedEvent():
                self._on_connection(event)
            case StateLost():
                self._set_state_up(0)
            case StateRestored():
                self._set_state_up(1)

    def on_alert(self, alert: Alert) -> None:
        """Count an alert that fires or is resolved."""
        self.alerts_firing.labels(alert.name).inc(1 if alert.firing else -1)

    def _on_connection(self, event: FeedEvent) -> None:
        venue = event.exchange
        match event:
            case ConnectionOpened(host=host):
                self._connection_opened(venue, host)
            case ConnectionLost(host=host):
                self._connection_lost(venue, host)
            case ConnectionRefused(host=host, status=status):
                kind = "refused" if status is None else f"http_{status}"
                self.connection_status.labels(venue, host)
                self.connection_errors.labels(venue, host, kind).inc()
            case ConnectionRotated(old=old, new=new):
                self._count_connections(venue, old, -1)
                self.reconnects.labels(venue, new).inc()
            case ReconnectWaiting(delay_s=delay_s):
                self.reconnect_delay.labels(venue).set(delay_s)
            case BreakerChanged(host=host, state=state):
                self.breaker_state.labels(venue, host).set(BREAKER_STATES[state])

    def _connection_opened(self, venue: str, host: str) -> None:
        with self._lock:
            again = self._lost[venue] > 0
            self._lost[venue] = max(0, self._lost[venue] - 1)
        self._count_connections(venue, host, 1)
        self.reconnect_delay.labels(venue).set(0)
        if again:
            self.reconnects.labels(venue, host).inc()

    def _connection_lost(self, venue: str, host: str) -> None:
        with self._lock:
            self._lost[venue] += 1
        self._count_connections(venue, host, -1)
        self.connection_errors.labels(venue, host, "lost").inc()

    def _count_connections(self, venue: str, host: str, change: int) -> None:
        """A host may have several connections, at a rotation at least."""
        key = venue, host
        with self._lock:
            self._connections[key] = max(0, self._connections[key] + change)
            self.connection_status.labels(*key).set(min(self._connections[key], 1))

    def _feed_ended(self, venue: str) -> None:
        with self._lock:
            for key in [key for key in self._connections if key[0] == venue]:
                self.connection_status.labels(*key).set(0)
                del self._connections[key]
            del self._lost[venue]

    def _on_rows(self, event: FeedEvent) -> None:
        venue = event.exchange
        match event:
            case FramesReceived(symbol=symbol, kind=kind, host=host):
                self.messages_received.labels(venue, symbol, kind, host).inc(event.count)
                self.last_message_timestamp.labels(venue, symbol, kind).set(event.last_us / 1e6)
            case FramesRepeated(symbol=symbol, count=count):
                self.repeated.labels(venue, symbol).inc(count)
            case FramesRefused(reason=reason, count=count):
                self.message_errors.labels(venue, reason).inc(count)
                self.dead_letters.labels("feed").inc(count)
            case TradesBackfilled(symbol=symbol, count=count):
                self.backfilled_trades.labels(venue, symbol).inc(count)

    def _on_gap(self, event: GapEvent) -> None:
        match event:
            case GapNoticed(exchange=venue, symbol=symbol, gap_id=gap_id):
                with self._lock:
                    is_new = gap_id not in self._open_gaps
                    self._open_gaps.add(gap_id)
                if is_new:
                    self.gaps_noticed.labels(venue, symbol).inc()
                    self.gaps_open.labels(venue, symbol).inc()
            case GapClosed(exchange=venue, symbol=symbol, gap_id=gap_id, state=state):
                self.gaps_closed.labels(venue, symbol, state).inc()
                with self._lock:
                    was_open = gap_id in self._open_gaps
                    self._open_gaps.discard(gap_id)
                if was_open:
                    self.gaps_open.labels(venue, symbol).dec()

    def _on_measure(self, event: FeedEvent) -> None:
        venue = event.exchange
        match event:
            case QueueMeasured(depth=depth, waited_s=waited_s):
                with self._lock:
                    before = self._waited_s.get(venue, 0.0)
                    self._waited_s[venue] = waited_s
                self.queue_depth.labels(venue).set(depth)
                # The total begins again at 0 with each feed.
                self.queue_waited.labels(venue).inc(
                    waited_s - before if waited_s >= before else waited_s
                )
            case FeedLagMeasured(symbol=symbol, lag_s=lag_s):
                self.lag.labels(venue, symbol).set(lag_s)

    def _set_state_up(self, up: int) -> None:
        self.state_up.set(up)
        with self._lock:
            if not self._has_state:
                self.registry.register(self.state_up)
                self._has_state = True

    def _on_sink(self, event: SinkEvent) -> None:
        table = event.table
        match event:
            case RowsVisible(seconds=seconds):
                self.freshness.observe(seconds)
            case CommitDone(seconds=seconds):
                self.sink_commit.labels(table).observe(seconds)
            case BatchDone(added=added, duplicates=duplicates):
                self.sink_rows.labels(table).inc(added)
                self.sink_doubles.labels(table).inc(duplicates)
                self.sink_paused.labels(table).set(0)
            case SinkResumed():
                self.sink_paused.labels(table).set(0)
            case SinkLagMeasured(records=records):
                self.sink_lag.labels(table).set(records)
            case TableMeasured():
                self._table_measured(event)
            case SinkPaused() | SinkStopped():
                self.sink_paused.labels(table).set(1)
            case DeadLettersSent(count=count):
                self.dead_letters.labels(table).inc(count)

    def _table_measured(self, event: TableMeasured) -> None:
        self.lake_rows.labels(event.table).set(event.rows)
        self.lake_files.labels(event.table).set(event.files)
        self.lake_bytes.labels(event.table).set(event.size_bytes)
        self.lake_last_commit.labels(event.table).set_to_current_time()


class MetricsServer(Closing):
    """Serves metrics on `/metrics` from a thread of its own.

    Args:
        port: 0 takes a free one; `url` names it.
    Raises:
        ConfigError: the port is in use or not ours to take.
    """

    def __init__(self, metrics: Metrics, *, port: int, host: str = "127.0.0.1") -> None:
        try:
            self._server, self._thread = start_http_server(port, host, metrics.registry)
        except OSError as exc:
            raise ConfigError(
                f"K2_METRICS_PORT={port}: cannot serve metrics on {host}:{port}: {exc.strerror}. "
                "End what uses it, or set another port"
            ) from exc
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving and free the port; a second time does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
