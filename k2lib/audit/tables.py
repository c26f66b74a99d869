"""The tables of a home, each at one snapshot, as their metadata and manifests tell them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from typing import Any, Final

import fastavro
from duckdb import DuckDBPyConnection
from pyarrow.fs import FileSelector, FileSystem, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2lib.iceberg.catalog import read_errors
from k2lib.iceberg.duckdb_files import REMOTE

OFFSETS: Final = "k2.offsets"
CAUSE: Final = "k2.cause"
DELETED_AT: Final = "k2.deleted-at"
DELETED_ENTRY: Final = 2
SUFFIXES: Final = (".parquet", ".orc", ".avro", ".metadata.json", ".puffin", ".stats")
DATA: Final = 0

# The columns that are looked at, with DuckDB's types.
_INSTRUMENT: Final = {"message_id": "VARCHAR", "exchange": "VARCHAR", "symbol": "VARCHAR"}
_KIND: Final = {"asset_class": "VARCHAR", "currency": "VARCHAR"}
_PRICE, _QUANTITY, _MAP = "DECIMAL(18,8)", "DECIMAL(19,8)", "MAP(VARCHAR, VARCHAR)"
COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "trades_v2": _INSTRUMENT
    | _KIND
    | {
        "trade_id": "VARCHAR",
        "trade_conditions": "VARCHAR[]",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "price": _PRICE,
        "quantity": _QUANTITY,
        "side": "VARCHAR",
        "source_sequence": "BIGINT",
        "ingestion_timestamp": "TIMESTAMP WITH TIME ZONE",
        "vendor_data": _MAP,
    },
    "quotes_v2": _INSTRUMENT
    | _KIND
    | {
        "quote_id": "VARCHAR",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "bid_price": _PRICE,
        "bid_quantity": _QUANTITY,
        "ask_price": _PRICE,
        "ask_quantity": _QUANTITY,
        "source_sequence": "BIGINT",
        "vendor_data": _MAP,
    },
    "reference_v2": _INSTRUMENT
    | _KIND
    | {
        "company_id": "VARCHAR",
        "company_name": "VARCHAR",
        "isin": "VARCHAR",
        "vendor_data": _MAP,
    },
    "dead_letters": {
        "message_id": "VARCHAR",
        "source": "VARCHAR",
        "position": "VARCHAR",
        "reason": "VARCHAR",
        "raw": "BLOB",
        "raw_size": "BIGINT",
    },
    "gaps": _INSTRUMENT
    | {
        "gap_id": "VARCHAR",
        "revision": "INTEGER",
        "from_id": "BIGINT",
        "to_id": "BIGINT",
        "state": "VARCHAR",
    },
}
TABLE_OF: Final = {
    "trades": "trades_v2",
    "quotes": "quotes_v2",
    "reference": "reference_v2",
    "dead_letters": "dead_letters",
    "gaps": "gaps",
}


def compared(table: str) -> dict[str, str]:
    """Return the columns in which all records of a message_id are alike, with their types."""
    kinds = COLUMNS[table].items()
    return {name: kind for name, kind in kinds if kind != _MAP and name != "ingestion_timestamp"}


# Log id, topic and partition.
LogPartition = tuple[str, str, int]
# [start, end) of each partition that a table has read.
Offsets = Mapping[LogPartition, tuple[int, int]]


@dataclass(frozen=True)
class SnapshotFiles:
    """The files that a snapshot needs; `data` has the rows of each data file."""

    metadata: frozenset[str]
    data: Mapping[str, int]
    deletes: frozenset[str]

    @property
    def all(self) -> set[str]:
        """All their locations."""
        return {*self.metadata, *self.data, *self.deletes}


class PinnedTable:
    """A table as it was when the audit began, whatever is committed meanwhile."""

    def __init__(self, name: str, table: Table) -> None:
        self.name = name
        self.table = table
        self._entries = cache(self._read_entries)
        self.by_id = {one.snapshot_id: one for one in table.snapshots()}

    @property
    def snapshot_id(self) -> int | None:
        """The snapshot at which it is read."""
        return self.table.metadata.current_snapshot_id

    def parent(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the snapshot before one, if it is kept."""
        return self.by_id.get(snapshot.parent_snapshot_id or 0)

    @cached_property
    def lineage(self) -> list[Snapshot]:
        """The kept ancestors of the current snapshot, it and the newest first."""
        found, one = [], self.by_id.get(self.snapshot_id or 0)
        while one is not None:
            found.append(one)
            one = self.parent(one)
        return found

    @property
    def in_order(self) -> list[Snapshot]:
        """The kept snapshots, in the order of their commits."""
        return sorted(self.table.snapshots(), key=lambda one: one.sequence_number or 0)

    @property
    def was_rolled_back(self) -> bool:
        """Whether an older snapshot became the current one again."""
        log = [self.by_id.get(entry.snapshot_id) for entry in self.table.metadata.snapshot_log]
        numbers = [one.sequence_number or 0 for one in log if one is not None]
        return numbers != sorted(numbers)

    @property
    def has_all_history(self) -> bool:
        """Whether no snapshot before the kept ones was expired."""
        return not self.lineage or (self.lineage[-1].sequence_number or 0) <= 1

    @cached_property
    def offsets(self) -> Offsets:
        """What the table has read: by its newest ancestor that says so, else by its property."""
        for snapshot in self.lineage:
            if (found := offsets_of(snapshot)) is not None:
                return found
        oldest = (self.lineage[-1].sequence_number or 0) if self.lineage else 0
        _, number, recorded = self.recorded_offsets
        return recorded if number < oldest else {}

    @cached_property
    def recorded_offsets(self) -> tuple[int, int, Offsets]:
        """The table property: a snapshot, its sequence number and its offsets; none where 0."""
        try:
            record = json.loads(self.table.properties[OFFSETS])
            number = int(record["sequence_number"])
            return int(record["snapshot_id"]), number, _by_partition(record["offsets"])
        except (LookupError, TypeError, ValueError, AttributeError):
            return 0, 0, {}

    def files(self, snapshot: Snapshot) -> SnapshotFiles:
        """Return the files that a snapshot needs; what a missing manifest names is not known."""
        manifests = self._entries(snapshot.manifest_list, "manifest_path")
        entries = [entry for path, _, _ in manifests for entry in self._entries(path, "data_file")]
        return SnapshotFiles(
            frozenset({snapshot.manifest_list, *(path for path, _, _ in manifests)}),
            {path: rows for path, rows, content in entries if content == DATA},
            frozenset(path for path, _, content in entries if content != DATA),
        )

    def rows_in_metadata(self) -> int | None:
        """Return how many rows the summary of the current snapshot says there are."""
        total = summary(self.lineage[0]).get("total-records") if self.lineage else "0"
        return None if total is None else int(total)

    def metadata_files(self) -> set[str]:
        """Return metadata and statistics files, those in the metadata log included."""
        metadata = self.table.metadata
        logged = {entry.metadata_file for entry in metadata.metadata_log}
        statistics = [*metadata.statistics, *metadata.partition_statistics]
        return {self.table.metadata_location, *logged, *(one.statistics_path for one in statistics)}

    def formerly_kept(self) -> set[str]:
        """Return files of snapshots that the metadata files of the log still kept."""
        found: set[str] = set()
        for entry in self.table.metadata.metadata_log:
            for raw in _json(self.table, entry.metadata_file).get("snapshots", ()):
                if raw["snapshot-id"] not in self.by_id:
                    found |= self.files(Snapshot.model_validate(raw)).all
        return found

    def deletions(self) -> Iterator[tuple[Snapshot, dict[str, int] | None]]:
        """Yield the snapshots of other engines that deleted rows, with the files that had them.

        None stands for files that are not known any more.
        """
        for snapshot in self.lineage:
            operation = None if snapshot.summary is None else snapshot.summary.operation
            is_ours = {OFFSETS, CAUSE} & summary(snapshot).keys()
            if is_ours or operation not in (Operation.DELETE, Operation.OVERWRITE):
                continue
            parent = self.parent(snapshot)
            if parent is None:
                yield snapshot, None
                continue
            before, after = self.files(parent), self.files(snapshot)
            kept = {} if after.deletes else after.data
            yield snapshot, {path: n for path, n in before.data.items() if path not in kept}

    def sql(self, files: Mapping[str, int]) -> str:
        """Return the SELECT over Parquet files: the columns found by field id, under our names."""
        REMOTE.add(self.table)
        ids = {f.name: f.field_id for schema in self._schemas() for f in schema.fields}
        columns = {name: kind for name, kind in COLUMNS[self.name].items()}
        if not files:
            nulls = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items())
            return f"SELECT {nulls} WHERE false"
        fields = ", ".join(
            f"{ids[name]}: {{name: '{name}', type: '{kind}', default_value: NULL}}"
            for name, kind in columns.items()
            if name in ids
        )
        paths = ", ".join(_text(_literal(local_path(path))) for path in sorted(files))
        return (
            f"SELECT {', '.join(columns)} FROM read_parquet([{paths}], "
            f"hive_partitioning = false, schema = MAP {{{fields}}})"
        )

    def _schemas(self) -> list[Any]:
        """A column has the id that its name had first, whatever another engine calls it now."""
        return [schema for _, schema in sorted(self.table.schemas().items(), reverse=True)]

    def _read_entries(self, path: str, field: str) -> list[tuple[str, int, int]]:
        """Read a manifest list or a manifest: path, rows and content of each live entry."""
        with read_errors(f"table {self.name}", path=lambda: path):
            try:
                with self.table.io.new_input(path).open() as opened:
                    records: list[Any] = list(fastavro.reader(BytesIO(opened.read())))
            except FileNotFoundError:
                return []
        if field == "manifest_path":
            return [(one[field], 0, one.get("content", DATA)) for one in records]
        live = [one[field] for one in records if one["status"] != DELETED_ENTRY]
        return [(one["file_path"], one["record_count"], one.get("content", DATA)) for one in live]


