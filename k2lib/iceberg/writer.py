"""The writer of a table: rows and the offsets they end at become visible in one commit.

After an unknown outcome the catalog is asked: a new `TableWriter` reads the offsets of the table
that is there, and the sink resumes at those, so a batch is in the table once or not at all.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.fileformat import FileFormatFactory
from pyiceberg.io.pyarrow import _determine_partitions, schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import Record

from k2lib.addresses import public_url
from k2lib.errors import ConfigError, StaleWriterError, TableError
from k2lib.events import CommitBegun, CommitDone, FilesWritten, OnEvent
from k2lib.iceberg.catalog import CATALOG_ERRORS, lake_errors
from k2lib.iceberg.columns import check_columns, record_table
from k2lib.iceberg.commit_times import Clock, not_before, system_clock
from k2lib.iceberg.deduplication import Deduplicator, newest_rows
from k2lib.iceberg.deletions import (
    NewestIds,
    deletion_property,
    newest_ids,
    newest_property,
    with_newest,
)
from k2lib.iceberg.manifests import check_readable
from k2lib.iceberg.offsets import (
    OFFSETS_PROPERTY,
    OffsetRange,
    Offsets,
    OffsetsProperty,
    advance,
    end_of,
    find_offsets,
    leads,
    next_property,
    read_offsets,
    render,
)
from k2lib.iceberg.tables import TableSpec
from k2lib.kafka.consumer import TopicPartition


class QuickTransaction(Transaction):
    """A pyiceberg transaction whose snapshots are never dated before the table's last commit.

    It also computes its metadata once per staged change.
    `Transaction.table_metadata` copies all metadata deeply at each access, some twenty times a
    commit, which is most of the time a commit takes. Nothing changes the copy, so one serves.
    Only `Transaction._updates` says whether a change was staged: there is no public way.
    """

    def __init__(
        self, table: Table, *, autocommit: bool = False, now: Clock = system_clock
    ) -> None:
        """Begin on the current state of the table."""
        super().__init__(table, autocommit)
        self._now = now
        self._computed: tuple[object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """Return the table's metadata with the changes staged so far."""
        if self._computed is None or self._computed[0] is not self._updates:
            self._computed = (self._updates, super().table_metadata)
        return self._computed[1]

    def _stage(
        self,
        updates: tuple[TableUpdate, ...],
        requirements: tuple[TableRequirement, ...] = (),
    ) -> Transaction:
        dated = not_before(updates, self.table_metadata, self._now())
        return super()._stage(dated, requirements)


FILE_PREFIX: Final = "k2-"
DAY_US: Final = 24 * 3600 * 1_000_000
NULLS_FIRST: Final = ("ascending", "at_start")


def write_files(table: Table, spec: TableSpec, rows: pa.Table) -> list[DataFile]:
    """Write rows as data files of the table, each sorted by the table's order; commits nothing."""
    table = record_table(table)
    return [
        write_file(table, _location(table, key), [part], key.partition if key else Record())
        for key, part in _partitions(table, spec, _as_table_columns(table, rows))
    ]


