"""Schemas, rows and tables as version 0.2 made them, with quantities of 18 digits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from support.lake_upkeep import offsets

from k2lib.iceberg.offsets import render
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.schema.records import RecordSchema


def older(schema: RecordSchema) -> RecordSchema:
    """Return the schema as it was."""
    return replace(schema, text=schema.text.replace('"precision":19', '"precision":18'))


def older_rows(rows: Sequence[dict[str, Any]], name: str = "trades_v2") -> pa.Table:
    """Return rows as the Arrow table that a sink appended."""
    return pa.Table.from_pylist(list(rows), schema=older(TABLES[name].schema).arrow)


def older_table(
    catalog: Catalog, *commits: Sequence[dict[str, Any]], name: str = "trades_v2"
) -> Table:
    """Make a table as it was, a data file for each of the commits."""
    spec = TABLES[name]
    table = ensure_table(catalog, replace(spec, schema=older(spec.schema)))
    for rows in commits:
        properties = {"k2.offsets": render(offsets(len(rows)))}
        table.append(older_rows(rows, name), snapshot_properties=properties)
    return table
