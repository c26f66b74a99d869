"""The v2 schemas, read from `schemas/*.avsc`, and their Arrow and Iceberg counterparts."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    TimestamptzType,
)

from k2lib.errors import SchemaError

AvroType = Any
# Iceberg allows any widening: beyond this one `price * quantity` would not fit 38 digits.
WIDENED: Final = {("decimal(18,8)", "decimal(19,8)")}
_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "enum": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "timestamp-micros": pa.timestamp("us", tz="UTC"),
    "timestamp-millis": pa.timestamp("ms", tz="UTC"),
}
_ICEBERG: dict[str, IcebergType] = {
    "string": StringType(),
    "enum": StringType(),
    "boolean": BooleanType(),
    "int": IntegerType(),
    "long": LongType(),
    "bytes": BinaryType(),
    "date": DateType(),
    "timestamp-micros": TimestamptzType(),
}


@dataclass(frozen=True)
class Field:
    """One field: `kind` is the logical type's name, else the Avro type's."""

    name: str
    kind: str
    avro: AvroType
    nullable: bool
    doc: str


@dataclass(frozen=True)
class RecordSchema:
    """One record type; `text` is the Avro schema as it is registered."""

    name: str
    text: str

    @cached_property
    def parsed(self) -> dict[str, Any]:
        """The Avro schema as JSON objects."""
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields in the order of the Avro schema."""
        return tuple(_field(field) for field in self.parsed["fields"])

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema: decimal128, timestamps in UTC, native list and map."""
        return pa.schema(
            [pa.field(f.name, _arrow_type(f.avro), nullable=f.nullable) for f in self.fields]
        )

    @cached_property
    def iceberg(self) -> IcebergSchema:
        """The Iceberg schema with the fields' docs; ids follow the order, nested ones last."""
        nested = iter(range(len(self.fields) + 1, 1000))
        return IcebergSchema(
            *(
                NestedField(
                    number,
                    field.name,
                    _iceberg_type(field.avro, nested),
                    required=not field.nullable,
                    doc=field.doc,
                )
                for number, field in enumerate(self.fields, start=1)
            )
        )


def schemas_folder() -> Path:
    """Return the folder of the `.avsc` files: in the package when installed, else beside it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "schemas"
    return installed if installed.is_dir() else package.parent / "schemas"


@cache
def load_schema(name: str) -> RecordSchema:
    """Read `<name>.avsc`; `name` is for example `trade_v2`."""
    path = schemas_folder() / f"{name}.avsc"
    parsed = json.loads(path.read_text(encoding="utf-8"))
    return RecordSchema(name, json.dumps(parsed, separators=(",", ":")))


def check_compatible(reader: str, writer: str, *, subject: str) -> None:
    """Refuse a schema that cannot read records of the last one, or fill its table.

    Args:
        reader: Avro text of the new schema.
        writer: Avro text of the schema last used.
        subject: what the schemas describe, for the message.
    Raises:
        SchemaError: names every field and the reason.
    Source: Apache Avro specification, "Schema Resolution"; Apache Iceberg, "Schema Evolution".
    """
    new, old = json.loads(reader), json.loads(writer)
    names = {field["name"] for field in new["fields"]}
    reasons = {field["name"]: _mismatch(field, new, writer=old) for field in new["fields"]} | {
        field.name: "it is gone, but its column must have a value"
        for field in map(_field, old["fields"])
        if field.name not in names and not field.nullable
    }
    refusals = [f"field {name}: {reason}" for name, reason in reasons.items() if reason]
    if refusals:
        raise SchemaError(
            f"{subject}: the schema is not backward compatible: {'; '.join(refusals)}. "
            "Give a new field a default, and keep the types of the others"
        )


def _mismatch(field: dict[str, Any], reader: dict[str, Any], *, writer: dict[str, Any]) -> str:
    """Check one field: avro's verdict on a whole record does not name the field of a reason."""
    from avro.compatibility import ReaderWriterCompatibilityChecker
    from avro.schema import parse

    before = {f["name"]: _field(f) for f in writer["fields"]}.get(field["name"])
    now = _field(field)
    if before and _has_other_type(before, now):
        return f"its type changes from {_full_kind(before)} to {_full_kind(now)}"
    if before is None and not now.nullable and "default" in field:
        return "it must be nullable with default null: the rows stored before have no value"
    only = json.dumps({**reader, "fields": [field]})
    verdict = ReaderWriterCompatibilityChecker().get_compatibility(
        parse(only), parse(json.dumps(writer))
    )
    return ", ".join(
        [
            *(kind.value.replace("_", " ") for kind in verdict.incompatibilities),
            *sorted(message for message in verdict.messages if message != field["name"]),
        ]
    )


def _field(field: dict[str, Any]) -> Field:
    avro, nullable = _without_null(field["type"])
    return Field(field["name"], _kind(avro), avro, nullable, field.get("doc", ""))


def _without_null(avro: AvroType) -> tuple[AvroType, bool]:
    if not isinstance(avro, list):
        return avro, False
    return next(branch for branch in avro if branch != "null"), True


def _kind(avro: AvroType) -> str:
    if isinstance(avro, str):
        return avro
    return str(avro.get("logicalType", avro["type"]))


def _has_other_type(before: Field, now: Field) -> bool:
    change = _full_kind(before), _full_kind(now)
    return change[0] != change[1] and change not in WIDENED


def _full_kind(field: Field) -> str:
    # avro compares only the bytes type of decimals.
    if field.kind == "decimal":
        return f"decimal({field.avro['precision']},{field.avro['scale']})"
    return field.kind


def _arrow_type(avro: AvroType) -> pa.DataType:
    kind = _kind(avro)
    if kind == "decimal":
        return pa.decimal128(avro["precision"], avro["scale"])
    if kind == "array":
        return pa.list_(pa.field("element", _arrow_type(avro["items"]), nullable=False))
    if kind == "map":
        return pa.map_(pa.string(), pa.field("value", _arrow_type(avro["values"]), nullable=False))
    return _ARROW[kind]


def _iceberg_type(avro: AvroType, nested: Any) -> IcebergType:
    kind = _kind(avro)
    if kind == "decimal":
        return DecimalType(avro["precision"], avro["scale"])
    if kind == "array":
        return ListType(next(nested), _iceberg_type(avro["items"], nested), element_required=True)
    if kind == "map":
        key, value = next(nested), next(nested)
        return MapType(
            key, StringType(), value, _iceberg_type(avro["values"], nested), value_required=True
        )
    return _ICEBERG[kind]


TRADE = load_schema("trade_v2")
QUOTE = load_schema("quote_v2")
REFERENCE = load_schema("reference_v2")
DEAD_LETTER = load_schema("dead_letter")
GAP = load_schema("gap")
