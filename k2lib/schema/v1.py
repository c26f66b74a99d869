"""Convert v1 records to v2, to compare them; history is loaded again from its files.

v1 did not keep the ISIN, nor which of several equal rows a record is. Without
`k`, equal trades get one message_id and count once; reading the files again keeps them all.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from k2lib.schema.calendar import zone
from k2lib.schema.identity import message_id


def trade_v2(record: Mapping[str, Any], *, k: int = 0) -> dict[str, Any]:
    """Convert one trade.

    Args:
        record: the fields of `trade_v1.avsc`, as an Avro reader gives them.
        k: how many equal trades came before it in its file on that day.
    Returns:
        The fields of `trade_v2.avsc`. platform_sequence is the row number in the file, which
        keeps the order; for a loaded file it is the row number within the millisecond.
    """
    identity = message_id(
        record["exchange"],
        record["symbol"],
        *_local(record),
        _units(record["price"]),
        _units(Decimal(record["volume"])),
        str(record["qualifiers"]),
        record["venue"],
        record["buyer_id"] or "",
        str(k),
    )
    names = ("buyer_id", "company_id", "qualifiers", "venue")
    return {
        "message_id": identity,
        "trade_id": f"{record['exchange']}-{identity}",
        "symbol": record["symbol"],
        "exchange": record["exchange"],
        "asset_class": "equities",
        "timestamp": record["exchange_timestamp"],
        "price": record["price"],
        "quantity": Decimal(record["volume"]),
        "currency": "AUD",
        "side": "UNKNOWN",
        "trade_conditions": [str(record["qualifiers"])],
        **_platform(record),
        "vendor_data": _vendor_data(record, names),
    }


def quote_v2(record: Mapping[str, Any], *, k: int = 0) -> dict[str, Any]:
    """Convert one quote; a side without a price or without a volume is null; see `trade_v2`."""
    bid = _side(record["bid_price"], record["bid_volume"])
    ask = _side(record["ask_price"], record["ask_volume"])
    sides = [_units(value) for value in (*bid, *ask)]
    identity = message_id(
        record["exchange"], "Q", record["symbol"], *_local(record), *sides, str(k)
    )
    return {
        "message_id": identity,
        "quote_id": f"{record['exchange']}-Q-{identity}",
        "symbol": record["symbol"],
        "exchange": record["exchange"],
        "asset_class": "equities",
        "timestamp": record["exchange_timestamp"],
        "bid_price": bid[0],
        "bid_quantity": bid[1],
        "ask_price": ask[0],
        "ask_quantity": ask[1],
        "currency": "AUD",
        **_platform(record),
        "vendor_data": _vendor_data(record, ("company_id",)),
    }


def _local(record: Mapping[str, Any]) -> tuple[str, str]:
    moment: datetime = record["exchange_timestamp"].astimezone(zone(record["exchange"]))
    return moment.date().isoformat(), moment.time().isoformat("milliseconds")


def _units(value: Decimal | None) -> str:
    return "" if value is None else str(int(value.scaleb(8)))


def _side(price: Decimal, volume: int) -> tuple[Decimal | None, Decimal | None]:
    return (price, Decimal(volume)) if price and volume else (None, None)


def _platform(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source_sequence": None,
        "ingestion_timestamp": record["ingestion_timestamp"],
        "platform_sequence": record["sequence_number"],
    }


def _vendor_data(record: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    texts = {name: "" if record[name] is None else str(record[name]) for name in names}
    return {name: text for name, text in texts.items() if text}
