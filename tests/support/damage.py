"""Damage to a home, done by pyiceberg, pyarrow and file operations, without k2lib."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import StaticTable, Table

Change = Callable[[pa.Table], pa.Table]


def metadata_path(home: Path, table: str) -> Path:
    """Return the newest metadata file of a table."""
    with closing(sqlite3.connect(home / "catalog.db")) as catalog:
        query = "select metadata_location from iceberg_tables where table_name = ?"
        (location,) = catalog.execute(query, [table]).fetchone()
    return Path(location.removeprefix("file://"))


def data_files(home: Path, table: str) -> list[Path]:
    """Return the live data files of a table."""
    static = StaticTable.from_metadata(str(metadata_path(home, table)))
    tasks = static.scan().plan_files()
    return sorted(Path(task.file.file_path.removeprefix("file://")) for task in tasks)


def rows_of(home: Path, table: str = "trades_v2") -> list[dict[str, Any]]:
    """Return all rows of a table."""
    return [row for path in data_files(home, table) for row in _read(path).to_pylist()]


def rewrite(home: Path, table: str, message_id: str, change: Change) -> None:
    """Rewrite the data file that has a row, with the row changed."""
    for path in data_files(home, table):
        rows = _read(path)
        its = pc.equal(rows["message_id"], message_id)
        if pc.any(its).as_py():
            others = rows.filter(pc.invert(its))
            pq.write_table(pa.concat_tables([others, change(rows.filter(its))]), path)
            return
    raise LookupError(message_id)


def _read(path: Path) -> pa.Table:
    return pq.ParquetFile(path).read()


def lost(row: pa.Table) -> pa.Table:
    """Drop the row."""
    return row.slice(0, 0)


def doubled(row: pa.Table) -> pa.Table:
    """Write the row twice."""
    return pa.concat_tables([row, row])


def with_value(name: str, value: object) -> Change:
    """Give a column another value."""

    def change(row: pa.Table) -> pa.Table:
        index = row.schema.get_field_index(name)
        field = row.schema.field(index)
        return row.set_column(index, field, pa.array([value], field.type))

    return change


def edit_metadata(home: Path, table: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a table's newest metadata in place."""
    path = metadata_path(home, table)
    metadata = json.loads(path.read_text())
    edit(metadata)
    path.write_text(json.dumps(metadata))


def as_other_engine(home: Path, table: str) -> Table:
    """Load a table as another engine does that knows nothing of K2."""
    catalog = SqlCatalog("k2", uri=f"sqlite:///{home / 'catalog.db'}")
    return catalog.load_table(("market_data", table))
