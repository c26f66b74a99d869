"""Other engines maintain and change a table: offsets are found, and deleted rows stay deleted."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import EqualTo, In
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.types import DecimalType, StringType
from support.delete_files import delete_first_row
from support.lake_rows import append, catalog_in, quote, rows_table, trade
from support.lake_upkeep import PARTITION, Clock, ids, message_ids, offsets

from k2lib import K2
from k2lib.errors import QueryError, StaleWriterError, TableError
from k2lib.events import Event
from k2lib.iceberg.deletions import EPOCH, deleted_at, deletions, newest_ids
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.offsets import OFFSETS_PROPERTY, read_offsets
from k2lib.iceberg.tables import TABLES, ensure_table, load_table
from k2lib.iceberg.writer import TableWriter
from k2lib.schema.records import QUOTE, TRADE

TRADES = TABLES["trades_v2"]
LOGS = {PARTITION.topic: "log/1"}
NOTHING_READ = '{"snapshot_id":0,"sequence_number":0,"offsets":{}}'


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[K2]:
    with K2.open(home=tmp_path / "home", commit_interval_s=0.5) as opened:
        yield opened


def nobody(event: Event) -> None:
    """Listen to nothing."""


def received(number: int, when: datetime, **changed: Any) -> dict[str, Any]:
    return trade(number, ingestion_timestamp=when, source_sequence=number, **changed)


def sink(catalog: Catalog, numbers: range, *, when: datetime | None = None) -> int:
    """Append as a sink that begins at the table's offsets; return how many rows were added."""
    writer = TableWriter(ensure_table(catalog, TRADES), TRADES, on_event=nobody)
    at = datetime.now(UTC) if when is None else when
    rows = rows_table([received(number, at) for number in numbers])
    start = writer.end_of("log/1", PARTITION) or 0
    return writer.append(rows, {PARTITION: (start, max(start, numbers.stop))}, LOGS)


def trades(catalog: Catalog) -> Table:
    table = load_table(catalog, "trades_v2")
    assert table is not None
    return table


def delete(catalog: Catalog, *numbers: int) -> Table:
    """Delete trades by copy-on-write, as another engine does."""
    table = trades(catalog)
    table.delete(In("message_id", [trade(number)["message_id"] for number in numbers]))
    return table


def expire_all_but_last(table: Table) -> Table:
    """Expire snapshots as `expire_snapshots(retain_last => 1)` does."""
    current = table.metadata.current_snapshot_id
    old = [one.snapshot_id for one in table.snapshots() if one.snapshot_id != current]
    with table.transaction() as transaction:
        ExpireSnapshots(transaction).by_ids(old).commit()
    return table


def set_property(table: Table, **properties: str) -> None:
    with table.transaction() as transaction:
        transaction.set_properties(properties)


def remove_property(table: Table, name: str) -> None:
    with table.transaction() as transaction:
        transaction.remove_properties(name)


def test_the_property_follows_each_commit(catalog: Catalog) -> None:
    sink(catalog, range(3))
    table = trades(catalog)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert json.loads(table.properties[OFFSETS_PROPERTY]) == {
        "snapshot_id": snapshot.snapshot_id,
        "sequence_number": snapshot.sequence_number,
        "offsets": {"log/1": {PARTITION.topic: {"0": [0, 3]}}},
    }


def test_the_summary_counts_before_the_property(catalog: Catalog) -> None:
    sink(catalog, range(3))
    set_property(trades(catalog), **{OFFSETS_PROPERTY: NOTHING_READ})
    assert read_offsets(trades(catalog)) == offsets(3)


def test_offsets_outlive_a_deletion_and_the_expiry_of_what_was_before(catalog: Catalog) -> None:
    sink(catalog, range(3))
    table = expire_all_but_last(delete(catalog, 1))
    assert len(table.snapshots()) == 1
    assert read_offsets(table) == offsets(3)
    sink(catalog, range(3, 5))
    assert message_ids(trades(catalog)) == [*ids(range(1)), *ids(range(2, 5))]


