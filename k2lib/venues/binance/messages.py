"""Frames of `@trade` and `@bookTicker`, raw or combined, to v2 rows: pure, a batch at a time.

Frames that are all trades of the usual form are decoded in one step, others one by one: of the
usual form in one step each, any other field by field, so that fields Binance adds are kept, and one
malformed frame costs that frame only. What the columns mean, the side by `m` too, is in `rows`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import msgspec
import numpy as np

from k2lib.schema.dead_letters import DeadLetter
from k2lib.venues.base import AHEAD_US, Instrument, ParsedFrames
from k2lib.venues.binance.fields import (
    BROKEN,
    Long,
    Unreadable,
    as_text,
    other_fields,
    read_known,
    read_object,
    text_columns,
    texts,
)
from k2lib.venues.binance.rows import (
    EARLIEST_US,
    LATEST_SHOWN_US,
    NO_QUOTES,
    PER_UNIT_US,
    CheckedRows,
    Ints,
    RawQuotes,
    RawTrades,
    Refusal,
    Unit,
    quote_rows,
    trade_rows,
)

ZEROS: Final = {"us": "", "ms": "000"}
COMBINED: Final = b'{"stream"'
BOOLEANS: Final = {True: "true", False: "false", None: ""}


class _Trade(msgspec.Struct, gc=False):
    e: Literal["trade"]
    E: Long
    s: str
    t: Long
    p: str
    q: str
    T: Long
    m: bool


class _UsualTrade(_Trade, forbid_unknown_fields=True):
    M: bool | None


class _CombinedTrade(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    stream: str
    data: _UsualTrade


class _Quote(msgspec.Struct, gc=False):
    u: Long
    s: str
    b: str
    B: str
    a: str
    A: str


class _UsualQuote(_Quote, forbid_unknown_fields=True):
    pass


class _CombinedQuote(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    stream: str
    data: _UsualQuote


_trade = msgspec.json.Decoder(_UsualTrade).decode
_combined_trades = msgspec.json.Decoder(list[_CombinedTrade]).decode
_combined_trade = msgspec.json.Decoder(_CombinedTrade).decode
_quote = msgspec.json.Decoder(_UsualQuote).decode
_combined_quote = msgspec.json.Decoder(_CombinedQuote).decode


@dataclass
class _Sorted:
    """Events of one kind, where each stood in the batch, and their fields of other names."""

    events: list[Any] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    extras: dict[int, dict[str, str]] = field(default_factory=dict)


def parse_frames(
    frames: Sequence[bytes],
    received_us: Sequence[int],
    *,
    instruments: Mapping[str, Instrument],
    unit: Unit,
    latest_us: int,
    source: str,
) -> ParsedFrames:
    """Turn frames into v2 rows.

    Args:
        received_us: receipt of each frame, µs since the epoch.
        instruments: by symbol, all of one exchange; a frame of another symbol is refused.
        unit: of the times in the frames.
        latest_us: no trade is later by our clock. Where the frames were sent later than that,
            the venue's clock is right: no frame comes before it was sent.
        source: name of the frames' source in dead letters.
    """
    trades, quotes, refusals = _sort(frames, {name: code for code, name in enumerate(instruments)})
    listed, stamps = list(instruments.values()), np.array(received_us, np.int64)
    sent_us = _sent_us(trades, unit)
    if sent_us is not None and sent_us > latest_us:
        latest_us = sent_us + AHEAD_US
    traded = trade_rows(
        _trade_columns(trades, stamps, unit), listed, unit=unit, latest_us=latest_us
    )
    quoted = CheckedRows(NO_QUOTES, [])
    if quotes.events:
        quoted = quote_rows(_quote_columns(quotes, stamps), listed)
    refusals += [*_placed(traded, trades), *_placed(quoted, quotes)]
    letters = [
        DeadLetter(
            source,
            f"{received_us[one.index]}:{one.index}",
            one.reason,
            one.detail,
            frames[one.index],
        )
        for one in sorted(refusals, key=lambda one: one.index)
    ]
    return ParsedFrames(traded.table, quoted.table, letters, sent_us)


def _sent_us(trades: _Sorted, unit: Unit) -> int | None:
    """Return the venue's time in most of the frames, so that one malformed frame means nothing."""
    if not trades.events:
        return None
    sent_us = int(np.median([one.E for one in trades.events])) * PER_UNIT_US[unit]
    return sent_us if EARLIEST_US <= sent_us < LATEST_SHOWN_US else None


