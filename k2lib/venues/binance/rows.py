"""Binance's fields to v2 rows: one way for stream, REST and archive, by whole columns.

Prices and quantities go from text to exact decimals: no float ever holds one. `side` is the
taker's: SELL where the buyer is the maker (`m`, `isBuyerMaker`), else BUY.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2lib.schema.dead_letters import DeadLetterReason
from k2lib.schema.decimals import unscaled_values
from k2lib.schema.identity import message_id, message_ids
from k2lib.schema.records import QUOTE, TRADE, RecordSchema
from k2lib.venues.base import Instrument
from k2lib.venues.binance.fields import Coded, text_maps, texts, to_decimals, why_number

Unit = Literal["us", "ms"]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PER_UNIT_US: Final = {"us": 1, "ms": 1000}
UNIT_NAMES: Final = {"us": "microseconds", "ms": "milliseconds"}
# Binance opened in July 2017.
EARLIEST_US: Final = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
LATEST_SHOWN_US: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
# Fewer identities are hashed one by one: starting Polars costs as much as so many.
SINGLY: Final = 32
NO_TRADES: Final = TRADE.arrow.empty_table()
NO_QUOTES: Final = QUOTE.arrow.empty_table()
NO_CONDITIONS: Final = TRADE.arrow.field("trade_conditions").type
# Arrow takes longer to wrap a text, on every call, than to join a small column with it.
BAR, DASH, CRYPTO, BOOK = map(pa.scalar, ("|", "-", "crypto", "Q"))
STAMP: Final = pa.timestamp("us", tz="UTC")
BOOLEANS: Final = texts(["false", "true"])
# By whether the buyer is the maker: the aggressor, who took liquidity, is the other one.
SIDES: Final = texts(["BUY", "SELL"])


@dataclass(frozen=True)
class RawTrades:
    """Trades as they came, a column each, not yet checked; times in the source's unit."""

    codes: Ints
    ids: Ints
    prices: pa.StringArray
    quantities: pa.StringArray
    times: Ints
    buyer_is_maker: Bools
    received_us: Ints
    vendor: Mapping[str, Coded | pa.StringArray | str]


@dataclass(frozen=True)
class RawQuotes:
    """Best bids and asks as they came, a column each, not yet checked."""

    codes: Ints
    ids: Ints
    texts: Mapping[str, pa.StringArray]
    received_us: Ints
    vendor: Mapping[str, Coded | pa.StringArray | str]


@dataclass(frozen=True)
class Refusal:
    """A record that cannot pass: its place among the columns, and why."""

    index: int
    reason: DeadLetterReason
    detail: str


@dataclass(frozen=True)
class CheckedRows:
    """The rows that passed, in order, and those that did not."""

    table: pa.Table
    refusals: list[Refusal]


def trade_rows(
    trades: RawTrades,
    instruments: Sequence[Instrument],
    *,
    unit: Unit,
    latest_us: int,
) -> CheckedRows:
    """Turn trades into rows of `records.TRADE`.

    Args:
        instruments: `codes` point into it; all are of one exchange.
        latest_us: no trade is later.
    """
    if not len(trades.ids):
        return CheckedRows(NO_TRADES, [])
    written = {"price": trades.prices, "quantity": trades.quantities}
    numbers, fits = to_decimals(written)
    positive = [unscaled_values(values) > 0 for values in numbers.values()]
    in_time = _in_time(trades.times, unit, latest_us)
    ids = pa.array(trades.ids).cast(pa.string())
    maker = trades.buyer_is_maker.astype(np.int64)
    vendor = {**trades.vendor, "is_buyer_maker": Coded(BOOLEANS, maker)}
    exchange = instruments[0].exchange
    common = _common(trades, instruments, vendor)
    columns = common | {
        "message_id": _message_ids(pa.scalar(exchange), common["symbol"], ids),
        "trade_id": pc.binary_join_element_wise(pa.scalar(exchange), ids, DASH),
        "timestamp": pa.array(trades.times * PER_UNIT_US[unit]).view(STAMP),
        **numbers,
        "side": Coded(SIDES, maker).as_array(),
        "trade_conditions": _empty_lists(len(ids)),
    }
    good = np.logical_and.reduce([fits, in_time, *positive])
    return _rows(columns, TRADE, good, lambda i: _why_trade(trades, i, written, in_time, unit))


