"""The codec: the bytes that every other Avro client writes and reads, and what it refuses."""

import io
import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    header_schema_id_serializer,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from support.older_home import older

from k2lib.errors import RecordError
from k2lib.schema.codec import (
    SCHEMA_ID_HEADER,
    SINGLY,
    SchemaId,
    UndecodableRecord,
    decode,
    encode,
    framed,
    has_same_wire_format,
    header,
)
from k2lib.schema.dead_letters import DeadLetter, dead_letter_rows
from k2lib.schema.decimals import greatest
from k2lib.schema.records import DEAD_LETTER, GAP, QUOTE, REFERENCE, TRADE, RecordSchema
from k2lib.venues.asx.files import find_files, read_file
from k2lib.venues.asx.reference import ReferenceData, read_reference

STORED = (TRADE, QUOTE, REFERENCE, DEAD_LETTER, GAP)
NOW = datetime(2026, 3, 10, 12, 30, 15, 123456, tzinfo=UTC)
LARGEST = Decimal("92233720368.54775807")
RAW = bytes(range(256))
GOOD = {
    "message_id": "id",
    "trade_id": "ASX-id",
    "symbol": "BHP",
    "exchange": "ASX",
    "asset_class": "equities",
    "timestamp": NOW,
    "price": Decimal("37.7"),
    "quantity": Decimal(300),
    "currency": "AUD",
    "side": "UNKNOWN",
    "trade_conditions": ["0"],
    "source_sequence": 7,
    "ingestion_timestamp": NOW,
    "platform_sequence": None,
    "vendor_data": {"isin": "AU000000XYZ1", "venue": "X"},
}
Record = dict[str, Any]

texts = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": texts,
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "bytes": st.binary(max_size=40),
    "date": st.dates(),
    "timestamp-micros": st.datetimes(timezones=st.just(UTC)),
    "array": st.lists(texts, max_size=3),
    "map": st.dictionaries(texts, texts, max_size=3),
}


def values_of(field: Any) -> st.SearchStrategy[Any]:
    symbols = st.sampled_from(field.avro["symbols"] if field.kind == "enum" else [""])
    values = VALUES.get(field.kind, symbols)
    if field.kind == "map" and field.avro["values"] == "bytes":
        values = st.dictionaries(texts, VALUES["bytes"], max_size=3)
    if field.kind == "decimal":
        limit = greatest(pa.decimal128(field.avro["precision"], field.avro["scale"]))
        values = st.decimals(-limit, limit, places=8)
    return st.none() | values if field.nullable else values


def tables(schema: RecordSchema) -> st.SearchStrategy[pa.Table]:
    """Draw tables of up to three chunks, each a slice of a larger batch."""
    rows = st.fixed_dictionaries({field.name: values_of(field) for field in schema.fields})
    chunk = st.builds(
        lambda before, kept, after: batch_of(before + kept + after, schema).slice(
            len(before), len(kept)
        ),
        *(st.lists(rows, max_size=size) for size in (3, 6, 3)),
    )
    return st.lists(chunk, max_size=3).map(
        lambda chunks: pa.Table.from_batches(chunks, schema=schema.arrow)
    )


def batch_of(rows: list[Record], schema: RecordSchema = TRADE) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema.arrow)


def messages_of(table: pa.Table, schema: RecordSchema, *, schema_id: int = 7) -> list[bytes]:
    batches = table.to_batches()
    return [m for batch in batches for m in encode(batch, schema, schema_id=schema_id)]


def message(schema_id: int = 7, **changed: Any) -> bytes:
    """Encode one good trade, after a change, with fastavro."""
    return header(schema_id) + fastavro_body(GOOD | changed, TRADE)


def fastavro_body(record: Record, schema: RecordSchema) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro_schema(schema.text), record)
    return body.getvalue()


@cache
def fastavro_schema(text: str) -> Any:
    return fastavro.parse_schema(json.loads(text))


def records(table: pa.Table) -> list[Record]:
    return table.to_pylist(maps_as_pydicts="strict")


