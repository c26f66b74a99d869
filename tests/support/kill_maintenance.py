"""Run maintenance that kills itself at one step of one of its commits.

Arguments, as JSON: `home`, and `days`: how far the clock is ahead, so that days are over. Each line
of standard input is a step: `output 2` as the second file is begun, `written 2` when the second
commit's metadata are written and the catalog does not know of them, `before 2` and `after 2` around
that commit. A process is forked for it; its exit code is printed.
"""

import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import EMPTY_DICT, Properties

from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.sql_catalog import SharedSqlCatalog
from k2lib.iceberg.tables import NAMESPACE, TABLES


class KillingFiles(PyArrowFileIO):
    """Files whose n-th to be written ends the process."""

    catalog: "KillingCatalog"

    def new_output(self, location: str) -> PyArrowFile:
        self.catalog.count("output")
        return super().new_output(location)


class KillingCatalog(SharedSqlCatalog):
    """A catalog that ends its process at a step of its n-th commit, as a power cut would."""

    step = ""
    left = 0

    def _load_file_io(
        self, properties: Properties = EMPTY_DICT, location: str | None = None
    ) -> FileIO:
        files = KillingFiles({**self.properties, **properties})
        files.catalog = self
        return files

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> CommitTableResponse:
        self.count("before", "written", "after")
        response = super().commit_table(table, requirements, updates)
        self._reached("after")
        return response

    def _write_metadata(self, metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:  # type: ignore[override]
        super()._write_metadata(metadata, io, metadata_path)
        self._reached("written")

    def count(self, *steps: str) -> None:
        """Note that the first of these steps is reached, and the others are near."""
        if self.step in steps:
            self.left -= 1
            self._reached(steps[0])

    def _reached(self, step: str) -> None:
        if (step, 0) == (self.step, self.left):
            os.kill(os.getpid(), signal.SIGKILL)


def maintain(home: Path, days: float, step: str, nth: int) -> None:
    """Do everything that can be done, or die on the way."""
    uri, warehouse = f"sqlite:///{home / 'catalog.db'}?timeout=30", f"file://{home / 'warehouse'}"
    catalog = KillingCatalog("k2", uri=uri, warehouse=warehouse)
    catalog.step, catalog.left = step, nth
    spec = TABLES["trades_v2"]
    maintenance = Maintenance(
        spec,
        state=home / "run" / "unreferenced.json",
        now=lambda: datetime.now(UTC) + timedelta(days=days),
    )
    maintenance.run_now(catalog.load_table((NAMESPACE, spec.name)))


def main(home: str, *, days: float) -> None:
    """Fork a process for each step."""
    for line in sys.stdin:
        step, nth = line.split()
        child = os.fork()
        if child == 0:
            maintain(Path(home), days, step, int(nth))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    main(**arguments)
