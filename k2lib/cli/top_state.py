"""The state of a home for `k2 top`: read beside its writers, from files, tables and Kafka."""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pyiceberg.table import Table

from k2lib.cli.stream_view import why_ended
from k2lib.client import K2
from k2lib.errors import ConfigError, TableError, TransientError
from k2lib.feed.status import FeedStatus
from k2lib.feed.status_file import read_status, status_path
from k2lib.iceberg.offsets import end_of, read_offsets, snapshot_cause, snapshot_properties
from k2lib.iceberg.sink import lock_path
from k2lib.iceberg.tables import TABLES, TableCache
from k2lib.kafka.cluster import Cluster, log_ids
from k2lib.kafka.consumer import HighWatermarks, TopicPartition
from k2lib.kafka.topics import topic_kind
from k2lib.locks import locked_by
from k2lib.ops.home import writer_pid
from k2lib.ops.stack import ServiceState, read_stack_status

BAR_S: Final = 5.0
BARS: Final = 48
RATE_BARS: Final = 2
HISTORY: Final = 600
# Of a table, by snapshot: the time of the commit, and the rows that it added.
Commits = dict[int, tuple[float, int]]


@dataclass(frozen=True)
class TableHealth:
    """One table and its sink.

    Attributes:
        rows_per_s: that sinks added in the last ten seconds.
        lag: records in Kafka beyond the table; None where Kafka does not answer.
        freshness_s: 0 where the table has all that Kafka has, else the age of the last commit.
        sink_pid: of the process that feeds the table.
        problem: why it cannot be read.
    """

    name: str
    rows: int = 0
    files: int = 0
    disk_bytes: int = 0
    rows_per_s: float = 0.0
    lag: int | None = None
    freshness_s: float | None = None
    last_commit: datetime | None = None
    sink_pid: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Trend:
    """The last minutes as far as they are known: a value each five seconds, the oldest first."""

    rows_per_s: tuple[float, ...] = ()
    lag: tuple[float, ...] = ()
    freshness_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class TopState:
    """A home at one moment.

    Attributes:
        writer_pid: the owner of an embedded broker.
        feed: what the home's feed last told; `feed_over` says why that feed is over.
        problems: why a part of this is not known.
    """

    at: datetime
    home: str
    mode: str
    writer_pid: int | None
    feed: FeedStatus | None
    feed_over: str | None
    tables: tuple[TableHealth, ...]
    services: tuple[ServiceState, ...]
    trend: Trend
    problems: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether anything runs that feeds this home."""
        sinks = any(one.sink_pid is not None for one in self.tables)
        return sinks or self.feed_over is None or self.writer_pid is not None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; times and prices become text where JSON is written."""
        return asdict(self) | {"runs": self.runs}


