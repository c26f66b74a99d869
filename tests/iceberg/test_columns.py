"""Columns by field id: what another writer does to them, and what is then read and written."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import EqualTo
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadataV3
from pyiceberg.table.sorting import NullOrder
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyiceberg.types import DecimalType, LongType, StringType
from support.lake_rows import append, at, catalog_in, gap, quote, rows_table, trade
from support.lake_upkeep import PARTITION, message_ids

from k2lib.errors import TableError
from k2lib.events import Event
from k2lib.iceberg.columns import (
    AVRO_SCHEMA_PROPERTY,
    check_columns,
    record_table,
    renamed_columns,
    snapshot_schema,
)
from k2lib.iceberg.file_sql import table_sql
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.manifests import compare, plan_paths
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.iceberg.writer import TableWriter
from k2lib.schema.records import TRADE

TRADES = TABLES["trades_v2"]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


def nobody(event: Event) -> None:
    """Listen to nothing."""


def evolve(table: Table, change: Any) -> Table:
    """Change the schema as another writer does."""
    with table.update_schema(allow_incompatible_changes=True) as update:
        change(update)
    return table


def sink(catalog: Catalog, *numbers: int, name: str = "trades_v2") -> Table:
    """Append as a sink does: to the table as it is now."""
    writer = TableWriter(ensure_table(catalog, TABLES[name]), TABLES[name], on_event=nobody)
    rows = rows_table(
        [{"trades_v2": trade, "quotes_v2": quote}[name](one) for one in numbers], name
    )
    writer.append(rows, {PARTITION: (numbers[0], numbers[-1] + 1)}, {PARTITION.topic: "log/1"})
    return writer.table


def read(table: Table, **options: Any) -> pa.Table:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.sql(table_sql(table, files=plan_paths(table), **options))
    return found.order("message_id").to_arrow_table()


def test_a_renamed_column_keeps_its_values_and_our_name(catalog: Catalog) -> None:
    table = evolve(append(catalog, [trade(1)]), lambda update: update.rename_column("price", "px"))
    assert renamed_columns(table) == {"px": "price"}
    assert read(table).cast(TRADE.arrow) == rows_table([trade(1)])
    assert read(table, schema=table.schema())["px"].to_pylist() == [trade(1)["price"]]


def test_rows_are_stored_under_the_renamed_column(catalog: Catalog) -> None:
    evolve(append(catalog, [trade(1)]), lambda update: update.rename_column("price", "px"))
    table = sink(catalog, 2)
    assert table.scan().to_arrow()["px"].to_pylist() == [trade(1)["price"]] * 2
    assert read(table).cast(TRADE.arrow) == rows_table([trade(1), trade(2)])


def test_columns_whose_names_were_exchanged_are_told_apart(catalog: Catalog) -> None:
    def exchange_names(update: UpdateSchema) -> None:
        update.rename_column("price", "p").rename_column("quantity", "price")

    table = evolve(append(catalog, [trade(1)]), exchange_names)
    table = evolve(table, lambda update: update.rename_column("p", "quantity"))
    assert read(table)["price"].to_pylist() == [trade(1)["price"]]
    assert read(sink(catalog, 2))["quantity"].to_pylist() == [trade(1)["quantity"]] * 2


def test_a_column_of_another_writer_is_null_in_our_rows(catalog: Catalog) -> None:
    evolve(append(catalog, [trade(1)]), lambda update: update.add_column("desk", StringType()))
    assert read(sink(catalog, 2))["desk"].to_pylist() == [None, None]


def test_rows_are_stored_without_a_dropped_column(catalog: Catalog) -> None:
    evolve(append(catalog, [trade(1)]), lambda update: update.delete_column("vendor_data"))
    table = sink(catalog, 2)
    assert read(table).column_names == [one for one in TRADE.arrow.names if one != "vendor_data"]
    assert message_ids(table) == ["m000001", "m000002"]


def test_a_widened_column_reads_old_and_new_files_together(catalog: Catalog) -> None:
    wide = DecimalType(28, 8)
    evolve(append(catalog, [trade(1)]), lambda update: update.update_column("quantity", wide))
    quantities = read(sink(catalog, 2))["quantity"]
    assert quantities.type == pa.decimal128(28, 8)
    assert quantities.to_pylist() == [trade(1)["quantity"]] * 2


def test_an_int_made_long_reads_old_and_new_files_together(catalog: Catalog) -> None:
    table = append(catalog, [gap("g", 1)], "gaps")
    evolve(table, lambda update: update.update_column("revision", LongType()))
    table.append(rows_table([gap("g", 2)], "gaps").cast(table.schema().as_arrow()))
    assert read(table)["revision"].to_pylist() == [1, 2]


@pytest.mark.parametrize("name", ["message_id", "symbol", "timestamp"])
def test_a_renamed_key_is_still_found_planned_by_and_deduplicated(
    catalog: Catalog, name: str
) -> None:
    table = append(catalog, [trade(1), trade(2)])
    evolve(table, lambda update: update.rename_column(name, "other"))
    assert len(plan_paths(table, row_filter=compare(EqualTo, "symbol", "BHP"))) == 1
    assert plan_paths(table, row_filter=compare(EqualTo, "symbol", "MWR")) == []
    table = sink(catalog, 2, 3)
    assert read(table)["message_id"].to_pylist() == ["m000001", "m000002", "m000003"]


def test_a_required_column_of_another_writer_is_one_line(catalog: Catalog) -> None:
    evolve(
        append(catalog, [trade(1)]), lambda one: one.add_column("desk", StringType(), required=True)
    )
    with pytest.raises(TableError, match="another writer added the required column desk: make it"):
        sink(catalog, 2)


def test_a_column_with_the_name_that_ours_had_is_one_line(catalog: Catalog) -> None:
    table = evolve(append(catalog, [trade(1)]), lambda update: update.rename_column("price", "px"))
    evolve(table, lambda update: update.add_column("price", StringType()))
    with pytest.raises(TableError, match="another writer added a column price beside ours"):
        sink(catalog, 2)


def test_a_dropped_key_is_one_line(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    with table.update_sort_order() as order:
        order.asc("timestamp", IdentityTransform(), NullOrder.NULLS_FIRST)
    evolve(table, lambda update: update.delete_column("message_id"))
    with pytest.raises(TableError, match="another writer dropped column message_id: add it again"):
        sink(catalog, 2)


def test_a_column_made_anew_with_a_type_that_loses_digits_is_one_line(catalog: Catalog) -> None:
    table = evolve(append(catalog, [trade(1)]), lambda update: update.delete_column("price"))
    evolve(table, lambda update: update.add_column("price", DecimalType(9, 2)))
    with pytest.raises(TableError, match=r"made column price decimal\(9, 2\), which cannot take"):
        sink(catalog, 2)


@pytest.mark.parametrize("transform", [IdentityTransform(), BucketTransform(4)])
def test_rows_land_in_the_partitions_that_another_writer_added(
    catalog: Catalog, transform: Any
) -> None:
    table = append(catalog, [trade(1)])
    with table.update_spec() as update:
        update.add_field("symbol", transform, "by_symbol")
    writer = TableWriter(ensure_table(catalog, TRADES), TRADES, on_event=nobody)
    rows = rows_table([trade(2), trade(3, symbol="MWR"), trade(4, symbol="AAC")])
    writer.append(rows, {PARTITION: (2, 5)}, {PARTITION.topic: "log/1"})
    assert message_ids(writer.table) == ["m000001", "m000002", "m000003", "m000004"]
    assert len(plan_paths(writer.table, row_filter=compare(EqualTo, "symbol", "MWR"))) == 1


def test_a_snapshot_of_before_is_read_with_the_columns_of_then(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    before = table.metadata.current_snapshot_id
    evolve(table, lambda update: update.add_column("desk", StringType()))
    assert "desk" in snapshot_schema(table, before).column_names
    table = sink(catalog, 2)
    assert "desk" not in snapshot_schema(table, before).column_names
    assert "desk" in snapshot_schema(table, None).column_names


def test_files_are_compacted_after_a_rename(catalog: Catalog, tmp_path: Path) -> None:
    table = append(catalog, [trade(1)])
    evolve(append(catalog, [trade(2)]), lambda update: update.rename_column("symbol", "sym"))
    table = sink(catalog, 3)
    maintenance = Maintenance(TRADES, state=tmp_path / "state.json", now=lambda: at(0))
    assert maintenance.run_now(table).files_merged == 3
    assert table.scan().to_arrow()["sym"].to_pylist() == ["BHP"] * 3


def test_files_without_field_ids_are_read_by_the_tables_name_mapping(
    catalog: Catalog, tmp_path: Path
) -> None:
    table = append(catalog, [trade(1)])
    file = tmp_path / "added.parquet"
    pq.write_table(rows_table([trade(2)]).drop_columns("vendor_data"), file)
    table.add_files([f"file://{file}"])
    evolve(table, lambda update: update.rename_column("price", "px"))
    assert read(table)["price"].to_pylist() == [trade(1)["price"]] * 2
    assert read(table)["vendor_data"].to_pylist() == [[("qualifiers", "0")], None]


def test_a_table_that_nobody_changed_is_its_own_record_table(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    assert record_table(table) is table


def test_a_table_without_the_property_of_its_schema_gets_it_again(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    with table.transaction() as transaction:
        transaction.remove_properties(AVRO_SCHEMA_PROPERTY)
    assert read(sink(catalog, 2))["message_id"].to_pylist() == ["m000001", "m000002"]
    assert ensure_table(catalog, TRADES).properties[AVRO_SCHEMA_PROPERTY] == TRADE.text


def test_columns_that_cannot_be_added_again_are_one_line(catalog: Catalog) -> None:
    table = evolve(append(catalog, [trade(1)]), lambda update: update.delete_column("price"))
    evolve(table, lambda update: update.add_column("price", StringType()))
    with table.transaction() as transaction:
        transaction.remove_properties(AVRO_SCHEMA_PROPERTY)
    with pytest.raises(TableError, match="those of today cannot be added") as refused:
        ensure_table(catalog, TRADES)
    assert "\n" not in str(refused.value)


def test_a_format_that_cannot_be_written_is_one_line(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    newer = table.metadata.model_dump(by_alias=True) | {"format-version": 3, "next-row-id": 0}
    table.metadata = TableMetadataV3.model_validate(newer)
    with pytest.raises(TableError, match="another writer upgraded it to format version 3"):
        check_columns(table, TRADE)
