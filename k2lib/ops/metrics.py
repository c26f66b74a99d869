"""Metrics of the feed and the sinks, counted from what is told, and served to Prometheus."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from k2lib.errors import ConfigError
from k2lib.events import Event
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import ALERT_NAMES, Alert


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
        places = np.searchsorted(self._bounds, batch, side="left")
        counts = np.bincount(places, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(batch.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as it stands."""
        with self._lock:
            up_to, total = self._counts.cumsum().tolist(), self._sum
        bounds = [*(str(bound) for bound in self._bounds.tolist()), "+Inf"]
        buckets = list(zip(bounds, up_to, strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets, total)


FEED: Final = "k2_binance"
BREAKER_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
FRESHNESS_S: Final = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 30.0, 60.0)
COMMIT_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Fields = Mapping[str, Any]


class Metrics:
    """A listener that counts what it hears, in a registry of its own; any thread may tell it.

    `alerted` is for `Alerts(notify=…)`.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._connections: dict[str, int] = {}
        self._lost = 0
        self._open_gaps: set[str] = set()
        self._waited_s = 0.0
        self._state_told = False

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.connection_status = gauge(f"{FEED}_connection_status", "1 connected, 0 not", "host")
        self.messages_received = counter(
            f"{FEED}_messages_received", "Frames that were read", "symbol", "type", "host"
        )
        self.message_errors = counter(f"{FEED}_message_errors", "Frames refused", "reason")
        self.reconnects = counter(
            f"{FEED}_reconnects", "Connections opened in place of one lost or rotated", "host"
        )
        self.connection_errors = counter(
            f"{FEED}_connection_errors",
            "Lost, refused, or refused with http_<status>",
            "host",
            "kind",
        )
        self.last_message_timestamp = gauge(
            f"{FEED}_last_message_timestamp_seconds", "Newest event time", "symbol", "type"
        )
        self.reconnect_delay = gauge(
            f"{FEED}_reconnect_delay_seconds", "Wait before the next attempt; 0 once connected"
        )
        self.breaker_state = gauge(f"{FEED}_breaker_state", "0 closed, 1 half-open, 2 open", "host")
        self.repeated = counter(f"{FEED}_repeated", "Frames dropped as repeated", "symbol")
        self.gaps_noticed = counter(f"{FEED}_gaps_noticed", "Holes in the trade ids", "symbol")
        self.gaps_closed = counter(f"{FEED}_gaps_closed", "Gaps closed", "symbol", "state")
        self.gaps_open = gauge(f"{FEED}_gaps_open", "Gaps not yet closed", "symbol")
        self.backfilled_trades = counter(f"{FEED}_backfilled_trades", "Trades by REST", "symbol")
        self.queue_depth = gauge(f"{FEED}_queue_depth", "Frames waiting for Kafka")
        self.queue_waited = counter(
            f"{FEED}_queue_waited_seconds", "Time in which reading waited for a full queue"
        )
        self.lag = gauge(f"{FEED}_lag_seconds", "Now - event time", "symbol")
        # Without labels it would read 0, "Redis is gone", before anybody has said so.
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
        self.sink_paused = gauge("k2_sink_paused", "1 from a failure to the next batch", "table")
        self.dead_letters = counter("k2_dead_letters", "Dead letters by table, or feed", "source")
        self.alerts_firing = gauge("k2_alerts_firing", "Alerts firing now", "alert")
        for name in ALERT_NAMES:
            self.alerts_firing.labels(name)

    def heard(self, event: Event) -> None:
        """Count the event; one that is not known is ignored."""
        count = _COUNTED.get(event.name)
        if count is not None:
            count(self, event.fields)

    def alerted(self, alert: Alert) -> None:
        """Count an alert that fires or is resolved."""
        self.alerts_firing.labels(alert.name).inc(1 if alert.firing else -1)

    def _connection_opened(self, of: Fields) -> None:
        host = of["host"]
        with self._lock:
            again, self._lost = self._lost > 0, max(0, self._lost - 1)
        self._connected(host, 1)
        self.reconnect_delay.set(0)
        if again:
            self.reconnects.labels(host).inc()

    def _connection_lost(self, of: Fields) -> None:
        with self._lock:
            self._lost += 1
        self._connected(of["host"], -1)
        self.connection_errors.labels(of["host"], "lost").inc()

    def _connected(self, host: str, more: int) -> None:
        """A host may have several connections, at a rotation at least."""
        with self._lock:
            count = self._connections[host] = max(0, self._connections.get(host, 0) + more)
            self.connection_status.labels(host).set(min(count, 1))

    def _connection_refused(self, of: Fields) -> None:
        status = of["status"]
        kind = "refused" if status is None else f"http_{status}"
        self.connection_status.labels(of["host"])
        self.connection_errors.labels(of["host"], kind).inc()

    def _connection_rotated(self, of: Fields) -> None:
        self._connected(of["old"], -1)
        self.reconnects.labels(of["new"]).inc()

    def _reconnect_waiting(self, of: Fields) -> None:
        self.reconnect_delay.set(of["delay_s"])

    def _breaker_changed(self, of: Fields) -> None:
        self.breaker_state.labels(of["host"]).set(BREAKER_STATES[of["state"]])

    def _feed_ended(self, _: Fields) -> None:
        with self._lock:
            for host in self._connections:
                self.connection_status.labels(host).set(0)
            self._connections.clear()
            self._lost = 0

    def _frames_received(self, of: Fields) -> None:
        symbol, kind = of["symbol"], of["type"]
        self.messages_received.labels(symbol, kind, of["host"]).inc(of["count"])
        self.last_message_timestamp.labels(symbol, kind).set(of["last_us"] / 1e6)

    def _frames_refused(self, of: Fields) -> None:
        self.message_errors.labels(of["reason"]).inc(of["count"])
        self.dead_letters.labels("feed").inc(of["count"])

    def _frames_repeated(self, of: Fields) -> None:
        self.repeated.labels(of["symbol"]).inc(of["count"])

    def _gap_noticed(self, of: Fields) -> None:
        with self._lock:
            if of["gap_id"] in self._open_gaps:
                return
            self._open_gaps.add(of["gap_id"])
        self.gaps_noticed.labels(of["symbol"]).inc()
        self.gaps_open.labels(of["symbol"]).inc()

    def _gap_closed(self, of: Fields) -> None:
        self.gaps_closed.labels(of["symbol"], of["state"]).inc()
        with self._lock:
            if of["gap_id"] not in self._open_gaps:
                return
            self._open_gaps.remove(of["gap_id"])
        self.gaps_open.labels(of["symbol"]).dec()

    def _trades_backfilled(self, of: Fields) -> None:
        self.backfilled_trades.labels(of["symbol"]).inc(of["count"])

    def _queue_measured(self, of: Fields) -> None:
        waited_s = of["waited_s"]
        with self._lock:
            # The total begins again at 0 with each feed.
            more = waited_s - self._waited_s if waited_s >= self._waited_s else waited_s
            self._waited_s = waited_s
        self.queue_depth.set(of["depth"])
        self.queue_waited.inc(more)

    def _feed_lag_measured(self, of: Fields) -> None:
        self.lag.labels(of["symbol"]).set(of["lag_s"])

    def _state_lost(self, _: Fields) -> None:
        self._tell_state(0)

    def _state_restored(self, _: Fields) -> None:
        self._tell_state(1)

    def _tell_state(self, up: int) -> None:
        self.state_up.set(up)
        with self._lock:
            if not self._state_told:
                self.registry.register(self.state_up)
                self._state_told = True

    def _rows_visible(self, of: Fields) -> None:
        self.freshness.observe(of["seconds"])

    def _commit_done(self, of: Fields) -> None:
        self.sink_commit.labels(of["table"]).observe(of["seconds"])

    def _batch_done(self, of: Fields) -> None:
        self.sink_rows.labels(of["table"]).inc(of["added"])
        self.sink_doubles.labels(of["table"]).inc(of["doubles"])
        self.sink_paused.labels(of["table"]).set(0)

    def _sink_resumed(self, of: Fields) -> None:
        self.sink_paused.labels(of["table"]).set(0)

    def _sink_lag_measured(self, of: Fields) -> None:
        self.sink_lag.labels(of["table"]).set(of["records"])

    def _sink_paused(self, of: Fields) -> None:
        self.sink_paused.labels(of["table"]).set(1)

    def _dead_letters_sent(self, of: Fields) -> None:
        self.dead_letters.labels(of["table"]).inc(of["count"])


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


_COUNTED: Final[Mapping[str, Callable[[Metrics, Fields], None]]] = {
    "connection_opened": Metrics._connection_opened,
    "connection_lost": Metrics._connection_lost,
    "connection_refused": Metrics._connection_refused,
    "connection_rotated": Metrics._connection_rotated,
    "reconnect_waiting": Metrics._reconnect_waiting,
    "breaker_changed": Metrics._breaker_changed,
    "feed_stopped": Metrics._feed_ended,
    "feed_failed": Metrics._feed_ended,
    "frames_received": Metrics._frames_received,
    "frames_refused": Metrics._frames_refused,
    "frames_repeated": Metrics._frames_repeated,
    "gap_noticed": Metrics._gap_noticed,
    "gap_closed": Metrics._gap_closed,
    "trades_backfilled": Metrics._trades_backfilled,
    "queue_measured": Metrics._queue_measured,
    "feed_lag_measured": Metrics._feed_lag_measured,
    "state_lost": Metrics._state_lost,
    "state_restored": Metrics._state_restored,
    "rows_visible": Metrics._rows_visible,
    "commit_done": Metrics._commit_done,
    "batch_done": Metrics._batch_done,
    "sink_lag_measured": Metrics._sink_lag_measured,
    "sink_paused": Metrics._sink_paused,
    "sink_resumed": Metrics._sink_resumed,
    "dead_letters_sent": Metrics._dead_letters_sent,
}
