"""The `vendor_data` column of Binance's records, built from the distinct texts of each field."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.model.schemas import TRADE

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