def summary(snapshot: Snapshot) -> Mapping[str, str]:
    """Return the properties in a snapshot's summary."""
    return {} if snapshot.summary is None else snapshot.summary.additional_properties


def offsets_of(snapshot: Snapshot) -> Offsets | None:
    """Return the offsets in the summary of a snapshot; None where it has none."""
    text = summary(snapshot).get(OFFSETS)
    return None if text is None else _by_partition(json.loads(text))


def _by_partition(logs: Mapping[str, Any]) -> Offsets:
    return {
        (log, topic, int(partition)): (start, end)
        for log, topics in logs.items()
        for topic, partitions in topics.items()
        for partition, (start, end) in partitions.items()
    }


def _json(table: Table, path: str) -> dict[str, Any]:
    try:
        with table.io.new_input(path).open() as opened:
            found: dict[str, Any] = json.loads(opened.read())
    except FileNotFoundError:
        return {}
    return found


def file_system(table: Table) -> tuple[FileSystem, str]:
    """Return the file system of a table, and its folder there."""
    scheme, netloc, path = PyArrowFileIO.parse_location(table.location())
    io = table.io if isinstance(table.io, PyArrowFileIO) else PyArrowFileIO(table.io.properties)
    return io.fs_by_scheme(scheme, netloc), path


def files_on_disk(table: Table) -> dict[str, float]:
    """Return the files of Iceberg in a table's folder, by path, and when each was written."""
    filesystem, folder = file_system(table)
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return {
        one.path: one.mtime.timestamp()
        for one in found
        if one.type == FileType.File and one.path.endswith(SUFFIXES)
    }


