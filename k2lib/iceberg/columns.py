"""Columns by field id: our names for the columns of a table that another engine may have changed.

Another engine may add, rename, widen or drop columns. A column of ours is the one that the table's
schemas called by its name first, whatever it is called now: everything here reads and writes it
under the name in `schemas/*.avsc`. Columns of other writers keep their names.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from pyiceberg.exceptions import ResolveError
from pyiceberg.schema import Schema, promote
from pyiceberg.table import Table
from pyiceberg.types import IcebergType, NestedField, PrimitiveType

from k2lib.errors import TableError
from k2lib.schema.records import RecordSchema

AVRO_SCHEMA_PROPERTY: Final = "k2.avro-schema"
# What pyiceberg writes.
NEWEST_FORMAT: Final = 2
# What rows are found, put in order and told apart by.
KEYS: Final = (
    "message_id",
    "exchange",
    "symbol",
    "timestamp",
    "source_sequence",
    "platform_sequence",
)


def record_table(table: Table) -> Table:
    """Return a table with our names for our columns, to read and to plan with; to commit, take it.

    Raises:
        TableError: another writer gave a column of its own the name of one of ours.
    """
    if len(table.schemas()) == 1:
        return table
    ids = _column_ids(table)
    schemas = [record_schema(table, schema, ids=ids) for schema in table.metadata.schemas]
    if schemas == table.metadata.schemas:
        return table
    metadata = table.metadata.model_copy(update={"schemas": schemas})
    return Table(table.name(), metadata, table.metadata_location, table.io, table.catalog)


def record_schema(table: Table, schema: Schema, *, ids: Mapping[str, list[int]]) -> Schema:
    """Return one of a table's schemas with our names for our columns."""
    names = {}
    for name, candidates in ids.items():
        field_id = next((one for one in candidates if one in schema.field_ids), None)
        if field_id is not None:
            names[field_id] = name
    fields = [_renamed(field, names.get(field.field_id, field.name)) for field in schema.fields]
    _check_distinct(table, fields, schema)
    return Schema(
        *fields,
        schema_id=schema.schema_id,
        identifier_field_ids=schema.identifier_field_ids,
    )


def snapshot_schema(table: Table, snapshot_id: int | None) -> Schema:
    """Return the schema that rows of a snapshot are read with.

    As Iceberg defines time travel: an older snapshot has the columns it was written with, the
    current one those of today.
    """
    if snapshot_id is None or snapshot_id == table.metadata.current_snapshot_id:
        return table.schema()
    snapshot = table.snapshot_by_id(snapshot_id)
    schema_id = None if snapshot is None else snapshot.schema_id
    return table.schema() if schema_id is None else table.schemas().get(schema_id, table.schema())


def renamed_columns(table: Table) -> dict[str, str]:
    """Return our names of the columns that another writer renamed, by its names."""
    ours = record_table(table).schema().fields
    return {
        theirs.name: our.name
        for theirs, our in zip(table.schema().fields, ours, strict=True)
        if theirs.name != our.name
    }


def stored_schema(table: Table, schema: RecordSchema) -> Schema:
    """Return a record's schema as a table is to have it: without what another writer dropped.

    Columns that another writer renamed have its names, so that none of them is added again.
    """
    ids, today = _column_ids(table), table.schema()
    fields = []
    for field in schema.iceberg.fields:
        candidates = ids.get(field.name)
        there = [one for one in candidates or () if one in today.field_ids]
        if there:
            fields.append(_renamed(field, today.find_field(there[0]).name))
        elif candidates is None:
            fields.append(field)
    return Schema(*fields)


def check_columns(table: Table, schema: RecordSchema) -> None:
    """Refuse a table to which another writer's change leaves no way to write our rows.

    Raises:
        TableError: names the change.
    """
    if table.format_version > NEWEST_FORMAT:
        change = f"upgraded it to format version {table.format_version}"
        raise _change(
            table, change, f"K2 writes up to {NEWEST_FORMAT}; make a copy of that version"
        )
    today = record_table(table).schema()
    ours = schema.iceberg
    # The next write widens what an older version made.
    is_older = table.properties.get(AVRO_SCHEMA_PROPERTY) != schema.text
    for name in schema.arrow.names:
        if name not in today.column_names:
            if name in KEYS:
                raise _change(table, f"dropped column {name}", "add it again")
            continue
        was, kind = today.find_field(name).field_type, ours.find_field(name).field_type
        if not _takes(was, kind) and not (is_older and _takes(kind, was)):
            change = f"made column {name} {was}, which cannot take {kind}"
            raise _change(table, change, "restore its type")
    for field in today.fields:
        if field.required and field.name not in schema.arrow.names:
            raise _change(table, f"added the required column {field.name}", "make it optional")


def _takes(kind: IcebergType, written: IcebergType) -> bool:
    """Say whether a column of the first type takes values of the second."""
    if not isinstance(written, PrimitiveType) or written == kind:
        return True
    try:
        promote(written, kind)
    except ResolveError:
        return False
    return True


def _column_ids(table: Table) -> dict[str, list[int]]:
    """Return the field ids that each of our columns has had, the first one first."""
    ids: dict[str, list[int]] = {}
    for _, schema in sorted(table.schemas().items()):
        for name in _names_of(table.properties.get(AVRO_SCHEMA_PROPERTY)):
            if name in schema.column_names:
                ids.setdefault(name, []).append(schema.find_field(name).field_id)
    return ids


@lru_cache
def _names_of(avro_text: str | None) -> tuple[str, ...]:
    """Return our columns of a table, by the Avro schema it was last fed with."""
    return (
        () if avro_text is None else tuple(one["name"] for one in json.loads(avro_text)["fields"])
    )


def _renamed(field: NestedField, name: str) -> NestedField:
    return field if name == field.name else field.model_copy(update={"name": name})


def _check_distinct(table: Table, fields: list[NestedField], schema: Schema) -> None:
    names = [field.name for field in fields]
    for field, name in zip(schema.fields, names, strict=True):
        if names.count(name) > 1 and field.name == name:
            raise _change(table, f"added a column {name} beside ours, renamed", "rename one")


def _change(table: Table, change: str, remedy: str) -> TableError:
    return TableError(
        f"table {'.'.join(table.name())}: another writer {change}: {remedy} with that engine"
    )
