"""The data files that hold a table at a snapshot, and DuckDB's SQL over them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Final
from uuid import UUID

import duckdb
import pyarrow as pa
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, LiteralPredicate
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table
from pyiceberg.types import NestedField, PrimitiveType

from k2lib.errors import QueryError

ALL_ROWS: Final = AlwaysTrue()
LOCAL_PREFIXES: Final = ("file://", "file:")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONG_AGO_US: Final = -(2**63)
FAR_OFF_US: Final = 2**63 - 1


@dataclass(frozen=True)
class PlannedFile:
    """What a manifest says of one data file.

    Attributes:
        path: as DuckDB reads it.
        exchange: of all its rows; None where the file is of no one exchange.
        oldest_us, newest_us: no event time in it lies outside.
        first_symbol, last_symbol: no symbol in it lies outside; None where it is unknown.
    """

    path: str
    rows: int
    exchange: str | None = None
    oldest_us: int = LONG_AGO_US
    newest_us: int = FAR_OFF_US
    first_symbol: str | None = None
    last_symbol: str | None = None

    def can_have(self, symbol: str, exchange: str | None) -> bool:
        """Say whether it can have rows of an instrument, or of a symbol anywhere."""
        if exchange is not None and self.exchange not in (exchange, None):
            return False
        first, last = self.first_symbol, self.last_symbol
        return (first is None or first <= symbol) and (last is None or symbol <= last)

    def is_within(self, start: datetime | None, end: datetime | None) -> bool:
        """Say whether it can have rows in `[start, end)`."""
        after_start = start is None or self.newest_us >= _microseconds(start)
        return after_start and (end is None or self.oldest_us < _microseconds(end))


class PlanCache:
    """The file lists planned last, so that asking again reads no manifest.

    What a snapshot holds never changes: an entry stays right as long as it is kept. Nor does a
    manifest: of the next snapshot, only those are read that the one listed before it had not.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._plans: OrderedDict[tuple[object, ...], list[PlannedFile]] = OrderedDict()
        self._manifests: dict[UUID, dict[str, list[PlannedFile]]] = {}
        self._lock = threading.Lock()

    def files(
        self,
        table: Table,
        *,
        row_filter: BooleanExpression = ALL_ROWS,
        snapshot_id: int | None = None,
    ) -> list[str]:
        """Return what `planned_files` returns, planned at most once."""
        stored = self.stored(table, row_filter=row_filter, snapshot_id=snapshot_id)
        return [file.path for file in stored]

    def stored(
        self,
        table: Table,
        *,
        row_filter: BooleanExpression = ALL_ROWS,
        snapshot_id: int | None = None,
    ) -> list[PlannedFile]:
        """Return what `stored_files` returns, planned at most once."""
        at = newest_snapshot_id(table) if snapshot_id is None else snapshot_id
        key = (table.metadata.table_uuid, at, str(row_filter))
        with self._lock:
            if key not in self._plans:
                self._plans[key] = (
                    self._listed(table, at)
                    if row_filter == ALL_ROWS
                    else stored_files(table, row_filter=row_filter, snapshot_id=at)
                )
            self._plans.move_to_end(key)
            while len(self._plans) > self._limit:
                self._plans.popitem(last=False)
            return self._plans[key]

    def _listed(self, table: Table, snapshot_id: int | None) -> list[PlannedFile]:
        snapshot = None if snapshot_id is None else table.snapshot_by_id(snapshot_id)
        manifests = [] if snapshot is None else snapshot.manifests(table.io)
        if any(manifest.content == ManifestContent.DELETES for manifest in manifests):
            raise _deletes_error(table)
        known = self._manifests.get(table.metadata.table_uuid, {})
        self._manifests[table.metadata.table_uuid] = listed = {
            manifest.manifest_path: known.get(manifest.manifest_path)
            or [
                _stored(table, entry.data_file) for entry in manifest.fetch_manifest_entry(table.io)
            ]
            for manifest in manifests
        }
        return sorted(chain.from_iterable(listed.values()), key=lambda file: file.path)


def newest_snapshot_id(table: Table) -> int | None:
    """Return the id of the current snapshot, or None where nothing was ever committed."""
    return table.metadata.current_snapshot_id


