"""Bars of one instrument: open, high, low, close, volume of `[start, start + every)`."""

import re
from datetime import timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

import polars as pl

from k2lib.errors import QueryError
from k2lib.lake.scan import text_sql
from k2lib.model.venues import zone
from k2lib.query.as_of import AsOf
from k2lib.query.complete import Answer
from k2lib.query.engine import Engine
from k2lib.query.instruments import When

Market = Literal["all", "on"]
DAY: Final = timedelta(days=1)
MICROSECOND: Final = timedelta(microseconds=1)
UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": DAY,
}
KEPT: Final = {"all": "true", "on": "vendor_data['venue'] IS DISTINCT FROM 'X'"}
# Within one instrument this is the order of events.
IN_ORDER: Final = (
    "timestamp, source_sequence NULLS FIRST, platform_sequence NULLS FIRST, message_id"
)
# A quotient of decimals is a float in DuckDB: the division is done in whole numbers instead.
TURNOVER_UNITS: Final = "replace(turnover::VARCHAR, '.', '')::HUGEINT"
VOLUME_UNITS: Final = "nullif(replace(volume::VARCHAR, '.', '')::HUGEINT, 0)"


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
    tail: bool = True,
) -> Answer:
    """Return bars as `bars` does, and how complete they are."""
    length = bar_length(every)
    chosen = engine.select(
        "trades_v2", symbol, exchange=exchange, start=start, end=end, as_of=as_of, tail=tail
    )
    query = bars_sql(chosen.sql, length, of_venue=zone(chosen.exchange), market=market)
    return chosen.answer(engine.fetch(query, chosen))


def bars_sql(trades: str, every: timedelta, *, of_venue: ZoneInfo, market: Market = "all") -> str:
    """Return the SELECT of `bars` over a SELECT of trades of one venue."""
    if market not in KEPT:
        raise QueryError(f"market={market!r}: give 'all' or 'on' (on-market trades only)")
    folded = f"""
        SELECT exchange, symbol, {_bar_sql(every, of_venue)} AS bar,
            first(price ORDER BY {IN_ORDER}) AS open, max(price) AS high, min(price) AS low,
            last(price ORDER BY {IN_ORDER}) AS close, sum(quantity) AS volume, count(*) AS trades,
            sum(price::DECIMAL(38, 8) * quantity) AS turnover
        FROM ({trades}) WHERE {KEPT[market]} GROUP BY ALL"""
    return f"""
        SELECT exchange, symbol, {_start_sql(every, of_venue)}, open, high, low, close, volume,
            trades, {_vwap_sql()} AS vwap, turnover
        FROM ({folded}) ORDER BY exchange, symbol, bar"""


def bar_length(every: str | timedelta) -> timedelta:
    """Return the length of a bar: whole microseconds below a day, or one day.

    Raises:
        QueryError: not a length, not positive, or over a day.
    """
    length = _parsed(every) if isinstance(every, str) else every
    if not timedelta(0) < length <= DAY:
        raise QueryError(f"every={every}: a bar is longer than nothing and one day at most")
    return length


def _parsed(every: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", every)
    if found is None:
        raise QueryError(f"every={every!r}: give a number and s, m, h or d, for example 5m")
    return int(found[1]) * UNITS[found[2]]


def _bar_sql(every: timedelta, of_venue: ZoneInfo) -> str:
    if every == DAY:
        return f"timezone({text_sql(of_venue.key)}, timestamp)::DATE"
    length = every // MICROSECOND
    return f"epoch_us(timestamp) - (epoch_us(timestamp) % {length} + {length}) % {length}"


def _start_sql(every: timedelta, of_venue: ZoneInfo) -> str:
    if every == DAY:
        midnight = f"timezone({text_sql(of_venue.key)}, bar::TIMESTAMP)"
        return f"{midnight} AS start, bar AS trading_date"
    return "make_timestamptz(bar) AS start"


def _vwap_sql() -> str:
    halves_away = f"{TURNOVER_UNITS} + sign({TURNOVER_UNITS}) * ({VOLUME_UNITS} // 2)"
    return f"(({halves_away}) // {VOLUME_UNITS} * 0.00000001::DECIMAL(9, 8))::DECIMAL(18, 8)"
