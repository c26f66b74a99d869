"""What to look at while K2 runs: each panel's query, unit, meaning and thresholds, as plain data.

Grafana's dashboards (`dashboards/`), notebooks and terminal views are made of these.
"""

from dataclasses import dataclass
from typing import Final, Literal

Unit = Literal[
    "rows/s", "records", "s", "files", "bytes", "1/s", "count", "state", "share", "cores"
]
Level = Literal["warning", "critical"]


@dataclass(frozen=True)
class Threshold:
    """A value at which a panel changes colour, going up; or going down where `below` is true."""

    value: float
    level: Level
    below: bool = False


@dataclass(frozen=True)
class Panel:
    """One question, and the PromQL that answers it.

    `legend` names the labels that tell its series apart.
    """

    title: str
    description: str
    query: str
    unit: Unit
    thresholds: tuple[Threshold, ...]
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """Panels of one part of K2; `name` is also the file's and the board's id."""

    name: str
    title: str
    description: str
    panels: tuple[Panel, ...]


def _above(warning: float, critical: float | None = None) -> tuple[Threshold, ...]:
    worse = () if critical is None else (Threshold(critical, "critical"),)
    return (Threshold(warning, "warning"), *worse)


def _below(warning: float, critical: float) -> tuple[Threshold, ...]:
    return (
        Threshold(critical, "critical", below=True),
        Threshold(warning, "warning", below=True),
    )


def _quantile(name: str, share: float, labels: str = "", where: str = "") -> str:
    by = ", ".join(part for part in ("le", labels) if part)
    return f"histogram_quantile({share}, sum by ({by}) (rate({name}_bucket{where}[1m])))"


_API_PATHS: Final = '{path!~".*stream.*"}'

PIPELINE: Final = Board(
    "pipeline",
    "K2: pipeline",
    "From Kafka into the lake: rows, lag, freshness, commit time, files, bytes.",
    (
        Panel(
            "Rows into the lake",
            "Rows that sinks added, a second. 0 while nothing arrives.",
            "sum by (table) (rate(k2_sink_rows_total[1m]))",
            "rows/s",
            _above(20_000, 100_000),
            ("table",),
        ),
        Panel(
            "Lag of the sinks",
            "Records in Kafka that a sink had not read after its last commit. Alert sink_behind.",
            "max by (table) (k2_sink_lag_records)",
            "records",
            _above(10_000, 100_000),
            ("table",),
        ),
        Panel(
            "Freshness, 99th percentile",
            "From receipt to visible in the lake, of each commit the oldest row. Alert "
            "freshness_slow.",
            _quantile("k2_freshness_seconds", 0.99),
            "s",
            _above(3, 5),
        ),
        Panel(
            "Time since the last commit",
            "Grows while nothing arrives, and while a table is not written (alert sink_paused).",
            "time() - max by (table) (k2_lake_last_commit_timestamp_seconds)",
            "s",
            _above(60, 600),
            ("table",),
        ),
        Panel(
            "Commit time, 99th percentile",
            "How long a commit takes, with the writing of its files. Grows with the number of "
            "snapshots and files: k2 maintain.",
            _quantile("k2_sink_commit_seconds", 0.99, "table"),
            "s",
            _above(1, 2.5),
            ("table",),
        ),
        Panel(
            "Sinks that are paused",
            "1 from a failure to the next batch. Alert sink_paused.",
            "max by (table) (k2_sink_paused)",
            "state",
            (Threshold(1, "critical"),),
            ("table",),
        ),
        Panel(
            "Data files",
            "Data files in each table. Maintenance merges small ones.",
            "max by (table) (k2_lake_files)",
            "files",
            _above(1_000, 10_000),
            ("table",),
        ),
        Panel(
            "Size of the tables",
            "Bytes of the data files that the current snapshot has.",
            "max by (table) (k2_lake_bytes)",
            "bytes",
            _above(50 * 2**30, 500 * 2**30),
            ("table",),
        ),
        Panel(
            "Dead letters",
            "Records that can never pass, a second, by table or feed. Alert dead_letters.",
            "sum by (source) (rate(k2_dead_letters_total[1m]))",
            "1/s",
            _above(0.001, 1),
            ("source",),
        ),
    ),
)

