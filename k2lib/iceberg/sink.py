"""The sink: keeps one table fed from its topics, and begins again at the table after any fault."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pyiceberg.catalog import Catalog

from k2lib.errors import DeliveryError, TransientError, reason_of
from k2lib.events import OnEvent, SinkPaused, SinkResumed, log_event
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.sink_session import SinkSession
from k2lib.iceberg.tables import TableSpec, ensure_table
from k2lib.iceberg.writer import CATALOG_ERRORS, TableWriter
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.consumer import MESSAGES, TopicConsumer
from k2lib.kafka.registry import Registry
from k2lib.locks import Lock, try_lock

LOOK_S: Final = 5.0
POLL_S: Final = 0.2
HURRIED_POLL_S: Final = 0.02
# Asked to commit early, a sink does so with what is at least so old: each commit has its price.
EARLY_S: Final = 0.25
RETRY_S: Final = 1.0
# A sink that failed and then has nothing to write for so long works again.
QUIET_S: Final = 2.0


class Sink:
    """Feeds one table until it is told to stop."""

    def __init__(
        self,
        spec: TableSpec,
        *,
        catalog: Catalog,
        cluster: Cluster,
        registry: Registry,
        run_folder: Path,
        interval_s: float = 2.0,
        max_rows: int = 400_000,
        accept_loss: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_event: OnEvent = log_event,
    ) -> None:
        self.spec = spec
        self.hurry = threading.Event()
        self.early = threading.Event()
        self.look = threading.Event()
        self._catalog = catalog
        self._cluster = cluster
        self._registry = registry
        self._run_folder = run_folder
        self._interval_s = interval_s
        self._max_rows = max_rows
        self._accept_loss = accept_loss
        self._now = now
        self._on_event = on_event
        self._paused = False

    def run(self, stop: threading.Event) -> None:
        """Feed the table until `stop` is set; what was read by then is committed.

        One process of a home feeds a table: this one waits while another does.

        Raises:
            LossError: records that the table never saw are gone from the log.
            SchemaError: the table's schema refuses today's.
        """
        with self._wait_for_lock(stop) or nullcontext():
            while not stop.is_set():
                try:
                    self._session(stop)
                except (TransientError, DeliveryError, *CATALOG_ERRORS) as exc:
                    self._paused = True
                    self._on_event(SinkPaused(self.spec.name, reason_of(exc)))
                    stop.wait(RETRY_S)

    def _wait_for_lock(self, stop: threading.Event) -> Lock | None:
        path = lock_path(self._run_folder, self.spec.name)
        while not stop.is_set():
            if (lock := try_lock(path)) is not None:
                return lock
            stop.wait(POLL_S)
        return None

    def _session(self, stop: threading.Event) -> None:
        table = ensure_table(self._catalog, self.spec)
        writer = TableWriter(table, self.spec, on_event=self._on_event)
        state = self._run_folder / f"unreferenced-{self.spec.name}.json"
        upkeep = Maintenance(
            self.spec, state=state, now=self._now, on_event=self._on_event
        ).after_commit
        with TopicConsumer(self._cluster) as reader:
            session = SinkSession(
                self.spec,
                writer,
                reader,
                cluster=self._cluster,
                registry=self._registry,
                accept_loss=self._accept_loss,
                on_event=self._on_event,
            )
            self._feed(session, stop, lambda more: upkeep(writer.table, catching_up=more))

    def _feed(
        self, session: SinkSession, stop: threading.Event, after_commit: Callable[[bool], object]
    ) -> None:
        looked, began = float("-inf"), time.monotonic()
        while not stop.is_set():
            if self.look.is_set() or time.monotonic() - looked > LOOK_S:
                self.look.clear()
                session.follow_topics()
                looked = time.monotonic()
            hurried = self.hurry.is_set()
            limit = self._max_rows - session.pending.n_messages
            n_read = session.read(HURRIED_POLL_S if hurried else POLL_S, limit=limit)
            if session.pending.read and self._is_due(session, idle=hurried and not n_read):
                self.early.clear()
                session.commit()
                self._paused = False
                after_commit(n_read >= MESSAGES)
            if self._paused and not session.pending.read and time.monotonic() - began > QUIET_S:
                self._paused = False
                self._on_event(SinkResumed(self.spec.name))
        if session.pending.read:
            session.commit()

    def _is_due(self, session: SinkSession, *, idle: bool) -> bool:
        waited_s = time.monotonic() - session.pending.since
        full = session.pending.n_messages >= self._max_rows
        early = self.early.is_set() and waited_s >= EARLY_S
        since = due_since(session.pending.since, session.commit_began, interval_s=self._interval_s)
        return idle or full or early or time.monotonic() - since >= self._interval_s


def due_since(pending: float, commit_began: float, *, interval_s: float) -> float:
    """Return from when on the interval to the next commit counts.

    A steady flow is committed once an interval, however long a commit takes; what comes after a
    pause waits for others from when it came.
    """
    return commit_began if pending - commit_began < interval_s else pending


def lock_path(run_folder: Path, table: str) -> Path:
    """Return the lock of a table's one writer in a home."""
    return run_folder / f"sink-{table}.lock"