def decoded(
    messages: list[bytes | None], schema: RecordSchema = TRADE
) -> tuple[list[Record], list[UndecodableRecord]]:
    table, refused = decode(messages, schema, writer=lambda schema_id: schema.text)
    table.validate(full=True)
    assert table.schema == schema.arrow
    return records(table), refused


def without(schema: RecordSchema, name: str) -> RecordSchema:
    """Return an older schema: one field fewer."""
    parsed = json.loads(schema.text)
    parsed["fields"] = [field for field in parsed["fields"] if field["name"] != name]
    return RecordSchema("older", json.dumps(parsed))


def with_type(schema: RecordSchema, name: str, avro: Any) -> RecordSchema:
    """Return the schema with another type of one field, which has no default then."""
    parsed = json.loads(schema.text)
    field = next(field for field in parsed["fields"] if field["name"] == name)
    field.pop("default", None)
    field["type"] = avro
    return RecordSchema("other", json.dumps(parsed))


def wire_trade(name: str, avro: Any, value: Any) -> bytes:
    """Encode a good trade whose one field has another type on the wire."""
    return header(7) + fastavro_body(GOOD | {name: value}, with_type(TRADE, name, avro))


@pytest.fixture(scope="module")
def reference(asx_sample: Path) -> ReferenceData:
    return read_reference(asx_sample / "reference-data")


@pytest.fixture(scope="module")
def sample(asx_sample: Path, reference: ReferenceData) -> list[tuple[RecordSchema, pa.Table]]:
    """Return all rows of the sample: trades, quotes, reference data, and dead letters."""
    schemas = {"trades": TRADE, "quotes": QUOTE}
    read = [
        (schemas[batch.kind], batch.rows)
        for file in find_files([asx_sample])
        for batch in read_file(file, reference.instrument(file.company_id), ingested=NOW)
    ]
    letters = [DeadLetter("7078.csv", f"line {n}", "not_utf8", "é", RAW[n:]) for n in range(256)]
    letters += [replace(one, key=one.raw, headers={"a": one.raw}) for one in letters[:9]]
    return [
        *read,
        (REFERENCE, reference.rows(NOW)),
        (DEAD_LETTER, dead_letter_rows(letters, NOW)),
    ]


def test_a_message_is_a_zero_the_schema_id_and_the_body() -> None:
    encoded = encode(batch_of([GOOD]), TRADE, schema_id=258)
    assert encoded == [b"\0\0\0\x01\x02" + fastavro_body(GOOD, TRADE)]


@pytest.mark.slow
def test_bytes_equal_those_of_fastavro_for_every_row_of_the_sample(
    sample: list[tuple[RecordSchema, pa.Table]],
) -> None:
    for schema, rows in sample:
        expected = [header(7) + fastavro_body(row, schema) for row in records(rows)]
        assert messages_of(rows, schema) == expected, schema.name


def test_every_row_of_the_sample_is_read_back(
    sample: list[tuple[RecordSchema, pa.Table]],
) -> None:
    for schema, rows in sample:
        writer = {7: schema.text}.__getitem__
        table, refused = decode(messages_of(rows, schema), schema, writer=writer)
        assert refused == []
        assert table.equals(rows), schema.name


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
@given(st.data())
@settings(max_examples=10)
def test_confluents_deserializer_reads_equal_values(
    schema: RecordSchema, data: st.DataObject
) -> None:
    table = data.draw(tables(schema))
    client = SchemaRegistryClient.new_client({"url": "mock://"})
    schema_id = client.register_schema("t-value", Schema(schema.text, "AVRO"))
    read, context = AvroDeserializer(client), SerializationContext("t", MessageField.VALUE)
    messages = messages_of(table, schema, schema_id=schema_id)
    assert [read(one, context) for one in messages] == records(table)
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
@given(st.data())
@settings(max_examples=20)
def test_any_table_is_read_back_as_it_was(schema: RecordSchema, data: st.DataObject) -> None:
    table = data.draw(tables(schema))
    read, refused = decoded([*messages_of(table, schema)], schema)
    assert (read, refused) == (records(table), [])


