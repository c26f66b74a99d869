"""Decimals as whole numbers of their last place, in 64 bits: exact, and never wrapped."""

import re
from decimal import Context, Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.errors import RecordError
from k2lib.schema.records import TRADE

PRICE: Final[pa.Decimal128Type] = TRADE.arrow.field("price").type
QUANTITY: Final[pa.Decimal128Type] = TRADE.arrow.field("quantity").type
GREATEST_LONG: Final = 2**63 - 1
EXACT: Final = Context(prec=38)
# [0-9], because \d means the digits of all scripts.
NUMBER: Final = r"[0-9]+(\.[0-9]+)?"
# Of such texts only the value decides whether they fit a type.
READABLE: Final = r"^0*[0-9]{1,11}(\.[0-9]{1,8}0*)?$"


def greatest_units(kind: pa.Decimal128Type) -> int:
    """Return the greatest whole number behind a decimal type: by its digits, and by 64 bits."""
    return int(min(10**kind.precision - 1, GREATEST_LONG))


def greatest(kind: pa.Decimal128Type) -> Decimal:
    """Return the greatest value of a decimal type; the least one is its negative."""
    return EXACT.scaleb(Decimal(greatest_units(kind)), -kind.scale)


def fits(value: Decimal, kind: pa.Decimal128Type) -> bool:
    """Say whether a finite value is one of the type, without rounding."""
    if value.copy_abs() > greatest(kind):
        return False
    return value == value.quantize(Decimal((0, (1,), -kind.scale)), context=EXACT)


def text_fits(text: str, kind: pa.Decimal128Type) -> bool:
    """Say whether a text is a number without sign and exponent that is one of the type."""
    return re.fullmatch(READABLE, text) is not None and Decimal(text) <= greatest(kind)


def type_text(kind: pa.Decimal128Type) -> str:
    """Return a decimal type as messages name it, for example `decimal(18,8)`."""
    limit = " in 64 bits" if 10**kind.precision - 1 > GREATEST_LONG else ""
    return f"decimal({kind.precision},{kind.scale}){limit}"


def unscaled_values(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return the whole numbers behind a decimal128 column; nulls are any value.

    Raises:
        RecordError: one does not fit 64 bits.
    """
    words = np.frombuffer(array.buffers()[1], "<i8").reshape(-1, 2)
    low: npt.NDArray[np.int64]
    low, high = words[array.offset : array.offset + len(array)].T
    wide = (high != low >> 63) | (low < -GREATEST_LONG)
    if wide.any():
        wide &= array.is_valid().to_numpy(zero_copy_only=False)
        if wide.any():
            value = array[int(wide.argmax())].as_py()
            raise RecordError(f"{value} does not fit {type_text(array.type)}")
    return low


def decimal_array(
    unscaled: npt.NDArray[np.int64],
    *,
    validity: pa.Buffer | None = None,
    arrow_type: pa.Decimal128Type,
) -> pa.Array:
    """Return the decimal128 column with these whole numbers behind it."""
    words: npt.NDArray[Any] = np.empty((len(unscaled), 2), "<i8")
    words[:, 0], words[:, 1] = unscaled, unscaled >> 63
    return pa.Array.from_buffers(arrow_type, len(unscaled), [validity, pa.py_buffer(words)])
