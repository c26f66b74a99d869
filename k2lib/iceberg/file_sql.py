"""DuckDB's SQL over the data files of a table, their columns found by field id."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import NestedField

from k2lib.iceberg.columns import record_table
from k2lib.iceberg.duckdb_files import REMOTE
from k2lib.iceberg.tables import columns_as_read

GLOB: Final = re.compile(r"[*?\[]")
FIELD_ID: Final = b"PARQUET:field_id"


def table_sql(table: Table, *, files: Sequence[str], schema: Schema | None = None) -> str:
    """Return the SELECT over these files of a table.

    Args:
        schema: whose columns it has, found by field id; by default those of today, ours under
            our names.
    """
    REMOTE.add(table)
    if schema is None:
        schema = columns_as_read(table, record_table(table).schema())
    with_ids, without_ids = _split_by_ids(table, files)
    if not without_ids:
        return relation_sql(with_ids, schema=schema)
    names = _names_by_id(table)
    parts = [
        _mapped_sql(some, schema, names, columns=columns) for columns, some in without_ids.items()
    ]
    if with_ids:
        parts.append(relation_sql(with_ids, schema=schema))
    return " UNION ALL ".join(parts)


def relation_sql(files: Sequence[str], *, schema: Schema) -> str:
    """Return the SELECT over Parquet files with field ids: the columns of `schema`, in its order.

    A column that a file does not have is null in its rows.
    """
    kinds = _duckdb_types(schema.as_arrow())
    if not files:
        return _no_rows_sql(kinds)
    columns = ", ".join(_column_sql(field, kinds) for field in schema.fields)
    options = f"hive_partitioning = false, schema = MAP {{{columns}}}"
    return f"SELECT * FROM {_parquet_sql(files, options)}"


def literal_path(path: str) -> str:
    """Return a local path in which DuckDB looks for these very characters."""
    return GLOB.sub(r"[\g<0>]", path) if path.startswith("/") else path


def text_sql(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _parquet_sql(files: Sequence[str], options: str) -> str:
    paths = ", ".join(text_sql(literal_path(path)) for path in files)
    return f"read_parquet([{paths}], {options})"


def _column_sql(field: NestedField, kinds: Mapping[str, str]) -> str:
    default = "NULL" if field.initial_default is None else text_sql(str(field.initial_default))
    name, kind = text_sql(field.name), text_sql(kinds[field.name])
    return f"{field.field_id}: {{name: {name}, type: {kind}, default_value: {default}}}"


@lru_cache
def _duckdb_types(schema: pa.Schema) -> dict[str, str]:
    """Only DuckDB knows its name of an Arrow type, and it takes milliseconds to say it."""
    with duckdb.connect() as connection:
        empty = connection.from_arrow(schema.empty_table())
        return dict(zip(empty.columns, map(str, empty.types), strict=True))


def _no_rows_sql(kinds: Mapping[str, str]) -> str:
    columns = [f'NULL::{kind} AS "{name}"' for name, kind in kinds.items()]
    return f"SELECT {', '.join(columns)} WHERE false"


NAME_MAPPING: Final = "schema.name-mapping.default"
Columns = tuple[str, ...]


def _split_by_ids(table: Table, files: Sequence[str]) -> tuple[list[str], dict[Columns, list[str]]]:
    """Return the files with field ids, and the others by the columns they have.

    Only a table with a name mapping has files of other writers that lack ids.
    """
    if NAME_MAPPING not in table.properties:
        return list(files), {}
    with_ids: list[str] = []
    without_ids: dict[Columns, list[str]] = {}
    for file in files:
        columns = _columns_without_ids(file)
        (with_ids if columns is None else without_ids.setdefault(columns, [])).append(file)
    return with_ids, without_ids


@lru_cache(maxsize=65_536)
def _columns_without_ids(path: str) -> Columns | None:
    """A file never changes, so it is looked into once, whatever handle of the table asks."""
    schema = pq.read_schema(REMOTE.open(path) if REMOTE.has(path) else path)
    if any(FIELD_ID in (field.metadata or {}) for field in schema):
        return None
    return tuple(schema.names)


def _names_by_id(table: Table) -> dict[int, list[str]]:
    mapping = table.metadata.name_mapping() or ()
    return {one.field_id: list(one.names) for one in mapping if one.field_id is not None}


def _mapped_sql(
    files: Sequence[str], schema: Schema, names: Mapping[int, list[str]], *, columns: Columns
) -> str:
    """Return the SELECT over files without field ids, which all have these columns."""
    kinds = _duckdb_types(schema.as_arrow())
    selected = []
    for field in schema.fields:
        there = [name for name in names.get(field.field_id, ()) if name in columns]
        value = f'"{there[0]}"' if there else "NULL"
        selected.append(f'{value}::{kinds[field.name]} AS "{field.name}"')
    return f"SELECT {', '.join(selected)} FROM {_parquet_sql(files, 'hive_partitioning = false')}"