@pytest.mark.slow
@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
@given(st.data())
@settings(max_examples=20)
def test_any_bytes_equal_those_of_fastavro(schema: RecordSchema, data: st.DataObject) -> None:
    table = data.draw(tables(schema))
    expected = [header(7) + fastavro_body(row, schema) for row in records(table)]
    assert messages_of(table, schema) == expected


@pytest.mark.parametrize(
    "price", ["0", "1E-8", "-1E-8", "0.00000127", "0.00000128", "-0.00000128", "-0.00000129"]
)
def test_decimals_at_the_edge_of_a_byte_equal_those_of_fastavro(price: str) -> None:
    row = GOOD | {"price": Decimal(price), "quantity": LARGEST}
    assert encode(batch_of([row]), TRADE, schema_id=7) == [header(7) + fastavro_body(row, TRADE)]


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_nothing_in_is_nothing_out(schema: RecordSchema) -> None:
    assert encode(batch_of([], schema), schema, schema_id=7) == []
    assert decoded([], schema) == ([], [])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"price": None}, "price is null"),
        ({"quantity": LARGEST + Decimal("1E-8")}, "quantity: 92233720368.54775808 does not fit"),
        ({"quantity": Decimal(-99_999_999_999)}, "quantity: -99999999999.00000000 does not fit"),
        ({"trade_conditions": ["0", None]}, "trade_conditions is null"),
        ({"vendor_data": {"venue": None}}, "vendor_data is null"),
        ({"side": "HOLD"}, "'HOLD'"),
    ],
)
def test_a_row_that_the_schema_cannot_hold_is_refused(changed: Record, message: str) -> None:
    rows = [GOOD, GOOD | changed]
    with pytest.raises(RecordError, match=f"trade_v2: .*{message}"):
        encode(batch_of(rows), TRADE, schema_id=7)


POISON: dict[str, tuple[bytes | None, str, str]] = {
    "no value": (None, "undecodable", "the message has no value"),
    "empty": (b"", "undecodable", "not a framed Avro message"),
    "header cut": (b"\0\0\0", "undecodable", "not a framed Avro message"),
    "header alone": (header(7), "undecodable", "EOFError"),
    "truncated": (message()[:-1], "undecodable", "EOFError"),
    "wrong magic": (b"\x02" + message()[1:], "undecodable", "not a framed Avro message"),
    "GUID cut": (b"\x01" + bytes(15), "undecodable", "not a framed Avro message"),
    "unknown GUID": (
        b"\x01" + bytes(20),
        "undecodable",
        f"no schema has the id {uuid.UUID(int=0)}",
    ),
    "text": (b"hello world", "undecodable", "not a framed Avro message"),
    "unknown id": (message(99), "undecodable", "no schema has the id 99"),
    "not UTF-8": (message().replace(b"BHP", b"B\xff\xfe"), "undecodable", "UnicodeDecodeError"),
    "trailing": (message() + b"\0", "undecodable", "1 bytes follow the record"),
    "two records": (message() + message()[5:], "undecodable", "bytes follow the record"),
    "no such symbol": (wire_trade("side", "int", 9), "undecodable", "IndexError"),
    "year 10000": (
        wire_trade("timestamp", "long", 253_402_300_800_000_000),
        "undecodable",
        "OverflowError",
    ),
    "19 digits": (
        wire_trade("price", "bytes", (10**18).to_bytes(8, "big")),
        "overflow",
        "price 10000000000.00000000 does not fit decimal(18,8)",
    ),
    "12 bytes": (
        wire_trade("price", "bytes", (-(10**27)).to_bytes(12, "big", signed=True)),
        "overflow",
        "price -10000000000000000000.00000000 does not fit decimal(18,8)",
    ),
    "one unit too many": (
        wire_trade("quantity", "bytes", (2**63).to_bytes(9, "big")),
        "overflow",
        "quantity 92233720368.54775808 does not fit decimal(19,8) in 64 bits",
    ),
    "one unit too few": (
        wire_trade("quantity", "bytes", (-(2**63)).to_bytes(8, "big", signed=True)),
        "overflow",
        "quantity -92233720368.54775808 does not fit decimal(19,8) in 64 bits",
    ),
    "as long as it likes": (
        wire_trade("quantity", "bytes", b"\x7f" + bytes(400)),
        "overflow",
        "E+957 does not fit decimal(19,8) in 64 bits",
    ),
}


