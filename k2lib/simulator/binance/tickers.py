"""Tickers and average prices as Binance writes them: bodies of REST and events of streams."""

import json
from collections.abc import Callable
from typing import Any, Final

from k2lib.simulator.binance.columns import UNIT, decimal_text
from k2lib.simulator.binance.instruments import SimulatedInstrument
from k2lib.simulator.binance.market import SimulatedQuote
from k2lib.simulator.binance.rest_request import RestError, RestRequest, one_symbol, optional
from k2lib.simulator.binance.trade_summary import (
    TooManyTradesError,
    TradeHistory,
    WindowStatistics,
    window,
)

Json = dict[str, Any]
_MINUTE_US: Final = 60 * 1_000_000
DAY_US: Final = 1440 * _MINUTE_US
AVERAGE_MINUTES: Final = 5
# Windows of `@ticker_<window>`; they begin on a whole minute.
ROLLING_WINDOWS: Final = {"1h": 60 * _MINUTE_US, "4h": 240 * _MINUTE_US, "1d": DAY_US}


def get_day_tickers(request: RestRequest) -> str:
    """Return the statistics of the last 24 hours, FULL or MINI."""
    kind = optional(request.params, "type") or "FULL"
    if kind not in ("FULL", "MINI"):
        raise RestError(-1139, "Invalid ticker type.")
    make = _full_ticker if kind == "FULL" else _mini_ticker
    return _one_or_all(request, make)


def get_prices(request: RestRequest) -> str:
    """Return the newest prices."""
    return _one_or_all(request, _price)


def get_book_tickers(request: RestRequest) -> str:
    """Return the best bids and asks."""
    return _one_or_all(request, _book_ticker)


def get_average_price(request: RestRequest) -> str:
    """Return the average price of the last five minutes."""
    history = request.history(one_symbol(request.params))
    found = average_window(history, now_us=request.now_us)
    return _to_json(
        {
            "mins": AVERAGE_MINUTES,
            "price": _average(found, history.tape.instrument),
            "closeTime": request.time(found.last_time_us),
        }
    )


def day_window(history: TradeHistory, *, now_us: int) -> WindowStatistics:
    """Return the statistics of the last 24 hours, which begin and end at a whole millisecond."""
    end_us = now_us // 1000 * 1000
    return window(history, start_us=end_us - DAY_US, end_us=end_us)


def average_window(history: TradeHistory, *, now_us: int) -> WindowStatistics:
    """Return the statistics of the last five minutes."""
    return window(history, start_us=now_us - AVERAGE_MINUTES * _MINUTE_US, end_us=now_us)


def rolling_window(history: TradeHistory, name: str, *, now_us: int) -> WindowStatistics:
    """Return the statistics of one of `ROLLING_WINDOWS`."""
    start_us = (now_us - ROLLING_WINDOWS[name]) // _MINUTE_US * _MINUTE_US
    return window(history, start_us=start_us, end_us=now_us)


def _one_or_all(request: RestRequest, make: Callable[[str, RestRequest], Json]) -> str:
    symbols = request.requested_symbols()
    try:
        found = [make(symbol, request) for symbol in symbols]
    except TooManyTradesError as exc:
        message = "Timeout waiting for response from backend server."
        raise RestError(-1007, message, status=503) from exc
    return _to_json(found[0] if "symbol" in request.params else found)


def _price(symbol: str, request: RestRequest) -> Json:
    tape = request.tape(symbol).snapshot()
    newest = tape.newest(1, end=tape.next_id)
    ticks = int(newest.ticks[0]) if len(newest) else 0
    return {"symbol": symbol, "price": decimal_text(ticks * tape.instrument.price_scale)}


def _book_ticker(symbol: str, request: RestRequest) -> Json:
    tape = request.tape(symbol).snapshot()
    return {"symbol": symbol, **_quote_json(tape.quote(request.now_us), tape.instrument)}


def _mini_ticker(symbol: str, request: RestRequest) -> Json:
    history = request.history(symbol)
    found = day_window(history, now_us=request.now_us)
    prices = _prices(found, history.tape.instrument)
    return {"symbol": symbol, **prices, **_times_and_ids(found, request)}


def _full_ticker(symbol: str, request: RestRequest) -> Json:
    history = request.history(symbol)
    item = history.tape.instrument
    found = day_window(history, now_us=request.now_us)
    prices = _prices(found, item)
    return {
        "symbol": symbol,
        **_changes(found, item),
        "prevClosePrice": decimal_text(found.price_before * item.price_scale),
        "lastPrice": prices.pop("lastPrice"),
        "lastQty": decimal_text(found.last_steps * item.quantity_scale),
        **_quote_json(history.tape.quote(request.now_us), item),
        **prices,
        **_times_and_ids(found, request),
    }


def _prices(found: WindowStatistics, item: SimulatedInstrument) -> Json:
    trades = found.trades
    return {
        "openPrice": decimal_text(trades.open * item.price_scale),
        "highPrice": decimal_text(trades.high * item.price_scale),
        "lowPrice": decimal_text(trades.low * item.price_scale),
        "lastPrice": decimal_text(trades.close * item.price_scale),
        "volume": decimal_text(trades.steps * item.quantity_scale),
        "quoteVolume": decimal_text(trades.amount * item.amount_scale),
    }


