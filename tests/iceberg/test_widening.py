"""A home whose quantities have 18 digits: read as it is, widened by its first write, read mixed."""

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal, localcontext
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from polars.testing import assert_frame_equal
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.types import DecimalType
from support.feeding import open_session, produce, read_messages, settings_in
from support.kafkas import opened
from support.lake_rows import append, catalog_in, quote, rows_table, trade
from support.lake_upkeep import Clock, local
from support.older_home import older, older_rows, older_table
from support.waiting import first

from k2lib import K2
from k2lib.iceberg.compaction import CompactionCandidates, compact, plan_compaction
from k2lib.iceberg.deduplication import Deduplicator
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.tables import AVRO_SCHEMA_PROPERTY, TABLES, ensure_table
from k2lib.kafka.cluster import KafkaSource
from k2lib.kafka.connect import Kafka
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.query.statistics import difference, read_bars
from k2lib.schema.decimals import QUANTITY
from k2lib.schema.records import QUOTE, TRADE

TRADES = TABLES["trades_v2"]
MOST = Decimal("92233720368.54775807")
PRICE = Decimal("9999999999.99999999")
OLD = [trade(1, price=PRICE, quantity=PRICE), trade(2, quantity=Decimal("0.5"))]
NEW = [trade(3, price=PRICE, quantity=MOST), trade(4, quantity=Decimal("0.00000001"))]
TYPES = """
    SELECT typeof(price), typeof(quantity), typeof(price * quantity), typeof(sum(price * quantity)),
        count(*) FROM {} GROUP BY ALL"""
EXPECTED = ("DECIMAL(18,8)", "DECIMAL(19,8)", "DECIMAL(37,16)", "DECIMAL(38,16)")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path / "home")


@pytest.fixture
def old(catalog: Catalog) -> Table:
    return older_table(catalog, OLD[:1], OLD[1:])


@pytest.fixture
def mixed(catalog: Catalog, old: Table) -> Table:
    """A table with files of both kinds."""
    return append(catalog, NEW)


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as one:
        yield one


def quantities(frame: pl.DataFrame | pa.Table) -> list[Decimal]:
    found: list[Decimal] = pl.DataFrame(frame).sort("timestamp")["quantity"].to_list()
    return found


def quantities_of(rows: list[dict[str, Decimal]]) -> list[Decimal]:
    return [row["quantity"] for row in rows]


def turnover_of(rows: list[dict[str, Decimal]]) -> Decimal:
    with localcontext(prec=38):
        return sum((row["price"] * row["quantity"] for row in rows), Decimal(0))


def answers(catalog: Catalog) -> dict[str, pl.DataFrame]:
    with Engine(catalog) as engine:
        request = ReadRequest("BHP")
        return {
            "rows": engine.read("trades_v2", request).frame,
            "bars": read_bars(engine, request).frame,
            "SQL": engine.sql("SELECT * FROM trades_v2 ORDER BY ALL"),
            "SQL bars": engine.sql("SELECT * FROM bars_1d"),
            "lake": engine.sql("SELECT * FROM lake.trades_v2 ORDER BY ALL"),
            "types": engine.sql(TYPES.format("trades_v2")),
            "vwap": engine.sql("SELECT sum(price * quantity) / sum(quantity) FROM trades_v2"),
            "quotes": engine.read("quotes_v2", request).frame,
        }


def test_every_answer_is_the_same_before_and_after_the_table_is_widened(
    catalog: Catalog, old: Table
) -> None:
    older_table(catalog, [quote(1)], name="quotes_v2")
    before = answers(catalog)
    assert before["types"].row(0) == (*EXPECTED, 2)
    assert quantities(before["rows"]) == quantities_of(OLD)
    assert before["bars"]["turnover"].sum() == turnover_of(OLD)
    assert before["quotes"].schema["bid_quantity"] == pl.Decimal(19, 8)
    for name in ("trades_v2", "quotes_v2"):
        ensure_table(catalog, TABLES[name])
    after = answers(catalog)
    for name, frame in before.items():
        assert_frame_equal(after[name], frame)


