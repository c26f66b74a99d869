"""Bars of one instrument: open, high, low, close, volume of `[start, start + every)`."""

from datetime import timedelta

import polars as pl

from k2lib.errors import QueryError
from k2lib.model.lengths import bar_length
from k2lib.model.venues import zone
from k2lib.query.as_of import AsOf
from k2lib.query.complete import Answer
from k2lib.query.engine import Engine
from k2lib.query.folding import Market, bars_sql
from k2lib.query.instruments import When


def bars(
    engine: Engine,
    symbol: str,
    *,
    every: str | timedelta = "1m",
    exchange: str | None = None,
    start: When | None = None,
    end: When | None = None,
    as_of: AsOf | None = None,
    market: Market = "all",
    tail: bool = True,
) -> pl.DataFrame:
    """Fold the trades of one instrument into bars.

    Args:
        every: for example `30s`, `5m`, `2h`, or `1d`. Below a day, bars start at whole multiples
            since the epoch; a day is the venue's trading date, from its midnight.
        start, end: trades in `[start, end)` count, so that the bars at either end can be parts.
        market: `on` leaves out the off-market prints (ASX venue `X`).
        tail: whether trades count that only Kafka has yet.
    Returns:
        A row for each bar with a trade, by time: exchange, symbol, start (and trading_date of
        daily bars), open, high, low, close, volume, trades (their number), vwap, turnover (the
        exact sum of price times quantity). vwap is turnover / volume, rounded half away from 0
        to 8 decimals, null where the volume is 0. Open and close are the first and last trade
        by timestamp, source_sequence, platform_sequence, message_id, nulls first.
    Raises:
        QueryError: no such bar length or market, or what `Engine.trades` raises.
    """
    return ask_bars(
        engine,
        symbol,
        every=every,
        exchange=exchange,
        start=start,
        end=end,
        as_of=as_of,
        market=market,
        tail=tail,
    ).frame


def ask_bars(
    engine: Engine,
    symbol: str,
    *,
    every: str | timedelta = "1m",
    exchange: str | None = None,
    start: When | None = None,
    end: When | None = None,
    as_of: AsOf | None = None,
    market: Market = "all",
    first: int | None = None,
    tail: bool = True,
) -> Answer:
    """Return bars as `bars` does, at most the `first` so many, and how complete they are."""
    if first is not None and first < 0:
        raise QueryError(f"first={first}: give the number of bars to keep, 0 or more")
    length = bar_length(every)
    chosen = engine.select(
        "trades_v2", symbol, exchange=exchange, start=start, end=end, as_of=as_of, tail=tail
    )
    query = bars_sql(chosen.sql, length, of_venue=zone(chosen.exchange), market=market)
    limit = "" if first is None else f" LIMIT {first}"
    return chosen.answer(engine.fetch(query + limit, chosen))