def only_seven(schema_id: SchemaId) -> str:
    if schema_id != 7:
        raise RecordError(f"no schema has the id {schema_id}")
    return TRADE.text


@pytest.mark.parametrize("name", POISON)
def test_a_poisoned_message_costs_itself_only(name: str) -> None:
    poison, reason, detail = POISON[name]
    table, refused = decode([message(), poison, message()], TRADE, writer=only_seven)
    assert records(table) == [GOOD, GOOD]
    assert [(one.index, one.reason) for one in refused] == [(1, reason)]
    assert detail in refused[0].detail


def test_poison_in_a_long_batch_is_found_where_it_stands() -> None:
    messages: list[bytes | None] = [message(source_sequence=n) for n in range(5 * SINGLY)]
    bad = [0, SINGLY - 1, SINGLY, 3 * SINGLY + 1, 5 * SINGLY - 1]
    for index in bad:
        messages[index] = b"poison"
    read, refused = decoded(messages)
    assert [one.index for one in refused] == bad
    good = [n for n in range(5 * SINGLY) if n not in bad]
    assert [row["source_sequence"] for row in read] == good


def test_a_decimal_written_longer_than_needed_is_read() -> None:
    long = wire_trade("price", "bytes", (3_770_000_000).to_bytes(12, "big"))
    assert decoded([long, message()]) == ([GOOD, GOOD], [])


@pytest.mark.parametrize(
    "text",
    ['{"type": "object"}', 'syntax = "proto3";', "", "null", "[]", '"string"', GAP.text],
)
def test_a_schema_of_something_else_is_the_messages_fault(text: str) -> None:
    texts = {7: TRADE.text, 8: text}
    table, refused = decode([message(8), message(7)], TRADE, writer=texts.__getitem__)
    assert records(table) == [GOOD]
    assert (refused[0].index, refused[0].reason) == (0, "undecodable")
    assert "schema 8 does not fit trade_v2" in refused[0].detail
    assert len(refused[0].detail) <= 300


def test_a_message_without_a_later_field_reads_as_its_default() -> None:
    older = without(TRADE, "vendor_data")
    first = header(6) + fastavro_body(GOOD, older)
    texts = {6: older.text, 7: TRADE.text}
    table, refused = decode([first, message(), first], TRADE, writer=texts.__getitem__)
    old = GOOD | {"vendor_data": None}
    assert (records(table), refused) == ([old, GOOD, old], [])


def test_a_message_with_a_field_of_tomorrow_is_read_without_it() -> None:
    older = without(TRADE, "vendor_data")
    read, refused = decode([message()], older, writer=lambda schema_id: TRADE.text)
    assert (read.schema, refused) == (older.arrow, [])


@pytest.mark.parametrize("schema", [TRADE, QUOTE], ids=lambda schema: schema.name)
def test_messages_of_narrower_quantities_are_read_by_column(schema: RecordSchema) -> None:
    before = older(schema)
    assert before.text != schema.text
    assert has_same_wire_format(before.text, schema)
    row = SAMPLES[schema.name] | dict.fromkeys(
        (field.name for field in schema.fields if "quantity" in field.name), Decimal("-0.5")
    )
    old, new = (header(n) + fastavro_body(row, one) for n, one in ((6, before), (7, schema)))
    texts = {6: before.text, 7: schema.text}
    assert old[5:] == new[5:]
    table, refused = decode([old, new] * 50, schema, writer=texts.__getitem__)
    assert (records(table), refused) == ([row] * 100, [])


