"""Framed Avro by column: Arrow batches to Kafka messages and back, one record a message.

A message is the magic byte 0, the schema id in four bytes, and the Avro body, as every
Confluent-style client writes and reads it; one with the magic byte 1 and the schema's GUID, or with
either in a record header, is read too. Bodies are made and read by whole columns with
pyruhvro, which knows no `bytes`: its schema calls those fields strings (the same bytes on the
wire), and decimals pass through as their big-endian bytes. It does not say where a body ends:
the number read after each body shows that nothing else followed.
"""

import io
import json
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from operator import itemgetter
from typing import Any, Final

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyruhvro

from k2lib.errors import RecordError
from k2lib.schema.dead_letters import LONGEST_DETAIL, DeadLetterReason
from k2lib.schema.decimals import (
    EXACT,
    decimal_array,
    fits,
    greatest_units,
    type_text,
    unscaled_values,
)
from k2lib.schema.records import AvroType, Field, RecordSchema

HEADER_BYTES: Final = 5
PREFIX: Final = itemgetter(slice(HEADER_BYTES))
# Confluent's newer serializers carry what stands before the body in this record header instead.
SCHEMA_ID_HEADER: Final = "__value_schema_id"
GUID_MAGIC: Final = b"\1"
PREFIX_BYTES: Final = {b"\0": HEADER_BYTES, GUID_MAGIC: 17}
SINGLY: Final = 64
LARGEST_DECIMAL_BYTES: Final = 8
LARGEST_INT: Final = 2**31 - 1
# Parts of a schema that change neither the bytes of a record nor the values they stand for.
NOT_ON_THE_WIRE: Final = ("aliases", "default", "doc", "order", "precision")
MAP_OF_TEXTS: Final = pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False))
END: Final = b"K2 ended"
END_NUMBER: Final = struct.unpack("<d", END)[0]
END_FIELD: Final = {"name": "k2_end", "type": "double"}
# What fastavro raises on a broken body, and on a schema that is invalid or of another record.
BROKEN: Final = (EOFError, ValueError, TypeError, LookupError, OverflowError, struct.error)
UNFIT: Final = (fastavro.read.SchemaResolutionError, fastavro.schema.SchemaParseException)
# Microseconds and days of the years 1 to 9999: no other time can be shown in Python.
CALENDAR: Final = {
    "timestamp-micros": (-62_135_596_800_000_000, 253_402_300_799_999_999),
    "date": (-719_162, 2_932_896),
}
# What fastavro makes of each kind; a time whose writer has no logical type is a number.
PYTHON_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("string", "enum"), str),
    **dict.fromkeys(("int", "long"), int),
    **dict.fromkeys(("timestamp-micros", "timestamp-millis"), (datetime, int)),
    "date": (date, int),
    "boolean": bool,
    "bytes": bytes,
    "decimal": Decimal,
    "array": list,
    "map": dict,
}


# What a registry knows a schema by: its number there, or the GUID of its text anywhere.
SchemaId = int | uuid.UUID
SchemaText = Callable[[SchemaId], str]


@dataclass(frozen=True)
class UndecodableRecord:
    """A message that cannot be decoded: its index in the batch, and why."""

    index: int
    reason: DeadLetterReason
    detail: str


def header(schema_id: int) -> bytes:
    """Return the five bytes before every Avro body."""
    return struct.pack(">bI", 0, schema_id)


def framed(value: bytes | None, schema_id: bytes | None) -> bytes | None:
    """Return a record's value as a framed message.

    Args:
        schema_id: the record header `__value_schema_id`, if it has one: the value is all body then.
    """
    if value is None or schema_id is None:
        return value
    if len(schema_id) != PREFIX_BYTES.get(schema_id[:1]):
        return b""
    return schema_id + value


def encode(batch: pa.RecordBatch, schema: RecordSchema, *, schema_id: int) -> list[bytes]:
    """Encode every row of a batch as one framed Avro message, in order.

    Raises:
        RecordError: a null where none may be, a text that is no symbol of its enum, or a decimal
            that does not fit 64 bits.
    """
    for field in schema.fields:
        if _has_forbidden_null(batch.column(field.name), field):
            raise RecordError(f"{schema.name}: {field.name} is null in a row, and must not be")
    arrays = [_as_wire(batch.column(field.name), field, schema) for field in schema.fields]
    fields = [
        pa.field(f.name, a.type, f.nullable) for f, a in zip(schema.fields, arrays, strict=True)
    ]
    wire = pa.record_batch(arrays, schema=pa.schema(fields))
    try:
        bodies = pyruhvro.serialize_record_batch(wire, _wire_schema(schema.text), 1)
    except ValueError as exc:
        raise RecordError(f"{schema.name}: {exc}") from exc
    prefix = header(schema_id)
    return [prefix + body for chunk in bodies for body in chunk.to_pylist()]


