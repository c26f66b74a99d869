"""Rows of a replay as the frames of Binance's streams."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from k2lib.exchange.columns import Trades
from k2lib.exchange.frames import Form, quote_frame, trade_frames
from k2lib.exchange.instruments import PLACES, Instrument
from k2lib.exchange.market import Quote
from k2lib.model.codec import unscaled_values
from k2lib.replay.batches import Batch
from k2lib.replay.reading import Int64s

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
    encode: Callable[[Form], bytes]

    def frames(self, kind: str, form: Form) -> bytes:
        """Return the frames of a kind of stream in one form."""
        return self.encode(form) if kind == self.stream else b""


class Teller:
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
        ids = self._ids(batch, symbols, codes)
        for low, high in pairwise(edges):
            rows, symbol = batch.rows.slice(low, high - low), symbols[codes[low]]
            yield ENCODERS[batch.kind](rows, ids[low:high], symbol)

    def _ids(self, batch: Batch, symbols: list[str], codes: Int64s) -> Int64s:
        """The venue's ids; the number of the row among its symbol's where it gives none."""
        column = batch.rows["source_sequence"]
        ids: Int64s = column.fill_null(0).to_numpy().copy()
        missing = column.is_null().to_numpy(zero_copy_only=False)
        for code in np.unique(codes[missing]).tolist():
            mine = missing & (codes == code)
            key = (batch.kind, symbols[code])
            ids[mine] = self._counted[key] + 1 + np.arange(mine.sum())
            self._counted[key] += int(mine.sum())
        return ids


def _item(symbol: str) -> Instrument:
    """Ticks and lot steps are the units of 10^-8 that decimals are kept in."""
    return Instrument(symbol, "", "", 0.0, PLACES, 0.0, PLACES)


def _trades(rows: pa.RecordBatch, ids: Int64s, symbol: str) -> Events:
    @cache
    def encode(form: Form) -> bytes:
        sold = np.array([side in ("SELL", "SELL_SHORT") for side in rows["side"].to_pylist()])
        trades = Trades(
            ids,
            _times(rows),
            unscaled_values(rows["price"]),
            unscaled_values(rows["quantity"]),
            sold,
            ids,
        )
        return trade_frames(trades, _item(symbol), form, after_us=0)

    return Events(symbol, "trade", len(ids), encode)


def _quotes(rows: pa.RecordBatch, ids: Int64s, symbol: str) -> Events:
    @cache
    def encode(form: Form) -> bytes:
        # An empty side is 0 on the wire.
        sides = [_units(rows[name]) for name in SIDES]
        quotes = (Quote(*numbers) for numbers in zip(ids.tolist(), *sides, strict=True))
        return b"".join(quote_frame(quote, _item(symbol), form) for quote in quotes)

    return Events(symbol, "bookTicker", len(ids), encode)


ENCODERS: Final[dict[str, Callable[[pa.RecordBatch, Int64s, str], Events]]] = {
    "trades": _trades,
    "quotes": _quotes,
}


def _times(rows: pa.RecordBatch) -> Int64s:
    times: Int64s = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times


def _units(column: pa.Array) -> list[int]:
    there = column.is_valid().to_numpy(zero_copy_only=False)
    units: list[int] = np.where(there, unscaled_values(column), 0).tolist()
    return units