@pytest.mark.parametrize("name", ["type", "scale", "symbols", "order of fields", "name"])
def test_what_has_other_bytes_or_values_is_not_read_by_column(name: str) -> None:
    parsed = json.loads(TRADE.text)
    fields = {field["name"]: field for field in parsed["fields"]}
    match name:
        case "type":
            fields["symbol"]["type"] = "bytes"
        case "scale":
            fields["quantity"]["type"]["scale"] = 6
        case "symbols":
            fields["side"]["type"]["symbols"].reverse()
        case "order of fields":
            parsed["fields"].reverse()
        case "name":
            parsed["name"] = "Other"
    assert not has_same_wire_format(json.dumps(parsed), TRADE)


def test_docs_and_defaults_are_not_on_the_wire() -> None:
    parsed = json.loads(QUOTE.text)
    for field in parsed["fields"]:
        field["doc"] = "In other words."
        field.pop("default", None)
    assert has_same_wire_format(json.dumps(parsed), QUOTE)


@pytest.mark.parametrize(
    ("scale", "value", "is_read"),
    [(6, "300.000001", True), (9, "300.000000010", True), (9, "300.000000001", False)],
)
def test_a_decimal_of_another_scale_is_read_exactly_or_refused(
    scale: int, value: str, is_read: bool
) -> None:
    avro = {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": scale}
    other = with_type(TRADE, "quantity", avro)
    sent = header(6) + fastavro_body(GOOD | {"quantity": Decimal(value)}, other)
    texts = {6: other.text, 7: TRADE.text}
    table, refused = decode([message(), sent], TRADE, writer=texts.__getitem__)
    if is_read:
        assert (records(table)[1]["quantity"], refused) == (Decimal(value), [])
    else:
        assert (records(table), refused[0].reason) == ([GOOD], "overflow")


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 8}
OTHER_TYPES: list[tuple[Any, Any]] = [
    ("string", "abc"),
    ("bytes", b"\xff\x01"),
    ("int", -5),
    ("long", 2**62),
    ("double", 1e300),
    (DECIMAL, Decimal("3.5")),
    ({"type": "string", "logicalType": "uuid"}, uuid.UUID(int=7)),
    ({"type": "int", "logicalType": "date"}, date(2020, 1, 1)),
    ({"type": "int", "logicalType": "time-millis"}, time(1)),
    ({"type": "long", "logicalType": "timestamp-millis"}, NOW.replace(microsecond=1000)),
    ({"type": "array", "items": DECIMAL}, [Decimal(1)]),
    ({"type": "map", "values": DECIMAL}, {"a": Decimal(1)}),
]


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_a_field_of_any_other_type_is_read_or_refused_and_costs_no_neighbour(
    schema: RecordSchema,
) -> None:
    good = SAMPLES[schema.name]
    whole = header(7) + fastavro_body(good, schema)
    for field in schema.fields:
        for avro, value in OTHER_TYPES:
            other = with_type(schema, field.name, avro)
            sent = header(6) + fastavro_body(good | {field.name: value}, other)
            texts = {6: other.text, 7: schema.text}
            table, refused = decode([whole, sent, whole], schema, writer=texts.__getitem__)
            table.validate(full=True)
            read = records(table)
            assert (read[0], read[-1], len(read) + len(refused)) == (good, good, 3)
            assert {one.reason for one in refused} <= {"undecodable", "overflow"}


def test_a_text_that_its_writer_calls_a_uuid_is_read_as_it_is() -> None:
    avro = {"type": "string", "logicalType": "uuid"}
    other = with_type(TRADE, "message_id", avro)
    sent = header(6) + fastavro_body(GOOD | {"message_id": "not one"}, other)
    table, refused = decode([sent], TRADE, writer=lambda schema_id: other.text)
    assert (table["message_id"].to_pylist(), refused) == (["not one"], [])


def test_ids_of_one_schema_may_mix_in_a_batch() -> None:
    texts = {7: TRADE.text, 8: json.dumps(TRADE.parsed, indent=2)}
    mixed = [message(7), message(8), message(7)]
    table, refused = decode(mixed, TRADE, writer=texts.__getitem__)
    assert (records(table), refused) == ([GOOD] * 3, [])


GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
BODY = message()[5:]


