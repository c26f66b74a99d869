"""What `exchangeInfo` and `depth` say about the symbols."""

from typing import Any

from k2lib.simulator.binance.columns import decimal_text
from k2lib.simulator.binance.instruments import Instrument
from k2lib.simulator.binance.market import Quote

Json = dict[str, Any]
_ORDER_TYPES = (
    "LIMIT",
    "LIMIT_MAKER",
    "MARKET",
    "STOP_LOSS",
    "STOP_LOSS_LIMIT",
    "TAKE_PROFIT",
    "TAKE_PROFIT_LIMIT",
)


def exchange_info(items: list[Instrument], *, server_time: int, weight_per_minute: int) -> Json:
    """Return the body of `exchangeInfo`."""
    return {
        "timezone": "UTC",
        "serverTime": server_time,
        "rateLimits": [
            _limit("REQUEST_WEIGHT", "MINUTE", 1, weight_per_minute),
            _limit("ORDERS", "SECOND", 10, 100),
            _limit("ORDERS", "DAY", 1, 200_000),
            _limit("RAW_REQUESTS", "MINUTE", 5, 300_000),
        ],
        "exchangeFilters": [],
        "symbols": [_symbol(item) for item in items],
    }


def depth(quote: Quote, item: Instrument, *, limit: int) -> Json:
    """Return the body of `depth`: levels a tick apart, the best ones as in the quote."""
    bids = [(quote.bid - place, quote.bid_steps * (1 + place)) for place in range(limit)]
    asks = [(quote.ask + place, quote.ask_steps * (1 + place)) for place in range(limit)]
    return {
        "lastUpdateId": quote.update_id,
        "bids": [_level(ticks, steps, item) for ticks, steps in bids if ticks > 0],
        "asks": [_level(ticks, steps, item) for ticks, steps in asks],
    }


def _level(ticks: int, steps: int, item: Instrument) -> list[str]:
    return [decimal_text(ticks * item.price_scale), decimal_text(steps * item.quantity_scale)]


def _limit(kind: str, interval: str, count: int, limit: int) -> Json:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}


def _symbol(item: Instrument) -> Json:
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


def _filters(item: Instrument) -> list[Json]:
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
