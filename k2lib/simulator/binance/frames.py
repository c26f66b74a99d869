"""WebSocket frames as Binance sends them, many at a time."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from k2lib.simulator.binance.columns import (
    AggTradeColumns,
    TradeColumns,
    decimal_text,
    flags,
    times,
)
from k2lib.simulator.binance.instruments import SimulatedInstrument, price_and_quantity
from k2lib.simulator.binance.market import SimulatedQuote, TradeTape
from k2lib.simulator.binance.trade_generator import PUBLISHED_AFTER_US

TEXT, PING, PONG = 0x1, 0x9, 0xA
KINDS = ("trade", "aggTrade", "bookTicker")

_TRADE = (
    '{"e":"trade","E":%%d,"s":"%s","t":%%d,"p":"%%d.%%08d","q":"%%d.%%08d",'
    '"T":%%d,"m":%%s,"M":true}'
)
_AGG_TRADE = (
    '{"e":"aggTrade","E":%%d,"s":"%s","a":%%d,"p":"%%d.%%08d","q":"%%d.%%08d",'
    '"f":%%d,"l":%%d,"T":%%d,"m":%%s,"M":true}'
)
_MEDIUM, _LONG = 126, 65_536


@dataclass(frozen=True)
class FrameFormat:
    """How events are written: the stream name around each (None: a raw stream), and the unit."""

    stream: str | None
    micros: bool

    def template(self, text: str, symbol: str) -> str:
        """Return the template for a symbol, with placeholders for the values."""
        event = text % symbol
        return event if self.stream is None else f'{{"stream":"{self.stream}","data":{event}}}'


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return one unmasked frame."""
    return _header(len(payload), opcode) + payload


def _header(size: int, opcode: int = TEXT) -> bytes:
    first = bytes((0x80 | opcode,))
    if size < _MEDIUM:
        return first + bytes((size,))
    if size < _LONG:
        return first + b"\x7e" + size.to_bytes(2, "big")
    return first + b"\x7f" + size.to_bytes(8, "big")


_HEADERS = [_header(size) for size in range(1024)]


def _frames(template: str, rows: Iterable[tuple[Any, ...]]) -> bytes:
    parts: list[bytes] = []
    for row in rows:
        payload = (template % row).encode()
        parts.append(_HEADERS[len(payload)])
        parts.append(payload)
    return b"".join(parts)


def text_frame(message: object) -> bytes:
    """Return a frame of compact JSON."""
    return frame(json.dumps(message, separators=(",", ":")).encode())


def trade_frames(
    trades: TradeColumns,
    item: SimulatedInstrument,
    form: FrameFormat,
    *,
    after_us: int = PUBLISHED_AFTER_US,
) -> bytes:
    """Return one frame per trade, published `after_us` after it."""
    columns = (
        times(trades.time_us + after_us, micros=form.micros),
        trades.id.tolist(),
        *price_and_quantity(trades, item),
        times(trades.time_us, micros=form.micros),
        flags(trades.buyer_maker),
    )
    return _frames(form.template(_TRADE, item.symbol), zip(*columns, strict=True))


def agg_trade_frames(
    agg_trades: AggTradeColumns, item: SimulatedInstrument, form: FrameFormat
) -> bytes:
    """Return one frame per aggregate trade."""
    columns = (
        times(agg_trades.time_us + PUBLISHED_AFTER_US, micros=form.micros),
        agg_trades.id.tolist(),
        *price_and_quantity(agg_trades, item),
        agg_trades.first.tolist(),
        agg_trades.last.tolist(),
        times(agg_trades.time_us, micros=form.micros),
        flags(agg_trades.buyer_maker),
    )
    return _frames(form.template(_AGG_TRADE, item.symbol), zip(*columns, strict=True))


def quote_frame(
    update_id: int, symbol: str, sides: Sequence[int | None], form: FrameFormat
) -> bytes:
    """Return the frame of a best bid and ask, which has neither event name nor time.

    Args:
        sides: bid, its quantity, ask, its quantity, in units of 10^-8; None where a side is empty.
    """
    texts = [None if units is None else decimal_text(units) for units in sides]
    event = {"u": update_id, "s": symbol, **dict(zip("bBaA", texts, strict=True))}
    return text_frame(event if form.stream is None else {"stream": form.stream, "data": event})


def shutdown_frame(now_us: int, *, combined: bool, micros: bool) -> bytes:
    """Return the notice that the server will soon go away."""
    event = {"e": "serverShutdown", "E": now_us if micros else now_us // 1000}
    return text_frame({"stream": "!serverShutdown", "data": event} if combined else event)


def broken_frames(count: int, symbol: str) -> Iterator[bytes]:
    """Yield frames that no client can parse, of every sort in turn."""
    sorts = (
        f'{{"e":"trade","E":1700000000000,"s":"{symbol}","t":12',
        "<html>502 Bad Gateway</html>",
        f'{{"e":"trade","s":"{symbol}","p":"1.0"}}',
        f'{{"e":"trade","E":1,"s":"{symbol}","t":1,"p":"x","q":"1","T":1,"m":true,"M":true}}',
        "[]",
        f'{{"stream":"{symbol.lower()}@trade","data":null}}',
        "{}",
    )
    for number in range(count):
        yield frame(sorts[number % len(sorts)].encode())


class MarketUpdate:
    """New trades of a symbol, and perhaps a new quote; each kind of frame is made once."""

    def __init__(self, tape: TradeTape, trades: TradeColumns, quote: SimulatedQuote | None) -> None:
        self.tape = tape
        self.trades = trades
        self.quote = quote
        self._encoded: dict[tuple[str, FrameFormat], bytes] = {}

    @property
    def symbol(self) -> str:
        """Symbol of the trades."""
        return self.tape.instrument.symbol

    def with_trades(self, trades: TradeColumns) -> "MarketUpdate":
        """Return the update with other trades; itself if they are the same object."""
        return self if trades is self.trades else MarketUpdate(self.tape, trades, self.quote)

    def frames(self, kind: str, form: FrameFormat) -> bytes:
        """Return the frames of a kind of stream in one format; none of statistics."""
        if kind not in _ENCODERS:
            return b""
        key = kind, form
        if key not in self._encoded:
            self._encoded[key] = _ENCODERS[kind](self, form)
        return self._encoded[key]


def _trade(update: MarketUpdate, form: FrameFormat) -> bytes:
    return trade_frames(update.trades, update.tape.instrument, form)


def _agg_trade(update: MarketUpdate, form: FrameFormat) -> bytes:
    # An aggregate trade is published with its last fill, so that faults treat both alike.
    agg_trades = update.tape.agg_trades_of(update.trades)
    rows = agg_trades.id.searchsorted(update.trades.agg_id)
    complete = agg_trades.take(rows[agg_trades.last[rows] == update.trades.id])
    return agg_trade_frames(complete, update.tape.instrument, form)


def _book_ticker(update: MarketUpdate, form: FrameFormat) -> bytes:
    quote, item = update.quote, update.tape.instrument
    if quote is None:
        return b""
    sides = (
        quote.bid * item.price_scale,
        quote.bid_steps * item.quantity_scale,
        quote.ask * item.price_scale,
        quote.ask_steps * item.quantity_scale,
    )
    return quote_frame(quote.update_id, item.symbol, sides, form)


_ENCODERS = {"trade": _trade, "aggTrade": _agg_trade, "bookTicker": _book_ticker}
