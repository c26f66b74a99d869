"""The formats of answers: which one a request wants, and rows written in it.

JSON and CSV are written by column, Parquet and Arrow have their native types.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec
import polars as pl
from starlette.exceptions import HTTPException
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from k2lib.query.answer import CompleteTo
from k2lib.query.export import ISO_MICROSECONDS, render

Format = Literal["json", "csv", "parquet", "arrow"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
BINARY_TYPES: Final = (MEDIA_TYPES["parquet"], MEDIA_TYPES["arrow"])
# Werkzeug's time for a header grows with the square of its length: 5 s for 60 KB of blanks.
MAX_ACCEPT: Final = 1000
MAX_SHOWN: Final = 200
ISO_UTC: Final = f"{ISO_MICROSECONDS}Z"
# They have more digits than a JavaScript number: JSON has them as text.
LONG_IDS: Final = ("snapshot_id", "parent_id")
CompleteToJson = Mapping[str, Mapping[str, Any]]
_Format = TypeVar("_Format", bound=str)


def choose_format(requested: Format | None, accept: str | None) -> Format:
    """Return the format to answer in; see `choose`."""
    return choose(requested, accept, among=MEDIA_TYPES)


def choose(
    requested: _Format | None, accept: str | None, *, among: Mapping[_Format, str]
) -> _Format:
    """Return the format to answer in.

    Args:
        requested: the value of `?format=`; it goes before the header.
        accept: the header; invalid parts of it are ignored.
        among: the formats and their media types, the default first.
    Raises:
        HTTPException: 406, none of the formats is acceptable.
    """
    if requested is not None:
        return requested
    if accept is None or not accept.strip():
        return next(iter(among))
    ranges = _acceptable(accept)
    best = max(among, key=lambda form: ranges.quality(among[form]))
    if ranges.quality(among[best]) > 0:
        return best
    available = ", ".join(f"{media_type} (or format={form})" for form, media_type in among.items())
    raise HTTPException(406, f"Accept: {accept[:MAX_SHOWN]}: there is {available}")


def _acceptable(accept: str) -> MIMEAccept:
    """Parse the header; a parameter such as a charset does not change the format."""
    ranges = parse_accept_header(accept[:MAX_ACCEPT])
    return MIMEAccept([(media.partition(";")[0].strip(), quality) for media, quality in ranges])


def encode(
    frame: pl.DataFrame, form: Format, *, complete_to: CompleteToJson, cursor: str | None
) -> bytes:
    """Return the body of an answer: the rows, and in JSON also `complete_to` and `next`.

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


def complete_to_json(complete_to: Mapping[str, CompleteTo]) -> dict[str, dict[str, Any]]:
    """Return `complete_to`, by table, as JSON values."""
    return {table: _table_json(one) for table, one in complete_to.items()}


def complete_to_header(complete_to: CompleteToJson) -> str:
    """Return `complete_to` as the value of a header."""
    return json.dumps(complete_to, separators=(",", ":"))


def _table_json(one: CompleteTo) -> dict[str, Any]:
    plain = one.to_json()
    plain["snapshot_id"] = None if one.snapshot_id is None else str(one.snapshot_id)
    if one.time is not None:
        plain["time"] = f"{one.time:%Y-%m-%dT%H:%M:%S.%f}Z"
    return plain


def texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return decimals as text with all digits, times as ISO 8601 in UTC to microseconds."""
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
    """A nested column as JSON: Polars encodes structs only, so their braces are cut off."""
    wrapped = pl.struct(pl.col(name).alias("v")).struct.json_encode()
    text = wrapped.str.strip_prefix('{"v":').str.strip_suffix("}")
    return pl.when(pl.col(name).is_not_null()).then(text).alias(name)
