"""Decimals: the greatest of each type, and never a wrapped or a rounded one."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.errors import RecordError
from k2lib.schema.decimals import (
    PRICE,
    QUANTITY,
    decimal_array,
    fits,
    greatest,
    text_fits,
    type_text,
    unscaled_values,
)

TINY = Decimal("0.00000001")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (PRICE, "9999999999.99999999", "decimal(18,8)"),
        (QUANTITY, "92233720368.54775807", "decimal(19,8) in 64 bits"),
    ],
)
def test_the_greatest_value_fits_and_one_unit_more_does_not(
    kind: pa.Decimal128Type, value: str, text: str
) -> None:
    most = Decimal(value)
    assert (greatest(kind), type_text(kind)) == (most, text)
    assert fits(most, kind) and fits(-most, kind)
    assert text_fits(value, kind) and not text_fits(f"{most + TINY}", kind)
    assert not fits(most + TINY, kind) and not fits(-most - TINY, kind)


@pytest.mark.parametrize("value", ["0.000000001", "-1.000000019", "1E-30"])
def test_more_than_eight_decimals_do_not_fit(value: str) -> None:
    assert not fits(Decimal(value), QUANTITY)
    assert fits(Decimal("1.5000000000"), QUANTITY)


@given(st.lists(st.none() | st.decimals(-greatest(QUANTITY), greatest(QUANTITY), places=8)))
def test_the_whole_numbers_make_the_same_column_again(values: list[Decimal | None]) -> None:
    column = pa.array([None, *values], QUANTITY)[1:]
    units = unscaled_values(column)
    again = decimal_array(units, arrow_type=QUANTITY).to_pylist()
    assert [v if v is None else a for v, a in zip(values, again, strict=True)] == values
    assert [u for u, v in zip(units, values, strict=True) if v is not None] == [
        int(v.scaleb(8)) for v in values if v is not None
    ]


@pytest.mark.parametrize("value", ["92233720368.54775808", "-92233720368.54775808", "99999999999"])
def test_what_another_writer_stored_beyond_64_bits_is_never_wrapped(value: str) -> None:
    column = pa.array([Decimal(1), Decimal(value)], QUANTITY)
    with pytest.raises(RecordError, match=rf"{value}.* does not fit decimal\(19,8\) in 64 bits"):
        unscaled_values(column)