def test_without_offsets_and_property_a_table_that_had_some_is_one_line(catalog: Catalog) -> None:
    sink(catalog, range(3))
    table = expire_all_but_last(delete(catalog, 1))
    remove_property(table, OFFSETS_PROPERTY)
    with pytest.raises(TableError, match=r"trades_v2: .* expired .* set the property") as refused:
        sink(catalog, range(3, 5))
    assert "\n" not in str(refused.value) and NOTHING_READ in str(refused.value)
    set_property(table, **{OFFSETS_PROPERTY: NOTHING_READ})
    assert sink(catalog, range(3, 5)) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"snapshot_id":1,"sequence_number":"x"}'])
def test_a_property_that_is_none_does_not_count(catalog: Catalog, text: str) -> None:
    sink(catalog, range(3))
    table = expire_all_but_last(delete(catalog, 1))
    set_property(table, **{OFFSETS_PROPERTY: text})
    with pytest.raises(TableError, match=r"its property k2\.offsets is missing or newer"):
        read_offsets(table)


def test_a_property_newer_than_what_is_kept_does_not_count(catalog: Catalog) -> None:
    sink(catalog, range(3))
    table = expire_all_but_last(delete(catalog, 1))
    (snapshot,) = table.snapshots()
    record = {"snapshot_id": 1, "sequence_number": snapshot.sequence_number, "offsets": {}}
    set_property(table, **{OFFSETS_PROPERTY: json.dumps(record)})
    with pytest.raises(TableError):
        read_offsets(table)


def test_a_table_of_before_the_property_goes_on_at_its_summaries(catalog: Catalog) -> None:
    sink(catalog, range(3))
    remove_property(trades(catalog), OFFSETS_PROPERTY)
    assert read_offsets(trades(catalog)) == offsets(3)
    assert sink(catalog, range(3, 5)) == 2
    assert OFFSETS_PROPERTY in trades(catalog).properties


def test_a_table_that_no_sink_ever_fed_has_read_nothing(catalog: Catalog) -> None:
    assert read_offsets(append(catalog, [trade(1)])) == {}
    assert read_offsets(append(catalog, [trade(2)])) == {}


@pytest.mark.slow
def test_our_own_expiry_of_a_table_that_no_sink_fed_leaves_it_so(
    catalog: Catalog, tmp_path: Path
) -> None:
    for number in range(20):
        table = append(catalog, [trade(number)])
    clock = Clock()
    clock.advance(days=60)
    maintenance = Maintenance(TRADES, state=tmp_path / "state.json", now=clock)
    assert maintenance.run_now(table).snapshots_expired > 0
    assert read_offsets(table) == {}


def test_a_sink_that_sees_a_rollback_rewrites_the_property(catalog: Catalog) -> None:
    sink(catalog, range(3))
    first = trades(catalog).metadata.current_snapshot_id
    sink(catalog, range(3, 5))
    trades(catalog).manage_snapshots().rollback_to_snapshot(first).commit()
    assert newest_ids(trades(catalog)) == {}
    TableWriter(trades(catalog), TRADES, on_event=nobody)
    append(catalog, [trade(9)])
    table = expire_all_but_last(trades(catalog))
    assert read_offsets(table) == offsets(3)


def test_a_writer_with_nothing_to_append_notices_a_rollback(catalog: Catalog) -> None:
    sink(catalog, range(3))
    first = trades(catalog).metadata.current_snapshot_id
    sink(catalog, range(3, 5))
    writer = TableWriter(trades(catalog), TRADES, on_event=nobody)
    append(catalog, [trade(9)])
    writer.check_rollback()
    trades(catalog).manage_snapshots().rollback_to_snapshot(first).commit()
    with pytest.raises(StaleWriterError, match="another writer rolled it back"):
        writer.check_rollback()


def test_a_rollback_to_before_the_first_commit_of_a_sink_begins_anew(catalog: Catalog) -> None:
    first = append(catalog, [trade(9)]).metadata.current_snapshot_id
    sink(catalog, range(3))
    trades(catalog).manage_snapshots().rollback_to_snapshot(first).commit()
    assert read_offsets(trades(catalog)) == {}
    assert sink(catalog, range(3)) == 3


