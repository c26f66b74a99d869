"""Files leave the disk 10 minutes after their last use, and never while someone may commit them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.table import Table
from support.lake_rows import rows_table, trade
from support.lake_upkeep import (
    TRADES,
    Clock,
    commit,
    commit_each,
    ids,
    local,
    message_ids,
    trades_table,
)

from k2lib.iceberg.orphan_files import OrphanFileCleaner, deletable, update_unreferenced
from k2lib.iceberg.writer import write_files

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return commit(trades_table(tmp_path), 0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "run" / "unreferenced.json"


def _orphan(table: Table, name: str = "data/k2-of-a-killed-writer.parquet") -> Path:
    path = local(table.location()) / name
    path.write_bytes(b"rows that were never committed")
    return path


def test_a_file_in_use_again_is_forgotten() -> None:
    seen = {"a": NOW - MINUTE, "b": NOW - MINUTE}
    assert update_unreferenced(["b", "c"], seen, NOW) == {"b": NOW - MINUTE, "c": NOW}


def test_a_file_is_overdue_ten_minutes_after_its_last_use_and_its_writing() -> None:
    old, fresh, used = (f"data/k2-{name}.parquet" for name in ("old", "fresh", "used"))
    seen = {old: NOW - 10 * MINUTE, fresh: NOW - 10 * MINUTE, used: NOW - 9 * MINUTE}
    modified = {old: NOW - 10 * MINUTE, fresh: NOW - 9 * MINUTE, used: NOW - 60 * MINUTE}
    assert deletable(seen, modified, NOW) == {old}


@pytest.mark.parametrize(
    "name",
    [
        "data/00000-0-bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5.parquet",  # pyiceberg
        "data/00000-1-bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5-00001.parquet",  # Spark
        "data/20260314_120000_00001_abcde-bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5.parquet",  # Trino
        "data/bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5.parquet",  # DuckDB
        "metadata/optimized-m-bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5.avro",  # Spark, of a rewrite
        "metadata/00ab-00000-0-2-1-00001.avro",  # Flink, of a checkpoint
        "metadata/20260314-1.puffin",
    ],
)
def test_a_file_that_another_engine_may_yet_commit_stays_three_days(name: str) -> None:
    seen = {name: NOW - 10 * MINUTE}
    assert deletable(seen, {name: NOW - timedelta(hours=71)}, NOW) == set()
    assert deletable(seen, {name: NOW - timedelta(hours=72)}, NOW) == {name}
    assert deletable(seen, {name: NOW - 10 * MINUTE}, NOW, age=timedelta()) == {name}
    assert deletable(seen, {name: NOW - 9 * MINUTE}, NOW, age=timedelta()) == set()


@pytest.mark.parametrize(
    "name",
    [
        "metadata/00017-bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5.metadata.json",
        "metadata/snap-4711-0-bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5.avro",
        "metadata/bf2ab0f3-4c4b-4b43-9f3b-7d0b8ba3a3c5-m12.avro",
    ],
)
def test_what_an_expired_commit_wrote_about_its_files_goes_after_ten_minutes(name: str) -> None:
    assert deletable({name: NOW - 10 * MINUTE}, {name: NOW - 10 * MINUTE}, NOW) == {name}


def test_our_data_files_have_names_of_ours(table: Table) -> None:
    rows = rows_table([trade(number) for number in range(3)])
    (file,) = write_files(table, TRADES, rows)
    assert local(file.file_path).name.startswith("k2-")


def test_a_writer_of_another_engine_may_take_a_day_to_commit(table: Table, state: Path) -> None:
    rows, clock = rows_table([trade(7)]), Clock()
    (slow,) = _dataframe_to_data_files(table.metadata, rows, table.io)
    killed = _orphan(table)
    for hours in (0, 1, 24):
        clock.advance(hours=hours)
        OrphanFileCleaner(state).run(table, clock())
    assert not killed.exists()
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as update:
        update.append_data_file(slow)
    assert message_ids(table) == ids(range(1)) + ids(range(7, 8))


def test_an_orphan_is_deleted_after_ten_minutes(table: Table, state: Path) -> None:
    orphan, clock = _orphan(table), Clock()
    assert OrphanFileCleaner(state).run(table, clock()).pending == 1
    clock.advance(minutes=9)
    assert OrphanFileCleaner(state).run(table, clock()).deleted == 0
    clock.advance(minutes=1)
    result = OrphanFileCleaner(state).run(table, clock())
    assert (result.deleted, result.deleted_bytes, result.pending) == (1, 30, 0)
    assert not orphan.exists()


def test_what_is_in_use_stays(table: Table, state: Path) -> None:
    table.manage_snapshots().create_tag(table.metadata.snapshots[0].snapshot_id, "mine").commit()
    commit_each(table, range(1, 4))
    before = sorted(local(table.location()).rglob("*"))
    sweep, clock = OrphanFileCleaner(state), Clock()
    for _ in range(3):
        assert sweep.run(table, clock()).deleted == 0
        clock.advance(minutes=30)
    assert sorted(local(table.location()).rglob("*")) == before


def test_files_of_another_kind_stay(table: Table, state: Path) -> None:
    note, clock = _orphan(table, "README.txt"), Clock()
    OrphanFileCleaner(state).run(table, clock())
    clock.advance(minutes=30)
    OrphanFileCleaner(state).run(table, clock())
    assert note.exists()


@pytest.mark.parametrize("pattern", ["data/**/*.parquet", "metadata/*-m0.avro", "metadata/snap-*"])
def test_nothing_is_deleted_while_a_file_in_use_is_missing(
    table: Table, state: Path, pattern: str
) -> None:
    orphan, clock = _orphan(table), Clock()
    OrphanFileCleaner(state).run(table, clock())
    lost = next(path for path in local(table.location()).glob(pattern) if path != orphan)
    lost.unlink()
    clock.advance(minutes=30)
    result = OrphanFileCleaner(state).run(table, clock())
    assert result.deleted == 0
    assert [lost.name in text for text in result.missing] == [True]
    assert orphan.exists()


def test_a_broken_state_file_begins_the_wait_again(table: Table, state: Path) -> None:
    state.parent.mkdir()
    state.write_text("{half")
    _orphan(table)
    assert OrphanFileCleaner(state).run(table, Clock()()).pending == 1


@pytest.mark.slow
def test_metadata_files_are_capped_by_the_catalog(tmp_path: Path) -> None:
    table = commit_each(trades_table(tmp_path), range(30))
    assert len(list(local(table.location()).glob("metadata/*.metadata.json"))) == 21
