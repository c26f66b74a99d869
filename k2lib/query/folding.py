"""The SQL that folds trades into bars, and what may be asked of it."""

from datetime import timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from k2lib.errors import QueryError
from k2lib.lake.scan import text_sql
from k2lib.model.lengths import DAY, MICROSECOND
from k2lib.model.venues import UTC_ZONE, ZONES

Market = Literal["all", "on"]
KEPT: Final = {"all": "true", "on": "vendor_data['venue'] IS DISTINCT FROM 'X'"}
# Within one instrument this is the order of events.
IN_ORDER: Final = (
    "timestamp, source_sequence NULLS FIRST, platform_sequence NULLS FIRST, message_id"
)
# A quotient of decimals is a float in DuckDB: the division is done in whole numbers instead.
TURNOVER_UNITS: Final = "replace(turnover::VARCHAR, '.', '')::HUGEINT"
VOLUME_UNITS: Final = "nullif(replace(volume::VARCHAR, '.', '')::HUGEINT, 0)"
_HALVES_AWAY: Final = f"{TURNOVER_UNITS} + sign({TURNOVER_UNITS}) * ({VOLUME_UNITS} // 2)"
# Of columns turnover and volume: their quotient, rounded half away from 0 to 8 decimals.
VWAP: Final = f"(({_HALVES_AWAY}) // {VOLUME_UNITS} * 0.00000001::DECIMAL(9, 8))::DECIMAL(18, 8)"
_KNOWN_ZONES: Final = " ".join(
    f"WHEN {text_sql(venue)} THEN {text_sql(zone.key)}" for venue, zone in ZONES.items()
)
ZONE_OF_ROW: Final = f"CASE exchange {_KNOWN_ZONES} ELSE {text_sql(UTC_ZONE.key)} END"


def bars_sql(trades: str, every: timedelta, *, of_venue: ZoneInfo, market: Market = "all") -> str:
    """Return the SELECT of bars over a SELECT of trades of one venue, in order."""
    folded = folded_sql(trades, every, zone_sql=text_sql(of_venue.key), market=market)
    return f"SELECT * FROM ({folded}) ORDER BY exchange, symbol, start"


def folded_sql(trades: str, every: timedelta, *, zone_sql: str, market: Market = "all") -> str:
    """Return the SELECT of bars in no order, `zone_sql` being the zone of a row's venue."""
    if market not in KEPT:
        raise QueryError(f"market={market!r}: give 'all' or 'on' (on-market trades only)")
    folded = f"""
        SELECT exchange, symbol, {_bar_sql(every, zone_sql)} AS bar,
            first(price ORDER BY {IN_ORDER}) AS open, max(price) AS high, min(price) AS low,
            last(price ORDER BY {IN_ORDER}) AS close, sum(quantity) AS volume, count(*) AS trades,
            sum(price::DECIMAL(38, 8) * quantity) AS turnover
        FROM ({trades}) WHERE {KEPT[market]} GROUP BY ALL"""
    return f"""
        SELECT exchange, symbol, {_start_sql(every, zone_sql)}, open, high, low, close, volume,
            trades, {VWAP} AS vwap, turnover
        FROM ({folded})"""


def _bar_sql(every: timedelta, zone_sql: str) -> str:
    if every == DAY:
        return f"timezone({zone_sql}, timestamp)::DATE"
    length = every // MICROSECOND
    return f"epoch_us(timestamp) - (epoch_us(timestamp) % {length} + {length}) % {length}"


def _start_sql(every: timedelta, zone_sql: str) -> str:
    if every == DAY:
        return f"timezone({zone_sql}, bar::TIMESTAMP) AS start, bar AS trading_date"
    return "make_timestamptz(bar) AS start"