@pytest.mark.parametrize("magic_and_id", [header(7), b"\1" + GUID.bytes], ids=["id", "GUID"])
@pytest.mark.parametrize("n_bodies", [1, 3 * SINGLY])
def test_a_schema_id_in_a_header_is_that_of_a_value_that_is_all_body(
    magic_and_id: bytes, n_bodies: int
) -> None:
    texts: dict[SchemaId, str] = {7: TRADE.text, GUID: TRADE.text}
    values = [framed(BODY, magic_and_id), message(), framed(message(), None)] * n_bodies
    table, refused = decode(values, TRADE, writer=texts.__getitem__)
    assert (records(table), refused) == ([GOOD] * len(values), [])


def test_confluents_serializer_with_its_header_is_read() -> None:
    client = SchemaRegistryClient.new_client({"url": "mock://"})
    options = {"schema.id.serializer": header_schema_id_serializer}
    write = AvroSerializer(client, TRADE.text, conf=options)
    headers: dict[str, bytes] = {}
    value = write(GOOD, SerializationContext("t", MessageField.VALUE, headers))
    table, refused = decode(
        [framed(value, headers[SCHEMA_ID_HEADER])],
        TRADE,
        writer=lambda guid: str(client.get_schema_by_guid(str(guid)).schema_str),
    )
    assert (records(table), refused) == ([GOOD], [])
    client.close()


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"\0\0\0\7", header(7) + b"\0", b"\1" + bytes(15), b"7"]
)
def test_a_header_that_is_no_schema_id_is_the_records_fault(value: bytes) -> None:
    _, refused = decoded([framed(BODY, value)])
    assert "its header __value_schema_id" in refused[0].detail


def test_a_record_without_a_value_has_none_whatever_its_header() -> None:
    assert framed(None, header(7)) is None


def mutated(message: bytes, draw: random.Random) -> bytes:
    """Damage a message in one to four places: other bytes, more, fewer, or cut off."""
    damaged = bytearray(message)
    for _ in range(draw.randint(1, 4)):
        begin = draw.randrange(len(damaged) + 1)
        end = draw.choice([begin, begin + 1, begin + draw.randint(1, 9), len(damaged)])
        damaged[begin:end] = draw.randbytes(draw.choice([0, 1, draw.randint(1, 12)]))
    return bytes(damaged)


SAMPLES: dict[str, Record] = {
    "trade_v2": GOOD,
    "quote_v2": {name: GOOD.get(name) for name in QUOTE.arrow.names}
    | {"quote_id": "q", "bid_price": Decimal("-0.00000001"), "ask_quantity": LARGEST},
    "reference_v2": {name: GOOD.get(name) for name in REFERENCE.arrow.names}
    | {"company_id": "1", "company_name": "Größe", "listing_date": date(1969, 7, 20)}
    | {"is_active": True},
    "dead_letter": dead_letter_rows([DeadLetter("f", "line 1", "r", "d", RAW)], NOW).to_pylist()[0],
    "gap": {field.name: 1 if field.kind in ("int", "long") else "x" for field in GAP.fields}
    | {"noticed": NOW, "state": "filled"},
}


def damaged(schema: RecordSchema, count: int) -> Iterator[bytes]:
    draw = random.Random(schema.name)
    good = header(7) + fastavro_body(SAMPLES[schema.name], schema)
    return (mutated(good, draw) for _ in range(count))


@pytest.mark.parametrize("schema", STORED, ids=lambda schema: schema.name)
def test_damage_is_read_or_refused_as_fastavro_does_and_costs_no_neighbour(
    schema: RecordSchema,
) -> None:
    good = SAMPLES[schema.name]
    whole = header(7) + fastavro_body(good, schema)
    counts = set()
    for bad in damaged(schema, 600):
        read, refused = decoded([whole, bad, whole], schema)
        alone, alone_refused = decoded([b"", bad], schema)
        assert (read[0], read[-1], len(read) + len(refused)) == (good, good, 3)
        assert read[1:-1] == alone and len(refused) + 1 == len(alone_refused)
        counts.add(len(refused))
    assert counts == {0, 1}
