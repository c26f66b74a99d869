"""What a table holds, read without k2lib: its metadata as JSON, its files by DuckDB."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
from pyarrow import parquet
from pyarrow.fs import FileSystem
from pyiceberg.table import StaticTable, Table

LogPartition = tuple[str, str, str]


@dataclass(frozen=True)
class Audit:
    """A table as its metadata file tells it; `store` has its files where this machine has not."""

    location: str
    metadata: dict[str, Any]
    files: list[str]
    store: FileSystem | None = None

    def column(self, name: str = "message_id") -> list[Any]:
        """Return one column of all rows, sorted, doubles included."""
        if not self.files:
            return []
        if self.store is not None:
            parts = [
                parquet.read_table(file, columns=[name], filesystem=self.store)[name]
                for file in self.files
            ]
            return sorted(value for part in parts for value in part.to_pylist())
        found = duckdb.sql(f"select {name} from read_parquet({self.files}) order by 1").fetchall()
        return [value for (value,) in found]

    def ends(self) -> dict[LogPartition, int]:
        """Return where the newest commit ended: (log, topic, partition) → next offset."""
        commits = self.commits()
        return {tp: end for tp, (_, end) in commits[-1].items()} if commits else {}

    def commits(self) -> list[dict[LogPartition, tuple[int, int]]]:
        """Return [start, end) of every partition, for each commit that is kept, in order."""
        snapshots = sorted(self.metadata["snapshots"], key=lambda one: one["sequence-number"])
        appends = (one["summary"] for one in snapshots if one["summary"]["operation"] == "append")
        return [_partitions(summary["k2.offsets"]) for summary in appends]

    def assert_contiguous(self) -> None:
        """Fail unless every commit begins where the one before it ended."""
        commits = self.commits()
        for before, after in pairwise(commits):
            for tp, (_, end) in before.items():
                assert after[tp][0] == end, f"{tp}: {end} is followed by {after[tp]}"


def audit(home: Path, table: str = "trades_v2") -> Audit | None:
    """Read a table's metadata as the home's catalog has it now; None where there is no table."""
    if not (home / "catalog.db").exists():
        return None
    with closing(sqlite3.connect(home / "catalog.db", timeout=60)) as catalog:
        location = _location(catalog, table)
    if location is None:
        return None
    text = Path(location.removeprefix("file://")).read_text(encoding="utf-8")
    return Audit(location, json.loads(text), _data_files(location))


def audit_of(table: Table, store: FileSystem) -> Audit:
    """Read a table of an object store, loaded by a catalog of its own."""
    metadata = json.loads(table.metadata.model_dump_json(by_alias=True))
    files = [task.file.file_path.removeprefix("s3://") for task in table.scan().plan_files()]
    return Audit(table.metadata_location, metadata, files, store)


def _location(catalog: sqlite3.Connection, table: str) -> str | None:
    query = "select metadata_location from iceberg_tables where table_name = ?"
    if not catalog.execute("select 1 from sqlite_master where name = 'iceberg_tables'").fetchall():
        return None
    found = catalog.execute(query, [table]).fetchone()
    return None if found is None else str(found[0])


def _data_files(location: str) -> list[str]:
    tasks = StaticTable.from_metadata(location).scan().plan_files()
    return [task.file.file_path.removeprefix("file://") for task in tasks]


def _partitions(offsets: str) -> dict[LogPartition, tuple[int, int]]:
    return {
        (log, topic, partition): (start, end)
        for log, topics in json.loads(offsets).items()
        for topic, partitions in topics.items()
        for partition, (start, end) in partitions.items()
    }
