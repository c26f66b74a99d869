"""WebSocket frames as Binance sends them, many at a time."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from k2lib.simulator.binance.columns import Orders, Trades, decimal_text, decimals, flags, times
from k2lib.simulator.binance.instruments import Instrument
from k2lib.simulator.binance.market import Book, Quote
from k2lib.simulator.binance.sequence import PUBLISHED_AFTER_US

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
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
class Form:
    """How a stream's events are written: under which name (None: bare) and in which unit."""

    stream: str | None
    micros: bool

    def template(self, text: str, symbol: str) -> str:
        """Return the text for a symbol, with the places of its values still open."""
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
    trades: Trades, item: Instrument, form: Form, *, after_us: int = PUBLISHED_AFTER_US
) -> bytes:
    """Return a frame a trade, published so long after it."""
    columns = (
        times(trades.time_us + after_us, micros=form.micros),
        trades.id.tolist(),
        *decimals(trades.ticks * item.price_scale),
        *decimals(trades.steps * item.quantity_scale),
        times(trades.time_us, micros=form.micros),
        flags(trades.buyer_maker),
    )
    return _frames(form.template(_TRADE, item.symbol), zip(*columns, strict=True))


def agg_trade_frames(orders: Orders, item: Instrument, form: Form) -> bytes:
    """Return a frame an aggregate."""
    columns = (
        times(orders.time_us + PUBLISHED_AFTER_US, micros=form.micros),
        orders.id.tolist(),
        *decimals(orders.ticks * item.price_scale),
        *decimals(orders.steps * item.quantity_scale),
        orders.first.tolist(),
        orders.last.tolist(),
        times(orders.time_us, micros=form.micros),
        flags(orders.buyer_maker),
    )
    return _frames(form.template(_AGG_TRADE, item.symbol), zip(*columns, strict=True))


def quote_frame(quote: Quote, item: Instrument, form: Form) -> bytes:
    """Return the frame of a best bid and ask, which has neither event name nor time."""
    event = {
        "u": quote.update_id,
        "s": item.symbol,
        "b": decimal_text(quote.bid * item.price_scale),
        "B": decimal_text(quote.bid_steps * item.quantity_scale),
        "a": decimal_text(quote.ask * item.price_scale),
        "A": decimal_text(quote.ask_steps * item.quantity_scale),
    }
    return text_frame(event if form.stream is None else {"stream": form.stream, "data": event})


def shutdown_frame(now_us: int, *, combined: bool, micros: bool) -> bytes:
    """Return the notice that the server will soon go away."""
    event = {"e": "serverShutdown", "E": now_us if micros else now_us // 1000}
    return text_frame({"stream": "!serverShutdown", "data": event} if combined else event)


def broken_frames(count: int, symbol: str) -> Iterator[bytes]:
    """Yield frames that no client can read, of every sort in turn."""
    sorts = (
        f'{{"e":"trade","E":1700000000000,"s":"{symbol}","t":12',
        "<html>502 Bad Gateway</html>",
        f'{{"e":"trade","s":"{symbol}","p":"1.0"}}',
        f'{{"e":"trade","E":1,"s":"{symbol}","t":1,"p":"x","q":"1","T":1,"m":true,"M":true}}',
        "[]",
        f'{{"stream":"{symbol.lower()}@trade","data":null}}',
        "{}",
    )
    for place in range(count):
        yield frame(sorts[place % len(sorts)].encode())


class Batch:
    """Trades as a stream shows them, and perhaps a new quote."""

    def __init__(self, book: Book, trades: Trades, quote: Quote | None) -> None:
        self.book = book
        self.trades = trades
        self.quote = quote
        self._encoded: dict[tuple[str, Form], bytes] = {}

    @property
    def symbol(self) -> str:
        """Whose trades they are."""
        return self.book.instrument.symbol

    def shown_as(self, trades: Trades) -> "Batch":
        """Return the batch with other trades; itself if they are the same."""
        return self if trades is self.trades else Batch(self.book, trades, self.quote)

    def frames(self, kind: str, form: Form) -> bytes:
        """Return the frames of a kind of stream in one form."""
        key = kind, form
        if key not in self._encoded:
            self._encoded[key] = _ENCODERS[kind](self, form)
        return self._encoded[key]


def _trade(batch: Batch, form: Form) -> bytes:
    return trade_frames(batch.trades, batch.book.instrument, form)


def _agg_trade(batch: Batch, form: Form) -> bytes:
    # An aggregate is told where its last trade is, so it shares the fate of that trade.
    orders = batch.book.orders_of(batch.trades)
    places = orders.id.searchsorted(batch.trades.order)
    told = orders.take(places[orders.last[places] == batch.trades.id])
    return agg_trade_frames(told, batch.book.instrument, form)


def _book_ticker(batch: Batch, form: Form) -> bytes:
    return b"" if batch.quote is None else quote_frame(batch.quote, batch.book.instrument, form)


_ENCODERS = {"trade": _trade, "aggTrade": _agg_trade, "bookTicker": _book_ticker}