def _as_table_columns(table: Table, rows: pa.Table) -> pa.Table:
    """Return rows with the table's columns: those of other writers are null."""
    schema = schema_to_pyarrow(table.schema())
    try:
        columns = [
            rows[field.name].cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise TableError(
            f"table {'.'.join(table.name())}: rows do not fit the columns that another writer "
            f"changed: {exc}"
        ) from exc


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
    order = [name for name in spec.order if name in rows.column_names]
    if not table.spec().fields:
        yield None, _sorted(rows, order)
        return
    if not _is_by_day_and_exchange(table):
        for part in _determine_partitions(table.spec(), table.schema(), rows):
            yield part.partition_key, _sorted(part.arrow_table_partition, order)
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


def _is_by_day_and_exchange(table: Table) -> bool:
    """Whether the partitions are still as they were made: another writer may add a field."""
    fields = [
        (table.schema().find_column_name(field.source_id), str(field.transform))
        for field in table.spec().fields
    ]
    return fields == [("timestamp", "day"), ("exchange", "identity")]


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


def new_file_name() -> str:
    """Name a data file; no other engine gives its files such names."""
    return f"{FILE_PREFIX}{uuid4()}.parquet"


def _location(table: Table, key: PartitionKey | None) -> str:
    return table.location_provider().new_data_location(new_file_name(), key)


RETRIES: Final = "commit.retry.num-retries"


def _was_rolled_back(table: Table) -> bool:
    return leads(OffsetsProperty.of(table), find_offsets(table))


def check_appendable(table: Table, spec: TableSpec) -> None:
    """Refuse a table to which a sink could add no row.

    Raises:
        TableError: another engine left it so; names what it did and the remedy.
    """
    check_columns(table, spec.schema)
    check_readable(table)
    read_offsets(table)


class TableWriter:
    """Appends to one table, whose offsets it read last at its start or its last commit."""

    def __init__(
        self, table: Table, spec: TableSpec, *, on_event: OnEvent, now: Clock = system_clock
    ) -> None:
        """Check the table.

        Raises:
            ConfigError: the table would commit again by itself, which lands a stale batch twice.
            TableError: another engine left the table as rows cannot be added to it, or a file of it
                is missing or damaged.
        """
        if table.properties.get(RETRIES) != "0":
            raise ConfigError(
                f"table {spec.name}: set its property {RETRIES} to 0, then start again"
            )
        self.table = table
        self._spec = spec
        self._on_event = on_event
        self._now = now
        self._name = f"table {spec.name} at {public_url(table.location())}"
        check_columns(table, spec.schema)
        self._deduplicator = Deduplicator(table, spec, now=now)
        self._newest_ids: NewestIds = {}
        self._offsets = self._find_offsets()
        if spec.kind == "trades":
            self._newest_ids = with_newest(newest_ids(self.table), self._deduplicator.newest)

    def end_of(self, log: str, tp: TopicPartition) -> int | None:
        """Return the next offset to read, None where the table never read this partition."""
        return end_of(self._offsets, log, tp)

    def append(
        self, rows: pa.Table, read: Mapping[TopicPartition, OffsetRange], logs: Mapping[str, str]
    ) -> int:
        """Commit the rows that the table does not have, with the offsets after all of them.

        Args:
            read: [start, end) of every partition that was read.
            logs: the log id of each topic.
        Returns:
            How many rows were added; the table had the others.
        Raises:
            StaleWriterError: another writer changed the table; this call added nothing.
            TransientError: the catalog failed, and the outcome is unknown: read the table again.
            DamagedFileError: a file of the table is missing or cannot be read.
        """
        expected = self.table.metadata.current_snapshot_id
        try:
            with lake_errors(f"{self._name} cannot be written"):
                self.table.refresh()
                self._check_head(expected)
                new_rows = self._deduplicator.new_rows(rows, self.table)
                offsets = advance(self._offsets, logs, read)
                self._commit(new_rows, offsets)
        except CommitFailedException as exc:
            raise self._overtaken() from exc
        self._deduplicator.note_committed(new_rows)
        self._offsets = offsets
        return int(new_rows.num_rows)

    def check_rollback(self) -> None:
        """Notice a rollback while there is nothing to append: another engine may expire after it.

        Raises:
            StaleWriterError: the table went back; begin again at its offsets.
        """
        with suppress(*CATALOG_ERRORS):
            now = self.table.catalog.load_table(self.table.name())
            head = self.table.metadata.current_snapshot_id
            if now.metadata.current_snapshot_id != head and _was_rolled_back(now):
                raise StaleWriterError(f"table {self._spec.name}: another writer rolled it back")

    def _find_offsets(self) -> Offsets:
        """Return the offsets; after a rollback, let the property follow it before others expire."""
        found = find_offsets(self.table)
        if _was_rolled_back(self.table):
            try:
                with QuickTransaction(self.table, now=self._now) as transaction:
                    transaction.set_properties({**found.to_json(), **newest_property({})})
            except CommitFailedException as exc:
                raise self._overtaken() from exc
        return found.offsets

    def _overtaken(self) -> StaleWriterError:
        return StaleWriterError(f"table {self._spec.name}: another writer committed first")

    def _check_head(self, expected: int | None) -> None:
        """Refuse a table that another writer changed after its offsets and rows were read here."""
        now = self.table.metadata.current_snapshot_id
        if now != expected:
            raise StaleWriterError(
                f"table {self._spec.name}: another writer moved it to snapshot {now}, "
                f"this batch follows {expected}"
            )

    def _commit(self, rows: pa.Table, offsets: Offsets) -> None:
        table, began = self._spec.name, time.monotonic()
        transaction = QuickTransaction(self.table, now=self._now)
        files = write_files(self.table, self._spec, rows) if rows.num_rows else []
        self._on_event(FilesWritten(table, len(files)))
        summary = {OFFSETS_PROPERTY: render(offsets)}
        with transaction.update_snapshot(snapshot_properties=summary).merge_append() as update:
            for file in files:
                update.append_data_file(file)
        if self._spec.kind == "trades":
            self._newest_ids = with_newest(self._newest_ids, newest_rows(rows))
        transaction.set_properties(
            {
                **next_property(self.table, update.snapshot_id, offsets),
                **deletion_property(self.table),
                **(newest_property(self._newest_ids) if self._newest_ids else {}),
            }
        )
        self._on_event(CommitBegun(table, rows.num_rows))
        transaction.commit_transaction()
        self._on_event(CommitDone(table, rows.num_rows, seconds=time.monotonic() - began))
