"""REST replies to v2 rows: `/trades` and `/historicalTrades`, and what `/aggTrades` tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from k2lib.errors import RecordError
from k2lib.schema.dead_letters import DeadLetter
from k2lib.venues.base import BackfillPage, Instrument
from k2lib.venues.binance.fields import (
    BROKEN,
    Long,
    Unreadable,
    other_fields,
    read_known,
    read_object,
    text_columns,
    texts,
)
from k2lib.venues.binance.rows import PER_UNIT_US, RawTrades, Refusal, Unit, trade_rows

OUR_NAMES: Final = {"isBestMatch": "is_best_match", "quoteQty": "quote_quantity"}


@dataclass(frozen=True)
class Aggregate:
    """Trades first_id to last_id of one order at one price, as one; numbers as written."""

    aggregate_id: int
    price: str
    quantity: str
    first_id: int
    last_id: int
    time_us: int
    is_buyer_maker: bool


class _Trade(msgspec.Struct, gc=False):
    id: Long
    price: str
    qty: str
    time: Long
    isBuyerMaker: bool


class _Aggregate(msgspec.Struct, gc=False):
    a: Long
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - Binance's name
    T: Long
    m: bool


_as_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_as_aggregates = msgspec.json.Decoder(list[_Aggregate]).decode


def trades_page(
    body: bytes,
    *,
    instrument: Instrument,
    unit: Unit,
    received_us: int,
    latest_us: int,
    source: str,
) -> BackfillPage:
    """Turn a reply of `/trades` or `/historicalTrades` into v2 rows.

    Raises:
        RecordError: the body is no such reply.
    """
    records = _records(body)
    trades, positions, extras, refusals = _read(records)
    columns = RawTrades(
        codes=np.zeros(len(trades), np.int64),
        ids=np.array([one.id for one in trades], np.int64),
        prices=texts([one.price for one in trades]),
        quantities=texts([one.qty for one in trades]),
        times=np.array([one.time for one in trades], np.int64),
        buyer_is_maker=np.array([one.isBuyerMaker for one in trades], np.bool_),
        received_us=np.full(len(trades), received_us),
        vendor={"origin": "rest"} | text_columns({}, extras, len(trades)),
    )
    rows = trade_rows(columns, [instrument], unit=unit, latest_us=latest_us)
    refusals += [Refusal(positions[one.index], one.reason, one.detail) for one in rows.refusals]
    letters = _letters(refusals, records, source=source, received_us=received_us)
    return BackfillPage(rows.table, columns.ids, letters)


def aggregates_page(body: bytes, *, unit: Unit) -> list[Aggregate]:
    """Read a reply of `/aggTrades`; rows that Binance has voided (f = -1) are left out.

    Raises:
        RecordError: the body is no such reply.
    """
    try:
        aggregates = _as_aggregates(body)
    except BROKEN as exc:
        raise RecordError(f"no aggregate trades: {exc}; it begins {body[:100]!r}") from exc
    return [
        Aggregate(one.a, one.p, one.q, one.f, one.l, one.T * PER_UNIT_US[unit], one.m)
        for one in aggregates
        if one.f >= 0
    ]


def single_trades(
    aggregates: Sequence[Aggregate],
    *,
    instrument: Instrument,
    received_us: int,
    latest_us: int,
    source: str,
) -> BackfillPage:
    """Turn the aggregates of one trade (first_id = last_id) into v2 rows; the others stay out."""
    singles = [one for one in aggregates if one.first_id == one.last_id]
    columns = RawTrades(
        codes=np.zeros(len(singles), np.int64),
        ids=np.array([one.first_id for one in singles], np.int64),
        prices=texts([one.price for one in singles]),
        quantities=texts([one.quantity for one in singles]),
        times=np.array([one.time_us for one in singles], np.int64),
        buyer_is_maker=np.array([one.is_buyer_maker for one in singles], np.bool_),
        received_us=np.full(len(singles), received_us),
        vendor={
            "aggregate_id": texts([str(one.aggregate_id) for one in singles]),
            "origin": "aggregate",
        },
    )
    rows = trade_rows(columns, [instrument], unit="us", latest_us=latest_us)
    records = [msgspec.json.encode(one) for one in singles] if rows.refusals else []
    letters = _letters(rows.refusals, records, source=source, received_us=received_us)
    return BackfillPage(rows.table, columns.ids, letters)


def _records(body: bytes) -> list[msgspec.Raw]:
    try:
        return _as_list(body)
    except BROKEN as exc:
        raise RecordError(f"no list of trades: {exc}; it begins {body[:100]!r}") from exc


def _read(
    records: Sequence[msgspec.Raw],
) -> tuple[list[_Trade], list[int], dict[int, dict[str, str]], list[Refusal]]:
    trades, positions = list[_Trade](), list[int]()
    extras, refusals = dict[int, dict[str, str]](), list[Refusal]()
    for position, record in enumerate(records):
        try:
            fields = read_object(record)
            trade = read_known(fields, _Trade)
        except Unreadable as exc:
            refusals.append(Refusal(position, exc.reason, str(exc)))
            continue
        extras[len(trades)] = _extras(fields)
        trades.append(trade)
        positions.append(position)
    return trades, positions, extras, refusals


def _extras(fields: Mapping[str, msgspec.Raw]) -> dict[str, str]:
    others = other_fields(fields, _Trade.__struct_fields__)
    return {OUR_NAMES.get(name, name): text for name, text in others.items()}


def _letters(
    refusals: Sequence[Refusal],
    records: Sequence[msgspec.Raw | bytes],
    *,
    source: str,
    received_us: int,
) -> list[DeadLetter]:
    return [
        DeadLetter(
            source, f"{received_us}:{one.index}", one.reason, one.detail, bytes(records[one.index])
        )
        for one in sorted(refusals, key=lambda one: one.index)
    ]
