"""The body of `/api/v3/exchangeInfo`: limits, and what clients read of each symbol."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from k2lib.simulator.binance.columns import decimal_text
from k2lib.simulator.binance.instruments import SimulatedInstrument
from k2lib.simulator.binance.rest_request import (
    RestError,
    illegal,
    optional,
    several_symbols,
    trades_now,
)

Json = dict[str, Any]
EXCHANGE_INFO_PARAMS = frozenset(
    {"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"}
)
_PERMISSION = "SPOT"
_ORDER_TYPES = (
    "LIMIT",
    "LIMIT_MAKER",
    "MARKET",
    "STOP_LOSS",
    "STOP_LOSS_LIMIT",
    "TAKE_PROFIT",
    "TAKE_PROFIT_LIMIT",
)


def exchange_info(
    params: Mapping[str, str],
    instruments: Mapping[str, SimulatedInstrument],
    *,
    server_time: int,
    weight_per_minute: int,
) -> str:
    """Return the body of those instruments that the parameters of a request ask for.

    Raises:
        RestError: a parameter is wrong, or names a symbol that is not there.
    """
    items, permission_sets = _requested(params, instruments), _shows_permission_sets(params)
    head = {
        "timezone": "UTC",
        "serverTime": server_time,
        "rateLimits": [
            _rate_limit("REQUEST_WEIGHT", "MINUTE", 1, weight_per_minute),
            _rate_limit("ORDERS", "SECOND", 10, 100),
            _rate_limit("ORDERS", "DAY", 1, 200_000),
            _rate_limit("RAW_REQUESTS", "MINUTE", 5, 300_000),
        ],
        "exchangeFilters": [],
    }
    symbols = ",".join(_symbol_info(item, permission_sets) for item in items)
    return f'{_to_json(head)[:-1]},"symbols":[{symbols}]}}'


def _requested(
    params: Mapping[str, str], instruments: Mapping[str, SimulatedInstrument]
) -> list[SimulatedInstrument]:
    symbols = several_symbols(params)
    permissions = _permissions(params)
    if symbols is not None and ("symbolStatus" in params or permissions is not None):
        raise RestError(-1128, "Combination of optional parameters invalid.")
    if not trades_now(params) or _PERMISSION not in (permissions or [_PERMISSION]):
        return []
    if not instruments.keys() >= set(symbols or ()):
        raise RestError(-1121, "Invalid symbol.")
    return list(instruments.values()) if symbols is None else [instruments[one] for one in symbols]


def _permissions(params: Mapping[str, str]) -> list[str] | None:
    text = optional(params, "permissions")
    if text is None:
        return None
    names = text.strip("[]").replace('"', "").split(",")
    if not all(name.replace("_", "").isalnum() and name.isupper() for name in names):
        raise illegal("permissions", '^[A-Z0-9_]+$|^\\["[A-Z0-9_]+"(,"[A-Z0-9_]+")*\\]$')
    return names


def _shows_permission_sets(params: Mapping[str, str]) -> bool:
    text = optional(params, "showPermissionSets") or "true"
    if text not in ("true", "false"):
        raise illegal("showPermissionSets", "^(true|false)$")
    return text == "true"


def _rate_limit(kind: str, interval: str, count: int, limit: int) -> Json:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}


@lru_cache(maxsize=2048)
def _symbol_info(item: SimulatedInstrument, permission_sets: bool) -> str:
    return _to_json(
        {
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
            "opoAllowed": True,
            "quoteOrderQtyMarketAllowed": True,
            "allowTrailingStop": True,
            "cancelReplaceAllowed": True,
            "amendAllowed": True,
            "pegInstructionsAllowed": True,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": _filters(item),
            "permissions": [],
            "permissionSets": [[_PERMISSION]] if permission_sets else [],
            "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
            "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
        }
    )


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
        {"filterType": "ICEBERG_PARTS", "limit": 100},
        {
            "filterType": "MARKET_LOT_SIZE",
            "minQty": "0.00000000",
            "maxQty": "9000.00000000",
            "stepSize": "0.00000000",
        },
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": "5",
            "bidMultiplierDown": "0.2",
            "askMultiplierUp": "5",
            "askMultiplierDown": "0.2",
            "avgPriceMins": 5,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": "5.00000000",
            "applyMinToMarket": True,
            "maxNotional": "9000000.00000000",
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
    ]


def _to_json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))
