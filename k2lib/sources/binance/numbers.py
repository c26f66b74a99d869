"""Prices and quantities from text to exact decimal(18,8), and why a text is none that fits."""

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

DECIMAL: Final = pa.decimal128(18, 8)
# [0-9], because \d means the digits of all scripts.
NUMBER: Final = r"[0-9]+(\.[0-9]+)?"
PLAIN: Final = f"^{NUMBER}$"
FITS: Final = r"^0*[0-9]{1,10}(\.[0-9]{1,8}0*)?$"
# Arrow keeps 38 digits, and of a longer text it makes another number without a word.
SAFE_LENGTH: Final = 32


def to_decimals(
    written: Mapping[str, pa.StringArray],
) -> tuple[dict[str, pa.Array], npt.NDArray[np.bool_]]:
    """Return exact decimals, 0 where a text does not fit, and which rows fit in all columns."""
    together = pa.concat_arrays(written.values())
    values, fits = _cast(together)
    n_rows = len(together) // len(written)
    columns = {name: values.slice(i * n_rows, n_rows) for i, name in enumerate(written)}
    return columns, np.logical_and.reduce(fits.reshape(len(written), n_rows))


def units(decimals: pa.Array) -> npt.NDArray[np.int64]:
    """Return the scaled integers: 18 digits lie in the low half of each value."""
    both = np.frombuffer(decimals.buffers()[1], np.int64).reshape(-1, 2)
    return both[decimals.offset : decimals.offset + len(decimals), 0]


def why_number(
    written: Mapping[str, pa.StringArray], index: int, *, may_be_zero: bool
) -> tuple[str, str]:
    """Say why a row is refused: reason and detail of the first number that does not fit."""
    for name, column in written.items():
        text = column[index].as_py()
        if not re.fullmatch(FITS, text):
            return _why_text(name, text)
        if not may_be_zero and not text.strip("0."):
            return "not_positive", f"{name} {text} is not positive"
    raise AssertionError("a number that fits was refused")


def _cast(written: pa.StringArray) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    # Arrow refuses a whole column for one number that does not fit; Polars rounds instead.
    if _are_plain(written):
        try:
            return written.cast(DECIMAL), np.ones(len(written), np.bool_)
        except pa.ArrowInvalid:
            pass
    column = pl.Series("text", written)
    fits = column.str.contains(FITS)
    readable = pl.select(pl.when(fits).then(column).otherwise(pl.lit("0"))).to_series()
    return readable.cast(pl.Decimal(18, 8)).to_arrow().cast(DECIMAL), fits.to_numpy()


def _are_plain(written: pa.StringArray) -> bool:
    ends = np.frombuffer(written.buffers()[1], np.int32)
    ends = ends[written.offset : written.offset + len(written) + 1]
    matches = pc.match_substring_regex(written, PLAIN).true_count
    return bool(matches == len(written) and np.diff(ends).max() <= SAFE_LENGTH)


def _why_text(name: str, text: str) -> tuple[str, str]:
    if re.fullmatch(f"-{NUMBER}", text):
        return "negative", f"{name} {text} is negative"
    if re.fullmatch(NUMBER, text):
        return "overflow", f"{name} {text} does not fit decimal(18,8)"
    return "bad_number", f"{name} {text!r} is not a number"
