"""Data files: sorted rows written as Parquet, a file for every partition they fall into."""

from collections.abc import Iterable, Iterator
from typing import Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2lib.lake.tables import TableSpec

DAY_US: Final = 24 * 3600 * 1_000_000
NULLS_FIRST: Final = ("ascending", "at_start")


def write_files(table: Table, spec: TableSpec, rows: pa.Table) -> list[DataFile]:
    """Write rows as data files of the table, each sorted by the table's order; commits nothing."""
    schema = schema_to_pyarrow(table.schema())
    return [
        write_file(table, _location(table, key), [part], key.partition if key else Record())
        for key, part in _partitions(table, spec, rows.select(schema.names).cast(schema))
    ]


def write_file(
    table: Table, location: str, parts: Iterable[pa.Table], partition: Record
) -> DataFile:
    """Write one Parquet file with the table's properties and return how a manifest lists it."""
    output = table.io.new_output(location)
    model = FileFormatFactory.get(FileFormat.PARQUET)
    writer = model.create_writer(output, table.schema(), table.properties)
    with writer:
        for part in parts:
            writer.write(part)
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=partition,
        file_size_in_bytes=len(output),
        sort_order_id=table.sort_order().order_id,
        spec_id=table.spec().spec_id,
        equality_ids=None,
        key_metadata=None,
        **writer.result().to_serialized_dict(),
    )


def _partitions(
    table: Table, spec: TableSpec, rows: pa.Table
) -> Iterator[tuple[PartitionKey | None, pa.Table]]:
    """Yield each partition's rows, sorted: one sort for all of them, then slices of it."""
    if not spec.by_day:
        yield None, _sorted(rows, spec.order)
        return
    days = pa.array(rows["timestamp"].cast(pa.int64()).to_numpy() // DAY_US, pa.int32())
    ordered = _sorted(rows.append_column("_day", days), ("_day", "exchange", *spec.order))
    days, exchanges = ordered["_day"].to_numpy(), ordered["exchange"].combine_chunks()
    codes = exchanges.dictionary_encode().indices.to_numpy()
    begins = np.flatnonzero((np.diff(days, prepend=-1) != 0) | (np.diff(codes, prepend=-1) != 0))
    ordered = ordered.drop_columns("_day")
    for begin, end in zip(begins, [*begins[1:], len(days)], strict=True):
        key = _key(table, int(days[begin]), exchanges[begin].as_py())
        yield key, ordered.slice(begin, end - begin)


def _sorted(rows: pa.Table, order: Iterable[str]) -> pa.Table:
    keys = [(name, *NULLS_FIRST) for name in order]
    return rows.take(pc.sort_indices(rows, sort_keys=keys)) if keys else rows


def _key(table: Table, day: int, exchange: str) -> PartitionKey:
    values = zip(table.spec().fields, (day, exchange), strict=True)
    return PartitionKey(
        field_values=[PartitionFieldValue(field=field, value=value) for field, value in values],
        partition_spec=table.spec(),
        schema=table.schema(),
    )


def _location(table: Table, key: PartitionKey | None) -> str:
    return table.location_provider().new_data_location(f"{uuid4()}.parquet", key)
