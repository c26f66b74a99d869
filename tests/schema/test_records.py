"""Schemas: the contract field by field, what is derived from it, and which changes are refused."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.types import DecimalType, ListType, MapType, StringType, TimestamptzType
from support.asx_facts import exchange_of
from support.older_home import older
from support.paths import CACHE

from k2lib import K2
from k2lib.errors import SchemaError
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.ops.jars import fetch_avro_tools
from k2lib.schema.records import (
    DEAD_LETTER,
    GAP,
    QUOTE,
    REFERENCE,
    TRADE,
    RecordSchema,
    check_compatible,
    load_schema,
    schemas_folder,
)
from k2lib.settings import Settings

AVRO_FILES = sorted(schemas_folder().glob("*.avsc"))
STORED = (TRADE, QUOTE, REFERENCE, DEAD_LETTER, GAP)
CONTRACT = {
    "trade_v2": """
        message_id string, trade_id string, symbol string, exchange string,
        asset_class enum(equities crypto futures options), timestamp timestamp-micros,
        price decimal(18 8), quantity decimal(19 8), currency string,
        side enum(BUY SELL SELL_SHORT UNKNOWN), trade_conditions array<string>,
        source_sequence long?, ingestion_timestamp timestamp-micros, platform_sequence long?,
        vendor_data map<string>?""",
    "quote_v2": """
        message_id string, quote_id string, symbol string, exchange string,
        asset_class enum(equities crypto futures options), timestamp timestamp-micros,
        bid_price decimal(18 8)?, bid_quantity decimal(19 8)?, ask_price decimal(18 8)?,
        ask_quantity decimal(19 8)?, currency string, source_sequence long?,
        ingestion_timestamp timestamp-micros, platform_sequence long?, vendor_data map<string>?""",
    "reference_v2": """
        message_id string, company_id string, symbol string, exchange string,
        asset_class enum(equities crypto futures options), company_name string, isin string?,
        currency string?, listing_date date?, delisting_date date?, is_active boolean,
        ingestion_timestamp timestamp-micros, vendor_data map<string>?""",
    "dead_letter": """
        message_id string, noticed timestamp-micros, source string, position string,
        reason string, detail string, raw bytes, raw_size long, key bytes?, headers map<bytes>?""",
    "gap": """
        message_id string, gap_id string, revision int, noticed timestamp-micros,
        exchange string, symbol string, from_id long, to_id long,
        state enum(noticed filled covered none_at_venue lost), filled long, covered long,
        absent long, note string""",
    "trade_v1": """
        symbol string, company_id int, exchange string, exchange_timestamp timestamp-millis,
        price decimal(18 6), volume long, qualifiers int, venue string, buyer_id string?,
        ingestion_timestamp timestamp-millis, sequence_number long?""",
    "quote_v1": """
        symbol string, company_id int, exchange string, exchange_timestamp timestamp-millis,
        bid_price decimal(18 6), bid_volume long, ask_price decimal(18 6), ask_volume long,
        ingestion_timestamp timestamp-millis, sequence_number long?""",
}
Change = Callable[[dict[str, Any]], object]


def stated(avro: Any) -> str:
    """Write an Avro type as the contract does."""
    if isinstance(avro, list):
        return f"{stated(avro[1])}?"
    kind = avro if isinstance(avro, str) else avro.get("logicalType", avro["type"])
    if kind == "decimal":
        return f"decimal({avro['precision']} {avro['scale']})"
    if kind == "enum":
        return f"enum({' '.join(avro['symbols'])})"
    if kind in ("array", "map"):
        return f"{kind}<{stated(avro.get('items', avro.get('values')))}>"
    return str(kind)


def changed(schema: RecordSchema, change: Change) -> RecordSchema:
    """Return the schema after a change to its parsed text."""
    parsed = json.loads(schema.text)
    change(parsed)
    return RecordSchema(schema.name, json.dumps(parsed))


def field_of(parsed: dict[str, Any], name: str) -> Any:
    return next(field for field in parsed["fields"] if field["name"] == name)


def add(name: str, avro: Any, **more: Any) -> Change:
    return lambda parsed: parsed["fields"].append({"name": name, "type": avro, **more})


def remove(name: str) -> Change:
    return lambda parsed: parsed["fields"].remove(field_of(parsed, name))


def set_type(name: str, avro: Any) -> Change:
    return lambda parsed: field_of(parsed, name).update(type=avro)


def set_digits(name: str, precision: int, *, scale: int = 8) -> Change:
    return lambda parsed: field_of(parsed, name)["type"].update(precision=precision, scale=scale)


def a_trade(message_id: str, *, schema: RecordSchema = TRADE) -> pa.Table:
    """Return one row; fields that may be null are."""
    now = datetime(2014, 3, 10, tzinfo=UTC)
    values = {"string": message_id, "timestamp-micros": now, "decimal": 1, "array": []}
    enums = {"asset_class": "equities", "side": "UNKNOWN"}
    row = {
        field.name: enums.get(field.name, values.get(field.kind))
        for field in schema.fields
        if not field.nullable
    }
    return pa.Table.from_pylist([row], schema=schema.arrow)


@pytest.mark.parametrize("name", CONTRACT)
def test_fields_are_those_of_the_contract(name: str) -> None:
    fields = [f"{f['name']} {stated(f['type'])}" for f in load_schema(name).parsed["fields"]]
    assert fields == [" ".join(field.split()) for field in CONTRACT[name].split(",")]


def test_no_schema_is_without_contract() -> None:
    assert {path.stem for path in AVRO_FILES} == set(CONTRACT)


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_every_stored_record_begins_with_its_message_id(schema: RecordSchema) -> None:
    first = schema.fields[0]
    assert (first.name, first.kind, first.nullable) == ("message_id", "string", False)


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_a_field_that_may_be_null_is_so_by_default(schema: RecordSchema) -> None:
    defaults = {f["name"]: f.get("default", "none") for f in schema.parsed["fields"]}
    assert defaults == {f.name: None if f.nullable else "none" for f in schema.fields}


@pytest.mark.stack
@pytest.mark.parametrize("path", AVRO_FILES, ids=lambda path: path.stem)
def test_avro_tools_accepts_the_file(path: Path) -> None:
    java, jar = shutil.which("java"), fetch_avro_tools(CACHE / "java")
    done = subprocess.run(
        [str(java), "-jar", str(jar), "canonical", str(path), "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("Exception")) == (0, 0), done.stderr
    assert [f["name"] for f in json.loads(done.stdout)["fields"]] == [
        f.name for f in load_schema(path.stem).fields
    ]


def test_arrow_types_are_native() -> None:
    trade, reference = TRADE.arrow, REFERENCE.arrow
    assert trade.field("price").type == pa.decimal128(18, 8)
    assert trade.field("quantity").type == pa.decimal128(19, 8)
    assert trade.field("timestamp").type == pa.timestamp("us", tz="UTC")
    assert pa.types.is_list(trade.field("trade_conditions").type)
    assert pa.types.is_map(trade.field("vendor_data").type)
    assert reference.field("listing_date").type == pa.date32()
    assert DEAD_LETTER.arrow.field("raw").type == pa.binary()


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_arrow_keeps_order_and_nullability(schema: RecordSchema) -> None:
    expected = [(field.name, field.nullable) for field in schema.fields]
    assert [(field.name, field.nullable) for field in schema.arrow] == expected


def test_iceberg_types_are_native() -> None:
    types = {field.name: field.field_type for field in TRADE.iceberg.fields}
    assert (types["price"], types["quantity"]) == (DecimalType(18, 8), DecimalType(19, 8))
    assert types["timestamp"] == TimestamptzType()
    conditions, vendor_data = types["trade_conditions"], types["vendor_data"]
    assert isinstance(conditions, ListType) and conditions.element_type == StringType()
    assert isinstance(vendor_data, MapType) and vendor_data.value_type == StringType()


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_iceberg_carries_the_docs_and_nullability_over(schema: RecordSchema) -> None:
    expected = [(f.name, f.doc, not f.nullable) for f in schema.fields]
    assert [(f.name, f.doc, f.required) for f in schema.iceberg.fields] == expected
    assert all(f.doc for f in schema.fields)


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_iceberg_numbers_every_field_once(schema: RecordSchema) -> None:
    ids = list(IcebergSchema(*schema.iceberg.fields).field_ids)
    assert sorted(ids) == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_a_stored_schema_reads_itself(schema: RecordSchema) -> None:
    check_compatible(schema.text, schema.text, subject=schema.name)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        (add("fee", "string"), "fee", "reader field missing default value"),
        (add("fee", ["null", "string"]), "fee", "reader field missing default value"),
        (add("fee", "string", default=""), "fee", "it must be nullable with default null"),
        (remove("currency"), "currency", "it is gone, but its column must have a value"),
        (
            lambda parsed: field_of(parsed, "side")["type"]["symbols"].remove("SELL_SHORT"),
            "side",
            "missing enum symbols, {'SELL_SHORT'}",
        ),
        (set_type("symbol", "long"), "symbol", "its type changes from string to long"),
        (set_type("quantity", "string"), "quantity", "from decimal(19,8) to string"),
        (
            lambda parsed: field_of(parsed, "price")["type"].update(scale=6),
            "price",
            "from decimal(18,8) to decimal(18,6)",
        ),
        (set_digits("quantity", 18), "quantity", "from decimal(19,8) to decimal(18,8)"),
        (set_digits("quantity", 20), "quantity", "from decimal(19,8) to decimal(20,8)"),
        (set_digits("price", 20), "price", "from decimal(18,8) to decimal(20,8)"),
        (set_digits("price", 19, scale=9), "price", "from decimal(18,8) to decimal(19,9)"),
        (
            lambda parsed: field_of(parsed, "timestamp")["type"].update(
                logicalType="timestamp-millis"
            ),
            "timestamp",
            "from timestamp-micros to timestamp-millis",
        ),
        (
            set_type("source_sequence", "long"),
            "source_sequence",
            "reader type: long not compatible with writer type: null",
        ),
        (
            lambda parsed: field_of(parsed, "trade_conditions")["type"].update(items="int"),
            "trade_conditions",
            "reader type: int not compatible with writer type: string",
        ),
    ],
)
def test_an_incompatible_change_is_refused_by_field_and_reason(
    change: Change, field: str, reason: str
) -> None:
    with pytest.raises(SchemaError) as caught:
        check_compatible(changed(TRADE, change).text, TRADE.text, subject="table trades_v2")
    message = str(caught.value)
    assert message.startswith(
        f"table trades_v2: the schema is not backward compatible: field {field}"
    )
    assert reason in message and message.count("field ") - message.count("reader field ") == 2


def test_every_refused_field_is_named() -> None:
    def change(parsed: dict[str, Any]) -> None:
        set_type("price", "string")(parsed)
        add("fee", "string")(parsed)

    with pytest.raises(SchemaError, match=r"field price: .*; field fee: "):
        check_compatible(changed(TRADE, change).text, TRADE.text, subject="trades")


@pytest.mark.parametrize(
    "change",
    [
        add("fee", ["null", "string"], default=None),
        lambda parsed: field_of(parsed, "side")["type"]["symbols"].append("CROSS"),
        lambda parsed: field_of(parsed, "currency").update(type=["null", "string"]),
        lambda parsed: field_of(parsed, "currency").update(doc="In other words."),
    ],
    ids=["new nullable field", "new symbol", "required becomes nullable", "new doc"],
)
def test_a_compatible_change_passes(change: Change) -> None:
    check_compatible(changed(TRADE, change).text, TRADE.text, subject="trades")


@pytest.mark.parametrize("schema", [TRADE, QUOTE], ids=lambda schema: schema.name)
def test_a_decimal_may_grow_from_18_to_19_digits_and_not_shrink(schema: RecordSchema) -> None:
    check_compatible(schema.text, older(schema).text, subject="trades")
    with pytest.raises(SchemaError, match=r"quantity: .* from decimal\(19,8\) to decimal\(18,8\)"):
        check_compatible(older(schema).text, schema.text, subject="trades")


def test_a_new_field_reads_as_null_in_the_rows_before(tmp_path: Path) -> None:
    catalog = open_catalog(Settings(home=tmp_path))
    spec = TABLES["trades_v2"]
    ensure_table(catalog, spec).append(a_trade("before"))
    newer = changed(TRADE, add("liquidity", ["null", "string"], default=None, doc="Maker or taker"))
    table = ensure_table(catalog, replace(spec, schema=newer))
    table.append(a_trade("after", schema=newer))
    rows = {row["message_id"]: row["liquidity"] for row in table.scan().to_arrow().to_pylist()}
    assert rows == {"before": None, "after": None}
    assert table.schema().find_field("liquidity").doc == "Maker or taker"


def test_a_field_that_becomes_nullable_may_be_null_in_the_table(tmp_path: Path) -> None:
    catalog = open_catalog(Settings(home=tmp_path))
    spec = TABLES["trades_v2"]
    ensure_table(catalog, spec).append(a_trade("before"))
    looser = changed(TRADE, set_type("currency", ["null", "string"]))
    table = ensure_table(catalog, replace(spec, schema=looser))
    table.append(a_trade("after", schema=looser))
    rows = {row["message_id"]: row["currency"] for row in table.scan().to_arrow().to_pylist()}
    assert rows == {"before": "before", "after": None}


def test_a_refused_change_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    catalog = open_catalog(Settings(home=tmp_path))
    spec = TABLES["trades_v2"]
    before = ensure_table(catalog, spec)
    with pytest.raises(SchemaError, match="field price"):
        ensure_table(catalog, replace(spec, schema=changed(TRADE, set_type("price", "string"))))
    after = catalog.load_table(before.name())
    assert after.metadata == before.metadata


def test_the_embedded_broker_refuses_too(tmp_path: Path, asx_sample: Path) -> None:
    other = replace(TABLES["trades_v2"], schema=changed(TRADE, set_type("price", "string")))
    ensure_table(open_catalog(Settings(home=tmp_path)), other)
    with (
        pytest.raises(SchemaError, match=r"trades_v2: .* field price: its type changes from"),
        K2.open(home=tmp_path) as k2,
    ):
        k2.load_asx(asx_sample)
    with K2.open(home=tmp_path) as k2:
        exchange = exchange_of(asx_sample)
        counted = k2.sql("select count(*) from trades_v2 where exchange = ?", [exchange])
        assert counted.item() == 0
