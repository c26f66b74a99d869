"""Time travel finds one snapshot, or says which ones there are."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from support.lake_rows import NOON, append, catalog_in, rows_table, trade

from k2lib.errors import QueryError
from k2lib.iceberg.commit_times import main_line
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.iceberg.writer import QuickTransaction
from k2lib.query.time_travel import resolve, snapshots


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A table of four commits."""
    catalog = catalog_in(tmp_path)
    for number in range(4):
        table = append(catalog, [trade(number)])
    return table


def moment(one: Snapshot, *, after_ms: int = 0) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=one.timestamp_ms + after_ms)


def by_age(table: Table) -> list[Snapshot]:
    return sorted(table.snapshots(), key=lambda one: one.sequence_number or 0)


def test_snapshots_are_listed_newest_first(table: Table) -> None:
    listed = snapshots(table)
    ids = [one.snapshot_id for one in by_age(table)]
    assert listed["snapshot_id"].to_list() == ids[::-1]
    assert listed["parent_id"].to_list() == [*ids[-2::-1], None]
    assert listed["rows_added"].to_list() == [1, 1, 1, 1]
    assert listed["rows_total"].to_list() == listed["files_total"].to_list() == [4, 3, 2, 1]
    assert listed["cause"].to_list() == ["append"] * 4
    assert listed["committed"].is_sorted(descending=True)


def test_snapshots_tell_cause_offsets_and_tags(table: Table) -> None:
    rows = table.scan().to_arrow()
    table.append(rows, snapshot_properties={"k2.cause": "compact", "k2.offsets": '{"log": {}}'})
    newest = table.metadata.current_snapshot_id
    assert newest is not None
    table.manage_snapshots().create_tag(newest, "b").create_tag(newest, "a").commit()
    told = snapshots(table).row(0, named=True)
    assert (told["cause"], told["offsets"], told["tags"]) == ("compact", '{"log": {}}', ["a", "b"])
    assert snapshots(table)["offsets"].null_count() == 4


def test_table_without_commits_lists_no_snapshot(tmp_path: Path) -> None:
    table = ensure_table(catalog_in(tmp_path), TABLES["trades_v2"])
    assert snapshots(table).is_empty()
    assert snapshots(table).schema["committed"] == pl.Datetime("us", "UTC")


def test_id_and_tag_name_their_snapshot(table: Table) -> None:
    second = by_age(table)[1].snapshot_id
    table.manage_snapshots().create_tag(second, "before-lunch").commit()
    assert resolve(table, second) == resolve(table, "before-lunch") == second


def test_unknown_id_is_answered_with_what_is_kept(table: Table) -> None:
    newest = by_age(table)[-1].snapshot_id
    with pytest.raises(QueryError, match=f"as_of=7: trades_v2 keeps no such .* keeps {newest}"):
        resolve(table, 7)


def test_unknown_tag_is_answered_with_the_tags(table: Table) -> None:
    with pytest.raises(QueryError, match="it has no tags"):
        resolve(table, "lunch")
    table.manage_snapshots().create_tag(by_age(table)[0].snapshot_id, "dinner").commit()
    with pytest.raises(QueryError, match="has no such tag; its tags are dinner"):
        resolve(table, "lunch")


def test_moment_means_the_newest_snapshot_at_or_before_it(table: Table) -> None:
    for one in by_age(table):
        assert resolve(table, moment(one)) == one.snapshot_id
    assert resolve(table, moment(one, after_ms=3_600_000)) == one.snapshot_id
    assert resolve(table, moment(by_age(table)[1], after_ms=-1)) == by_age(table)[0].snapshot_id


def test_date_means_its_first_moment_by_utc(stepped: tuple[Table, list[datetime]]) -> None:
    table, real = stepped
    first, *_, last = (one.snapshot_id for one in main_line(table))
    assert resolve(table, NOON.date() + timedelta(days=1)) == last
    with pytest.raises(
        QueryError, match=r"as_of=2014-03-10T00:00:00\+00:00: trades_v2 keeps nothing"
    ):
        resolve(table, NOON.date())
    for text in ("2014-03-11", "20140311", "2014W112", "20140311T00Z"):
        assert resolve(table, text) == last
    for text in ("2014-03-10T01:00:00Z", "2014-03-10t12:00:30+11:00", "2014-W11-1T01Z"):
        assert resolve(table, text) == first
    assert real[0] == NOON


