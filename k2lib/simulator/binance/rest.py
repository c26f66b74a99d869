"""The REST endpoints: their parameters, checked as Binance checks them, and their bodies."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from k2lib.simulator.binance.faults import FaultOptions
from k2lib.simulator.binance.instruments import SimulatedInstrument, price_and_quantity
from k2lib.simulator.binance.market import Market, SimulatedQuote, TradeTape
from k2lib.simulator.binance.trade_generator import US

Json = dict[str, Any]
DEFAULT_LIMIT, MAX_LIMIT = 500, 1000
# A time with more digits than this is in µs already.
_LARGEST_MS = 10**14
_DIGITS = re.compile(r"[0-9]{1,20}")
_SYMBOL = re.compile(r"[A-Z0-9._-]{1,20}")
_TRADE = (
    '{"id":%d,"price":"%d.%08d","qty":"%d.%08d","quoteQty":"%d.%08d","time":%d,'
    '"isBuyerMaker":%s,"isBestMatch":true}'
)
_AGG_TRADE = '{"a":%d,"p":"%d.%08d","q":"%d.%08d","f":%d,"l":%d,"T":%d,"m":%s,"M":true}'
_ENDLESS = 2**62
_DEPTHS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
_ORDER_TYPES = (
    "LIMIT",
    "LIMIT_MAKER",
    "MARKET",
    "STOP_LOSS",
    "STOP_LOSS_LIMIT",
    "TAKE_PROFIT",
    "TAKE_PROFIT_LIMIT",
)


class RestError(Exception):
    """A request that is answered by an error body."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.body = {"code": code, "msg": message}
        self.status = status


@dataclass(frozen=True)
class RowWindow:
    """Requested rows: from an id, or between two times (µs, both inclusive)."""

    limit: int
    from_id: int | None
    start_us: int | None
    end_us: int | None


@dataclass(frozen=True)
class RestRequest:
    """A request to name host, and what that host makes of it."""

    market: Market
    params: Mapping[str, str]
    now_us: int
    micros: bool
    weight_per_minute: int
    missing: FaultOptions | None = None
    market_data_only: bool = False

    @property
    def server_time(self) -> int:
        """The time in the requested unit."""
        return self.now_us if self.micros else self.now_us // 1000


@dataclass(frozen=True)
class RestEndpoint:
    """Weight, parameters and body of a path below `/api/v3/`."""

    weight: int
    params: frozenset[str]
    body: Callable[[RestRequest], str]


def weight_of(name: str, params: Mapping[str, str]) -> int:
    """Return the weight of a request; a wrong name weighs something too."""
    if name != "depth":
        return ENDPOINTS[name].weight if name in ENDPOINTS else 1
    text = params.get("limit", "100")
    limit = int(text) if text.isdigit() else 100
    return next((weight for most, weight in _DEPTHS if limit <= most), _DEPTHS[-1][1])


def rest_body(name: str, request: RestRequest) -> str:
    """Return the body of an endpoint.

    Raises:
        RestError: the request is invalid, or a fault makes it fail.
    """
    hidden = request.market_data_only and name == "historicalTrades"
    if name not in ENDPOINTS or hidden:
        raise RestError(0, "Not found.", status=404)
    # The keys of a multidict are each name once, its items each value.
    _check_parameters([name for name, _ in request.params.items()], expected=ENDPOINTS[name].params)
    return ENDPOINTS[name].body(request)


def _get_ping(_request: RestRequest) -> str:
    return "{}"


def _get_time(request: RestRequest) -> str:
    return _to_json({"serverTime": request.server_time})


def _get_exchange_info(request: RestRequest) -> str:
    items = [tape.instrument for tape in _requested_tapes(request)]
    return _to_json(
        _exchange_info(
            items, server_time=request.server_time, weight_per_minute=request.weight_per_minute
        )
    )


def _requested_tapes(request: RestRequest) -> Iterator[TradeTape]:
    params = request.params
    if "symbol" in params:
        yield _requested_tape(request.market, params)
    elif "symbols" in params:
        for symbol in _symbols(params["symbols"]):
            yield _requested_tape(request.market, {"symbol": symbol})
    elif params.get("symbolStatus", "TRADING") == "TRADING":
        yield from request.market.tapes.values()


def _symbols(text: str) -> list[str]:
    try:
        symbols = json.loads(text)
    except json.JSONDecodeError:
        symbols = None
    if not isinstance(symbols, list) or not all(isinstance(name, str) for name in symbols):
        legal = '^\\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\\]$'
        message = f"Illegal characters found in parameter 'symbols'; legal range is '{legal}'."
        raise RestError(-1100, message)
    if len(set(symbols)) < len(symbols):
        raise RestError(-1151, "Symbol is present multiple times in the list.")
    return symbols


def _get_trades(request: RestRequest) -> str:
    tape, window = _requested_tape(request.market, request.params), _row_window(request.params)
    rows = tape.newest(window.limit, end=_visible(tape, request))
    return _trades_json(_unblocked_trades(rows, tape, request), tape, request)


