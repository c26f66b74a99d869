"""Commits on a clock that jumps: their times never step back, and other engines read the table."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from support.lake_rows import catalog_in, rows_table, trade
from support.lake_upkeep import LOGS, PARTITION, TRADES, Clock, commit_each, ids, message_ids

from k2lib.iceberg.commit_times import committed_at, main_line
from k2lib.iceberg.maintenance import Maintenance, set_day_tags
from k2lib.iceberg.tables import ensure_table
from k2lib.iceberg.writer import TableWriter


def writer_in(home: Path, clock: Clock) -> TableWriter:
    table = ensure_table(catalog_in(home), TRADES)
    return TableWriter(table, TRADES, on_event=lambda event: None, now=clock)


def append(writer: TableWriter, number: int) -> None:
    writer.append(rows_table([trade(number)]), {PARTITION: (number, number + 1)}, LOGS)


def times(table: Table) -> list[list[int]]:
    """Return the times that Iceberg's Java library wants in order: it refuses the table else."""
    metadata = table.metadata
    snapshots = [entry.timestamp_ms for entry in metadata.snapshot_log]
    versions = [entry.timestamp_ms for entry in metadata.metadata_log]
    return [[*snapshots, metadata.last_updated_ms], [*versions, metadata.last_updated_ms]]


def is_in_order(table: Table) -> bool:
    return all(before <= after for log in times(table) for before, after in pairwise(log))


def test_a_commit_is_never_before_the_last_one(tmp_path: Path) -> None:
    clock = Clock()
    writer = writer_in(tmp_path, clock)
    jumps = (0, 3600, -7200, 1, 3600, -1)
    clocks = []
    for number, seconds in enumerate(jumps):
        clock.advance(seconds=seconds)
        clocks.append(clock().replace(microsecond=clock().microsecond // 1000 * 1000))
        append(writer, number)
        assert is_in_order(writer.table)
    assert [committed_at(one) for one in main_line(writer.table)] == clocks


def test_a_commit_says_by_our_clock_when_it_was_only_where_that_differs(tmp_path: Path) -> None:
    clock = Clock()
    clock.advance(hours=1)
    writer = writer_in(tmp_path, clock)
    append(writer, 0)
    clock.advance(hours=-1)
    append(writer, 1)
    first, second = main_line(writer.table)
    assert "k2.committed-ms" not in str(first.summary)
    assert second.summary is not None and "k2.committed-ms" in second.summary.additional_properties
    assert second.timestamp_ms == first.timestamp_ms


def test_compaction_tags_and_expiry_keep_the_order_of_times(tmp_path: Path) -> None:
    clock = Clock()
    clock.advance(days=2)
    writer = writer_in(tmp_path, clock)
    for number in range(20):
        append(writer, number)
    clock.advance(days=-1)
    maintenance = Maintenance(TRADES, state=tmp_path / "state.json", now=clock)
    done = maintenance.run_now(writer.table)
    assert done.files_merged == 20 and done.snapshots_expired > 0
    assert is_in_order(writer.table)
    clock.advance(days=2)
    assert set_day_tags(writer.table, clock())
    assert is_in_order(writer.table)
    assert message_ids(writer.table) == ids(range(20))


def test_the_next_commit_repairs_a_log_that_is_out_of_order(tmp_path: Path) -> None:
    clock = Clock()
    append(writer_in(tmp_path, clock), 0)
    clock.advance(hours=1)
    append(writer_in(tmp_path, clock), 1)
    plain = load_catalog(
        "k2", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}"
    )
    table = plain.load_table(("market_data", "trades_v2"))
    commit_each(table, range(2, 4))
    assert not is_in_order(table)
    append(writer_in(tmp_path, Clock()), 4)
    assert is_in_order(ensure_table(catalog_in(tmp_path), TRADES))


def test_a_day_tag_moves_to_the_days_last_snapshot(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = clock.now.replace(hour=12)
    writer = writer_in(tmp_path, clock)
    append(writer, 0)
    today = f"day-{clock().date().isoformat()}"
    assert set_day_tags(writer.table, clock() + timedelta(days=1)) == (today,)
    clock.advance(minutes=-30)
    append(writer, 1)
    assert set_day_tags(writer.table, clock() + timedelta(days=1)) == (today,)
    assert writer.table.refs()[today].snapshot_id == writer.table.metadata.current_snapshot_id
    assert set_day_tags(writer.table, clock() + timedelta(days=1)) == ()


def test_a_snapshot_that_was_rolled_back_is_not_the_days_last(tmp_path: Path) -> None:
    clock = Clock()
    writer = writer_in(tmp_path, clock)
    for number in range(2):
        append(writer, number)
    first, _ = main_line(writer.table)
    writer.table.manage_snapshots().rollback_to_snapshot(first.snapshot_id).commit()
    [today] = set_day_tags(writer.table, clock() + timedelta(days=1))
    assert writer.table.refs()[today].snapshot_id == first.snapshot_id
