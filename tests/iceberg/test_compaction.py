"""Small files become one sorted file, in one snapshot, with the rows they had."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyiceberg.types import StringType
from support.lake_rows import append, catalog_in, gap, rows_table, trade
from support.lake_upkeep import (
    TRADES,
    Clock,
    commit,
    commit_each,
    ids,
    local,
    message_ids,
    offsets,
    trades_table,
)

from k2lib.errors import TransientError
from k2lib.iceberg.compaction import (
    TARGET_BYTES,
    CompactionCandidates,
    CompactionResult,
    compact,
    plan_compaction,
    tier,
)
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.offsets import read_offsets
from k2lib.iceberg.tables import TABLES, ensure_table


def _file(name: str, *, rows: int = 10, size: int = 1000, day: int = 1) -> DataFile:
    return DataFile.from_args(
        file_path=name,
        record_count=rows,
        file_size_in_bytes=size,
        partition=Record(day, "ASX"),
    )


def _files(count: int, **sizes: int) -> list[DataFile]:
    return [_file(f"{number}-{sizes}", **sizes) for number in range(count)]


def _compact(table: Table) -> CompactionResult:
    groups = plan_compaction(CompactionCandidates().read(table), fan_in=2)
    return compact(table, groups, order=TRADES.order, spill=_spill(table))


def _spill(table: Table) -> Path:
    return local(table.location()) / "spill"


def _rows(table: Table) -> list[dict[str, Any]]:
    return [row for task in table.scan().plan_files() for row in _of(task.file)]


def _of(file: DataFile) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(local(file.file_path), partitioning=None).to_pylist()
    return rows


def test_tiers_grow_by_eight() -> None:
    assert [tier(rows) for rows in (1, 4095, 4096, 32_767, 32_768, 262_144)] == [0, 0, 1, 1, 2, 3]


def test_seven_files_are_left_and_eight_are_merged() -> None:
    assert plan_compaction(_files(7)) == []
    assert plan_compaction(_files(8)) == [_files(8)]


def test_files_of_other_partitions_or_tiers_are_not_merged_together() -> None:
    assert plan_compaction([*_files(7), *_files(7, day=2), *_files(7, rows=5000)]) == []


def test_large_files_stay_and_a_group_ends_at_the_target() -> None:
    assert plan_compaction(_files(8, size=TARGET_BYTES // 2)) == []
    assert [len(group) for group in plan_compaction(_files(9, size=TARGET_BYTES // 3 + 1))] == [3]


def test_merged_rows_are_the_same_and_stand_in_order(tmp_path: Path) -> None:
    table = trades_table(tmp_path)
    mixed = [trade(n, symbol=f"S{n % 3}", platform_sequence=[None, n][n % 2]) for n in range(40)]
    for start in range(8):
        table.append(rows_table(mixed[start::8]))
    before = _rows(table)
    assert _compact(table) == CompactionResult(8, 1, 40)
    merged = _rows(table)
    assert sorted(before, key=str) == sorted(merged, key=str)
    assert [row["message_id"] for row in merged] == [
        row["message_id"]
        for row in sorted(mixed, key=lambda row: (row["symbol"], row["timestamp"]))
    ]


def test_nulls_stand_first(tmp_path: Path) -> None:
    table = trades_table(tmp_path)
    for number, sequence in enumerate((7, None, 3)):
        row = trade(number, timestamp=trade(0)["timestamp"], source_sequence=sequence)
        table.append(rows_table([row]))
    _compact(table)
    assert [row["source_sequence"] for row in _rows(table)] == [None, 3, 7]


def test_compaction_is_one_snapshot_that_carries_the_offsets(tmp_path: Path) -> None:
    table = commit_each(trades_table(tmp_path), range(8))
    before = table.current_snapshot()
    _compact(table)
    after = table.current_snapshot()
    assert before and after and after.summary
    assert after.parent_snapshot_id == before.snapshot_id
    assert after.summary["k2.cause"] == "compaction"
    assert read_offsets(table) == offsets(8)


def test_merged_files_keep_bounds_for_pruning(tmp_path: Path) -> None:
    table = commit_each(trades_table(tmp_path), range(8))
    _compact(table)
    assert len(list(table.scan("symbol = 'BHP'").plan_files())) == 1
    assert not list(table.scan("symbol = 'CBA'").plan_files())


def test_a_table_without_partitions_is_compacted(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    for revision in range(8):
        table = append(catalog, [gap("g1", revision)], "gaps")
    groups = plan_compaction(CompactionCandidates().read(table))
    merge = compact(table, groups, order=TABLES["gaps"].order, spill=_spill(table))
    assert merge == CompactionResult(8, 1, 8)
    assert sorted(row["revision"] for row in _rows(table)) == list(range(8))


def test_files_older_than_a_column_read_as_null(tmp_path: Path) -> None:
    table = commit(trades_table(tmp_path), 0)
    with table.update_schema() as update:
        update.add_column("broker", StringType())
    commit(table, 1)
    _compact(table)
    assert [row["broker"] for row in _rows(table)] == [None, None]


def test_a_stale_append_fails_after_a_compaction(tmp_path: Path) -> None:
    table = commit_each(trades_table(tmp_path), range(8))
    stale = ensure_table(catalog_in(tmp_path), TRADES)
    _compact(table)
    with pytest.raises(CommitFailedException):
        commit(stale, 8)
    assert message_ids(table.refresh()) == ids(range(8))


def test_a_stale_compaction_fails_after_an_append(tmp_path: Path) -> None:
    table = commit_each(trades_table(tmp_path), range(8))
    commit(ensure_table(catalog_in(tmp_path), TRADES), 8)
    with pytest.raises(CommitFailedException):
        _compact(table)
    assert message_ids(table.refresh()) == ids(range(9))


def test_files_that_hold_other_rows_than_the_manifests_say_are_left(tmp_path: Path) -> None:
    table = commit_each(trades_table(tmp_path), range(8))
    victim = local(next(iter(table.scan().plan_files())).file.file_path)
    pq.write_table(pq.read_table(victim, partitioning=None).slice(1), victim)
    before = table.metadata.current_snapshot_id
    with pytest.raises(TransientError, match="count 8 rows in 8 files, the files hold 7"):
        _compact(table)
    assert table.refresh().metadata.current_snapshot_id == before


def test_nothing_to_merge_is_no_snapshot(tmp_path: Path) -> None:
    table = commit(trades_table(tmp_path), 0)
    before = table.metadata.current_snapshot_id
    assert _compact(table) == CompactionResult()
    assert table.metadata.current_snapshot_id == before


def test_temporary_files_lie_in_the_home_and_those_of_a_killed_process_go(tmp_path: Path) -> None:
    left = tmp_path / "compaction-trades_v2" / "duckdb_temp_storage_DEFAULT-0.tmp"
    left.parent.mkdir()
    left.write_bytes(b"sorted rows")
    table = commit_each(trades_table(tmp_path), range(8))
    maintenance = Maintenance(TRADES, state=tmp_path / "state.json", now=Clock())
    assert not left.parent.exists()
    assert maintenance.run_now(table).files_merged == 8
    assert not left.parent.exists()