def decode(
    messages: Sequence[bytes | None],
    schema: RecordSchema,
    *,
    writer: SchemaText,
) -> tuple[pa.Table, list[UndecodableRecord]]:
    """Decode framed messages to a table of `schema.arrow`, in order, without the undecodable ones.

    Args:
        writer: gives the Avro text of a schema id or GUID; raises RecordError for an unknown one.
    """
    try:
        return _decode_columns(messages, schema, writer), []
    except (ValueError, TypeError, RecordError):
        if len(messages) <= SINGLY:
            return _decode_each(messages, schema, writer)
    half = len(messages) // 2
    first, undecodable = decode(messages[:half], schema, writer=writer)
    second, more = decode(messages[half:], schema, writer=writer)
    moved = [replace(item, index=item.index + half) for item in more]
    return pa.concat_tables([first, second]), undecodable + moved


def _decode_columns(
    messages: Sequence[bytes | None], schema: RecordSchema, writer: SchemaText
) -> pa.Table:
    prefixes, bodies = _split(messages)
    for prefix in prefixes:
        if not has_same_wire_format(writer(_schema_id(prefix)), schema):
            raise ValueError("written with an older schema")
    wire = pyruhvro.deserialize_array(bodies, _wire_schema(schema.text, ended=True))
    if (wire.column(END_FIELD["name"]).to_numpy() != END_NUMBER).any():
        raise ValueError("bytes follow a record")
    arrays = [
        _from_wire(wire.column(field.name), field, arrow.type)
        for field, arrow in zip(schema.fields, schema.arrow, strict=True)
    ]
    table = pa.Table.from_arrays(arrays, schema=schema.arrow)
    table.validate(full=True)
    return table


def _split(messages: Sequence[bytes | None]) -> tuple[set[bytes], list[bytes]]:
    """Return what stands before the bodies, each once, and the bodies with their end mark."""
    prefixes = set(map(PREFIX, messages))  # type: ignore[arg-type]
    if not any(prefix[:1] == GUID_MAGIC for prefix in prefixes):
        return prefixes, [message[HEADER_BYTES:] + END for message in messages]  # type: ignore[index]
    parts = [_prefix_and_body(message or b"") for message in messages]
    return {prefix for prefix, _ in parts}, [body + END for _, body in parts]


def _prefix_and_body(message: bytes) -> tuple[bytes, bytes]:
    size = PREFIX_BYTES.get(message[:1], HEADER_BYTES)
    return message[:size], message[size:]


def _decode_each(
    messages: Sequence[bytes | None], schema: RecordSchema, writer: SchemaText
) -> tuple[pa.Table, list[UndecodableRecord]]:
    """Decode message by message, slower: for few, with a bad or an older one among them."""
    records: list[dict[str, Any]] = []
    undecodable: list[UndecodableRecord] = []
    for index, message in enumerate(messages):
        try:
            record = decode_record(message, schema, writer=writer)
        except RecordError as exc:
            undecodable.append(UndecodableRecord(index, "undecodable", str(exc)[:LONGEST_DETAIL]))
            continue
        if (detail := _overflow(record, schema)) is None:
            records.append(record)
        else:
            undecodable.append(UndecodableRecord(index, "overflow", detail))
    return pa.Table.from_pylist(records, schema=schema.arrow), undecodable


def decode_record(
    message: bytes | None, schema: RecordSchema, *, writer: SchemaText
) -> dict[str, Any]:
    """Decode one framed message, whatever schema it was written with, to a record of `schema`.

    Raises:
        RecordError: no value, no framing, an unknown schema id, or a broken body.
    """
    if message is None:
        raise RecordError("the message has no value")
    prefix, after = _prefix_and_body(message)
    schema_id = _schema_id(prefix)
    text = writer(schema_id)
    body = io.BytesIO(after)
    try:
        record = fastavro.schemaless_reader(body, _parsed(text), _parsed(schema.text))
    except (*BROKEN, *UNFIT) as exc:
        raise RecordError(f"schema {schema_id} does not fit {schema.name}: {exc!r}") from exc
    if not isinstance(record, dict):
        raise RecordError(f"schema {schema_id} is not a record")
    if n_left := len(body.read()):
        raise RecordError(f"{n_left} bytes follow the record")
    _check_values(record, schema)
    return record


