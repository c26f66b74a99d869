"""The REST endpoints: their weights and bodies."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from k2lib.simulator.binance.columns import (
    AggTradeColumns,
    Bools,
    TradeColumns,
    decimal_text,
    decimals,
    flags,
    times,
)
from k2lib.simulator.binance.exchange_info import EXCHANGE_INFO_PARAMS, exchange_info
from k2lib.simulator.binance.faults import FaultOptions
from k2lib.simulator.binance.instruments import SimulatedInstrument, price_and_quantity
from k2lib.simulator.binance.klines import get_klines
from k2lib.simulator.binance.market import SimulatedQuote, TradeTape
from k2lib.simulator.binance.rest_request import (
    RestError,
    RestRequest,
    RowWindow,
    check_names,
    one_symbol,
    row_limit,
    row_window,
    several_symbols,
    trades_now,
)
from k2lib.simulator.binance.tickers import (
    get_average_price,
    get_book_tickers,
    get_day_tickers,
    get_prices,
)
from k2lib.simulator.binance.trade_generator import US

Json = dict[str, Any]
_TRADE = (
    '{"id":%d,"price":"%d.%08d","qty":"%d.%08d","quoteQty":"%d.%08d","time":%d,'
    '"isBuyerMaker":%s,"isBestMatch":true}'
)
_AGG_TRADE = '{"a":%d,"p":"%d.%08d","q":"%d.%08d","f":%d,"l":%d,"T":%d,"m":%s,"M":true}'
_ENDLESS = 2**62


@dataclass(frozen=True)
class RestEndpoint:
    """Weight, parameters and body of a path below `/api/v3/`.

    `long` are those that may add up millions of trades: they are answered in a thread.
    """

    weight: int | Callable[[Mapping[str, str]], int]
    params: frozenset[str]
    body: Callable[[RestRequest], str]
    long: bool = False


def weight_of(name: str, params: Mapping[str, str]) -> int:
    """Return the weight of a request; a wrong name weighs something too."""
    weight = ENDPOINTS[name].weight if name in ENDPOINTS else 1
    return weight if isinstance(weight, int) else weight(params)


def _depth_weight(params: Mapping[str, str]) -> int:
    text = params.get("limit", "100")
    limit = int(text) if text.isdecimal() else 100
    steps = ((100, 5), (500, 25), (1000, 50))
    return next((weight for most, weight in steps if limit <= most), 250)


def _day_ticker_weight(params: Mapping[str, str]) -> int:
    count = _symbol_count(params)
    steps = ((20, 2), (100, 40))
    return next((weight for most, weight in steps if count is not None and count <= most), 80)


def _ticker_weight(params: Mapping[str, str]) -> int:
    return 2 if "symbol" in params else 4


def _symbol_count(params: Mapping[str, str]) -> int | None:
    try:
        symbols = several_symbols(params)
    except RestError:
        return 1
    return None if symbols is None else len(symbols)


def is_long(name: str) -> bool:
    """Return whether an endpoint is answered in a thread, because it may take long."""
    return name in ENDPOINTS and ENDPOINTS[name].long


def rest_body(name: str, request: RestRequest) -> str:
    """Return the body of an endpoint.

    Raises:
        RestError: the request is invalid, or a fault makes it fail.
    """
    hidden = request.market_data_only and name == "historicalTrades"
    if name not in ENDPOINTS or hidden:
        raise RestError(0, "Not found.", status=404)
    # The keys of a multidict are each name once, its items each value.
    check_names([name for name, _ in request.params.items()], expected=ENDPOINTS[name].params)
    return ENDPOINTS[name].body(request)


def _get_ping(_request: RestRequest) -> str:
    return "{}"


def _get_time(request: RestRequest) -> str:
    return _to_json({"serverTime": request.server_time})


def _get_exchange_info(request: RestRequest) -> str:
    return exchange_info(
        request.params,
        request.market.instruments,
        server_time=request.server_time,
        weight_per_minute=request.weight_per_minute,
    )


def _get_trades(request: RestRequest) -> str:
    tape, window = _requested_tape(request), row_window(request.params)
    rows = tape.newest(window.limit, end=_visible(tape, request))
    return _trades_json(_unblocked_trades(rows, tape, request), tape, request)


def _get_historical_trades(request: RestRequest) -> str:
    tape, window = _requested_tape(request), row_window(request.params)
    end = _visible(tape, request)
    if window.from_id is None:
        rows = tape.newest(window.limit, end=end)
    else:
        rows = tape.trades_from(window.from_id, window.limit, end=end)
    return _trades_json(_unblocked_trades(rows, tape, request), tape, request)


def _get_agg_trades(request: RestRequest) -> str:
    tape, window = _requested_tape(request), row_window(request.params)
    rows = _agg_trade_rows(tape, window, end=_visible(tape, request))
    return _agg_trades_json(_unblocked_agg_trades(rows, tape, request), tape, request)


def _agg_trade_rows(tape: TradeTape, window: RowWindow, *, end: int) -> AggTradeColumns:
    if window.end_us is not None:
        end = min(end, tape.generator.id_at(min(window.end_us, tape.at_us) + 1))
    last = tape.agg_id_of(end - 1) + 1 if end else 0
    if window.from_id is not None:
        return tape.agg_trades_from(window.from_id, window.limit, end=last)
    if window.start_us is None:
        return tape.newest_agg_trades(window.limit, end=last)
    first = tape.generator.id_at(min(window.start_us, tape.at_us + 1))
    return tape.agg_trades_from(tape.agg_id_of(first), window.limit, end=last)


def _get_depth(request: RestRequest) -> str:
    tape = _requested_tape(request)
    trades_now(request.params)
    limit = row_limit(request.params, default=100, most=5000)
    return _to_json(_depth(tape.quote(request.now_us), tape.instrument, limit=limit))


def _missing(tape: TradeTape, request: RestRequest) -> FaultOptions:
    missing = request.missing
    if missing is None or missing["symbol"] not in (None, tape.instrument.symbol):
        return {}
    return missing


def _visible(tape: TradeTape, request: RestRequest) -> int:
    lag_s = _missing(tape, request).get("lag_s")
    if lag_s is None:
        return tape.next_id
    return tape.before(request.now_us - int(lag_s * US))


def _blocked(tape: TradeTape, request: RestRequest) -> range:
    missing = _missing(tape, request)
    if not missing or missing["lag_s"] is not None:
        return range(0)
    first, last = missing["from_id"], missing["to_id"]
    return range(first or 0, _ENDLESS if last is None else last + 1)


def _unblocked_trades(rows: TradeColumns, tape: TradeTape, request: RestRequest) -> TradeColumns:
    blocked = _blocked(tape, request)
    hit = (rows.id >= blocked.start) & (rows.id < blocked.stop)
    return rows.take(~hit) if _drops_silently(hit, request) else rows


def _unblocked_agg_trades(
    rows: AggTradeColumns, tape: TradeTape, request: RestRequest
) -> AggTradeColumns:
    blocked = _blocked(tape, request)
    hit = (rows.last >= blocked.start) & (rows.first < blocked.stop)
    return rows.take(~hit) if _drops_silently(hit, request) else rows


def _drops_silently(hit: Bools, request: RestRequest) -> bool:
    if not hit.any() or request.missing is None:
        return False
    status = request.missing["status"]
    if status is not None:
        raise RestError(-1007, "Timeout waiting for response from backend server.", status=status)
    return True


def _trades_json(trades: TradeColumns, tape: TradeTape, request: RestRequest) -> str:
    item = tape.instrument
    columns = (
        trades.id.tolist(),
        *price_and_quantity(trades, item),
        *decimals(trades.ticks * trades.steps * item.amount_scale),
        times(trades.time_us, micros=request.micros),
        flags(trades.buyer_maker),
    )
    return f"[{','.join([_TRADE % row for row in zip(*columns, strict=True)])}]"


def _agg_trades_json(agg_trades: AggTradeColumns, tape: TradeTape, request: RestRequest) -> str:
    columns = (
        agg_trades.id.tolist(),
        *price_and_quantity(agg_trades, tape.instrument),
        agg_trades.first.tolist(),
        agg_trades.last.tolist(),
        times(agg_trades.time_us, micros=request.micros),
        flags(agg_trades.buyer_maker),
    )
    return f"[{','.join([_AGG_TRADE % row for row in zip(*columns, strict=True)])}]"


def _to_json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


def _requested_tape(request: RestRequest) -> TradeTape:
    return request.tape(one_symbol(request.params))


_ROWS = frozenset({"symbol", "limit"})
_TIMES = frozenset({"startTime", "endTime"})
_SYMBOLS = frozenset({"symbol", "symbols", "symbolStatus"})
ENDPOINTS = {
    "ping": RestEndpoint(1, frozenset(), _get_ping),
    "time": RestEndpoint(1, frozenset(), _get_time),
    "exchangeInfo": RestEndpoint(20, EXCHANGE_INFO_PARAMS, _get_exchange_info),
    "trades": RestEndpoint(25, _ROWS, _get_trades),
    "historicalTrades": RestEndpoint(25, _ROWS | {"fromId"}, _get_historical_trades),
    "aggTrades": RestEndpoint(4, _ROWS | _TIMES | {"fromId"}, _get_agg_trades),
    "depth": RestEndpoint(_depth_weight, _ROWS | {"symbolStatus"}, _get_depth),
    "klines": RestEndpoint(2, _ROWS | _TIMES | {"interval", "timeZone"}, get_klines, long=True),
    "avgPrice": RestEndpoint(2, frozenset({"symbol"}), get_average_price, long=True),
    "ticker/24hr": RestEndpoint(
        _day_ticker_weight, _SYMBOLS | {"type"}, get_day_tickers, long=True
    ),
    "ticker/price": RestEndpoint(_ticker_weight, _SYMBOLS, get_prices, long=True),
    "ticker/bookTicker": RestEndpoint(_ticker_weight, _SYMBOLS, get_book_tickers, long=True),
}


def _depth(quote: SimulatedQuote, item: SimulatedInstrument, *, limit: int) -> Json:
    # Levels are a tick apart, the best ones as in the quote.
    bids = [(quote.bid - level, quote.bid_steps * (1 + level)) for level in range(limit)]
    asks = [(quote.ask + level, quote.ask_steps * (1 + level)) for level in range(limit)]
    return {
        "lastUpdateId": quote.update_id,
        "bids": [_level(ticks, steps, item) for ticks, steps in bids if ticks > 0],
        "asks": [_level(ticks, steps, item) for ticks, steps in asks],
    }


def _level(ticks: int, steps: int, item: SimulatedInstrument) -> list[str]:
    return [decimal_text(ticks * item.price_scale), decimal_text(steps * item.quantity_scale)]