def _get_historical_trades(request: RestRequest) -> str:
    tape, window = _requested_tape(request.market, request.params), _row_window(request.params)
    end = _visible(tape, request)
    if window.from_id is None:
        rows = tape.newest(window.limit, end=end)
    else:
        rows = tape.trades_from(window.from_id, window.limit, end=end)
    return _trades_json(_unblocked_trades(rows, tape, request), tape, request)


def _get_agg_trades(request: RestRequest) -> str:
    tape, window = _requested_tape(request.market, request.params), _row_window(request.params)
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
    tape = _requested_tape(request.market, request.params)
    limit = _row_limit(request.params, default=100, most=5000)
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


_ROWS = frozenset({"symbol", "limit"})
ENDPOINTS = {
    "ping": RestEndpoint(1, frozenset(), _get_ping),
    "time": RestEndpoint(1, frozenset(), _get_time),
    "exchangeInfo": RestEndpoint(
        20,
        frozenset({"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"}),
        _get_exchange_info,
    ),
    "trades": RestEndpoint(25, _ROWS, _get_trades),
    "historicalTrades": RestEndpoint(25, _ROWS | {"fromId"}, _get_historical_trades),
    "aggTrades": RestEndpoint(4, _ROWS | {"fromId", "startTime", "endTime"}, _get_agg_trades),
    "depth": RestEndpoint(5, _ROWS | {"symbolStatus"}, _get_depth),
}


def _check_parameters(params: Iterable[str], *, expected: frozenset[str]) -> None:
    names = list(params)
    if len(set(names)) < len(names):
        raise RestError(-1101, "Duplicate values for a parameter detected.")
    n_read = sum(name in expected for name in names)
    if n_read < len(names):
        message = f"read '{n_read}' parameter(s) but was sent '{len(names)}'."
        raise RestError(-1104, f"Not all sent parameters were read; {message}")


def _requested_tape(market: Market, params: Mapping[str, str]) -> TradeTape:
    symbol = params.get("symbol", "")
    if not symbol:
        message = "was not sent, was empty/null, or malformed."
        raise RestError(-1102, f"Mandatory parameter 'symbol' {message}")
    if not _SYMBOL.fullmatch(symbol):
        raise _illegal("symbol", "^[A-Z0-9-_.]{1,20}$")
    if symbol not in market.tapes:
        raise RestError(-1121, "Invalid symbol.")
    return market.tapes[symbol]


def _row_window(params: Mapping[str, str]) -> RowWindow:
    from_id = _number(params, "fromId")
    start, end = _number(params, "startTime"), _number(params, "endTime")
    timed = start is not None or end is not None
    if (from_id is not None and timed) or (start or 0) > (start or 0 if end is None else end):
        raise RestError(-1128, "Combination of optional parameters invalid.")
    return RowWindow(_row_limit(params), from_id, _us(start, last=False), _us(end, last=True))


def _row_limit(
    params: Mapping[str, str], *, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT
) -> int:
    limit = _number(params, "limit")
    if limit == 0:
        raise RestError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(most, default if limit is None else limit)


def _number(params: Mapping[str, str], name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    if not text:
        raise RestError(-1105, f"Parameter '{name}' was empty.")
    if not _DIGITS.fullmatch(text):
        raise _illegal(name, "^[0-9]{1,20}$")
    if int(text) >= 2**63:
        raise RestError(-1130, f"Data sent for parameter '{name}' is not valid.")
    return int(text)


def _us(time: int | None, *, last: bool) -> int | None:
    if time is None or time >= _LARGEST_MS:
        return time
    return time * 1000 + (999 if last else 0)


def _illegal(name: str, legal: str) -> RestError:
    message = f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    return RestError(-1100, message)


def _exchange_info(
    items: list[SimulatedInstrument], *, server_time: int, weight_per_minute: int
) -> Json:
    return {
        "timezone": "UTC",
        "serverTime": server_time,
        "rateLimits": [
            _rate_limit("REQUEST_WEIGHT", "MINUTE", 1, weight_per_minute),
            _rate_limit("ORDERS", "SECOND", 10, 100),
            _rate_limit("ORDERS", "DAY", 1, 200_000),
            _rate_limit("RAW_REQUESTS", "MINUTE", 5, 300_000),
        ],
        "exchangeFilters": [],
        "symbols": [_symbol_info(item) for item in items],
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


def _rate_limit(kind: str, interval: str, count: int, limit: int) -> Json:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}


def _symbol_info(item: SimulatedInstrument) -> Json:
    return {
        "symbol": item.symbol,
        "status": "TRADING",
        "baseAsset": item.base,
        "baseAssetPrecision": 8,
        "quoteAsset": item.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": list(_ORDER_TYPES),
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(item),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def _filters(item: SimulatedInstrument) -> list[Json]:
    # Some clients read the tick size from the first filter, whichever it is.
    tick, lot = decimal_text(item.price_scale), decimal_text(item.quantity_scale)
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": tick,
            "maxPrice": "1000000.00000000",
            "tickSize": tick,
        },
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000.00000000", "stepSize": lot},
        {
            "filterType": "NOTIONAL",
            "minNotional": "5.00000000",
            "applyMinToMarket": True,
            "maxNotional": "9000000.00000000",
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
    ]