def _check_values(record: Mapping[str, Any], schema: RecordSchema) -> None:
    """Refuse a value whose logical type in the writer's schema is another than the field's."""
    for field in schema.fields:
        value = record[field.name]
        if value is None:
            continue
        if not _is_of_kind(value, field):
            raise RecordError(f"{field.name} {value!r} is not {field.kind}")
        if field.kind in CALENDAR and isinstance(value, int):
            first, last = CALENDAR[field.kind]
            if not first <= value <= last:
                raise RecordError(f"{field.name} {value} is outside the years 1 to 9999")


def _is_of_kind(value: Any, field: Field) -> bool:
    inner = {"array": "items", "map": "values"}.get(field.kind)
    is_of_kind = isinstance(value, PYTHON_TYPES[field.kind])
    if inner is None or not is_of_kind:
        return is_of_kind
    items: Iterable[object] = value.values() if isinstance(value, dict) else value
    return all(isinstance(item, PYTHON_TYPES[field.avro[inner]]) for item in items)


def _schema_id(prefix: bytes) -> SchemaId:
    if len(prefix) != PREFIX_BYTES.get(prefix[:1]):
        raise RecordError(
            f"not a framed Avro message: it, or its header {SCHEMA_ID_HEADER}, must begin with 0 "
            "and a schema id, or 1 and a GUID"
        )
    if prefix[:1] == GUID_MAGIC:
        return uuid.UUID(bytes=prefix[1:])
    return int(struct.unpack(">bI", prefix)[1])


@cache
def has_same_wire_format(text: str, schema: RecordSchema) -> bool:
    """Say whether records of an Avro text are read by column, as those of `schema` are.

    Docs, defaults and the precision of decimals may differ: they change no byte of a record.

    Raises:
        ValueError: the text is no JSON.
    """
    return bool(_wire_form(json.loads(text)) == _wire_form(schema.parsed))


def _wire_form(avro: AvroType) -> AvroType:
    if isinstance(avro, list):
        return [_wire_form(item) for item in avro]
    if isinstance(avro, dict):
        return {name: _wire_form(avro[name]) for name in avro if name not in NOT_ON_THE_WIRE}
    return avro


@cache
def _parsed(text: str) -> Any:
    return fastavro.parse_schema(_as_written(json.loads(text)))


def _as_written(avro: AvroType) -> AvroType:
    """Keep fastavro from rounding decimals, and from making objects of texts that are UUIDs."""
    if isinstance(avro, list):
        return [_as_written(item) for item in avro]
    if not isinstance(avro, dict):
        return avro
    inner = {name: _as_written(value) for name, value in avro.items()}
    match avro.get("type"), avro.get("logicalType"):
        case "bytes", "decimal":
            return inner | {"precision": EXACT.prec}
        case "string", "uuid":
            return "string"
    return inner


@cache
def _wire_schema(text: str, *, ended: bool = False) -> str:
    parsed = json.loads(text)
    fields = [{**f, "type": _bytes_as_string(f["type"])} for f in parsed["fields"]]
    return json.dumps({**parsed, "fields": [*fields, END_FIELD] if ended else fields})


def _bytes_as_string(avro: AvroType) -> AvroType:
    if isinstance(avro, list):
        return [_bytes_as_string(branch) for branch in avro]
    kind = avro["type"] if isinstance(avro, dict) else avro
    if kind == "map":
        return {**avro, "values": _bytes_as_string(avro["values"])}
    return "string" if kind == "bytes" else avro


def _has_forbidden_null(array: pa.Array, field: Field) -> bool:
    inside = {"array": ["values"], "map": ["keys", "items"]}.get(field.kind, [])
    nulls = (getattr(array, name).null_count for name in inside)
    return bool(array.null_count and not field.nullable) or any(nulls)


def _overflow(record: Mapping[str, Any], schema: RecordSchema) -> str | None:
    for field, arrow in zip(schema.fields, schema.arrow, strict=True):
        value = record[field.name]
        if value is None:
            continue
        if field.kind == "decimal" and not fits(value, arrow.type):
            return f"{field.name} {value} does not fit {type_text(arrow.type)}"
        if field.kind == "int" and abs(value) > LARGEST_INT:
            return f"{field.name} {value} does not fit {arrow.type}"
    return None


