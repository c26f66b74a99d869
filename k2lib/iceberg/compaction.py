"""Merging a partition's small files into sorted larger ones, in one snapshot.

A file's number of rows puts it in a tier, each eight times as large as the one below. When a tier
of a partition is full, its files become one file of a higher tier, so a row is rewritten once a
tier, whatever the size of the table.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2lib.errors import TransientError
from k2lib.iceberg.columns import record_table
from k2lib.iceberg.commit_times import Clock, system_clock
from k2lib.iceberg.deletions import deletion_property
from k2lib.iceberg.duckdb_files import open_duckdb, read_failure
from k2lib.iceberg.file_sql import table_sql
from k2lib.iceberg.manifests import ManifestCache, duckdb_path, has_delete_files, list_manifests
from k2lib.iceberg.offsets import (
    CAUSE_PROPERTY,
    OFFSETS_PROPERTY,
    next_property,
    read_offsets,
    render,
)
from k2lib.iceberg.writer import QuickTransaction, new_file_name, write_file

FAN_IN: Final = 8
TARGET_BYTES: Final = 32 * 1024 * 1024
_FIRST_TIER_ROWS: Final = 4096
_ROW_GROUP_ROWS: Final = 131_072
_MEMORY: Final = "256MB"


@dataclass(frozen=True)
class CompactionResult:
    """What a compaction did."""

    files_merged: int = 0
    files_written: int = 0
    rows_rewritten: int = 0


def plan_compaction(files: Sequence[DataFile], *, fan_in: int = FAN_IN) -> list[list[DataFile]]:
    """Return groups of files to merge, each of one partition and one tier.

    Args:
        files: live files of one partition spec; those of at least half the target stay.
        fan_in: how many files fill a tier.
    Returns:
        Groups of 2 files and more; a group ends at the file with which it reaches the target.
    """
    tiers: defaultdict[tuple[Record, int], list[DataFile]] = defaultdict(list)
    for file in files:
        if file.file_size_in_bytes < TARGET_BYTES // 2:
            tiers[file.partition, tier(file.record_count)].append(file)
    full = (tier_files for tier_files in tiers.values() if len(tier_files) >= fan_in)
    return [group for group in map(_up_to_target, full) if len(group) > 1]


def tier(rows: int) -> int:
    """Return the tier of a file: 0 below 4,096 rows, then one more for every factor of eight."""
    number = 0
    while rows >= _FIRST_TIER_ROWS * FAN_IN**number:
        number += 1
    return number


def total(merges: Sequence[CompactionResult]) -> CompactionResult:
    """Add up what several compactions did."""
    return CompactionResult(
        sum(merge.files_merged for merge in merges),
        sum(merge.files_written for merge in merges),
        sum(merge.rows_rewritten for merge in merges),
    )


class CompactionCandidates:
    """The data files of a table that may be merged."""

    def __init__(self) -> None:
        self._manifests = ManifestCache(lambda _, file: file)

    def read(self, table: Table) -> list[DataFile]:
        """Return the files of the current snapshot; none where delete files apply to them."""
        manifests = list_manifests(table, table.metadata.current_snapshot_id)
        files = self._manifests.files(table, manifests)
        if has_delete_files(table, manifests):
            return []
        return [file for file in files if file.spec_id == table.spec().spec_id]


def compact(
    table: Table,
    groups: Sequence[Sequence[DataFile]],
    *,
    order: Sequence[str],
    spill: Path,
    now: Clock = system_clock,
) -> CompactionResult:
    """Replace each group by one file sorted by `order`, nulls first, in one snapshot on the head.

    Args:
        spill: a folder for what does not fit in memory, of this call alone; removed at its end.
    Raises:
        CommitFailedException: another writer committed meanwhile; nothing has changed.
        TransientError: the files could not be merged; nothing has changed.
    """
    merged = [file for group in groups for file in group]
    if not merged:
        return CompactionResult()
    try:
        written = _written(record_table(table), groups, order=order, spill=spill)
    finally:
        remove_folder(spill)
    transaction = QuickTransaction(table, now=now)
    offsets = read_offsets(table)
    carried = {OFFSETS_PROPERTY: render(offsets)} if offsets else {}
    properties = {**carried, CAUSE_PROPERTY: "compaction"}
    with transaction.update_snapshot(snapshot_properties=properties).overwrite() as update:
        for file in merged:
            update.delete_data_file(file)
        for file in written:
            update.append_data_file(file)
    if offsets:
        transaction.set_properties(
            {**next_property(table, update.snapshot_id, offsets), **deletion_property(table)}
        )
    transaction.commit_transaction()
    return CompactionResult(len(merged), len(written), sum(file.record_count for file in written))


def _up_to_target(files: Sequence[DataFile]) -> list[DataFile]:
    group: list[DataFile] = []
    size = 0
    for file in files:
        if size >= TARGET_BYTES:
            break
        group.append(file)
        size += file.file_size_in_bytes
    return group


def remove_folder(path: Path) -> None:
    """Remove a folder for temporary files, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def _written(
    table: Table, groups: Sequence[Sequence[DataFile]], *, order: Sequence[str], spill: Path
) -> list[DataFile]:
    try:
        return [_merge(table, group, order=order, spill=spill) for group in groups]
    except duckdb.Error as exc:
        reason = read_failure(exc) or exc
        raise TransientError(f"{'.'.join(table.name())}: files were not merged: {reason}") from exc


def _merge(
    table: Table, group: Sequence[DataFile], *, order: Sequence[str], spill: Path
) -> DataFile:
    folder = group[0].file_path.rpartition("/")[0]
    rows = _sorted_rows(table, group, order=order, spill=spill)
    merged = write_file(table, f"{folder}/{new_file_name()}", rows, group[0].partition)
    _check_rows(table, group, written=merged.record_count)
    return merged


def _check_rows(table: Table, group: Sequence[DataFile], *, written: int) -> None:
    expected = sum(file.record_count for file in group)
    if written != expected:
        raise TransientError(
            f"{'.'.join(table.name())}: the manifests count {expected} rows in {len(group)} files, "
            f"the files hold {written}; they were left as they are. First: {group[0].file_path}"
        )


def _sorted_rows(
    table: Table, group: Sequence[DataFile], *, order: Sequence[str], spill: Path
) -> Iterator[pa.Table]:
    """DuckDB sorts, because its sort goes to disk beyond the limit."""
    schema = schema_to_pyarrow(table.schema())
    there = [name for name in order if name in schema.names]
    keys = ", ".join(f'"{name}" ASC NULLS FIRST' for name in there)
    in_order = f"ORDER BY {keys}" if keys else ""
    with _duckdb(spill) as duck:
        small_files = table_sql(table, files=[duckdb_path(file.file_path) for file in group])
        rows = duck.sql(f"SELECT * FROM ({small_files}) {in_order}")
        for batch in rows.to_arrow_reader(_ROW_GROUP_ROWS):
            yield pa.Table.from_batches([batch]).cast(schema)


def _duckdb(spill: Path) -> duckdb.DuckDBPyConnection:
    return open_duckdb(memory_limit=_MEMORY, temp_directory=str(spill))
