"""The formats of answers: which one a request wants, and rows written in it.

JSON and CSV are written by column, Parquet and Arrow have their native types.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec
import polars as pl
from starlette.exceptions import HTTPException
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from k2lib.query.answer import CompleteTo
from k2lib.query.export import json_array, json_rows, render

Format = Literal["json", "csv", "ndjson", "parquet", "arrow"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
BINARY_TYPES: Final = (MEDIA_TYPES["parquet"], MEDIA_TYPES["arrow"])
# Werkzeug's time for a header grows with the square of its length: 5 s for 60 KB of blanks.
MAX_ACCEPT: Final = 1000
MAX_SHOWN: Final = 200
# Proxies refuse long headers.
MAX_GAPS: Final = 10
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


def encode(frame: pl.DataFrame, form: Format, *, about: Mapping[str, Any]) -> bytes:
    """Return the body of an answer: the rows, and in JSON also what is said about them.

    Decimals are text with all their digits in JSON and CSV, times ISO 8601 in UTC with
    microseconds; lists and maps are JSON in both. NDJSON has a JSON row a line.
    """
    if form == "ndjson":
        lines = json_rows(frame.with_columns(_long_ids(frame)))
        return "".join(f"{line}\n" for line in lines).encode()
    if form != "json":
        return render(frame, form)
    rows = json_array(frame.with_columns(_long_ids(frame)))
    return b'{"data":' + rows + b"," + msgspec.json.encode(about)[1:]


def complete_to_json(complete_to: Mapping[str, CompleteTo]) -> dict[str, dict[str, Any]]:
    """Return `complete_to`, by table, as JSON values."""
    return {table: _table_json(one) for table, one in complete_to.items()}


def complete_to_header(complete_to: CompleteToJson) -> str:
    """Return `complete_to` as the value of a header, with at most ten gaps a table."""
    shown = {
        table: {**document, "gaps": document["gaps"][:MAX_GAPS]}
        for table, document in complete_to.items()
    }
    return json.dumps(shown, separators=(",", ":"))


def _table_json(one: CompleteTo) -> dict[str, Any]:
    plain = one.to_json()
    plain["snapshot_id"] = None if one.snapshot_id is None else str(one.snapshot_id)
    plain["time"] = _time(one.time)
    for gap, document in zip(one.gaps, plain["gaps"], strict=True):
        document |= {"after": _time(gap.after), "before": _time(gap.before)}
    return plain


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _long_ids(frame: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col(name).cast(pl.String) for name in LONG_IDS if name in frame.columns]