def listed_path(location: str) -> str:
    """Return a location as `files_on_disk` names it."""
    return PyArrowFileIO.parse_location(location)[2]


def local_path(location: str) -> str:
    """Return a location as DuckDB reads it."""
    scheme, _, path = PyArrowFileIO.parse_location(location)
    return path if scheme == "file" else location


def _literal(path: str) -> str:
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def create_views(connection: DuckDBPyConnection, pinned: PinnedTable) -> None:
    """Make `<table>.rows`, and `<table>.deleted`: rows that another engine removed, each once."""
    rows = pinned.files(pinned.lineage[0]).data if pinned.lineage else {}
    dropped: dict[str, int] = {}
    for _, files in pinned.deletions():
        dropped |= files or {}
    name = pinned.name
    connection.execute(f"CREATE VIEW {name}.rows AS {pinned.sql(rows)}")
    connection.execute(
        f"""CREATE TABLE {name}.deleted AS
        SELECT DISTINCT ON (message_id) * FROM ({pinned.sql(dropped)})
        ANTI JOIN {name}.rows USING (message_id)"""
    )


def create_empty_views(connection: DuckDBPyConnection, name: str) -> None:
    """Make the views of a table that is not there, or cannot be read."""
    for view in ("rows", "deleted"):
        nulls = ", ".join(f'NULL::{kind} AS "{one}"' for one, kind in COLUMNS[name].items())
        connection.execute(f"CREATE VIEW {name}.{view} AS SELECT {nulls} WHERE false")