class TopReader:
    """Reads the state of a home again and again, and keeps the last minutes of it."""

    def __init__(self, k2: K2) -> None:
        self._k2 = k2
        self._home = k2.settings.home
        self._tables = TableCache(k2.catalog)
        # Sinks expire snapshots within a minute: what was seen of them is kept here.
        self._commits: dict[str, Commits] = {}
        self._watermarks: tuple[Cluster, HighWatermarks] | None = None
        self._lags: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        self._ages: deque[tuple[float, float]] = deque(maxlen=HISTORY)

    def read(self) -> TopState:
        """Return the state of the home now."""
        file, stack = read_status(status_path(self._home)), read_stack_status(self._home)
        ends, logs, problem = self._log_ends()
        now = datetime.now(UTC)
        loaded = {name: self._load(name) for name in TABLES}
        tables = [
            one if isinstance(one, TableHealth) else self._health(name, one, ends, logs, now)
            for name, one in loaded.items()
            if one is not None
        ]
        rates = _rates(self._commits.values(), now)
        self._remember(tables)
        return TopState(
            at=now,
            home=str(self._home.absolute()),
            mode=self._mode(),
            writer_pid=writer_pid(self._home),
            feed=None if file is None else file.status,
            feed_over=why_ended(file),
            tables=tuple(tables),
            services=() if stack is None else stack.services,
            trend=Trend(rates, _bars(self._lags), _bars(self._ages)),
            problems=() if problem is None else (problem,),
        )

    def _mode(self) -> str:
        kafka = self._k2.kafka
        return f"Kafka {kafka.mode}" + (f" at {kafka.cluster.bootstrap}" if kafka.cluster else "")

    def _load(self, name: str) -> Table | TableHealth | None:
        try:
            return self._tables.table(name)
        except (ConfigError, TableError, TransientError) as exc:
            return TableHealth(name, problem=str(exc))

    def _log_ends(
        self,
    ) -> tuple[Mapping[TopicPartition, int] | None, Mapping[str, str], str | None]:
        """Return Kafka's high watermarks and log ids; or None and why they are not known."""
        try:
            cluster = self._k2.find_log().cluster
            if self._watermarks is None or self._watermarks[0] != cluster:
                self._watermarks = cluster, HighWatermarks(cluster)
            ends = self._watermarks[1].read(lambda topic: topic_kind(topic) is not None)
            return ends, log_ids(cluster, cluster.admin(), {tp.topic for tp in ends}), None
        except (ConfigError, TransientError) as exc:
            return None, {}, f"Kafka: {exc}"

    def _health(
        self,
        name: str,
        table: Table,
        ends: Mapping[TopicPartition, int] | None,
        logs: Mapping[str, str],
        now: datetime,
    ) -> TableHealth:
        totals = snapshot_properties(table.current_snapshot())
        commits = self._commits_of(name, table, now)
        committed = datetime.fromtimestamp(max(commits.values())[0], UTC) if commits else None
        lag = None if ends is None else _lag(table, TABLES[name].kind, ends, logs)
        freshness_s = 0.0 if lag == 0 else None
        if lag and committed is not None:
            freshness_s = max(0.0, (now - committed).total_seconds())
        recent = _rates([commits], now)[-RATE_BARS:]
        return TableHealth(
            name,
            rows=int(totals.get("total-records", 0)),
            files=int(totals.get("total-data-files", 0)),
            disk_bytes=int(totals.get("total-files-size", 0)),
            rows_per_s=sum(recent) / RATE_BARS,
            lag=lag,
            freshness_s=freshness_s,
            last_commit=committed,
            sink_pid=self._sink_pid(name),
        )

    def _commits_of(self, name: str, table: Table, now: datetime) -> Commits:
        commits = self._commits.get(name, {}) | {
            one.snapshot_id: (
                one.timestamp_ms / 1000,
                int(snapshot_properties(one).get("added-records", 0)),
            )
            for one in table.snapshots()
            if snapshot_cause(one) is None
        }
        newest = max(commits.values(), default=(0.0, 0))
        oldest_s = now.timestamp() - BARS * BAR_S
        self._commits[name] = {
            snapshot: one
            for snapshot, one in commits.items()
            if one[0] >= oldest_s or one == newest
        }
        return self._commits[name]

    def _sink_pid(self, name: str) -> int | None:
        return locked_by(lock_path(self._home / "run", name))

    def _remember(self, tables: Sequence[TableHealth]) -> None:
        at_s = time.monotonic()
        lags = [one.lag for one in tables if one.lag is not None]
        ages = [one.freshness_s for one in tables if one.freshness_s is not None]
        if lags:
            self._lags.append((at_s, sum(lags)))
        if ages:
            self._ages.append((at_s, max(ages)))


def _lag(
    table: Table, kind: str, ends: Mapping[TopicPartition, int], logs: Mapping[str, str]
) -> int | None:
    try:
        offsets = read_offsets(table)
    except TableError:
        return None
    return sum(
        max(0, end - (end_of(offsets, logs[tp.topic], tp) or 0))
        for tp, end in ends.items()
        if topic_kind(tp.topic) == kind
    )


def _rates(tables: Iterable[Commits], now: datetime) -> tuple[float, ...]:
    """Return the rows a second that sinks added in each of the last bars, from the first known."""
    sums: dict[int, float] = {}
    for commits in tables:
        for at_s, rows in commits.values():
            bar = max(0, int((now.timestamp() - at_s) // BAR_S))
            sums[bar] = sums.get(bar, 0.0) + rows / BAR_S
    bars = range(max((bar for bar in sums if bar < BARS), default=-1), -1, -1)
    return tuple(sums.get(bar, 0.0) for bar in bars)


def _bars(samples: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Return the highest sample of each of the last bars that has one."""
    highest: dict[int, float] = {}
    now_s = time.monotonic()
    for at_s, value in samples:
        bar = int((now_s - at_s) // BAR_S)
        if bar < BARS:
            highest[bar] = max(value, highest.get(bar, 0.0))
    return tuple(highest[bar] for bar in sorted(highest, reverse=True))
