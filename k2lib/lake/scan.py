"""The data files that hold a table at a snapshot, and DuckDB's SQL over them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, LiteralPredicate
from pyiceberg.table import Table

from k2lib.errors import QueryError

ALL_ROWS: Final = AlwaysTrue()
LOCAL_PREFIXES: Final = ("file://", "file:")


class PlanCache:
    """The file lists planned last, so that asking again reads no manifest.

    What a snapshot holds never changes: an entry stays right as long as it is kept.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._plans: OrderedDict[tuple[object, ...], list[str]] = OrderedDict()
        self._lock = threading.Lock()

    def files(
        self,
        table: Table,
        *,
        row_filter: BooleanExpression = ALL_ROWS,
        snapshot_id: int | None = None,
    ) -> list[str]:
        """Return what `planned_files` returns, planned at most once."""
        at = newest_snapshot_id(table) if snapshot_id is None else snapshot_id
        key = (table.metadata.table_uuid, at, str(row_filter))
        with self._lock:
            if key not in self._plans:
                self._plans[key] = planned_files(table, row_filter=row_filter, snapshot_id=at)
            self._plans.move_to_end(key)
            while len(self._plans) > self._limit:
                self._plans.popitem(last=False)
            return self._plans[key]


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
    tasks = list(table.scan(row_filter=row_filter, snapshot_id=snapshot_id).plan_files())
    if any(task.delete_files for task in tasks):
        raise QueryError(
            f"table {'.'.join(table.name())} has delete files, which are not read here: "
            "compact it with the engine that deleted the rows"
        )
    return sorted(_as_path(task.file.file_path) for task in tasks)


def table_sql(connection: DuckDBPyConnection, table: Table, *, files: Sequence[str]) -> str:
    """Return the SELECT over these files of a table, with the table's columns of today."""
    evolved = len(table.schemas()) > 1
    return relation_sql(connection, files, schema=table.schema().as_arrow(), evolved=evolved)


def relation_sql(
    connection: DuckDBPyConnection,
    files: Sequence[str],
    *,
    schema: pa.Schema,
    evolved: bool = False,
) -> str:
    """Return the SELECT over Parquet files: the columns of `schema`, in its order.

    Args:
        evolved: files may lack columns, which read as null; costs a look into every file.
    """
    if not files:
        return _no_rows_sql(connection, schema)
    if not evolved:
        return f"SELECT {_columns(schema)} FROM {_parquet_sql(files)}"
    found = f"SELECT * FROM {_parquet_sql(files, 'union_by_name = true')}"
    known = f"{_no_rows_sql(connection, schema)} UNION ALL BY NAME {found}"
    return f"SELECT {_columns(schema)} FROM ({known})"


def compare(kind: type[LiteralPredicate], column: str, value: str) -> BooleanExpression:
    """Return a row filter; for example `compare(EqualTo, "symbol", "BHP")`."""
    return kind(column, value)


def text_sql(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _parquet_sql(files: Sequence[str], *options: str) -> str:
    paths = ", ".join(text_sql(path) for path in files)
    settings = ("hive_partitioning = false", *options)
    return f"read_parquet([{paths}], {', '.join(settings)})"


def _no_rows_sql(connection: DuckDBPyConnection, schema: pa.Schema) -> str:
    empty = connection.from_arrow(schema.empty_table())
    columns = [
        f'NULL::{kind} AS "{name}"' for name, kind in zip(empty.columns, empty.types, strict=True)
    ]
    return f"SELECT {', '.join(columns)} WHERE false"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f'"{name}"' for name in schema.names)


def _as_path(uri: str) -> str:
    prefix = next((prefix for prefix in LOCAL_PREFIXES if uri.startswith(prefix)), "")
    return uri.removeprefix(prefix)
