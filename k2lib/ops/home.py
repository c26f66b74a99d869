"""The state of a home: its writer, its services, its tables."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2lib.errors import ConfigError, OwnerError, TableError, TransientError
from k2lib.events import MaintenanceDone
from k2lib.iceberg.catalog import SqliteCatalog, read_errors
from k2lib.iceberg.commit_times import system_clock
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.offsets import snapshot_properties
from k2lib.iceberg.orphan_files import ORPHAN_AGE, damaged_files
from k2lib.iceberg.sink import lock_path
from k2lib.iceberg.tables import TABLES, TableSpec, load_table, open_catalog
from k2lib.iceberg.writer import check_appendable
from k2lib.locks import holder_text, lock_holder, locked_by, try_lock, writer_lock
from k2lib.ops.home_lake import with_home_lake
from k2lib.ops.services import ServicesStatus, read_running_services, started
from k2lib.ops.services import status as services_status
from k2lib.ops.stack import StackStatus, read_stack_status
from k2lib.reasons import RESTORE, file_errors
from k2lib.settings import Settings


@dataclass(frozen=True)
class TableStatus:
    """One table at its current snapshot; `problem` is why rows cannot be added or read."""

    name: str
    rows: int
    files: int
    disk_bytes: int
    snapshots: int
    problem: str | None = None


@dataclass(frozen=True)
class HomeStatus:
    """A home as it is now.

    Attributes:
        writer_pid: the owner of an embedded broker.
        stack: the services that a supervisor keeps; None where none was started.
        problem: why the tables cannot be read; None where they can.
    """

    home: str
    kafka: str
    writer_pid: int | None
    services: ServicesStatus
    stack: StackStatus | None
    tables: tuple[TableStatus, ...]
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def read_home_status(settings: Settings) -> HomeStatus:
    """Return the status of a home; changes nothing in it."""
    services = services_status(settings.home)
    try:
        tables, problem = _tables(settings), None
    except TransientError as exc:
        tables, problem = (), str(exc)
    return HomeStatus(
        home=str(settings.home),
        kafka=settings.kafka_bootstrap or services.kafka.address or "embedded",
        writer_pid=writer_pid(settings.home),
        services=services,
        stack=read_stack_status(settings.home),
        tables=tables,
        problem=problem,
    )


def writer_pid(home: Path) -> int | None:
    """Return the pid of the process that owns the home's embedded broker, if one does."""
    return locked_by(writer_lock(home))


def _tables(settings: Settings) -> tuple[TableStatus, ...]:
    with closing(open_catalog(with_home_lake(settings))) as catalog:
        check_catalog(catalog, settings)
        tables = [_table(catalog, name) for name in TABLES]
    return tuple(table for table in tables if table is not None)


def _table(catalog: Catalog, name: str) -> TableStatus | None:
    try:
        table = load_table(catalog, name)
    except TableError as exc:
        return TableStatus(name, 0, 0, 0, 0, problem=str(exc))
    return None if table is None else _sums(name, table)


def _sums(name: str, table: Table) -> TableStatus:
    totals = snapshot_properties(table.current_snapshot())
    return TableStatus(
        name,
        rows=int(totals.get("total-records", 0)),
        files=int(totals.get("total-data-files", 0)),
        disk_bytes=int(totals.get("total-files-size", 0)),
        snapshots=len(table.snapshots()),
        problem=_problem(table, TABLES[name]),
    )


def _problem(table: Table, spec: TableSpec) -> str | None:
    try:
        check_appendable(table, spec)
    except TableError as exc:
        return str(exc)
    return None


