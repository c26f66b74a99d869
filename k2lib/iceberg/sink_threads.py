"""Sinks as threads of a process: started together, watched, and stopped together."""

import threading
import time
from collections.abc import Collection, Iterable
from typing import Final

from pyiceberg.catalog import Catalog

from k2lib.errors import TableError
from k2lib.events import OnEvent, log_event
from k2lib.iceberg.sink import Sink
from k2lib.iceberg.tables import TableSpec
from k2lib.kafka.connect import Kafka
from k2lib.settings import Settings

LOOK_AGAIN_S: Final = 0.05


class SinkThreads:
    """A thread for every sink; `check` raises what ended one.

    A table that another engine left as rows cannot be added to it ends its own sink alone.
    """

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks
        self._stop = threading.Event()
        self._failures: dict[str, BaseException] = {}
        self._started = time.monotonic()
        self._threads = [
            # Daemons, so that the exit of a program never waits for a sink that nothing stops.
            threading.Thread(
                target=self._run, args=(sink,), name=f"sink-{sink.spec.name}", daemon=True
            )
            for sink in sinks
        ]

    def start(self) -> None:
        """Start all threads."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether a sink still runs."""
        return any(thread.is_alive() for thread in self._threads)

    def check(self, tables: Collection[str] | None = None) -> None:
        """Raise what ended a sink, if anything did.

        Args:
            tables: of others no TableError is raised; by default all are of interest.
        """
        for name, failure in list(self._failures.items()):
            if tables is None or name in tables or not isinstance(failure, TableError):
                raise failure

    def check_progress(self, tables: Collection[str], *, after_s: float) -> None:
        """Raise why a sink of one of these tables has been failing for so long, if one has."""
        _raise_failure((sink for sink in self._sinks if sink.spec.name in tables), after_s)

    def check_begin(self, *, after_s: float) -> None:
        """Raise why a sink could not begin within so long of the start, if there is one."""
        if time.monotonic() - self._started >= after_s:
            _raise_failure((sink for sink in self._sinks if not sink.has_begun), 0.0)

    def discover(self) -> None:
        """Let the sinks find new topics now."""
        for sink in self._sinks:
            sink.discover.set()

    def hurry(self, yes: bool) -> None:
        """Let the sinks commit as soon as nothing more arrives, or once an interval again."""
        for sink in self._sinks:
            sink.hurry.set() if yes else sink.hurry.clear()

    def commit_early(self) -> None:
        """Let the sinks commit what they have read before their interval is over, once."""
        for sink in self._sinks:
            sink.early.set()

    def stop(self) -> None:
        """Let the sinks commit what they have read, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        # The sinks' listener leads back to the pipeline, and so to clients with threads.
        self._sinks, self._threads = [], []

    def _run(self, sink: Sink) -> None:
        try:
            sink.run(self._stop)
        except Exception as exc:  # noqa: BLE001 - a thread's end must reach those who wait for it
            self._failures[sink.spec.name] = exc


def _raise_failure(sinks: Iterable[Sink], after_s: float) -> None:
    failures = (sink.failure(after_s=after_s) for sink in sinks)
    failure = next((one for one in failures if one is not None), None)
    if failure is not None:
        raise failure


def make_sinks(
    specs: Iterable[TableSpec],
    catalog: Catalog,
    kafka: Kafka,
    settings: Settings,
    *,
    accept_loss: bool = False,
    on_event: OnEvent = log_event,
) -> list[Sink]:
    """Return a sink for each table, not yet running."""
    return [
        Sink(
            spec,
            catalog=catalog,
            cluster=kafka.cluster,
            registry=kafka.registry,
            run_folder=settings.home / "run",
            interval_s=settings.commit_interval_s,
            max_rows=settings.commit_rows,
            accept_loss=accept_loss,
            orphan_age=settings.orphan_age,
            on_event=on_event,
        )
        for spec in specs
    ]


def run_sinks(sinks: list[Sink], *, start_s: float) -> None:
    """Run sinks until Ctrl-C; what they have read by then is committed.

    Args:
        start_s: a sink that cannot begin for so long ends all of them.
    Raises:
        LossError, SchemaError, ConfigError: what ended a sink.
        TableError: what ended the last of them.
        TransientError: what kept one from its start.
    """
    threads = SinkThreads(sinks)
    try:
        threads.start()
        while threads.alive:
            threads.check(tables=())
            threads.check_begin(after_s=start_s)
            time.sleep(LOOK_AGAIN_S)
        threads.check()
    except KeyboardInterrupt:
        return
    finally:
        threads.stop()
