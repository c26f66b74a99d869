"""Terminal output of the commands: progress on standard error, reports on standard output."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal as size_text
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from k2lib.events import BatchDone, DeliveryStalled, Event, SinkPaused, SinkStopped
from k2lib.load import LoadReport
from k2lib.ops.home import HomeStatus, MaintenanceResult, TableStatus
from k2lib.ops.services import ServicesStatus
from k2lib.ops.stack import StackStatus
from k2lib.venues import file_venue
from k2lib.venues.base import FileOptions, SourceFile


def out() -> Console:
    """Return the console of standard output."""
    return Console()


def err() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False)


def progress() -> Progress:
    """Return a progress display on standard error."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=err(),
        transient=True,
    )


@contextmanager
def load_progress(paths: Sequence[Path], *, times: int = 1) -> Iterator[Callable[[str, int], None]]:
    """Show how many bytes of the files are read and produced, if they are loaded `times` times."""
    files = [path for one in _files("asx", paths) for path in one.paths]
    total = times * sum(map(_size, files))
    with progress() as display:
        task = display.add_task("loading", total=total)

        def on_progress(file: str, n_bytes: int) -> None:
            display.update(task, description=file, advance=n_bytes)

        yield on_progress


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _files(venue: str, paths: Sequence[Path]) -> Sequence[SourceFile]:
    return file_venue(venue).find_files(paths, FileOptions())


@contextmanager
def archive_progress(paths: Sequence[Path]) -> Iterator[Callable[[str, int], None]]:
    """Show the zip that is being read, and how many have begun."""
    with progress() as display:
        task = display.add_task("loading", total=len(_files("binance", paths)))
        begun: set[str] = set()

        def on_progress(file: str, n_bytes: int) -> None:
            display.update(task, description=file, advance=float(file not in begun))
            begun.add(file)

        yield on_progress


@contextmanager
def samples_progress() -> Iterator[Callable[[str, int], None]]:
    """Show which file is written."""
    with working("writing") as show:
        yield lambda file, n_rows: show(f"{file}: {n_rows:,} rows")


@contextmanager
def working(task: str) -> Iterator[Callable[[str], None]]:
    """Show a task in progress; yield the function that shows its present step."""
    with err().status(task) as display:
        yield display.update


def print_load(report: LoadReport) -> None:
    """Print a line for every file."""
    title = f"Loaded in {report.seconds:.1f} s"
    table = Table(Column("file", overflow="fold"), "kind", title=title, title_justify="left")
    for name in ("rows", "new", "already there", "dead letters"):
        table.add_column(name, justify="right")
    # What is said of a file of which nothing was loaded is all there is to say.
    for file in (one for one in report.files if one.error is None or one.rows or one.dead_letters):
        there = file.already_there
        new = "?" if there is None else f"{file.rows - there:,}"
        old = "?" if there is None else f"{there:,}"
        counts = (f"{file.rows:,}", new, old, f"{file.dead_letters:,}")
        table.add_row(escape(file.file), file.kind, *counts)
    if table.row_count:
        out().print(table)
    for file in report.files:
        if file.error is not None:
            err().print(f"not loaded: {file.error}", markup=False, soft_wrap=True)
        if file.note is not None:
            err().print(f"{file.file}: {file.note}", markup=False, soft_wrap=True)
    if report.interrupted:
        err().print("interrupted: what is listed is in the lake; load again for the rest")


class SinkPrinter:
    """Prints a line for every commit of a sink and for every pause, and adds up what was done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._tables: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Print the event, if it is one of those; called from the thread of each sink."""
        if isinstance(event, BatchDone):
            with self._lock:
                self._tables.add(event.table)
                self._totals.update(commits=1, rows=event.added, letters=event.dead_letters)
        if isinstance(event, BatchDone | DeliveryStalled | SinkPaused | SinkStopped):
            text = ", ".join(f"{name} {value}" for name, value in event.to_json().items())
            line = f"{datetime.now(UTC):%H:%M:%S} {event.name}: {text}"
            out().print(line, highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """Say in one line what was done."""
        done = self._totals
        return (
            f"ended: {done['rows']:,} rows added to {len(self._tables)} tables in "
            f"{done['commits']:,} commits, {done['letters']:,} dead letters"
        )


def print_services(status: ServicesStatus) -> None:
    """Print the local services: what runs where, and what they take on disk."""
    table = Table("service", "state", "address", "pid")
    table.add_column("disk", justify="right")
    for one in (status.kafka, status.registry):
        ended = "stopped" if one.address is None else "ended: k2 up"
        state = "answers" if one.answers else "does not answer" if one.running else ended
        table.add_row(
            one.name, state, one.address or "", str(one.pid or ""), size_text(one.disk_bytes)
        )
    out().print(table)


def print_stack(stack: StackStatus) -> None:
    """Print the services that a supervisor keeps."""
    title = None if stack.supervisor_pid else "the supervisor ended: `k2 up` starts it again"
    table = Table("service", "state", "pid", "port", title=title, title_justify="left")
    table.add_column("restarts", justify="right")
    table.add_column("since (UTC)", no_wrap=True)
    table.add_column("health", overflow="fold")
    for one in stack.services:
        numbers = (str(one.pid or ""), str(one.port), str(one.restarts))
        since = one.since[:19].replace("T", " ").removeprefix(f"{datetime.now(UTC):%Y-%m-%d} ")
        table.add_row(one.name, one.state, *numbers, since, escape(one.health))
    out().print(table)


def print_status(status: HomeStatus) -> None:
    """Print the home: its writer, the services, and the tables."""
    home = f"home {status.home}, Kafka {status.kafka}"
    out().print(home, highlight=False, markup=False, soft_wrap=True)
    if status.writer_pid is not None:
        out().print(f"an embedded writer runs: process {status.writer_pid}", highlight=False)
    if status.stack is None:
        print_services(status.services)
    else:
        print_stack(status.stack)
    if status.problem is None:
        _print_tables(status.tables)


def _print_tables(tables: Sequence[TableStatus]) -> None:
    table = Table("table")
    for name in ("rows", "files", "disk", "snapshots"):
        table.add_column(name, justify="right")
    for one in tables:
        numbers = (f"{one.rows:,}", f"{one.files:,}", size_text(one.disk_bytes))
        cells = (*numbers, f"{one.snapshots:,}")
        table.add_row(one.name, *(cells if one.snapshots or not one.problem else "????"))
    out().print(table)
    for one in tables:
        if one.problem is not None:
            out().print(one.problem, highlight=False, soft_wrap=True)


def print_maintenance(done: Sequence[MaintenanceResult]) -> None:
    """Print what maintenance did to each table, or who else does it."""
    for one in done:
        out().print(f"{one.table}: {one.text}", highlight=False, soft_wrap=True)


@contextmanager
def notebook_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show which notebook runs, and how many of its cells are done."""
    with progress() as display:
        tasks: dict[str, int] = {}

        def on_progress(notebook: str, done: int, total: int) -> None:
            if notebook not in tasks:
                tasks[notebook] = display.add_task(notebook, total=total)
            display.update(tasks[notebook], completed=done)  # type: ignore[arg-type]

        yield on_progress
