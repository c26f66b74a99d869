"""Frames of a replay's batches in the format of Binance's streams."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.replay.events import Batch
from k2lib.replay.series import Int64s
from k2lib.schema.decimals import unscaled_values
from k2lib.simulator import (
    FrameFormat,
    SimulatedInstrument,
    TradeColumns,
    quote_frame,
    trade_frames,
)

# The columns that frames are made of.
COLUMNS: Final = (
    "symbol",
    "timestamp",
    "price",
    "quantity",
    "side",
    "source_sequence",
    "bid_price",
    "bid_quantity",
    "ask_price",
    "ask_quantity",
)
STREAM_OF: Final = {"trades": "trade", "quotes": "bookTicker"}
SIDES: Final = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")


@dataclass(frozen=True)
class Events:
    """Events of one symbol, one after the other: `encode` makes frames of them in one form."""

    symbol: str
    stream: str
    count: int
    encode: Callable[[FrameFormat], bytes]

    def frames(self, kind: str, form: FrameFormat) -> bytes:
        """Return the frames of a kind of stream in one form."""
        return self.encode(form) if kind == self.stream else b""


class FrameEncoder:
    """Makes frames of batches; where a venue has no ids, it counts its own from 1."""

    def __init__(self) -> None:
        self._counted: Counter[tuple[str, str]] = Counter()

    def events(self, batch: Batch) -> Iterator[Events]:
        """Yield what a batch holds, in its order; nothing of gaps: Binance has no word for them."""
        if batch.kind not in STREAM_OF:
            return
        coded = batch.rows["symbol"].dictionary_encode()
        symbols = coded.dictionary.to_pylist()
        codes = coded.indices.to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        ids = self.ids(batch)
        for low, high in pairwise(edges):
            rows, symbol = batch.rows.slice(low, high - low), symbols[codes[low]]
            yield ENCODERS[batch.kind](rows, ids[low:high], symbol)

    def ids(self, batch: Batch) -> Int64s:
        """Return the venue's ids; the number of the row among its symbol's where it gives none."""
        coded = batch.rows["symbol"].dictionary_encode()
        symbols, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
        column = batch.rows["source_sequence"]
        ids: Int64s = column.fill_null(0).to_numpy().copy()
        missing = column.is_null().to_numpy(zero_copy_only=False)
        for code in np.unique(codes[missing]).tolist():
            mine = missing & (codes == code)
            key = (batch.kind, symbols[code])
            ids[mine] = self._counted[key] + 1 + np.arange(mine.sum())
            self._counted[key] += int(mine.sum())
        return ids


def _trades(rows: pa.RecordBatch, ids: Int64s, symbol: str) -> Events:
    @cache
    def encode(form: FrameFormat) -> bytes:
        sold = np.array([side in ("SELL", "SELL_SHORT") for side in rows["side"].to_pylist()])
        trades = TradeColumns(
            ids,
            _times(rows),
            unscaled_values(rows["price"]),
            unscaled_values(rows["quantity"]),
            sold,
            ids,
        )
        return trade_frames(trades, SimulatedInstrument.in_units(symbol), form, after_us=0)

    return Events(symbol, "trade", len(ids), encode)


def _quotes(rows: pa.RecordBatch, ids: Int64s, symbol: str) -> Events:
    @cache
    def encode(form: FrameFormat) -> bytes:
        # An empty side is null on the wire: 0 would be a price.
        sides = zip(*(_units(rows[name]) for name in SIDES), strict=True)
        quotes = zip(ids.tolist(), sides, strict=True)
        return b"".join(quote_frame(number, symbol, quote, form) for number, quote in quotes)

    return Events(symbol, "bookTicker", len(ids), encode)


ENCODERS: Final[dict[str, Callable[[pa.RecordBatch, Int64s, str], Events]]] = {
    "trades": _trades,
    "quotes": _quotes,
}


def _times(rows: pa.RecordBatch) -> Int64s:
    times: Int64s = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times


def _units(column: pa.Array) -> list[int | None]:
    there = column.is_valid().to_pylist()
    units = unscaled_values(column).tolist()
    return [number if valid else None for number, valid in zip(units, there, strict=True)]
