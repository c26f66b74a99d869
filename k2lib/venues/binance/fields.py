"""Fields of Binance's JSON: objects read, exact decimals, unknown fields kept as text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2lib.errors import RecordError
from k2lib.schema.dead_letters import DeadLetterReason
from k2lib.schema.decimals import (
    NUMBER,
    QUANTITY,
    READABLE,
    greatest_units,
    text_fits,
    type_text,
)
from k2lib.schema.records import QUOTE, TRADE

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

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
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


def other_fields(fields: Mapping[str, msgspec.Raw], usual: Iterable[str]) -> dict[str, str]:
    """Return the fields that are not among the `usual` as text, numbers as they are written.

    One with the name of a key of ours has `venue_` before it.

    Raises:
        Unreadable: a string among them is none.
    """
    others = fields.keys() - set(usual)
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
    usual: Mapping[str, list[str]], extras: Mapping[int, Mapping[str, str]], n_rows: int
) -> dict[str, pa.Array]:
    """Return a column for every field: those all rows have, and those of some rows by number."""
    columns = dict(usual)
    for row, fields in extras.items():
        for name, text in fields.items():
            columns.setdefault(name, [""] * n_rows)[row] = text
    return {name: texts(column) for name, column in columns.items()}


def texts(values: Iterable[str]) -> pa.Array:
    """Return a column of text."""
    return pa.array(values, pa.string())


TYPES: Final[dict[str, pa.Decimal128Type]] = {
    field.name: field.type
    for field in (*QUOTE.arrow, *TRADE.arrow)
    if pa.types.is_decimal(field.type)
}
PLAIN: Final = f"^{NUMBER}$"
# As other programs write 0.00000001 or 10000000000; one of 4 digits fits no type.
EXPONENT: Final = f"^{NUMBER}[eE][+-]?0*[0-9]{{1,3}}$"
# Written out it could have as many digits as its exponent says.
ZERO: Final = r"0+(\.0+)?[eE][+-]?[0-9]+"
# Arrow keeps 38 digits, and of a longer text it makes another number without a word.
SAFE_LENGTH: Final = 32


def to_decimals(
    written: Mapping[str, pa.StringArray],
) -> tuple[dict[str, pa.Array], npt.NDArray[np.bool_]]:
    """Return exact decimals, 0 where a text does not fit, and which rows fit in all columns.

    Args:
        written: the texts of columns of `records.TRADE` or `records.QUOTE`.
    """
    kinds = [TYPES[name] for name in written]
    together = pa.concat_arrays(written.values())
    n_rows = len(together) // len(written)
    values, readable = _cast(together)
    # No text has a sign, and 19 digits take 64 bits: the upper half of each value is 0.
    words = np.frombuffer(values.buffers()[1], np.uint64).reshape(len(kinds), n_rows, 2)
    limits = np.array([[greatest_units(kind)] for kind in kinds], np.uint64)
    fit = readable.reshape(len(kinds), n_rows) & (words[:, :, 0] <= limits)
    if not fit.all():
        words = words * fit[:, :, None]
    columns = {
        name: pa.Array.from_buffers(kind, n_rows, [None, pa.py_buffer(column)])
        for name, kind, column in zip(written, kinds, words, strict=True)
    }
    return columns, np.logical_and.reduce(fit)


def why_number(
    written: Mapping[str, pa.StringArray], index: int, *, may_be_zero: bool
) -> tuple[DeadLetterReason, str]:
    """Say why a row is refused: reason and detail of the first number that does not fit."""
    for name, column in written.items():
        text = column[index].as_py()
        plain = _without_exponent(text)
        if not text_fits(plain, TYPES[name]):
            return _why_text(name, text)
        if not may_be_zero and not Decimal(plain):
            return "not_positive", f"{name} {text} is not positive"
    raise AssertionError("a number that fits was refused")


def _cast(written: pa.StringArray) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    # Arrow refuses a whole column for one number that does not fit; Polars rounds instead.
    if _are_plain(written):
        try:
            return written.cast(QUANTITY), np.ones(len(written), np.bool_)
        except pa.ArrowInvalid:
            pass
    column = pl.Series("text", map(_without_exponent, written.to_pylist()), pl.String)
    readable = column.str.contains(READABLE)
    texts = pl.select(pl.when(readable).then(column).otherwise(pl.lit("0"))).to_series()
    values = texts.cast(pl.Decimal(QUANTITY.precision, QUANTITY.scale))
    return values.to_arrow().cast(QUANTITY), readable.to_numpy()


def _without_exponent(text: str) -> str:
    if re.fullmatch(ZERO, text):
        return "0"
    return f"{Decimal(text):f}" if re.fullmatch(EXPONENT, text) else text


def _are_plain(written: pa.StringArray) -> bool:
    ends = np.frombuffer(written.buffers()[1], np.int32)
    ends = ends[written.offset : written.offset + len(written) + 1]
    matches = pc.match_substring_regex(written, PLAIN).true_count
    return bool(matches == len(written) and np.diff(ends).max() <= SAFE_LENGTH)


def _why_text(name: str, text: str) -> tuple[DeadLetterReason, str]:
    number = f"{NUMBER}([eE][+-]?[0-9]+)?"
    if re.fullmatch(f"-{number}", text):
        return "negative", f"{name} {text} is negative"
    if re.fullmatch(number, text):
        return "overflow", f"{name} {text} does not fit {type_text(TYPES[name])}"
    return "bad_number", f"{name} {text!r} is not a number"


MAPS: Final = TRADE.arrow.field("vendor_data").type


@dataclass(frozen=True)
class Coded:
    """A column of text: what it can be, and which of those each row has."""

    values: pa.StringArray
    codes: npt.NDArray[np.int64]

    def as_array(self) -> pa.StringArray:
        """Return the text of every row."""
        return self.values.take(pa.array(self.codes))


def text_maps(fields: Mapping[str, Coded | pa.StringArray | str], n_rows: int) -> pa.MapArray:
    """Build one map a row; a text alone is that of all rows, an empty text leaves its key out.

    Returns:
        Maps with their keys in alphabetical order.
    """
    names = sorted(fields)
    coded = [_coded(fields[name], n_rows) for name in names]
    texts = pa.concat_arrays([one.values for one in coded])
    codes = np.empty((n_rows, len(names)), np.int64)
    at = 0
    for column, one in enumerate(coded):
        np.add(one.codes, at, out=codes[:, column])
        at += len(one.values)
    there = _is_text(texts)[codes]
    offsets = np.zeros(n_rows + 1, np.int32)
    np.cumsum(there.sum(axis=1), out=offsets[1:])
    keys = np.nonzero(there)[1]
    return pa.MapArray.from_arrays(
        pa.array(offsets),
        pa.array(names, pa.string()).take(pa.array(keys)),
        texts.take(pa.array(codes[there])),
        type=MAPS,
    )


def _coded(field: Coded | pa.StringArray | str, n_rows: int) -> Coded:
    if isinstance(field, Coded):
        return field
    if isinstance(field, str):
        return Coded(pa.array([field], pa.string()), np.zeros(n_rows, np.int64))
    return Coded(field, np.arange(n_rows))


def _is_text(texts: pa.StringArray) -> npt.NDArray[np.bool_]:
    # Read from the offsets: an empty text ends where it begins.
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    filled: npt.NDArray[np.bool_] = np.diff(ends) > 0
    return filled