def _as_wire(array: pa.Array, field: Field, schema: RecordSchema) -> pa.Array:
    if field.kind == "decimal":
        try:
            return _decimal_to_bytes(array)
        except RecordError as exc:
            raise RecordError(f"{schema.name}: {field.name}: {exc}") from exc
    if field.kind == "bytes":
        return _relabelled(array.cast(pa.binary()), pa.string())
    return _relabelled(array, MAP_OF_TEXTS) if _is_map_of_bytes(field) else array


def _from_wire(array: pa.Array, field: Field, arrow_type: pa.DataType) -> pa.Array:
    if field.kind == "decimal":
        return _bytes_to_decimal(array, arrow_type)
    if field.kind == "bytes" or _is_map_of_bytes(field):
        return _relabelled(array, arrow_type)
    if field.kind in CALENDAR and not _in_calendar(array, field.kind):
        raise ValueError("a time outside the years 1 to 9999")
    return array if array.type.equals(arrow_type) else array.cast(arrow_type)


def _is_map_of_bytes(field: Field) -> bool:
    return field.kind == "map" and field.avro["values"] == "bytes"


def _relabelled(array: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Return bytes as texts or texts as bytes, also in a map: the same buffers, unchecked."""
    children = []
    if pa.types.is_map(arrow_type):
        items = _relabelled(array.items, arrow_type.item_type)
        fields = [arrow_type.key_field, arrow_type.item_field]
        children = [pa.StructArray.from_arrays([array.keys, items], fields=fields)]
    buffers = array.buffers()[: 2 if children else 3]
    return pa.Array.from_buffers(
        arrow_type, len(array), buffers, offset=array.offset, children=children or None
    )


def _in_calendar(array: pa.Array, kind: str) -> bool:
    numbers = np.frombuffer(array.buffers()[1] or b"", f"i{array.type.bit_width // 8}")
    first, last = CALENDAR[kind]
    return bool(first <= numbers.min(initial=0) and numbers.max(initial=0) <= last)


def _decimal_to_bytes(array: pa.Array) -> pa.Array:
    """Shortest big-endian two's complement, as fastavro counts its length."""
    unscaled = unscaled_values(array)
    magnitude = np.abs(unscaled)
    size = np.ones(len(unscaled), np.int64)
    for n_bytes in range(1, LARGEST_DECIMAL_BYTES):
        size += magnitude >= (1 << (8 * n_bytes - 1))
    if array.null_count:
        size[array.is_null().to_numpy(zero_copy_only=False)] = 0
    big_endian = unscaled.astype(">i8").view(np.uint8).reshape(-1, LARGEST_DECIMAL_BYTES)
    kept = np.arange(LARGEST_DECIMAL_BYTES) >= (LARGEST_DECIMAL_BYTES - size)[:, None]
    offsets = np.zeros(len(size) + 1, np.int32)
    np.cumsum(size, out=offsets[1:])
    return _string_array(array, offsets, big_endian[kept])


def _string_array(like: pa.Array, offsets: npt.NDArray[Any], data: npt.NDArray[Any]) -> pa.Array:
    buffers = [_validity(like), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(like), buffers)


def _validity(array: pa.Array) -> pa.Buffer | None:
    if not array.null_count:
        return None
    return pa.array(array.is_valid().to_numpy(zero_copy_only=False)).buffers()[1]


def _bytes_to_decimal(array: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    size = ends - starts
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if size.max(initial=0) > LARGEST_DECIMAL_BYTES or size[valid].min(initial=1) < 1:
        raise ValueError("a decimal outside 1 to 8 bytes")
    data = np.frombuffer(data_buffer or b"\0", np.uint8)
    last = max(len(data) - 1, 0)
    fill = np.where(data[np.minimum(starts, last)] >= 128, 255, 0).astype(np.uint8)
    out = np.empty((len(array), LARGEST_DECIMAL_BYTES), np.uint8)
    for byte in range(LARGEST_DECIMAL_BYTES):
        taken = data[np.clip(ends - 1 - byte, 0, last)]
        out[:, LARGEST_DECIMAL_BYTES - 1 - byte] = np.where(size > byte, taken, fill)
    unscaled = out.view(">i8").ravel().astype(np.int64)
    limit = greatest_units(arrow_type)
    if ((unscaled > limit) | (unscaled < -limit))[valid].any():
        raise ValueError("a decimal that does not fit its type")
    return decimal_array(unscaled, validity=_validity(array), arrow_type=arrow_type)