def planned_files(
    table: Table,
    *,
    row_filter: BooleanExpression = ALL_ROWS,
    snapshot_id: int | None = None,
) -> list[str]:
    """Return the files that can hold rows of the filter; the rows still need filtering.

    Returns:
        Paths as DuckDB reads them: local ones without `file://`, others as they are; sorted.
    Raises:
        QueryError: another writer left delete files, which a plain read would ignore.
    """
    stored = stored_files(table, row_filter=row_filter, snapshot_id=snapshot_id)
    return [file.path for file in stored]


def stored_files(
    table: Table,
    *,
    row_filter: BooleanExpression = ALL_ROWS,
    snapshot_id: int | None = None,
) -> list[PlannedFile]:
    """Return what the manifests say of the files of `planned_files`, sorted by path.

    Raises:
        QueryError: as `planned_files`.
    """
    tasks = list(table.scan(row_filter=row_filter, snapshot_id=snapshot_id).plan_files())
    if any(task.delete_files for task in tasks):
        raise _deletes_error(table)
    files = [_stored(table, task.file) for task in tasks]
    return sorted(files, key=lambda file: file.path)


def table_sql(table: Table, *, files: Sequence[str]) -> str:
    """Return the SELECT over these files of a table, with the table's columns of today."""
    return relation_sql(files, schema=table.schema().as_arrow(), evolved=len(table.schemas()) > 1)


def relation_sql(files: Sequence[str], *, schema: pa.Schema, evolved: bool = False) -> str:
    """Return the SELECT over Parquet files: the columns of `schema`, in its order.

    Args:
        evolved: files may lack columns, which read as null; costs a look into every file.
    """
    if not files:
        return _no_rows_sql(schema)
    if not evolved:
        return f"SELECT {_columns(schema)} FROM {_parquet_sql(files)}"
    found = f"SELECT * FROM {_parquet_sql(files, 'union_by_name = true')}"
    return f"SELECT {_columns(schema)} FROM ({_no_rows_sql(schema)} UNION ALL BY NAME {found})"


def compare(kind: type[LiteralPredicate], column: str, value: str) -> BooleanExpression:
    """Return a row filter; for example `compare(EqualTo, "symbol", "BHP")`."""
    return kind(column, value)


def text_sql(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _deletes_error(table: Table) -> QueryError:
    return QueryError(
        f"table {'.'.join(table.name())} has delete files, which are not read here: "
        "compact it with the engine that deleted the rows"
    )


def _stored(table: Table, file: DataFile) -> PlannedFile:
    path = _as_path(file.file_path)
    names = [field.name for field in table.specs()[file.spec_id].fields]
    exchange = file.partition[names.index("exchange")] if "exchange" in names else None
    bounds = {}
    for name in ("timestamp", "symbol"):
        if name in table.schema().column_names:
            field = table.schema().find_field(name)
            bounds[name] = [_bound(side, field) for side in (file.lower_bounds, file.upper_bounds)]
    oldest, newest = bounds.get("timestamp", (None, None))
    first, last = bounds.get("symbol", (None, None))
    return PlannedFile(
        path,
        file.record_count,
        exchange,
        LONG_AGO_US if oldest is None else oldest,
        FAR_OFF_US if newest is None else newest,
        first,
        last,
    )


def _bound(bounds: dict[int, bytes] | None, field: NestedField) -> Any:
    told, kind = (bounds or {}).get(field.field_id), field.field_type
    if told is None or not isinstance(kind, PrimitiveType):
        return None
    return from_bytes(kind, told)


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _parquet_sql(files: Sequence[str], *options: str) -> str:
    paths = ", ".join(text_sql(path) for path in files)
    settings = ("hive_partitioning = false", *options)
    return f"read_parquet([{paths}], {', '.join(settings)})"


@lru_cache
def _no_rows_sql(schema: pa.Schema) -> str:
    """Only DuckDB knows what it calls a type of Arrow's, and it takes milliseconds to ask."""
    with duckdb.connect() as connection:
        empty = connection.from_arrow(schema.empty_table())
        kinds = zip(empty.columns, empty.types, strict=True)
        columns = [f'NULL::{kind} AS "{name}"' for name, kind in kinds]
    return f"SELECT {', '.join(columns)} WHERE false"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f'"{name}"' for name in schema.names)


def _as_path(uri: str) -> str:
    prefix = next((prefix for prefix in LOCAL_PREFIXES if uri.startswith(prefix)), "")
    return uri.removeprefix(prefix)