def test_maintenance_moves_the_property_on(catalog: Catalog, tmp_path: Path) -> None:
    sink(catalog, range(3))
    sink(catalog, range(3, 5))
    table = trades(catalog)
    maintenance = Maintenance(TRADES, state=tmp_path / "state.json", now=Clock())
    assert maintenance.run_now(table).files_merged == 2
    recorded = json.loads(table.properties[OFFSETS_PROPERTY])
    assert recorded["snapshot_id"] == table.metadata.current_snapshot_id
    assert recorded["offsets"] == {"log/1": {PARTITION.topic: {"0": [3, 5]}}}


def test_a_branch_of_another_writer_changes_nothing(catalog: Catalog) -> None:
    sink(catalog, range(3))
    table = trades(catalog)
    current = table.metadata.current_snapshot_id
    assert current is not None
    table.manage_snapshots().create_branch(current, "audit").commit()
    table.append(rows_table([trade(9)]), branch="audit")
    assert read_offsets(trades(catalog)) == offsets(3)
    assert sink(catalog, range(3, 5)) == 2
    assert message_ids(trades(catalog)) == ids(range(5))


def test_a_record_received_before_the_deletion_of_its_row_stays_out(catalog: Catalog) -> None:
    early = datetime.now(UTC)
    sink(catalog, range(3), when=early)
    delete(catalog, 1)
    assert sink(catalog, range(1, 2), when=early) == 0
    assert sink(catalog, range(1, 2), when=datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert message_ids(trades(catalog)) == ids(range(3))


def test_a_deletion_is_never_later_than_now_whatever_the_other_clock_says(
    catalog: Catalog,
) -> None:
    sink(catalog, range(3))
    assert [one.at for one in deletions(delete(catalog, 1), now=EPOCH)] == [EPOCH]


def test_the_time_of_a_deletion_outlives_its_snapshot(catalog: Catalog) -> None:
    sink(catalog, range(3))
    assert deleted_at(trades(catalog)) == EPOCH
    table = delete(catalog, 1)
    when = deleted_at(table)
    assert when > datetime.now(UTC) - timedelta(minutes=5)
    sink(catalog, range(3, 5))
    assert deleted_at(expire_all_but_last(trades(catalog))) == when


def test_what_another_engine_expired_may_have_been_a_deletion(catalog: Catalog) -> None:
    sink(catalog, range(3))
    delete(catalog, 1)
    append(catalog, [trade(9)])
    assert deleted_at(expire_all_but_last(trades(catalog))) > EPOCH


def test_our_own_expiry_before_a_snapshot_of_another_engine_is_no_deletion(
    catalog: Catalog,
) -> None:
    sink(catalog, range(3))
    append(catalog, [trade(9)])
    sink(catalog, range(3, 5))
    table = trades(catalog)
    first = min(table.snapshots(), key=lambda one: one.sequence_number or 0)
    with table.transaction() as transaction:
        ExpireSnapshots(transaction).by_ids([first.snapshot_id]).commit()
    assert deleted_at(trades(catalog)) == EPOCH


def test_the_newest_ids_outlive_the_deletion_of_their_rows(catalog: Catalog) -> None:
    sink(catalog, range(3))
    expire_all_but_last(delete(catalog, 2))
    assert newest_ids(trades(catalog)) == {"ASX": {"BHP": 2}}
    sink(catalog, range(1, 2))
    assert newest_ids(trades(catalog)) == {"ASX": {"BHP": 2}}


def test_rows_of_one_symbol_are_deleted_whole_files_at_once(catalog: Catalog) -> None:
    early = datetime.now(UTC)
    sink(catalog, range(3), when=early)
    trades(catalog).delete(EqualTo("symbol", "BHP"))
    assert sink(catalog, range(3), when=early) == 0


def produced(k2: K2, numbers: range, *, when: datetime | None = None) -> None:
    """Send trades through Kafka, and wait until the lake has them."""
    at = datetime.now(UTC) if when is None else when
    rows = rows_table([received(number, at, exchange="ASX") for number in numbers])
    k2.pipeline.produce(PARTITION.topic, rows, TRADE)
    k2.pipeline.settle()


def both(k2: K2) -> tuple[list[str], list[str]]:
    """Return the ids of the lake, and those of lake and Kafka together."""
    lake, hybrid = (
        k2.sql(f"select message_id from {name} order by 1")["message_id"].to_list()
        for name in ("lake.trades_v2", "trades_v2")
    )
    return lake, hybrid


@pytest.mark.slow
def test_rows_deleted_while_a_sink_runs_come_back_only_by_a_load(k2: K2) -> None:
    produced(k2, range(10))
    assert both(k2) == (ids(range(10)), ids(range(10)))
    expire_all_but_last(delete(k2.catalog, *range(3, 6)))
    left = [*ids(range(3)), *ids(range(6, 10))]
    assert both(k2) == (left, left)
    produced(k2, range(10, 12))
    left += ids(range(10, 12))
    assert both(k2) == (left, left)
    produced(k2, range(3, 6))
    assert both(k2) == (ids(range(12)), ids(range(12)))


@pytest.mark.slow
def test_files_rewritten_while_a_sink_runs_lose_and_double_nothing(k2: K2) -> None:
    produced(k2, range(10))
    table = trades(k2.catalog)
    table.overwrite(table.scan().to_arrow())
    produced(k2, range(5, 15))
    assert both(k2) == (ids(range(15)), ids(range(15)))


@pytest.mark.parametrize(
    "change", ["added", "renamed", "widened", "dropped", "partitioned", "unpartitioned"]
)
def test_columns_changed_while_a_sink_runs_are_written_and_read(embedded: K2, change: str) -> None:
    produced(embedded, range(3))
    table = trades(embedded.catalog)
    if change.endswith("partitioned"):
        with table.update_spec() as spec:
            spec.add_identity("symbol") if change == "partitioned" else spec.remove_field(
                "exchange"
            )
    else:
        with table.update_schema(allow_incompatible_changes=True) as update:
            match change:
                case "added":
                    update.add_column("desk", StringType())
                case "renamed":
                    update.rename_column("price", "px").rename_column("symbol", "ticker")
                case "widened":
                    update.update_column("quantity", DecimalType(28, 8))
                case "dropped":
                    update.delete_column("vendor_data")
    produced(embedded, range(3, 6))
    assert both(embedded) == (ids(range(6)), ids(range(6)))
    rows = embedded.trades(symbol="BHP")
    assert rows["price"].to_list() == [trade(1)["price"]] * 6
    assert rows["quantity"].to_list() == [trade(1)["quantity"]] * 6
    assert ("desk" in rows.columns) == (change == "added")
    assert len(embedded.sql("select * from bars_1m")) == len(embedded.bars("BHP")) > 0
    if change == "dropped":
        with pytest.raises(QueryError, match="vendor_data"):
            embedded.sql("select * from on_market.bars_1m")
    if change == "renamed":
        assert (
            embedded.sql("select px from lake.trades_v2")["px"].to_list() == [trade(1)["price"]] * 6
        )


def test_a_table_that_cannot_be_added_to_stops_what_produces_for_it_alone(embedded: K2) -> None:
    produced(embedded, range(3))
    append(embedded.catalog, [quote(1)], "quotes_v2")
    table = load_table(embedded.catalog, "quotes_v2")
    assert table is not None
    delete_first_row(table)
    produced(embedded, range(3, 6))
    assert len(both(embedded)[0]) == 6
    rows = rows_table([quote(2)], "quotes_v2")
    with pytest.raises(TableError, match="quotes_v2 has delete files"):
        embedded.pipeline.produce("market.equities.quotes.asx", rows, QUOTE)
    produced(embedded, range(6, 8))
    assert len(both(embedded)[0]) == 8


def test_without_known_offsets_an_answer_is_of_the_lake_and_says_why(embedded: K2) -> None:
    produced(embedded, range(3))
    table = expire_all_but_last(delete(embedded.catalog, 1))
    text = table.properties[OFFSETS_PROPERTY]
    remove_property(table, OFFSETS_PROPERTY)
    result = embedded.engine.run_sql("select message_id from trades_v2 order by 1")
    assert result.frame["message_id"].to_list() == [*ids(range(1)), *ids(range(2, 3))]
    assert "k2.offsets" in str(result.complete_to["trades_v2"].reason)
    set_property(table, **{OFFSETS_PROPERTY: text})
