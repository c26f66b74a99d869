"""One trading date of one instrument, in one row."""

from datetime import date, timedelta

from k2lib.errors import NotFoundError, QueryError
from k2lib.model.lengths import DAY
from k2lib.model.venues import zone
from k2lib.query.as_of import AsOf
from k2lib.query.complete import Answer
from k2lib.query.engine import Engine
from k2lib.query.folding import Market, bars_sql


def ask_summary(
    engine: Engine,
    symbol: str,
    day: date,
    *,
    exchange: str | None = None,
    as_of: AsOf | None = None,
    market: Market = "all",
    tail: bool = True,
) -> Answer:
    """Return what an instrument did on one trading date of its venue.

    Returns:
        One row: exchange, symbol, trading_date, open, high, low, close, volume, trades, vwap,
        turnover, as a daily bar has them; first and last, the times of the day's trades, of
        those of all markets.
    Raises:
        NotFoundError: nothing was traded that day, or there is no such instrument.
        QueryError: the symbol is held at several venues and none is given.
    """
    if day == date.max:
        raise QueryError(f"day={day}: there is no day after it, so no end of it")
    chosen = engine.select(
        "trades_v2",
        symbol,
        exchange=exchange,
        start=day,
        end=day + timedelta(days=1),
        as_of=as_of,
        tail=tail,
    )
    bar = bars_sql(chosen.sql, DAY, of_venue=zone(chosen.exchange), market=market)
    times = f"SELECT min(timestamp) AS first, max(timestamp) AS last FROM ({chosen.sql})"
    frame = engine.fetch(f"SELECT * EXCLUDE (start) FROM ({bar}), ({times})", chosen)
    if frame.is_empty():
        raise NotFoundError(f"{chosen.exchange} has no trade of {symbol} on {day.isoformat()}")
    return chosen.answer(frame)
