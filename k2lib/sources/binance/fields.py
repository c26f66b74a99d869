"""Fields of Binance's JSON that are not known here: kept as text under their own names."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, TypeVar

import msgspec
import pyarrow as pa

from k2lib.errors import RecordError

T = TypeVar("T")
# What msgspec raises on bytes that are no JSON, or no such JSON.
BROKEN: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
OURS: Final = frozenset(
    (
        *("aggregate_id", "base_asset", "event_time", "is_best_match", "is_buyer_maker"),
        *("origin", "quote_asset", "quote_quantity", "time_source"),
    )
)
Long = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_as_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Unreadable(RecordError):
    """This JSON is no record that is read here; `reason` is its dead letter's."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_object(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Read a JSON object, its values as they stand.

    Raises:
        Unreadable: it is none.
    """
    try:
        # Values are not looked into here: only this finds bytes in them that are no text.
        bytes(raw).decode()
        return _as_object(raw)
    except BROKEN as exc:
        raise Unreadable("not_json", f"no JSON object: {exc}") from exc


def read_known(fields: Mapping[str, msgspec.Raw], kind: type[T]) -> T:
    """Read the fields that `kind` has.

    Raises:
        Unreadable: one is missing, or of another type; the message names it.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(fields), type=kind)
    except BROKEN as exc:
        raise Unreadable("bad_field", str(exc)) from exc


def other_fields(fields: Mapping[str, msgspec.Raw], known: Iterable[str]) -> dict[str, str]:
    """Return the fields that are not among the `known` as text, numbers as they are written.

    One with the name of a key of ours has `venue_` before it.

    Raises:
        Unreadable: a string among them is none.
    """
    others = fields.keys() - set(known)
    return {f"venue_{n}" if n in OURS else n: as_text(fields[n]) for n in others}


def as_text(value: msgspec.Raw) -> str:
    """Return a JSON value as text: a string's own, nothing for null, else as it is written.

    Raises:
        Unreadable: a string that is none.
    """
    written = bytes(value)
    if not written.startswith(b'"'):
        return "" if written == b"null" else written.decode()
    try:
        return str(msgspec.json.decode(written))
    except BROKEN as exc:
        raise Unreadable("not_json", str(exc)) from exc


def text_columns(
    known: Mapping[str, list[str]], extras: Mapping[int, Mapping[str, str]], n_rows: int
) -> dict[str, pa.Array]:
    """Return a column for every field: those all rows have, and those of some rows by number."""
    columns = dict(known)
    for row, fields in extras.items():
        for name, text in fields.items():
            columns.setdefault(name, [""] * n_rows)[row] = text
    return {name: texts(column) for name, column in columns.items()}


def texts(values: Iterable[str]) -> pa.Array:
    """Return a column of text."""
    return pa.array(values, pa.string())
