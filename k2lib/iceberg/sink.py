"""The sink: feeds one table from its topics, and after any fault resumes at the table's offsets."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pyiceberg.catalog import Catalog

from k2lib.errors import (
    DeliveryError,
    K2Error,
    TableError,
    TransientError,
    reason_of,
)
from k2lib.events import (
    OnEvent,
    SinkPaused,
    SinkResumed,
    SinkStopped,
    log_event,
)
from k2lib.iceberg.catalog import lake_errors
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.orphan_files import ORPHAN_AGE
from k2lib.iceberg.sink_session import SinkSession
from k2lib.iceberg.tables import TableSpec, ensure_table
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.consumer import (
    MAX_RECORDS,
    TopicConsumer,
)
from k2lib.kafka.log_ends import LogEnds
from k2lib.kafka.registry import SchemaRegistry
from k2lib.locks import Lock, try_lock

DISCOVERY_S: Final = 5.0
POLL_S: Final = 0.05
HURRIED_POLL_S: Final = 0.02
# Asked to commit early, a sink does so with what is at least so old: each commit has its price.
EARLY_S: Final = 0.25
RETRY_S: Final = 1.0
# A sink that failed and then has nothing to write for so long works again.
QUIET_S: Final = 2.0


class Sink:
    """Feeds one table until it is stopped.

    Attributes:
        hurry: set while someone waits for the table: commit as soon as nothing more arrives.
        early: set to commit before the interval is over, once.
        discover: set to find new topics now.
        has_begun: whether table and topics could be opened since its start.
    """

    def __init__(
        self,
        spec: TableSpec,
        *,
        catalog: Catalog,
        cluster: Cluster,
        registry: SchemaRegistry,
        run_folder: Path,
        interval_s: float = 2.0,
        max_rows: int = 400_000,
        accept_loss: bool = False,
        orphan_age: timedelta = ORPHAN_AGE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_event: OnEvent = log_event,
    ) -> None:
        self.spec = spec
        self.hurry = threading.Event()
        self.early = threading.Event()
        self.discover = threading.Event()
        self._catalog = catalog
        self._cluster = cluster
        self._registry = registry
        self._run_folder = run_folder
        self._interval_s = interval_s
        self._max_rows = max_rows
        self._accept_loss = accept_loss
        self._orphan_age = orphan_age
        self._now = now
        self._on_event = on_event
        self.has_begun = False
        self._paused = False
        self._failing: tuple[float, K2Error] | None = None
        self._sent_letters: set[str] = set()

    def failure(self, *, after_s: float) -> K2Error | None:
        """Return why it has been failing for so long without a commit; None where it has not."""
        failing = self._failing
        if failing is None or time.monotonic() - failing[0] < after_s:
            return None
        return failing[1]

    def run(self, stop: threading.Event) -> None:
        """Feed the table until `stop` is set, and commit what was read by then.

        One process of a home feeds a table: this one waits while another does.

        Raises:
            LossError: records that the table never had have left the log.
            SchemaError: today's schema cannot read what the table's last one wrote.
            TableError: another engine left the table as rows cannot be added to it, or a file of it
                is missing or damaged.
            ConfigError: the home cannot be written.
        """
        with self._wait_for_lock(stop) or nullcontext():
            while not stop.is_set():
                try:
                    self._session(stop)
                except (TransientError, DeliveryError) as exc:
                    self._pause(exc)
                    stop.wait(RETRY_S)
                except TableError as exc:
                    self._on_event(SinkStopped(self.spec.name, reason_of(exc)))
                    raise

    def _pause(self, exc: K2Error) -> None:
        self._paused = True
        began = time.monotonic() if self._failing is None else self._failing[0]
        self._failing = (began, exc)
        self._on_event(SinkPaused(self.spec.name, reason_of(exc)))

    def _wait_for_lock(self, stop: threading.Event) -> Lock | None:
        path = lock_path(self._run_folder, self.spec.name)
        while not stop.is_set():
            if (lock := try_lock(path)) is not None:
                return lock
            stop.wait(POLL_S)
        return None

    def _session(self, stop: threading.Event) -> None:
        table = ensure_table(self._catalog, self.spec)
        writer = TableWriter(table, self.spec, on_event=self._on_event, now=self._now)
        state = self._run_folder / f"unreferenced-{self.spec.name}.json"
        maintenance = Maintenance(
            self.spec,
            state=state,
            now=self._now,
            orphan_age=self._orphan_age,
            on_event=self._on_event,
        )
        with TopicConsumer(self._cluster) as consumer:
            session = SinkSession(
                self.spec,
                writer,
                consumer,
                cluster=self._cluster,
                registry=self._registry,
                log_ends=LogEnds(self._run_folder),
                accept_loss=self._accept_loss,
                sent_letters=self._sent_letters,
                on_event=self._on_event,
            )
            self._feed(
                session,
                stop,
                lambda more: self._maintain(maintenance, writer, catching_up=more),
            )

    def _maintain(
        self, maintenance: Maintenance, writer: TableWriter, *, catching_up: bool
    ) -> None:
        with lake_errors(f"maintenance of table {self.spec.name}"):
            maintenance.after_commit(writer.table, catching_up=catching_up)

    def _feed(
        self, session: SinkSession, stop: threading.Event, after_commit: Callable[[bool], object]
    ) -> None:
        began = time.monotonic()
        while not stop.is_set():
            if self.discover.is_set() or not session.discovered_within(DISCOVERY_S):
                self.discover.clear()
                session.follow_topics()
                session.check_rollback()
                self.has_begun = True
            hurried = self.hurry.is_set()
            limit = self._max_rows - session.pending.n_records
            n_read = session.read(HURRIED_POLL_S if hurried else POLL_S, limit=limit)
            if session.pending.read and self._is_due(session, idle=hurried and not n_read):
                self.early.clear()
                session.commit()
                self._paused, self._failing = False, None
                after_commit(n_read >= MAX_RECORDS)
            if self._paused and not session.pending.read and time.monotonic() - began > QUIET_S:
                self._paused, self._failing = False, None
                self._on_event(SinkResumed(self.spec.name))
        if session.pending.read:
            session.commit()

    def _is_due(self, session: SinkSession, *, idle: bool) -> bool:
        waited_s = time.monotonic() - session.pending.since
        full = session.pending.n_records >= self._max_rows
        early = self.early.is_set() and waited_s >= EARLY_S
        since = due_since(session.pending.since, session.commit_began, interval_s=self._interval_s)
        return idle or full or early or time.monotonic() - since >= self._interval_s


def due_since(pending: float, commit_began: float, *, interval_s: float) -> float:
    """Return the moment from which the interval to the next commit counts.

    A steady flow is committed once an interval, however long a commit takes; the first record
    after a pause waits a whole interval for others.
    """
    return commit_began if pending - commit_began < interval_s else pending


def lock_path(run_folder: Path, table: str) -> Path:
    """Return the lock of a table's one writer in a home."""
    return run_folder / f"sink-{table}.lock"