FEED: Final = Board(
    "feed",
    "K2: feed",
    "From the venue to Kafka: connections, breakers, gaps and what filled them, errors.",
    (
        Panel(
            "Connections",
            "1 while a connection to the host stands, else 0. One host of a venue is enough.",
            "max by (venue, host) (k2_feed_connection_status)",
            "state",
            _below(1, 0.5),
            ("venue", "host"),
        ),
        Panel(
            "Breakers",
            "0 closed, 1 half open, 2 open: the host rests. Alert breaker_open. There after the "
            "first change.",
            "max by (venue, host) (k2_feed_breaker_state)",
            "state",
            _above(1, 2),
            ("venue", "host"),
        ),
        Panel(
            "Frames",
            "Frames that were read, a second. 0 on an open connection is alert stream_stale.",
            "sum by (venue, symbol, type) (rate(k2_feed_messages_received_total[1m]))",
            "1/s",
            _above(2_000, 10_000),
            ("venue", "symbol", "type"),
        ),
        Panel(
            "Behind the venue",
            "Age of the newest trade on arrival, and the silence of its connection. Alert "
            "feed_lag.",
            "max by (venue, symbol) (k2_feed_lag_seconds)",
            "s",
            _above(1, 5),
            ("venue", "symbol"),
        ),
        Panel(
            "Gaps that are open",
            "Holes in the trade ids, noticed and not yet closed. Alert gap_not_filled.",
            "sum by (venue, symbol) (k2_feed_gaps_open)",
            "count",
            _above(1, 10),
            ("venue", "symbol"),
        ),
        Panel(
            "Gaps closed",
            "Gaps closed in five minutes, by how: filled, covered, lost, none_at_venue.",
            "sum by (venue, state) (increase(k2_feed_gaps_closed_total[5m]))",
            "count",
            _above(10, 100),
            ("venue", "state"),
        ),
        Panel(
            "Backfilled trades",
            "Trades that came by REST, a second.",
            "sum by (venue, symbol) (rate(k2_feed_backfilled_trades_total[1m]))",
            "1/s",
            _above(1_000, 5_000),
            ("venue", "symbol"),
        ),
        Panel(
            "Errors of connections",
            "Connections lost or refused in five minutes, by kind.",
            "sum by (venue, host, kind) (increase(k2_feed_connection_errors_total[5m]))",
            "count",
            _above(1, 10),
            ("venue", "host", "kind"),
        ),
        Panel(
            "Frames refused",
            "Frames that became dead letters, a second, by reason. Alert dead_letters.",
            "sum by (venue, reason) (rate(k2_feed_message_errors_total[1m]))",
            "1/s",
            _above(0.001, 1),
            ("venue", "reason"),
        ),
        Panel(
            "Inbox",
            "Frames that wait for Kafka.",
            "max by (venue) (k2_feed_queue_depth)",
            "records",
            _above(1_000, 10_000),
            ("venue",),
        ),
    ),
)

API: Final = Board(
    "api",
    "K2: HTTP API",
    "Requests, how long they take, what fails, and what the limits refuse.",
    (
        Panel(
            "Requests",
            "Answers, a second, by path.",
            "sum by (path) (rate(k2_api_requests_total[1m]))",
            "1/s",
            _above(50, 100),
            ("path",),
        ),
        Panel(
            "Latency, median",
            "From a request to the end of its answer: half were not longer. Streams are left out.",
            _quantile("k2_api_request_seconds", 0.5, "path", _API_PATHS),
            "s",
            _above(0.25, 1),
            ("path",),
        ),
        Panel(
            "Latency, 99th percentile",
            "From a request to the end of its answer: 99 of 100 were not longer. Streams are left "
            "out. Alert api_slow.",
            _quantile("k2_api_request_seconds", 0.99, "path", _API_PATHS),
            "s",
            _above(1, 2.5),
            ("path",),
        ),
        Panel(
            "Errors of the server",
            "Share of answers with a status of 500 or more. Alert api_errors.",
            "instance:k2_api_errors:ratio1m",
            "share",
            _above(0.001, 0.01),
            ("instance",),
        ),
        Panel(
            "Answers by status",
            "Answers, a second, by status.",
            "sum by (status) (rate(k2_api_requests_total[1m]))",
            "1/s",
            _above(50, 100),
            ("status",),
        ),
        Panel(
            "Refused by a limit or a key",
            "Requests that were rejected, a second, by reason.",
            "sum by (reason) (rate(k2_api_rejected_total[1m]))",
            "1/s",
            _above(0.1, 10),
            ("reason",),
        ),
        Panel(
            "Open requests",
            "Requests and streams that are open. The limit is K2_API_OPEN_REQUESTS.",
            "sum by (instance) (k2_api_in_flight)",
            "count",
            _above(128, 240),
            ("instance",),
        ),
        Panel(
            "Clients of the live stream",
            "Connections of the live stream. The limit is K2_API_STREAM_CLIENTS.",
            "sum by (instance) (k2_api_stream_clients)",
            "count",
            _above(150, 190),
            ("instance",),
        ),
    ),
)

HOST: Final = Board(
    "host",
    "K2: host",
    "The processes of K2 and the machine they run on; alerts that fire.",
    (
        Panel(
            "Processes",
            "1 while the process answers at /metrics. Alert process_down.",
            'max by (service) (up{job="k2"})',
            "state",
            _below(1, 0.5),
            ("service",),
        ),
        Panel(
            "Alerts that fire",
            "K2's own alerts, by name; docs/operations.md says what to do.",
            "sum by (alert) (k2_alerts_firing)",
            "count",
            _above(1, 5),
            ("alert",),
        ),
        Panel(
            "Memory of processes",
            "Resident memory.",
            'process_resident_memory_bytes{job="k2"}',
            "bytes",
            _above(2 * 2**30, 4 * 2**30),
            ("service",),
        ),
        Panel(
            "Processor time",
            "Processors that a process keeps busy.",
            'rate(process_cpu_seconds_total{job="k2"}[1m])',
            "cores",
            _above(0.8, 1.5),
            ("service",),
        ),
        Panel(
            "File descriptors",
            "Share of the descriptors that a process may have.",
            'process_open_fds{job="k2"} / process_max_fds{job="k2"}',
            "share",
            _above(0.5, 0.8),
            ("service",),
        ),
        Panel(
            "Load of the machine",
            "Processes that run or want to, over a minute, for each processor.",
            "max(k2_host_load / k2_host_processors)",
            "share",
            _above(1, 2),
        ),
        Panel(
            "Memory of the machine",
            "Share that is available.",
            "min(k2_host_memory_available_bytes / k2_host_memory_total_bytes)",
            "share",
            _below(0.2, 0.1),
        ),
        Panel(
            "Disk of the home",
            "Share that is free.",
            "min(k2_disk_free_bytes / k2_disk_total_bytes)",
            "share",
            _below(0.2, 0.1),
        ),
    ),
)

BOARDS: Final = (PIPELINE, FEED, API, HOST)