def test_tag_that_looks_like_a_date_is_that_tag(stepped: tuple[Table, list[datetime]]) -> None:
    table, _ = stepped
    first = main_line(table)[0].snapshot_id
    table.manage_snapshots().create_tag(first, "2014-03-11").commit()
    assert resolve(table, "2014-03-11") == resolve(table, str(first)) == first


@pytest.mark.parametrize("text", ["2014-02-30", "2014-03-10T01:00:00.1234567Z", "2014-03-10T01:00"])
def test_text_that_is_nearly_a_time_is_refused(table: Table, text: str) -> None:
    with pytest.raises(QueryError, match=f"as_of='{text}': .*give"):
        resolve(table, text)


def test_moment_before_all_snapshots_is_refused(table: Table) -> None:
    with pytest.raises(QueryError, match="trades_v2 keeps nothing that old; it keeps"):
        resolve(table, moment(by_age(table)[0], after_ms=-1))


def test_moment_without_a_time_zone_is_refused(table: Table) -> None:
    with pytest.raises(QueryError, match="as_of=2014-03-10T01:00:00: give the time zone"):
        resolve(table, NOON.replace(tzinfo=None))


def test_moment_beside_a_dropped_snapshot_names_both_neighbours(table: Table) -> None:
    first, second, third, last = by_age(table)
    table.maintenance.expire_snapshots().by_id(second.snapshot_id).commit()
    both = f"before, {first.snapshot_id} .*after, {third.snapshot_id} "
    with pytest.raises(QueryError, match=both):
        resolve(table, moment(first, after_ms=1))
    assert resolve(table, moment(third)) == third.snapshot_id
    assert resolve(table, moment(last)) == last.snapshot_id


def test_snapshots_left_by_a_rollback_are_not_what_a_moment_means(table: Table) -> None:
    first, second, third, last = by_age(table)
    table.manage_snapshots().set_current_snapshot(second.snapshot_id).commit()
    assert [one.snapshot_id for one in main_line(table)] == [first.snapshot_id, second.snapshot_id]
    table.append(table.scan().to_arrow())
    assert resolve(table, moment(last)) == second.snapshot_id
    assert resolve(table, third.snapshot_id) == third.snapshot_id


@pytest.fixture
def stepped(tmp_path: Path) -> tuple[Table, list[datetime]]:
    """A table of five commits, the third by a clock that was an hour ahead; their real times."""
    real = [NOON + timedelta(minutes=number) for number in range(5)]
    table = ensure_table(catalog_in(tmp_path), TABLES["trades_v2"])
    for number, at in enumerate(real):
        clock = at + timedelta(hours=number == 2)
        transaction = QuickTransaction(table, now=lambda clock=clock: clock)
        transaction.append(rows_table([trade(number)]))
        transaction.commit_transaction()
    return table, real


def test_time_travel_goes_by_lineage_where_times_step_back(
    stepped: tuple[Table, list[datetime]],
) -> None:
    table, real = stepped
    line = [one.snapshot_id for one in main_line(table)]
    for number in (0, 1, 3, 4):
        assert resolve(table, real[number]) == line[number]
    assert resolve(table, real[2]) == line[1]
    assert resolve(table, datetime.now(UTC)) == line[4]
    assert snapshots(table)["snapshot_id"].to_list() == line[::-1]


def test_now_is_the_current_snapshot_though_a_clock_dated_it_later(
    stepped: tuple[Table, list[datetime]],
) -> None:
    table, real = stepped
    third = main_line(table)[2].snapshot_id
    table.manage_snapshots().rollback_to_snapshot(third).commit()
    now = real[2] + timedelta(seconds=20)
    assert resolve(table, now - timedelta(seconds=1), now=lambda: now) == third
    assert resolve(table, real[1], now=lambda: real[1] + timedelta(minutes=5)) != third


def test_many_snapshots_are_named_in_short(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    for number in range(12):
        table = append(catalog, [trade(number)])
    with pytest.raises(QueryError) as caught:
        resolve(table, 7)
    assert len(re.findall(r"\d{15,}", str(caught.value))) == 10
    assert "and 2 more" in str(caught.value)
