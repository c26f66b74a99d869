"""Frames as answers: JSON and CSV by column, Parquet and Arrow with their native types."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import polars as pl

from k2lib.api.responses.accept import Format
from k2lib.query.answer import CompleteTo
from k2lib.query.export import ISO_MICROSECONDS, render

ISO_UTC: Final = f"{ISO_MICROSECONDS}Z"
# More digits than a JavaScript number has: JSON says them as text.
LONG_IDS: Final = ("snapshot_id", "parent_id")
Told = Mapping[str, Mapping[str, Any]]


def encode(frame: pl.DataFrame, form: Format, *, complete_to: Told, cursor: str | None) -> bytes:
    """Return the body of an answer: the rows, and in JSON what is known about them too.

    Decimals are text with all their digits in JSON and CSV, times ISO 8601 in UTC with
    microseconds; lists and maps are JSON in both.
    """
    match form:
        case "json":
            rows = texts(frame).with_columns(_long_ids(frame)).write_json().encode()
            about = msgspec.json.encode({"complete_to": complete_to, "next": cursor})
            return b'{"data":' + rows + b"," + about[1:]
        case "csv":
            return _flat(texts(frame)).write_csv().encode()
    return render(frame, form)


def json_lines(frame: pl.DataFrame) -> list[str]:
    """Return each row as a JSON object."""
    row = pl.struct(pl.all()).struct.json_encode()
    lines: list[str] = texts(frame).select(row.alias("row"))["row"].to_list()
    return lines


def told(complete_to: Mapping[str, CompleteTo]) -> dict[str, dict[str, Any]]:
    """Return up to where an answer is complete, by table, in what JSON can say."""
    return {name: _told(one) for name, one in complete_to.items()}


def in_header(complete_to: Told) -> str:
    """Return the same as the value of a header."""
    return json.dumps(complete_to, separators=(",", ":"))


def _told(one: CompleteTo) -> dict[str, Any]:
    plain = one.to_json()
    plain["snapshot_id"] = None if one.snapshot_id is None else str(one.snapshot_id)
    if one.time is not None:
        plain["time"] = f"{one.time:%Y-%m-%dT%H:%M:%S.%f}Z"
    return plain


def texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return decimals as text with all their digits, times as ISO 8601 in UTC to microseconds."""
    return frame.with_columns(
        pl.col(pl.Datetime).dt.to_string(ISO_UTC),
        pl.col(pl.Decimal, pl.Date).cast(pl.String),
    )


def _long_ids(frame: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col(name).cast(pl.String) for name in LONG_IDS if name in frame.columns]


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(_json_text(name) for name in nested)


def _json_text(name: str) -> pl.Expr:
    """A nested column as JSON: Polars can say a struct of it, so what is around it goes."""
    wrapped = pl.struct(pl.col(name).alias("v")).struct.json_encode()
    text = wrapped.str.strip_prefix('{"v":').str.strip_suffix("}")
    return pl.when(pl.col(name).is_not_null()).then(text).alias(name)