def quote_rows(quotes: RawQuotes, instruments: Sequence[Instrument]) -> CheckedRows:
    """Turn best bids and asks into rows of `records.QUOTE`; their time is that of receipt.

    A side without a price or without a quantity is null, never 0.
    """
    numbers, fits = to_decimals(quotes.texts)
    ids = pa.array(quotes.ids).cast(pa.string())
    exchange = instruments[0].exchange
    common = _common(quotes, instruments, quotes.vendor)
    columns = common | {
        "message_id": _message_ids(pa.scalar(exchange), BOOK, common["symbol"], ids),
        "quote_id": pc.binary_join_element_wise(pa.scalar(exchange), BOOK, ids, DASH),
        "timestamp": common["ingestion_timestamp"],
        **_side(numbers, "bid_price", "bid_quantity"),
        **_side(numbers, "ask_price", "ask_quantity"),
    }
    return _rows(columns, QUOTE, fits, lambda i: why_number(quotes.texts, i, may_be_zero=True))


def _rows(
    columns: Mapping[str, pa.Array],
    schema: RecordSchema,
    good: Bools,
    why: Callable[[int], tuple[DeadLetterReason, str]],
) -> CheckedRows:
    table = pa.table([columns[name] for name in schema.arrow.names], schema=schema.arrow)
    if good.all():
        return CheckedRows(table, [])
    refusals = [Refusal(int(i), *why(int(i))) for i in np.flatnonzero(~good)]
    return CheckedRows(table.filter(pa.array(good)), refusals)


def _common(
    records: RawTrades | RawQuotes,
    instruments: Sequence[Instrument],
    vendor: Mapping[str, Coded | pa.StringArray | str],
) -> dict[str, pa.Array]:
    n_rows = len(records.ids)
    assets = {
        "base_asset": Coded(texts([one.base_asset for one in instruments]), records.codes),
        "quote_asset": Coded(texts([one.quote_asset for one in instruments]), records.codes),
    }
    return {
        "symbol": Coded(texts([one.symbol for one in instruments]), records.codes).as_array(),
        "exchange": pa.repeat(pa.scalar(instruments[0].exchange), n_rows),
        "asset_class": pa.repeat(CRYPTO, n_rows),
        "currency": assets["quote_asset"].as_array(),
        "source_sequence": pa.array(records.ids),
        "ingestion_timestamp": pa.array(records.received_us).view(STAMP),
        "platform_sequence": pa.nulls(n_rows, pa.int64()),
        "vendor_data": text_maps({**vendor, **assets}, n_rows),
    }


def _side(numbers: Mapping[str, pa.Array], price: str, quantity: str) -> dict[str, pa.Array]:
    there = pa.array(
        (unscaled_values(numbers[price]) > 0) & (unscaled_values(numbers[quantity]) > 0)
    )
    return {name: pc.if_else(there, numbers[name], None) for name in (price, quantity)}


def _in_time(times: Ints, unit: Unit, latest_us: int) -> Bools:
    scale = PER_UNIT_US[unit]
    in_time: Bools = (times >= EARLIEST_US // scale) & (times <= latest_us // scale)
    return in_time


def _why_trade(
    trades: RawTrades, index: int, written: Mapping[str, pa.Array], in_time: Bools, unit: Unit
) -> tuple[DeadLetterReason, str]:
    if in_time[index]:
        return why_number(written, index, may_be_zero=False)
    time = int(trades.times[index])
    return "bad_time", f"time {time} is no time of a trade in {UNIT_NAMES[unit]}{_hint(time, unit)}"


def _hint(time: int, unit: Unit) -> str:
    other: Unit = "ms" if unit == "us" else "us"
    in_other_us = time * PER_UNIT_US[other]
    return f"; {UNIT_NAMES[other]}?" if EARLIEST_US <= in_other_us < LATEST_SHOWN_US else ""


def _message_ids(*parts: pa.Array | pa.Scalar) -> pa.Array:
    identity = pc.binary_join_element_wise(*parts, BAR)
    if len(identity) < SINGLY:
        return texts([message_id(text) for text in identity.to_pylist()])
    column = pl.Series("text", identity).to_frame()
    return column.select(message_ids(pl.col("text"))).to_series().to_arrow().cast(pa.string())


def _empty_lists(n_rows: int) -> pa.Array:
    offsets = pa.array(np.zeros(n_rows + 1, np.int32))
    return pa.ListArray.from_arrays(offsets, texts([]), type=NO_CONDITIONS)
