"""Maintenance between commits: the rows, the offsets and what a user tagged stay."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lake_rows import catalog_in, rows_table, trade
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

from bench.commits import ROWS, run
from k2lib.errors import StaleWriterError
from k2lib.events import Event, MaintenanceDone
from k2lib.iceberg.maintenance import Maintenance, expire, set_day_tags, snapshot_times
from k2lib.iceberg.offsets import read_offsets
from k2lib.iceberg.tables import ensure_table

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.sampled_from([1, 11, 60, 1500, 50_000])),
        st.tuples(st.sampled_from(["maintain", "tag", "foreign"]), st.just(0)),
    ),
    min_size=8,
    max_size=24,
)


class Lake:
    """A table, its maintenance, and what ought to be in it."""

    def __init__(self, home: Path) -> None:
        self.table = trades_table(home)
        self.clock = Clock()
        self.events: list[Event] = []
        self.maintenance = Maintenance(
            TRADES, state=home / "sweep.json", now=self.clock, on_event=self.events.append
        )
        self.rows = 0
        self.end = 0
        self.tagged: dict[int, int] = {}

    def append(self, rows: int = 1) -> None:
        commit(self.table, self.rows, rows=rows)
        self.rows += rows
        self.end = self.rows
        self.table = self.maintenance.after_commit(self.table)

    def foreign(self, _: int) -> None:
        """Append as another engine does, which knows nothing of offsets."""
        self.table.append(rows_table([trade(self.rows)]))
        self.rows += 1

    def wait(self, minutes: int) -> None:
        self.clock.advance(minutes=minutes)

    def maintain(self, _: int) -> None:
        self.maintenance.run_now(self.table)

    def tag(self, _: int) -> None:
        snapshot = self.table.metadata.current_snapshot_id
        if snapshot is not None and snapshot not in self.tagged:
            self.table.manage_snapshots().create_tag(snapshot, f"mine-{snapshot}").commit()
            self.tagged[snapshot] = self.rows

    def step(self, name: str, value: int) -> None:
        steps: dict[str, Callable[[int], None]] = {
            "append": self.append,
            "foreign": self.foreign,
            "wait": self.wait,
            "maintain": self.maintain,
            "tag": self.tag,
        }
        steps[name](value)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


@pytest.mark.slow
@settings(max_examples=12)
@given(steps=STEPS)
def test_rows_offsets_and_tags_survive_any_order_of_events(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for name, value in steps:
        lake.step(name, value)
    for snapshot, rows in lake.tagged.items():
        assert message_ids(lake.table, snapshot) == ids(range(rows))
    assert message_ids(lake.table) == ids(range(lake.rows))
    assert read_offsets(lake.table) == (offsets(lake.end) if lake.end else {})


@pytest.mark.slow
def test_the_benchmark_keeps_every_row(tmp_path: Path) -> None:
    result = run(tmp_path, commits=40)
    rows = result.table.scan(selected_fields=("message_id",)).to_arrow()["message_id"]
    assert len(rows) == len(set(rows.to_pylist())) == 40 * ROWS
    assert len(result.table.snapshots()) <= 32


@pytest.mark.slow
def test_a_snapshot_in_use_can_be_read_for_ten_minutes_after_its_expiry(lake: Lake) -> None:
    lake.clock.advance(days=60)
    lake.append()
    planned = [local(task.file.file_path) for task in lake.table.scan().plan_files()]
    commit_each(lake.table, range(1, 3))
    lake.maintain(0)
    commit_each(lake.table, range(3, 20))
    assert lake.maintenance.run_now(lake.table).snapshots_expired > 0
    lake.wait(9)
    lake.maintain(0)
    assert [pq.read_table(path, partitioning=None).num_rows for path in planned] == [1]
    lake.wait(2)
    assert lake.maintenance.run_now(lake.table).files_deleted > 0
    assert not any(path.exists() for path in planned)


@pytest.mark.slow
def test_a_snapshot_that_a_user_tagged_keeps_its_files(lake: Lake) -> None:
    lake.append(2)
    lake.tag(0)
    commit_each(lake.table, range(2, 30))
    for _ in range(3):
        lake.maintain(0)
        lake.wait(60 * 24 * 20)
    assert message_ids(lake.table, next(iter(lake.tagged))) == ids(range(2))


@pytest.mark.slow
def test_the_offsets_outlive_commits_that_have_none(lake: Lake) -> None:
    lake.append(3)
    for _ in range(24):
        lake.foreign(0)
    lake.maintenance.run_now(lake.table)
    assert read_offsets(lake.table) == offsets(3)
    assert lake.table.current_snapshot().summary["k2.offsets"]  # type: ignore[union-attr,index]


def test_eight_commits_become_one_file(lake: Lake) -> None:
    for _ in range(9):
        lake.append()
    assert len(list(lake.table.scan().plan_files())) == 1
    assert [type(event) for event in lake.events] == [MaintenanceDone]
    assert lake.events[0].to_json()["files_merged"] == 9


def test_a_writer_that_catches_up_does_not_stop_for_few_files(lake: Lake) -> None:
    for number in range(9):
        commit(lake.table, number)
        lake.maintenance.after_commit(lake.table, catching_up=True)
    assert len(list(lake.table.scan().plan_files())) == 9


def test_old_snapshots_are_expired_many_at_a_time(lake: Lake) -> None:
    lake.clock.advance(days=60)
    commit_each(lake.table, range(20))
    assert expire(lake.table, lake.clock(), unneeded=5) == 0
    assert expire(lake.table, lake.clock(), unneeded=4) == 4
    assert len(lake.table.snapshots()) == 16


def test_a_day_that_is_over_is_tagged_for_thirty_days(lake: Lake) -> None:
    lake.append()
    lake.clock.now = snapshot_times(lake.table)[-1].at
    today = f"day-{lake.clock().date().isoformat()}"
    assert set_day_tags(lake.table, lake.clock()) == ()
    lake.clock.advance(days=1)
    assert set_day_tags(lake.table, lake.clock()) == (today,)
    assert set_day_tags(lake.table, lake.clock()) == ()
    lake.clock.advance(days=29)
    set_day_tags(lake.table, lake.clock())
    assert set(lake.table.refs()) == {"main"}


def test_another_writer_in_between_is_noticed(lake: Lake, tmp_path: Path) -> None:
    commit_each(lake.table, range(8))
    commit(ensure_table(catalog_in(tmp_path), TRADES), 8)
    with pytest.raises(StaleWriterError, match="another writer committed during maintenance"):
        lake.maintenance.after_commit(lake.table)


@pytest.mark.slow
def test_running_it_again_finds_nothing_to_do(lake: Lake) -> None:
    commit_each(lake.table, range(30))
    assert lake.maintenance.run_now(lake.table).has_changes
    assert not lake.maintenance.run_now(lake.table).has_changes


def test_an_empty_table_needs_nothing(lake: Lake) -> None:
    assert not lake.maintenance.run_now(lake.table).has_changes


def test_another_writer_is_noticed_by_an_expiry(lake: Lake, tmp_path: Path) -> None:
    for day in range(20):
        moment = trade(0)["timestamp"] + timedelta(days=day)
        lake.table.append(rows_table([trade(day, timestamp=moment)]))
    commit(ensure_table(catalog_in(tmp_path), TRADES), 20)
    with pytest.raises(StaleWriterError, match="another writer committed during maintenance"):
        lake.maintenance.run_now(lake.table)
