"""What analysts compute of trades, quotes and bars: functions from Polars frames to frames.

They take frames as `k2.trades(...)`, `k2.quotes(...)` and `k2.bars(...)` return them, of any number
of instruments and in any order, and never mix two instruments, which are (exchange, symbol).
"""

from k2lib.analytics.bars import day_summary, dollar_bars, tick_bars, time_bars, volume_bars
from k2lib.analytics.flow import order_flow_imbalance, trade_imbalance
from k2lib.analytics.joins import trades_with_quotes
from k2lib.analytics.prices import spread, time_weighted_spread, vwap
from k2lib.analytics.sessions import continuous_trading, on_market, session, trading_date
from k2lib.analytics.trade_sign import lee_ready, tick_rule
from k2lib.analytics.volatility import realised_volatility, returns

__all__ = [
    "continuous_trading",
    "day_summary",
    "dollar_bars",
    "lee_ready",
    "on_market",
    "order_flow_imbalance",
    "realised_volatility",
    "returns",
    "session",
    "spread",
    "tick_bars",
    "tick_rule",
    "time_bars",
    "time_weighted_spread",
    "trade_imbalance",
    "trades_with_quotes",
    "trading_date",
    "volume_bars",
    "vwap",
]