@pytest.mark.slow
def test_the_first_write_of_an_older_home_widens_it(old: Table, tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home", commit_interval_s=0.2) as k2:
        k2.pipeline.produce("market.equities.trades.asx", rows_table([*OLD, *NEW]), TRADE)
        k2.pipeline.settle()
        assert quantities(k2.sql("SELECT * FROM lake.trades_v2")) == quantities_of([*OLD, *NEW])
        table = k2.table("trades_v2")
    assert table.schema().find_field("quantity").field_type == DecimalType(19, 8)
    assert table.properties[AVRO_SCHEMA_PROPERTY] == TRADE.text


def test_widening_changes_the_quantities_and_no_file(catalog: Catalog, old: Table) -> None:
    files = [task.file.file_path for task in old.scan().plan_files()]
    table = ensure_table(catalog, TRADES)
    assert table.schema().find_field("quantity").field_type == DecimalType(19, 8)
    assert table.schema().find_field("price").field_type == DecimalType(18, 8)
    assert table.properties[AVRO_SCHEMA_PROPERTY] == TRADE.text
    assert [task.file.file_path for task in table.scan().plan_files()] == files
    again = ensure_table(catalog, TRADES)
    assert again.metadata_location == table.metadata_location


def test_files_of_both_kinds_are_read_together(mixed: Table, engine: Engine) -> None:
    kinds = {
        pq.read_schema(local(task.file.file_path)).field("quantity").type
        for task in mixed.scan().plan_files()
    }
    assert kinds == {pa.decimal128(18, 8), pa.decimal128(19, 8)}
    assert quantities(engine.read("trades_v2", ReadRequest("BHP")).frame) == quantities_of(
        [*OLD, *NEW]
    )
    assert engine.sql(TYPES.format("lake.trades_v2")).row(0) == (*EXPECTED, 4)
    total = engine.sql("SELECT sum(price * quantity) FROM trades_v2").item()
    assert total == turnover_of([*OLD, *NEW])
    found = engine.sql("SELECT message_id FROM trades_v2 WHERE quantity >= 92233720368.54775807")
    assert found["message_id"].to_list() == [NEW[0]["message_id"]]


def test_other_readers_read_both_kinds_together(
    mixed: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    assert quantities(mixed.scan().to_arrow()) == quantities_of([*OLD, *NEW])
    by_polars = pl.scan_iceberg(mixed).select("timestamp", "quantity").collect()
    assert by_polars.schema["quantity"] == pl.Decimal(19, 8)
    assert quantities(by_polars) == quantities_of([*OLD, *NEW])


def test_a_snapshot_from_before_is_read_with_the_types_of_today(
    mixed: Table, engine: Engine
) -> None:
    before = mixed.metadata.snapshots[1].snapshot_id
    read = engine.read("trades_v2", ReadRequest("BHP", as_of=before)).frame
    assert quantities(read) == quantities_of(OLD)
    assert read.schema["quantity"] == pl.Decimal(19, 8)
    changed = difference(engine, mixed, before, mixed.metadata.snapshots[2].snapshot_id)
    assert quantities(changed) == quantities_of(NEW)
    assert set(changed["change"]) == {"added"}


def test_rows_of_both_kinds_are_found_again(mixed: Table) -> None:
    again = [*OLD, *NEW, trade(5)]
    new = Deduplicator(mixed, TRADES).new_rows(rows_table(again), mixed)
    assert new["message_id"].to_pylist() == [trade(5)["message_id"]]


@pytest.mark.slow
def test_compaction_merges_both_kinds_and_cleaning_leaves_what_is_read(
    mixed: Table, tmp_path: Path, engine: Engine
) -> None:
    groups = plan_compaction(CompactionCandidates().read(mixed), fan_in=2)
    assert compact(mixed, groups, order=TRADES.order, spill=tmp_path / "spill").files_merged == 3
    (merged,) = mixed.scan().plan_files()
    rows = pq.read_table(local(merged.file.file_path), partitioning=None)
    assert rows.schema.field("quantity").type == QUANTITY
    assert quantities(rows) == quantities_of([*OLD, *NEW])
    clock = Clock()
    for _ in range(2):
        clock.advance(days=31)
        Maintenance(TRADES, state=tmp_path / "unreferenced.json", now=clock).run_now(mixed)
    read = engine.read("trades_v2", ReadRequest("BHP")).frame
    assert quantities(read) == quantities_of([*OLD, *NEW])


@pytest.mark.slow
def test_an_older_table_takes_what_kafka_has_before_and_after_it_is_widened(
    catalog: Catalog, old: Table, tmp_path: Path, kafka_settings: dict[str, str]
) -> None:
    settings = settings_in(tmp_path)
    with opened(kafka_settings, settings.home) as kafka, hybrid_engine(catalog, kafka) as engine:
        produce(kafka, older_rows([trade(5)]), "market.equities.trades.asx", schema=older(TRADE))
        produce(kafka, rows_table(NEW), "market.equities.trades.asx_sim")
        before = first(
            lambda: engine.sql("SELECT * FROM trades_v2 ORDER BY ALL"), lambda f: f.height == 5
        )
        assert engine.sql(TYPES.format("trades_v2")).row(0) == (*EXPECTED, 5)
        assert quantities(before) == quantities_of([*OLD, *NEW, trade(5)])
        with open_session(kafka, settings) as session:
            read_messages(session, 3)
            assert not session.pending.letters
            session.commit()
        assert engine.sql("SELECT count(*) FROM lake.trades_v2").item() == 5
        assert_frame_equal(engine.sql("SELECT * FROM trades_v2 ORDER BY ALL"), before)
        assert engine.sql(TYPES.format("lake.trades_v2")).row(0) == (*EXPECTED, 5)


def hybrid_engine(catalog: Catalog, kafka: Kafka) -> closing[Engine]:
    return closing(
        Engine(catalog, find_log=lambda: KafkaSource(kafka.cluster, kafka.registry.text))
    )


@pytest.mark.stack
def test_the_registry_takes_the_wider_schema_for_the_same_subject(
    catalog: Catalog, tmp_path: Path, empty_kafka: dict[str, str]
) -> None:
    older_table(catalog, OLD)
    older_table(catalog, [quote(1)], name="quotes_v2")
    topics = {f"market.equities.{kind}.widened": kind for kind in ("trades", "quotes")}
    made = {"trades": (TRADE, [trade(5)], NEW), "quotes": (QUOTE, [quote(5)], [quote(6)])}
    with opened(empty_kafka, tmp_path / "home") as kafka:
        for topic, kind in topics.items():
            schema, before, _ = made[kind]
            rows = older_rows(before, f"{kind}_v2")
            produce(kafka, rows, topic, schema=older(schema))
    with K2.open(home=tmp_path / "home", commit_interval_s=0.2, **empty_kafka) as k2:
        for topic, kind in topics.items():
            schema, _, after = made[kind]
            k2.pipeline.produce(topic, rows_table(after, f"{kind}_v2"), schema)
        k2.pipeline.settle()
        trades = k2.sql("SELECT * FROM lake.trades_v2")
        assert quantities(trades) == quantities_of([*OLD, *NEW, trade(5)])
        assert k2.sql("SELECT count(*) FROM lake.quotes_v2").item() == 3
        assert k2.sql("SELECT count(*) FROM lake.dead_letters").item() == 0
    client = SchemaRegistryClient({"url": empty_kafka["schema_registry_url"]})
    for topic, kind in topics.items():
        schema = made[kind][0]
        subject = f"{topic}-value"
        texts = [client.get_version(subject, n).schema.schema_str for n in (1, 2)]
        assert texts == [older(schema).text, schema.text]
    client.close()