@dataclass(frozen=True)
class MaintenanceResult:
    """What maintenance did to one table.

    Attributes:
        holder: the pid of the sink that does it instead.
        problem: why it was not done, or which files of the table are missing or damaged.
    """

    table: str
    report: MaintenanceDone | None
    holder: int | None = None
    problem: str | None = None

    @property
    def text(self) -> str:
        """The result as a phrase."""
        if self.problem is not None:
            return self.problem
        if self.report is None:
            return f"process {self.holder} feeds it, and maintains it by itself"
        done = self.report
        return (
            f"{done.files_merged} files merged into {done.files_written}, "
            f"{done.snapshots_expired} snapshots expired, {done.files_deleted} files deleted"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def maintain_all(
    catalog: Catalog, *, run_folder: Path, orphan_age: timedelta = ORPHAN_AGE
) -> list[MaintenanceResult]:
    """Maintain every table whose lock is free; one that cannot be read stops no other.

    Args:
        orphan_age: how long a file stays that another engine may yet commit.
    """
    maintain = partial(_maintain, run_folder=run_folder, orphan_age=orphan_age)
    results = (_try_maintain(catalog, spec, maintain) for spec in TABLES.values())
    return [one for one in results if one is not None]


def _try_maintain(
    catalog: Catalog, spec: TableSpec, maintain: Callable[[Table, TableSpec], MaintenanceResult]
) -> MaintenanceResult | None:
    try:
        with read_errors(f"maintenance of table {spec.name}"):
            table = load_table(catalog, spec.name)
            return None if table is None else maintain(table, spec)
    except (ConfigError, TableError, TransientError) as exc:
        return MaintenanceResult(spec.name, None, problem=str(exc))


def _maintain(
    table: Table, spec: TableSpec, *, run_folder: Path, orphan_age: timedelta
) -> MaintenanceResult:
    path = lock_path(run_folder, spec.name)
    lock = try_lock(path)
    if lock is None:
        return MaintenanceResult(spec.name, None, holder=lock_holder(path))
    with lock:
        table.refresh()
        if damaged := damaged_files(table):
            return MaintenanceResult(spec.name, None, problem=_damage(spec, damaged))
        problem = _problem(table, spec)
        if problem is not None:
            return MaintenanceResult(spec.name, None, problem=problem)
        state = run_folder / f"unreferenced-{spec.name}.json"
        maintenance = Maintenance(spec, state=state, now=system_clock, orphan_age=orphan_age)
        done = maintenance.run_now(table)
        problem = _damage(spec, done.files_missing) if done.files_missing else None
        return MaintenanceResult(spec.name, done, problem=problem)


def _damage(spec: TableSpec, files: Sequence[str]) -> str:
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f"table {spec.name}: {files[0]}{more}: nothing was changed: {RESTORE}"


HOME_FILES = ("catalog.db", "run", "services", "warehouse")


def check_home(settings: Settings) -> None:
    """Refuse a home that does not exist; one whose catalog is elsewhere needs no folder.

    Raises:
        ConfigError: names the folder.
    """
    home = settings.home
    if settings.catalog_uri is not None or settings.catalog_config is not None:
        return
    with file_errors(f"K2_HOME={home}"):
        exists = any((home / name).exists() for name in HOME_FILES)
    if not exists:
        raise ConfigError(
            f"no home at {home.absolute()}: nothing was written there; go to the folder of yours, "
            "name it with K2_HOME, or make one with `k2 load` or `k2 stream`"
        )


def check_catalog(catalog: Catalog, settings: Settings) -> None:
    """Refuse to read an SQLite catalog that does not exist, unless Kafka may have its rows.

    Raises:
        ConfigError: names the file.
    """
    file = catalog.missing_file if isinstance(catalog, SqliteCatalog) else None
    is_named = settings.kafka_bootstrap is not None or settings.kafka_config is not None
    if file is not None and not is_named and started(settings.home) is None:
        setting = "K2_CATALOG_URI" if settings.catalog_uri else "K2_CATALOG_CONFIG"
        raise ConfigError(
            f"no catalog at {file}: nothing was written there; correct {setting}, or make one with "
            "`k2 load` or `k2 stream`"
        )


def reset_home(home: Path) -> None:
    """Delete a home and all in it; a home that is not there is no error.

    Raises:
        OwnerError: a writer or the local services still use it.
        ConfigError: the folder does not look like a home.
    """
    if not home.exists():
        return
    if writer_pid(home) is not None:
        raise OwnerError(f"{holder_text(writer_lock(home))} writes {home}: end that first")
    if running := read_running_services(home).without_dead().entries:
        raise OwnerError(f"{' and '.join(running)} run in {home}: `k2 down` first")
    with file_errors(f"the home {home}"):
        others = sorted(path.name for path in home.iterdir() if path.name not in HOME_FILES)
        if others:
            raise ConfigError(
                f"{home} is not only a home of ours; it holds {', '.join(others[:5])}"
            )
        shutil.rmtree(home)