def _changes(found: WindowStatistics, item: SimulatedInstrument) -> Json:
    return {
        "priceChange": _change(found, item),
        "priceChangePercent": _percent(found),
        "weightedAvgPrice": _average(found, item),
    }


def _times_and_ids(found: WindowStatistics, request: RestRequest) -> Json:
    trades = found.trades
    return {
        "openTime": request.time(found.start_us),
        "closeTime": request.time(found.end_us),
        "firstId": trades.first_id,
        "lastId": trades.last_id,
        "count": trades.count,
    }


def _quote_json(quote: SimulatedQuote, item: SimulatedInstrument) -> Json:
    return {
        "bidPrice": decimal_text(quote.bid * item.price_scale),
        "bidQty": decimal_text(quote.bid_steps * item.quantity_scale),
        "askPrice": decimal_text(quote.ask * item.price_scale),
        "askQty": decimal_text(quote.ask_steps * item.quantity_scale),
    }


def _change(found: WindowStatistics, item: SimulatedInstrument) -> str:
    units = (found.trades.close - found.trades.open) * item.price_scale
    return f"{'-' if units < 0 else ''}{decimal_text(abs(units))}"


def _percent(found: WindowStatistics) -> str:
    change, opening = found.trades.close - found.trades.open, found.trades.open
    thousandths = (abs(change) * 200_000 + opening) // (2 * opening)
    sign = "-" if change < 0 and thousandths else ""
    return f"{sign}{thousandths // 1000}.{thousandths % 1000:03d}"


def _average(found: WindowStatistics, item: SimulatedInstrument) -> str:
    """Return amount / volume, rounded to 8 decimals; the last price where nothing was traded."""
    trades = found.trades
    if not trades.steps:
        return decimal_text(trades.close * item.price_scale)
    volume = trades.steps * item.quantity_scale
    units = trades.amount * item.amount_scale * UNIT
    return decimal_text((2 * units + volume) // (2 * volume))


def day_ticker_event(
    found: WindowStatistics,
    item: SimulatedInstrument,
    *,
    quote: SimulatedQuote,
    micros: bool,
) -> Json:
    """Return the event of `@ticker`."""
    best = _quote_json(quote, item)
    return {
        **_head("24hrTicker", found, item, micros=micros),
        **_change_fields(found, item),
        "x": decimal_text(found.price_before * item.price_scale),
        "c": _prices(found, item)["lastPrice"],
        "Q": decimal_text(found.last_steps * item.quantity_scale),
        "b": best["bidPrice"],
        "B": best["bidQty"],
        "a": best["askPrice"],
        "A": best["askQty"],
        **_price_fields(found, item),
        **_window_fields(found, micros=micros),
    }


def rolling_ticker_event(
    found: WindowStatistics, item: SimulatedInstrument, name: str, *, micros: bool
) -> Json:
    """Return the event of `@ticker_<name>`."""
    return {
        **_head(f"{name}Ticker", found, item, micros=micros),
        **_change_fields(found, item),
        "c": _prices(found, item)["lastPrice"],
        **_price_fields(found, item),
        **_window_fields(found, micros=micros),
    }


def mini_ticker_event(found: WindowStatistics, item: SimulatedInstrument, *, micros: bool) -> Json:
    """Return the event of `@miniTicker`."""
    return {
        **_head("24hrMiniTicker", found, item, micros=micros),
        "c": _prices(found, item)["lastPrice"],
        **_price_fields(found, item),
    }


def average_price_event(
    found: WindowStatistics, item: SimulatedInstrument, *, micros: bool
) -> Json:
    """Return the event of `@avgPrice`."""
    return {
        **_head("avgPrice", found, item, micros=micros),
        "i": f"{AVERAGE_MINUTES}m",
        "w": _average(found, item),
        "T": found.last_time_us // (1 if micros else 1000),
    }


def _head(kind: str, found: WindowStatistics, item: SimulatedInstrument, *, micros: bool) -> Json:
    return {"e": kind, "E": found.end_us // (1 if micros else 1000), "s": item.symbol}


def _change_fields(found: WindowStatistics, item: SimulatedInstrument) -> Json:
    return {"p": _change(found, item), "P": _percent(found), "w": _average(found, item)}


def _price_fields(found: WindowStatistics, item: SimulatedInstrument) -> Json:
    prices = _prices(found, item)
    return {
        "o": prices["openPrice"],
        "h": prices["highPrice"],
        "l": prices["lowPrice"],
        "v": prices["volume"],
        "q": prices["quoteVolume"],
    }


def _window_fields(found: WindowStatistics, *, micros: bool) -> Json:
    unit, trades = 1 if micros else 1000, found.trades
    return {
        "O": found.start_us // unit,
        "C": found.end_us // unit,
        "F": trades.first_id,
        "L": trades.last_id,
        "n": trades.count,
    }


def _to_json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))
