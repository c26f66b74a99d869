"""Trades by the ten thousand, made by column, and topics that hold them."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from k2lib.schema.records import TRADE

TRADES_TOPIC = "market.equities.trades.asx_sim"
START_US = int(datetime(2014, 3, 10, tzinfo=UTC).timestamp() * 1_000_000)
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "GGG")


def many_trades(
    count: int, *, first: int = 0, symbols: tuple[str, ...] = SYMBOLS, exchange: str = "ASX_SIM"
) -> pa.Table:
    """Return trades numbered from `first`, a millisecond apart, the symbols in turn."""
    numbers = np.arange(first, first + count)
    names = pa.array(symbols).take(pa.array(numbers % len(symbols)))
    moments = pa.array(START_US + numbers * 1000).cast(TRADE.arrow.field("timestamp").type)
    ids = pa.array([message_id(number) for number in numbers.tolist()])
    same = {
        "exchange": exchange,
        "asset_class": "equities",
        "currency": "AUD",
        "side": "UNKNOWN",
    }
    columns = {
        "message_id": ids,
        "trade_id": ids,
        "symbol": names,
        **{name: pa.repeat(value, count) for name, value in same.items()},
        "timestamp": moments,
        "ingestion_timestamp": moments,
        "price": pa.array(numbers % 9000 + 1).cast(pa.decimal128(38)),
        "quantity": pa.repeat(100, count).cast(pa.decimal128(38)),
        "trade_conditions": pa.repeat(pa.scalar(["0"]), count),
    }
    arrays = [_column(columns, field, count) for field in TRADE.arrow]
    return pa.Table.from_arrays(arrays, schema=TRADE.arrow)


def message_id(number: int) -> str:
    """Return the message id of a trade by its number."""
    return f"t{number:07d}"


def message_ids(count: int, *, first: int = 0) -> list[str]:
    """Return the message ids of trades by their numbers, sorted."""
    return [message_id(number) for number in range(first, first + count)]


def _column(columns: dict[str, pa.Array], field: pa.Field, count: int) -> pa.Array:
    if field.name not in columns:
        return pa.nulls(count, field.type)
    return columns[field.name].cast(field.type)
