"""`k2 maintain`: maintenance of the tables that no sink is feeding."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyiceberg.catalog import Catalog

from k2lib.lake.maintenance import Maintenance, MaintenanceReport
from k2lib.lake.sink import lock_path
from k2lib.lake.tables import TABLES, TableSpec, load_table
from k2lib.locks import lock_holder, try_lock


@dataclass(frozen=True)
class Maintained:
    """What maintenance did to one table; `holder` is the pid of the sink that does it instead."""

    table: str
    report: MaintenanceReport | None
    holder: int | None = None

    @property
    def told(self) -> str:
        """The same in words."""
        if self.report is None:
            return f"process {self.holder} feeds it, and maintains it by itself"
        done = self.report
        return (
            f"{done.files_merged} files merged into {done.files_written}, "
            f"{done.snapshots_expired} snapshots expired, {done.files_deleted} files deleted"
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def maintain_all(catalog: Catalog, *, run_folder: Path) -> list[Maintained]:
    """Maintain every table whose lock is free."""
    return [
        _maintain(catalog, spec, run_folder)
        for spec in TABLES.values()
        if load_table(catalog, spec.name) is not None
    ]


def _maintain(catalog: Catalog, spec: TableSpec, run_folder: Path) -> Maintained:
    path = lock_path(run_folder, spec.name)
    lock = try_lock(path)
    table = load_table(catalog, spec.name)
    if lock is None or table is None:
        return Maintained(spec.name, None, holder=lock_holder(path))
    with lock:
        state = run_folder / f"unreferenced-{spec.name}.json"
        maintenance = Maintenance(spec, state=state, now=lambda: datetime.now(UTC))
        return Maintained(spec.name, maintenance.run_now(table))