def _sort(
    frames: Sequence[bytes], codes: Mapping[str, int]
) -> tuple[_Sorted, _Sorted, list[Refusal]]:
    if (usual := _all_trades(frames, codes)) is not None:
        return usual, _Sorted(), []
    trades, quotes, refusals = _Sorted(), _Sorted(), list[Refusal]()
    for position, frame in enumerate(frames):
        try:
            event, extras = _read(frame)
        except Unreadable as exc:
            refusals.append(Refusal(position, exc.reason, str(exc)))
            continue
        code = codes.get(event.s)
        if code is None:
            detail = f"symbol {event.s!r} was not asked for"
            refusals.append(Refusal(position, "unknown_symbol", detail))
            continue
        kind = trades if isinstance(event, _Trade) else quotes
        if extras is not None:
            kind.extras[len(kind.events)] = extras
        kind.events.append(event)
        kind.positions.append(position)
        kind.codes.append(code)
    return trades, quotes, refusals


def _all_trades(frames: Sequence[bytes], codes: Mapping[str, int]) -> _Sorted | None:
    """Return the trades of combined frames of known symbols, None where there is any other."""
    # No frame that begins so goes on inside another: joined, each is still read for itself.
    if not all(frame.startswith(COMBINED) for frame in frames):
        return None
    try:
        events = [one.data for one in _combined_trades(b"[" + b",".join(frames) + b"]")]
        found = [codes[event.s] for event in events]
    except (*BROKEN, KeyError):
        return None
    # A frame that holds more than one is none.
    if len(events) != len(frames):
        return None
    return _Sorted(events, list(range(len(events))), found)


def _read(frame: bytes) -> tuple[_UsualTrade | _Quote, dict[str, str] | None]:
    is_trade = b'"e"' in frame
    try:
        if frame.startswith(COMBINED):
            return (_combined_trade if is_trade else _combined_quote)(frame).data, None
        return (_trade if is_trade else _quote)(frame), None
    except BROKEN:
        return _read_unusual(frame)


def _read_unusual(frame: bytes) -> tuple[_UsualTrade | _Quote, dict[str, str]]:
    wrapper, event = dict[str, msgspec.Raw](), read_object(frame)
    if "data" in event and "stream" in event:
        wrapper, event = event, read_object(event["data"])
    kind = _kind(event)
    record = read_known(event, kind)
    others = other_fields({**wrapper, **event}, ("stream", "data", *kind.__struct_fields__))
    if isinstance(record, _Trade):
        # Its M, if any, is among the others, whatever it is.
        record = _UsualTrade(**msgspec.structs.asdict(record), M=None)
    return record, others


def _kind(event: Mapping[str, msgspec.Raw]) -> type[_Trade] | type[_Quote]:
    name = as_text(event["e"]) if "e" in event else "bookTicker" if "u" in event else "unknown"
    if name not in ("trade", "bookTicker"):
        raise Unreadable("unknown_kind", f"kind {name!r}: trade and bookTicker are read")
    return _Trade if name == "trade" else _Quote


def _trade_columns(trades: _Sorted, stamps: Ints, unit: Unit) -> RawTrades:
    events: list[_UsualTrade] = trades.events
    texts_of_all = {
        "M": [BOOLEANS[one.M] for one in events],
        "event_time": [f"{one.E}{ZEROS[unit]}" for one in events],
    }
    return RawTrades(
        codes=np.array(trades.codes, np.int64),
        ids=np.array([one.t for one in events], np.int64),
        prices=texts([one.p for one in events]),
        quantities=texts([one.q for one in events]),
        times=np.array([one.T for one in events], np.int64),
        buyer_is_maker=np.array([one.m for one in events], np.bool_),
        received_us=stamps[np.array(trades.positions, np.int64)],
        vendor={"origin": "stream"} | text_columns(texts_of_all, trades.extras, len(events)),
    )


def _quote_columns(quotes: _Sorted, stamps: Ints) -> RawQuotes:
    events: list[_Quote] = quotes.events
    return RawQuotes(
        codes=np.array(quotes.codes, np.int64),
        ids=np.array([one.u for one in events], np.int64),
        texts={
            "bid_price": texts([one.b for one in events]),
            "bid_quantity": texts([one.B for one in events]),
            "ask_price": texts([one.a for one in events]),
            "ask_quantity": texts([one.A for one in events]),
        },
        received_us=stamps[np.array(quotes.positions, np.int64)],
        vendor={"origin": "stream", "time_source": "receipt"}
        | text_columns({}, quotes.extras, len(events)),
    )


def _placed(rows: CheckedRows, events: _Sorted) -> list[Refusal]:
    return [replace(one, index=events.positions[one.index]) for one in rows.refusals]
