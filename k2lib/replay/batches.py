"""Batches of a replay: rows of one kind, as Arrow record batches of the tables' own columns."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import pyarrow as pa
from msgspec import structs

from k2lib.iceberg.tables import TABLES
from k2lib.replay.lanes import Lane
from k2lib.replay.plan import TABLE_OF
from k2lib.replay.records import Gap

GAPS: Final = pa.schema(
    [
        pa.field("exchange", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("from_id", pa.int64(), nullable=False),
        pa.field("to_id", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("note", pa.string(), nullable=False),
    ]
)


class Batch(NamedTuple):
    """Rows of one kind, `trades`, `quotes` or `gaps`, in the order of events."""

    kind: str
    rows: pa.RecordBatch


def names_of(kind: str) -> list[str]:
    """Return the columns of a kind."""
    names: list[str] = TABLES[TABLE_OF[kind]].schema.arrow.names
    return names


def kept(
    parts: Sequence[tuple[Lane, pa.Table]], columns: Sequence[str] | None
) -> Sequence[tuple[Lane, pa.Table]]:
    """Leave out the columns that were read for the order alone, before rows are moved."""
    if columns is None:
        return parts
    needed = {*columns, "timestamp"}
    return [
        (lane, rows.select([n for n in rows.column_names if n in needed])) for lane, rows in parts
    ]


def plain(kind: str, rows: pa.Table, columns: Sequence[str] | None) -> pa.RecordBatch:
    """Return rows with the columns asked for, or all, and their types in the table."""
    schema = TABLES[TABLE_OF[kind]].schema.arrow
    asked = [one for one in schema if columns is None or one.name in columns]
    wanted = rows.select([one.name for one in asked]).cast(pa.schema(asked))
    return wanted.combine_chunks().to_batches()[0]


def gap_batch(gaps: Sequence[Gap]) -> pa.RecordBatch:
    """Return gaps as a batch."""
    return pa.RecordBatch.from_pylist([structs.asdict(gap) for gap in gaps], schema=GAPS)
