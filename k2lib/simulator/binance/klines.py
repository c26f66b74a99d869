"""Klines as Binance writes them: intervals by name, rows of REST, events of streams."""

import json
from collections.abc import Mapping
from typing import Any, Final

from k2lib.simulator.binance.bars import MONDAY_US, Bar, BarLength, BarWindow, bars
from k2lib.simulator.binance.columns import decimal_text
from k2lib.simulator.binance.instruments import SimulatedInstrument
from k2lib.simulator.binance.rest_request import (
    RestError,
    RestRequest,
    mandatory,
    one_symbol,
    row_window,
    zone_offset_us,
)
from k2lib.simulator.binance.trade_summary import TooManyTradesError

_S: Final = 1_000_000
_M, _H, _D = 60 * _S, 3600 * _S, 86_400 * _S
# The names of the lengths; None is a calendar month.
INTERVALS: Final[Mapping[str, int | None]] = {
    "1s": _S,
    "1m": _M,
    "3m": 3 * _M,
    "5m": 5 * _M,
    "15m": 15 * _M,
    "30m": 30 * _M,
    "1h": _H,
    "2h": 2 * _H,
    "4h": 4 * _H,
    "6h": 6 * _H,
    "8h": 8 * _H,
    "12h": 12 * _H,
    "1d": _D,
    "3d": 3 * _D,
    "1w": 7 * _D,
    "1M": None,
}


def bar_length(interval: str, *, offset_us: int = 0) -> BarLength:
    """Return the bars of an interval's name."""
    anchor_us = MONDAY_US if interval == "1w" else 0
    return BarLength(INTERVALS[interval], anchor_us, offset_us)


def get_klines(request: RestRequest) -> str:
    """Return the klines that a request asks for."""
    params = request.params
    symbol, interval = one_symbol(params), mandatory(params, "interval")
    if interval not in INTERVALS:
        raise RestError(-1120, "Invalid interval.")
    length = bar_length(interval, offset_us=zone_offset_us(params))
    rows = row_window(params)
    end_us = request.now_us if rows.end_us is None else min(request.now_us, rows.end_us)
    history = request.history(symbol)
    try:
        found = bars(history, length, BarWindow(rows.limit, rows.start_us, end_us))
    except TooManyTradesError as exc:
        message = "Timeout waiting for response from backend server."
        raise RestError(-1007, message, status=503) from exc
    item = history.tape.instrument
    body = [_row(bar, item, request) for bar in found]
    return json.dumps(body, separators=(",", ":"))


def _row(bar: Bar, item: SimulatedInstrument, request: RestRequest) -> list[Any]:
    texts = _texts(bar, item)
    return [
        request.time(bar.start_us),
        *(texts[name] for name in "ohlcv"),
        _close_time(bar, micros=request.micros),
        texts["q"],
        bar.trades.count,
        texts["V"],
        texts["Q"],
        "0",
    ]


def kline_event(
    bar: Bar,
    item: SimulatedInstrument,
    interval: str,
    *,
    at_us: int,
    closed: bool,
    micros: bool,
) -> dict[str, Any]:
    """Return the event of a kline as it is at a time."""
    unit = 1 if micros else 1000
    return {
        "e": "kline",
        "E": at_us // unit,
        "s": item.symbol,
        "k": {
            "t": bar.start_us // unit,
            "T": _close_time(bar, micros=micros),
            "s": item.symbol,
            "i": interval,
            "f": bar.trades.first_id,
            "L": bar.trades.last_id,
            **{name: text for name, text in _texts(bar, item).items() if name in "ochlv"},
            "n": bar.trades.count,
            "x": closed,
            **{name: text for name, text in _texts(bar, item).items() if name in "qVQ"},
            "B": "0",
        },
    }


def _close_time(bar: Bar, *, micros: bool) -> int:
    return bar.end_us - 1 if micros else bar.end_us // 1000 - 1


def _texts(bar: Bar, item: SimulatedInstrument) -> dict[str, str]:
    trades = bar.trades
    return {
        "o": decimal_text(trades.open * item.price_scale),
        "c": decimal_text(trades.close * item.price_scale),
        "h": decimal_text(trades.high * item.price_scale),
        "l": decimal_text(trades.low * item.price_scale),
        "v": decimal_text(trades.steps * item.quantity_scale),
        "q": decimal_text(trades.amount * item.amount_scale),
        "V": decimal_text(trades.bought_steps * item.quantity_scale),
        "Q": decimal_text(trades.bought_amount * item.amount_scale),
    }
