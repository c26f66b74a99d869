"""The state of a home: its writer, its services, its tables."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyiceberg.table import Table

from k2lib.lake.tables import TABLES, load_table, open_catalog
from k2lib.locks import lock_holder, try_lock, writer_lock
from k2lib.ops.services import Status
from k2lib.ops.services import status as services_status
from k2lib.settings import Settings


@dataclass(frozen=True)
class TableStatus:
    """One table at its current snapshot."""

    name: str
    rows: int
    files: int
    disk_bytes: int
    snapshots: int


@dataclass(frozen=True)
class HomeStatus:
    """A home as it is now; `writer_pid` is the owner of an embedded broker."""

    home: str
    kafka: str
    writer_pid: int | None
    services: Status
    tables: tuple[TableStatus, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def read_status(settings: Settings) -> HomeStatus:
    """Look at a home; changes nothing in it."""
    services = services_status(settings.home)
    running = services.kafka.address if services.kafka.running else "embedded"
    return HomeStatus(
        home=str(settings.home),
        kafka=settings.kafka_bootstrap or running or "embedded",
        writer_pid=writer_pid(settings.home),
        services=services,
        tables=_tables(settings),
    )


def writer_pid(home: Path) -> int | None:
    """Return the pid of the process that owns the home's embedded broker, if one does."""
    path = writer_lock(home)
    if not path.exists():
        return None
    lock = try_lock(path)
    if lock is None:
        return lock_holder(path)
    lock.close()
    return None


def _tables(settings: Settings) -> tuple[TableStatus, ...]:
    local = settings.catalog_uri is None and settings.catalog_config is None
    if local and not (settings.home / "catalog.db").exists():
        return ()
    catalog = open_catalog(settings)
    tables = [(name, load_table(catalog, name)) for name in TABLES]
    return tuple(_table(name, table) for name, table in tables if table is not None)


def _table(name: str, table: Table) -> TableStatus:
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot else None
    told = summary.additional_properties if summary else {}
    return TableStatus(
        name,
        rows=int(told.get("total-records", 0)),
        files=int(told.get("total-data-files", 0)),
        disk_bytes=int(told.get("total-files-size", 0)),
        snapshots=len(table.snapshots()),
    )
