"""The REST endpoints: what is asked of the market, and the body that answers."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from k2lib.simulator.binance.columns import Bools, Orders, Trades, decimals, flags, times
from k2lib.simulator.binance.exchange_info import depth, exchange_info
from k2lib.simulator.binance.faults import Options
from k2lib.simulator.binance.instruments import Instrument
from k2lib.simulator.binance.market import Book, Market
from k2lib.simulator.binance.rest_parameters import (
    RestError,
    Window,
    book_of,
    check_names,
    limit_of,
    window_of,
)
from k2lib.simulator.binance.sequence import US

_TRADE = (
    '{"id":%d,"price":"%d.%08d","qty":"%d.%08d","quoteQty":"%d.%08d","time":%d,'
    '"isBuyerMaker":%s,"isBestMatch":true}'
)
_ORDER = '{"a":%d,"p":"%d.%08d","q":"%d.%08d","f":%d,"l":%d,"T":%d,"m":%s,"M":true}'
_ENDLESS = 2**62
_DEPTHS = ((100, 5), (500, 25), (1000, 50), (5000, 250))


@dataclass(frozen=True)
class Request:
    """A request to one host, and what that host makes of it."""

    market: Market
    params: Mapping[str, str]
    now_us: int
    micros: bool
    weight_per_minute: int
    missing: Options | None = None
    market_data_only: bool = False

    @property
    def server_time(self) -> int:
        """Return the time in the unit asked for."""
        return self.now_us if self.micros else self.now_us // 1000


@dataclass(frozen=True)
class Endpoint:
    """Weight, parameters and work of a path below `/api/v3/`."""

    weight: int
    params: frozenset[str]
    answer: Callable[[Request], str]


def weight_of(name: str, params: Mapping[str, str]) -> int:
    """Return the weight of a request; a wrong one weighs something too."""
    if name != "depth":
        return ENDPOINTS[name].weight if name in ENDPOINTS else 1
    text = params.get("limit", "100")
    limit = int(text) if text.isdigit() else 100
    return next((weight for most, weight in _DEPTHS if limit <= most), _DEPTHS[-1][1])


def answer(name: str, request: Request) -> str:
    """Return the body of an endpoint.

    Raises:
        RestError: the request is wrong, or a fault makes it fail.
    """
    hidden = request.market_data_only and name == "historicalTrades"
    if name not in ENDPOINTS or hidden:
        raise RestError(0, "Not found.", status=404)
    # The keys of a multidict are each name once, its items every one.
    check_names([name for name, _ in request.params.items()], known=ENDPOINTS[name].params)
    return ENDPOINTS[name].answer(request)


def _ping(_request: Request) -> str:
    return "{}"


def _time(request: Request) -> str:
    return _text({"serverTime": request.server_time})


def _exchange_info(request: Request) -> str:
    items = [book.instrument for book in _wanted(request)]
    return _text(
        exchange_info(
            items, server_time=request.server_time, weight_per_minute=request.weight_per_minute
        )
    )


def _wanted(request: Request) -> Iterator[Book]:
    params = request.params
    if "symbol" in params:
        yield book_of(request.market, params)
    elif "symbols" in params:
        for symbol in _symbols(params["symbols"]):
            yield book_of(request.market, {"symbol": symbol})
    elif params.get("symbolStatus", "TRADING") == "TRADING":
        yield from request.market.books.values()


def _symbols(text: str) -> list[str]:
    try:
        symbols = json.loads(text)
    except json.JSONDecodeError:
        symbols = None
    if not isinstance(symbols, list) or not all(isinstance(one, str) for one in symbols):
        legal = '^\\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\\]$'
        message = f"Illegal characters found in parameter 'symbols'; legal range is '{legal}'."
        raise RestError(-1100, message)
    if len(set(symbols)) < len(symbols):
        raise RestError(-1151, "Symbol is present multiple times in the list.")
    return symbols


def _trades(request: Request) -> str:
    book, window = book_of(request.market, request.params), window_of(request.params)
    rows = book.newest(window.limit, end=_visible(book, request))
    return trades_text(_given(rows, book, request), book.instrument, micros=request.micros)


def _historical_trades(request: Request) -> str:
    book, window = book_of(request.market, request.params), window_of(request.params)
    end = _visible(book, request)
    if window.from_id is None:
        rows = book.newest(window.limit, end=end)
    else:
        rows = book.trades_from(window.from_id, window.limit, end=end)
    return trades_text(_given(rows, book, request), book.instrument, micros=request.micros)


def _agg_trades(request: Request) -> str:
    book, window = book_of(request.market, request.params), window_of(request.params)
    rows = _orders(book, window, end=_visible(book, request))
    return orders_text(_given_orders(rows, book, request), book.instrument, micros=request.micros)


def _orders(book: Book, window: Window, *, end: int) -> Orders:
    if window.end_us is not None:
        end = min(end, book.sequence.id_at(min(window.end_us, book.at_us) + 1))
    last = book.order_of(end - 1) + 1 if end else 0
    if window.from_id is not None:
        return book.orders_from(window.from_id, window.limit, end=last)
    if window.start_us is None:
        return book.newest_orders(window.limit, end=last)
    first = book.sequence.id_at(min(window.start_us, book.at_us + 1))
    return book.orders_from(book.order_of(first), window.limit, end=last)


def _depth(request: Request) -> str:
    book = book_of(request.market, request.params)
    limit = limit_of(request.params, default=100, most=5000)
    return _text(depth(book.quote(request.now_us), book.instrument, limit=limit))


def _missing(book: Book, request: Request) -> Options:
    missing = request.missing
    if missing is None or missing["symbol"] not in (None, book.instrument.symbol):
        return {}
    return missing


def _visible(book: Book, request: Request) -> int:
    lag_s = _missing(book, request).get("lag_s")
    if lag_s is None:
        return book.next_id
    return book.before(request.now_us - int(lag_s * US))


def _blocked(book: Book, request: Request) -> range:
    missing = _missing(book, request)
    if not missing or missing["lag_s"] is not None:
        return range(0)
    first, last = missing["from_id"], missing["to_id"]
    return range(first or 0, _ENDLESS if last is None else last + 1)


def _given(rows: Trades, book: Book, request: Request) -> Trades:
    blocked = _blocked(book, request)
    hit = (rows.id >= blocked.start) & (rows.id < blocked.stop)
    return rows.take(~hit) if _passes(hit, request) else rows


def _given_orders(rows: Orders, book: Book, request: Request) -> Orders:
    blocked = _blocked(book, request)
    hit = (rows.last >= blocked.start) & (rows.first < blocked.stop)
    return rows.take(~hit) if _passes(hit, request) else rows


def _passes(hit: Bools, request: Request) -> bool:
    if not hit.any() or request.missing is None:
        return False
    status = request.missing["status"]
    if status is not None:
        raise RestError(-1007, "Timeout waiting for response from backend server.", status=status)
    return True


def trades_text(trades: Trades, item: Instrument, *, micros: bool) -> str:
    """Return trades as a JSON array."""
    columns = (
        trades.id.tolist(),
        *decimals(trades.ticks * item.price_scale),
        *decimals(trades.steps * item.quantity_scale),
        *decimals(trades.ticks * trades.steps * item.amount_scale),
        times(trades.time_us, micros=micros),
        flags(trades.buyer_maker),
    )
    return f"[{','.join([_TRADE % row for row in zip(*columns, strict=True)])}]"


def orders_text(orders: Orders, item: Instrument, *, micros: bool) -> str:
    """Return aggregates as a JSON array."""
    columns = (
        orders.id.tolist(),
        *decimals(orders.ticks * item.price_scale),
        *decimals(orders.steps * item.quantity_scale),
        orders.first.tolist(),
        orders.last.tolist(),
        times(orders.time_us, micros=micros),
        flags(orders.buyer_maker),
    )
    return f"[{','.join([_ORDER % row for row in zip(*columns, strict=True)])}]"


def _text(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


_ROWS = frozenset({"symbol", "limit"})
ENDPOINTS = {
    "ping": Endpoint(1, frozenset(), _ping),
    "time": Endpoint(1, frozenset(), _time),
    "exchangeInfo": Endpoint(
        20,
        frozenset({"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"}),
        _exchange_info,
    ),
    "trades": Endpoint(25, _ROWS, _trades),
    "historicalTrades": Endpoint(25, _ROWS | {"fromId"}, _historical_trades),
    "aggTrades": Endpoint(4, _ROWS | {"fromId", "startTime", "endTime"}, _agg_trades),
    "depth": Endpoint(5, _ROWS | {"symbolStatus"}, _depth),
}
