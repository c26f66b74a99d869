"""Delete files of another engine: refused by name while they apply, and then read again."""

import json
from pathlib import Path

import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFileContent
from support.delete_files import compact_deletes, delete_first_row
from support.lake_rows import append, catalog_in, quote, rows_table, trade
from support.lake_upkeep import PARTITION, message_ids

from k2lib.errors import TableError
from k2lib.events import Event
from k2lib.iceberg.manifests import PlanCache, check_readable, plan_files
from k2lib.iceberg.tables import TABLES, load_table
from k2lib.iceberg.writer import TableWriter
from k2lib.ops.home import maintain_all, read_home_status
from k2lib.query.engine import Engine
from k2lib.settings import Settings

REFUSED = "table market_data.trades_v2 has delete files, .* compact it with the engine"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


def nobody(event: Event) -> None:
    """Listen to nothing."""


@pytest.mark.parametrize(
    "content", [DataFileContent.POSITION_DELETES, DataFileContent.EQUALITY_DELETES]
)
def test_live_delete_files_are_refused_by_name(catalog: Catalog, content: DataFileContent) -> None:
    table = delete_first_row(append(catalog, [trade(1), trade(2)]), content)
    for read in (plan_files, PlanCache().files, check_readable):
        with pytest.raises(TableError, match=REFUSED):
            read(table)


def test_a_table_whose_deletes_were_compacted_away_is_read(catalog: Catalog) -> None:
    table = delete_first_row(append(catalog, [trade(1), trade(2)]))
    table = compact_deletes(table, rows_table([trade(2)]))
    check_readable(table)
    assert [file.rows for file in PlanCache().files(table)] == [1]
    with Engine(catalog) as engine:
        assert engine.sql("select message_id from trades_v2")["message_id"].to_list() == ["m000002"]


def test_an_unreadable_table_stops_only_what_names_it(catalog: Catalog) -> None:
    delete_first_row(append(catalog, [trade(1), trade(2)]))
    append(catalog, [quote(1)], "quotes_v2")
    with Engine(catalog) as engine:
        assert engine.sql("select count(*) as n from quotes_v2")["n"].to_list() == [1]
        assert engine.sql("select 1 as n")["n"].to_list() == [1]
        for text in ("select * from trades_v2", "select 1 from lake.trades_v2", "from bars_1m"):
            with pytest.raises(TableError, match=REFUSED):
                engine.sql(text)
        table = load_table(catalog, "trades_v2")
        assert table is not None
        compact_deletes(table, rows_table([trade(2)]))
        assert engine.sql("select count(*) as n from trades_v2")["n"].to_list() == [1]


def test_status_and_maintenance_name_the_table(catalog: Catalog, tmp_path: Path) -> None:
    delete_first_row(append(catalog, [trade(1), trade(2)]))
    append(catalog, [quote(1)], "quotes_v2")
    status = read_home_status(Settings(home=tmp_path))
    problems = {one.name: one.problem for one in status.tables}
    assert problems["quotes_v2"] is None and "delete files" in str(problems["trades_v2"])
    done = {one.table: one for one in maintain_all(catalog, run_folder=tmp_path / "run")}
    assert "delete files" in done["trades_v2"].text and "merged" in done["quotes_v2"].text
    assert "\n" not in json.dumps(done["trades_v2"].to_json())
    assert set(done) <= set(TABLES)


def test_a_sink_goes_on_once_the_deletes_are_compacted_away(catalog: Catalog) -> None:
    table = delete_first_row(append(catalog, [trade(1), trade(2)]))
    with pytest.raises(TableError, match=REFUSED):
        TableWriter(table, TABLES["trades_v2"], on_event=nobody)
    compact_deletes(table, rows_table([trade(2)]))
    writer = TableWriter(table, TABLES["trades_v2"], on_event=nobody)
    rows = rows_table([trade(1), trade(2), trade(3)])
    assert writer.append(rows, {PARTITION: (0, 3)}, {PARTITION.topic: "log/1"}) == 1
    assert message_ids(writer.table) == ["m000002", "m000003"]
