"""The files of a table at a snapshot, and the SQL over them."""

from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import EqualTo, GreaterThanOrEqual
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField, StringType
from support.lake_rows import append, at, catalog_in, rows_table, trade

from k2lib.errors import DamagedFileError
from k2lib.iceberg.file_sql import relation_sql, table_sql
from k2lib.iceberg.manifests import PlanCache, compare, list_manifests, plan_files, plan_paths
from k2lib.iceberg.tables import TableCache
from k2lib.schema.records import TRADE


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


def test_plan_names_files_as_duckdb_reads_them(catalog: Catalog) -> None:
    files = plan_paths(append(catalog, [trade(1)]))
    assert len(files) == 1
    assert Path(files[0]).is_file()


def test_plan_leaves_out_files_that_cannot_match(catalog: Catalog) -> None:
    append(catalog, [trade(1), trade(2, timestamp=at(0) + timedelta(days=1))])
    table = append(catalog, [trade(3, symbol="MWR")])
    day = compare(GreaterThanOrEqual, "timestamp", "2014-03-11T00:00:00+00:00")
    assert len(plan_paths(table)) == 3
    assert len(plan_paths(table, row_filter=day)) == 1
    assert len(plan_paths(table, row_filter=compare(EqualTo, "symbol", "MWR"))) == 1


def test_plan_of_an_older_snapshot_has_its_files_only(catalog: Catalog) -> None:
    first = append(catalog, [trade(1)]).metadata.current_snapshot_id
    table = append(catalog, [trade(2)])
    assert len(plan_paths(table, snapshot_id=first)) == 1


def test_cache_plans_a_new_snapshot_again(catalog: Catalog) -> None:
    plans = PlanCache()
    before = plans.paths(append(catalog, [trade(1)]))
    table = append(catalog, [trade(2)])
    assert len(plans.paths(table)) == 2
    assert plans.files(table) is plans.files(table)
    assert len(before) == 1


def test_cache_lists_what_pyiceberg_plans_whatever_was_listed_before(catalog: Catalog) -> None:
    snapshots = []
    for number in range(6):
        table = append(catalog, [trade(number, symbol=f"S{number}"), trade(number + 10)])
        snapshots.append(table.metadata.current_snapshot_id)
    table.delete(EqualTo("symbol", "S2"))
    snapshots.append(table.metadata.current_snapshot_id)
    plans = PlanCache()
    for at_snapshot in (*snapshots, None, *snapshots[::-2], snapshots[3]):
        listed = plans.files(table, snapshot_id=at_snapshot)
        assert listed == plan_files(table, snapshot_id=at_snapshot)


def test_cache_reads_no_manifest_twice(catalog: Catalog) -> None:
    plans = PlanCache()
    first = append(catalog, [trade(1)])
    [known] = plans.files(first)
    for manifest in first.current_snapshot().manifests(first.io):
        Path(manifest.manifest_path.removeprefix("file://")).unlink()
    assert known in plans.files(append(catalog, [trade(2)]))


def test_cache_keeps_its_newest_plans(catalog: Catalog) -> None:
    plans = PlanCache(limit=1)
    table = append(catalog, [trade(1)])
    before = plans.files(table)
    plans.files(table, row_filter=compare(EqualTo, "symbol", "BHP"))
    assert plans.files(table) is not before


def test_no_files_are_a_relation_with_columns_and_types() -> None:
    connection = duckdb.connect()
    empty = connection.sql(relation_sql([], schema=TRADE.iceberg))
    kinds = dict(zip(empty.columns, map(str, empty.types), strict=True))
    assert empty.to_arrow_table().num_rows == 0
    assert empty.columns == TRADE.arrow.names
    assert kinds["price"] == "DECIMAL(18,8)"
    assert kinds["timestamp"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["vendor_data"] == "MAP(VARCHAR, VARCHAR)"


def test_relation_has_the_columns_in_the_order_of_the_schema(tmp_path: Path) -> None:
    file = str(tmp_path / "it's.parquet")
    schema = Schema(NestedField(1, "a", StringType()), NestedField(2, "b", LongType()))
    rows = pa.table({"b": [1], "a": ["x"]}, schema=pa.schema(list(schema.as_arrow())[::-1]))
    pq.write_table(rows, file)
    found = duckdb.connect().sql(relation_sql([file], schema=schema))
    assert (found.columns, found.fetchall()) == (["a", "b"], [("x", 1)])


def test_relation_gives_back_what_was_appended(catalog: Catalog) -> None:
    rows = [trade(1), trade(2, vendor_data=None, trade_conditions=[])]
    table = append(catalog, rows)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.sql(table_sql(table, files=plan_paths(table)))
    assert found.to_arrow_table().cast(TRADE.arrow).sort_by("message_id") == rows_table(rows)


def test_files_older_than_a_column_have_nulls_in_it(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    with table.update_schema() as update:
        update.add_column("broker", StringType())
    connection = duckdb.connect()
    only_old = connection.sql(table_sql(table, files=plan_paths(table)))
    assert only_old.columns == [*TRADE.arrow.names, "broker"]
    table.append(rows_table([trade(2)]).append_column("broker", pa.array(["Z"])))
    both = connection.sql(table_sql(table, files=plan_paths(table)))
    found = both.order("message_id").project("broker").fetchall()
    assert found == [(None,), ("Z",)]


def test_files_say_which_instruments_and_times_they_can_have(catalog: Catalog) -> None:
    table = append(catalog, [trade(1), trade(9, symbol="MWR")])
    [file] = plan_files(table)
    assert file.can_have("BHP", "ASX") and file.can_have("MWR", None)
    assert not file.can_have("AAA", None) and not file.can_have("ZZZ", "ASX")
    assert not file.can_have("BHP", "BINANCE")
    assert file.is_within(at(9), None) and file.is_within(None, at(2))
    assert not file.is_within(at(10), None) and not file.is_within(None, at(1))


def test_symbols_longer_than_the_bounds_are_not_left_out(catalog: Catalog) -> None:
    names = ["A" * 40, "A" * 16 + "Z" * 24]
    [file] = plan_files(append(catalog, [trade(n, symbol=one) for n, one in enumerate(names)]))
    assert all(file.can_have(name, None) for name in names)


def test_a_table_is_loaded_again_only_when_it_moved(catalog: Catalog) -> None:
    loaded = TableCache(catalog)
    assert loaded.table("trades_v2") is None
    append(catalog, [trade(1)])
    first = loaded.table("trades_v2")
    assert first is not None and loaded.table("trades_v2") is first
    append(catalog, [trade(2)])
    then = loaded.table("trades_v2")
    assert then is not None and len(plan_files(then)) == 2


def test_a_manifest_damaged_after_it_was_read_is_one_line(catalog: Catalog) -> None:
    table = append(catalog, [trade(1)])
    bhp = compare(EqualTo, "symbol", "BHP")
    assert len(plan_files(table, row_filter=bhp)) == len(plan_files(table, row_filter=bhp)) == 1
    (manifest,) = list_manifests(table, table.metadata.current_snapshot_id)
    path = Path(manifest.manifest_path.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedFileError, match=f"{path.name} is damaged: restore it from"):
        plan_files(table, row_filter=bhp)
    path.unlink()
    with pytest.raises(DamagedFileError, match=path.name):
        plan_files(table, row_filter=bhp)
