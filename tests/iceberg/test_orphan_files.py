"""Files leave the disk 10 minutes after their last use, and never before."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyiceberg.table import Table
from support.lake_upkeep import Clock, commit, commit_each, local, trades_table

from k2lib.iceberg.orphan_files import OrphanFileCleaner, deletable, update_unreferenced

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return commit(trades_table(tmp_path), 0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "run" / "unreferenced.json"


def _orphan(table: Table, name: str = "data/of-a-killed-writer.parquet") -> Path:
    path = local(table.location()) / name
    path.write_bytes(b"rows that were never committed")
    return path


def test_a_file_in_use_again_is_forgotten() -> None:
    seen = {"a": NOW - MINUTE, "b": NOW - MINUTE}
    assert update_unreferenced(["b", "c"], seen, NOW) == {"b": NOW - MINUTE, "c": NOW}


def test_a_file_is_overdue_ten_minutes_after_its_last_use_and_its_writing() -> None:
    seen = {"old": NOW - 10 * MINUTE, "fresh": NOW - 10 * MINUTE, "used": NOW - 9 * MINUTE}
    modified = {"old": NOW - 10 * MINUTE, "fresh": NOW - 9 * MINUTE, "used": NOW - 60 * MINUTE}
    assert deletable(seen, modified, NOW) == {"old"}


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
