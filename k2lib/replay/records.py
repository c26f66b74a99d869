"""Trades, quotes and gaps as Python objects, made from columns many at a time."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import pairwise, repeat
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2lib.schema.decimals import unscaled_values

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
PLACES: Final = 8
# Whatever precision the caller calculates with.
EXACT: Final = Context(prec=38)
DECIMALS_KEPT: Final = 65_536
COMBINATIONS: Final = 2**62
FEW: Final = 2


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A trade, as `schemas/trade_v2.avsc` describes it."""

    message_id: str
    trade_id: str
    symbol: str
    exchange: str
    asset_class: str
    timestamp: datetime
    price: Decimal
    quantity: Decimal
    currency: str
    side: str
    trade_conditions: tuple[str, ...]
    source_sequence: int | None
    ingestion_timestamp: datetime
    platform_sequence: int | None
    vendor_data: dict[str, str] | None


class Quote(msgspec.Struct, frozen=True, gc=False):
    """A best bid and ask, as `schemas/quote_v2.avsc` describes it."""

    message_id: str
    quote_id: str
    symbol: str
    exchange: str
    asset_class: str
    timestamp: datetime
    bid_price: Decimal | None
    bid_quantity: Decimal | None
    ask_price: Decimal | None
    ask_quantity: Decimal | None
    currency: str
    source_sequence: int | None
    ingestion_timestamp: datetime
    platform_sequence: int | None
    vendor_data: dict[str, str] | None


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Trades that the venue counted, `from_id` to `to_id`, and the replay does not have.

    `timestamp` is that of the trade after them, before which the gap stands. `state` and `note`
    are those of the newest revision in the table `gaps`; `unrecorded` where it has none.
    """

    exchange: str
    symbol: str
    from_id: int
    to_id: int
    timestamp: datetime
    state: str
    note: str


Record = Trade | Quote | Gap
RECORDS: Final[dict[str, type[Trade] | type[Quote]]] = {"trades": Trade, "quotes": Quote}


class _Decimals(dict[int, Decimal]):
    """The decimals of units of 10^-8 met so far: prices and quantities come again and again."""

    def __missing__(self, units: int) -> Decimal:
        if len(self) >= DECIMALS_KEPT:
            self.clear()
        made = self[units] = EXACT.scaleb(Decimal(units), -PLACES)
        return made


class RecordBuilder:
    """Makes records of tables, many at a time."""

    def __init__(self) -> None:
        self._decimals = _Decimals()

    def records(self, kind: str, rows: pa.Table) -> list[Any]:
        """Return a record a row, in order.

        Args:
            kind: `trades` or `quotes`.
            rows: all columns of the record; those that a table has not yet are None.
        """
        make = RECORDS[kind]
        columns = [self._values(_one(rows[name])) for name in make.__struct_fields__]
        return list(map(make, *columns))

    def _values(self, column: pa.Array) -> Sequence[Any]:
        kind = column.type
        if pa.types.is_decimal(kind):
            return self._of_decimals(column)
        for is_kind, values in VALUES:
            if is_kind(kind):
                return values(column)
        return list(column.to_pylist())

    def _of_decimals(self, column: pa.Array) -> list[Decimal | None]:
        units = unscaled_values(column).tolist()
        return _with_nulls(list(map(self._decimals.__getitem__, units)), column)


def _one(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return column.combine_chunks()


def _with_nulls(values: list[Any], column: pa.Array) -> list[Any]:
    if not column.null_count:
        return values
    for place in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
        values[place] = None
    return values


def _of_times(column: pa.Array) -> list[Any]:
    spans = column.cast(pa.int64()).fill_null(0).to_numpy().astype("timedelta64[us]").tolist()
    return _with_nulls([EPOCH + span for span in spans], column)


def _of_numbers(column: pa.Array) -> list[Any]:
    if column.null_count == len(column):
        return [None] * len(column)
    numbers: list[Any] = column.fill_null(0).to_numpy().tolist()
    return _with_nulls(numbers, column)


def _of_coded(column: pa.Array) -> list[Any]:
    texts: list[Any] = column.dictionary.to_pylist()
    if len(texts) == 1 and not column.null_count:
        return texts * len(column)
    codes = column.indices.fill_null(0).to_numpy().tolist()
    return _with_nulls([texts[code] for code in codes], column)


def _of_lists(column: pa.Array) -> list[Any]:
    bounds, first, count = _bounds(column)
    if not count:
        return _with_nulls([()] * len(column), column)
    items = column.values.slice(first, count).to_pylist()
    return _with_nulls([tuple(items[low:high]) for low, high in pairwise(bounds)], column)


def _of_maps(column: pa.Array) -> list[Any]:
    bounds, first, count = _bounds(column)
    keys = column.keys.slice(first, count).dictionary_encode()
    items = column.items.slice(first, count)
    size = count // max(1, len(column))
    if size and bounds == list(range(0, count + 1, size)) and _alike(keys.indices, size):
        return _of_equal_maps(keys.slice(0, size).to_pylist(), items)
    names, values = _of_coded(keys), items.to_pylist()
    made = [
        dict(zip(names[low:high], values[low:high], strict=True)) for low, high in pairwise(bounds)
    ]
    return _with_nulls(made, column)


def _alike(codes: pa.Array, size: int) -> bool:
    numbers = codes.to_numpy().reshape(-1, size)
    return bool((numbers == numbers[0]).all())


def _of_equal_maps(keys: list[str], items: pa.Array) -> list[Any]:
    """Maps with the same keys; where few differ in their values, each is made once and copied."""
    coded = items.dictionary_encode()
    texts, size = coded.dictionary.to_pylist(), len(keys)
    codes = coded.indices.to_numpy().reshape(-1, size).astype(np.int64)
    if len(texts) ** size < COMBINATIONS:
        one = codes @ (len(texts) ** np.arange(size))
        _, firsts, which = np.unique(one, return_index=True, return_inverse=True)
        if len(firsts) < len(codes) // FEW:
            rows = ([texts[code] for code in row] for row in codes[firsts].tolist())
            made = [dict(zip(keys, row, strict=True)) for row in rows]
            return list(map(dict.copy, map(made.__getitem__, which.tolist())))
    values = items.to_pylist()
    columns = zip(*(values[at::size] for at in range(size)), strict=True)
    return list(map(dict, map(zip, repeat(keys), columns)))


def _bounds(column: pa.Array) -> tuple[list[int], int, int]:
    """Where each row's items begin and end among those of all rows; their first, and number."""
    offsets: npt.NDArray[np.int32] = column.offsets.to_numpy()
    return (offsets - offsets[0]).tolist(), int(offsets[0]), int(offsets[-1] - offsets[0])


VALUES: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[Any]]], ...]] = (
    (pa.types.is_timestamp, _of_times),
    (pa.types.is_integer, _of_numbers),
    (pa.types.is_dictionary, _of_coded),
    (pa.types.is_map, _of_maps),
    (pa.types.is_list, _of_lists),
)
