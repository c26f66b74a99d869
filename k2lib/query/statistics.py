"""Aggregates of a table: bars, daily summary, instruments, trade ids, snapshot difference."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Final

import polars as pl
from pyiceberg.table import Table

from k2lib.errors import NotFoundError, QueryError
from k2lib.iceberg.file_sql import table_sql, text_sql
from k2lib.iceberg.manifests import plan_paths
from k2lib.iceberg.tables import TABLES
from k2lib.query.answer import ReadResult
from k2lib.query.engine import BY_TIME, Engine
from k2lib.query.request import AsOf, ReadRequest, check_flag, check_text, time_of
from k2lib.query.sql import bars_sql
from k2lib.query.time_travel import resolve
from k2lib.schema.calendar import DAY, bar_length, zone


def read_summary(engine: Engine, request: ReadRequest, day: date | str) -> ReadResult:
    """Return what an instrument did on one trading date of its venue.

    Args:
        request: its span is replaced by the day; its market says which trades count.
    Returns:
        One row: exchange, symbol, trading_date, open, high, low, close, volume, trades, vwap,
        turnover, as a daily bar has them; first and last, the times of the day's trades, of
        those of all markets.
    Raises:
        NotFoundError: nothing was traded that day, or there is no such instrument.
        QueryError: the symbol trades at several venues and none is given, or `day` is no date.
    """
    if isinstance(day, str):
        day = time_of("day", day)
    if type(day) is not date:
        raise QueryError(f"day={day!r}: give a date, the venue's trading date")
    if day == date.max:
        raise QueryError(f"day={day}: there is no day after it, so no end of it")
    request = replace(request, start=day, end=day + timedelta(days=1))
    selection = engine.select("trades_v2", replace(request, market="all"))
    zone_of = zone(selection.exchange)
    bar = bars_sql(selection.sql, DAY, of_venue=zone_of, market=request.market)
    times = f"SELECT min(timestamp) AS first, max(timestamp) AS last FROM ({selection.sql})"
    frame = engine.fetch(f"SELECT * EXCLUDE (start) FROM ({bar}), ({times})", selection)
    if frame.is_empty():
        kind = "trade" if request.market == "all" else f"{request.market}-market trade"
        raise NotFoundError(
            f"{selection.exchange} has no {kind} of {request.symbol} on {day.isoformat()}"
        )
    return selection.result(frame)


def read_symbols(
    engine: Engine,
    table: str = "trades_v2",
    *,
    exchange: str | None = None,
    as_of: AsOf | None = None,
    tail: bool = True,
) -> ReadResult:
    """Return the instruments that a table of trades or quotes has.

    Args:
        exchange: only those of one venue.
    Returns:
        A row for each, sorted: exchange, symbol, rows (their number), first and last (the event
        times of the first and last).
    Raises:
        QueryError: the table has no instruments.
    """
    if table not in BY_TIME:
        raise QueryError(f"table={table!r}: give one of {', '.join(BY_TIME)}")
    check_flag("tail", tail)
    rows = engine.rows(engine.table_view(table, as_of=as_of, tail=tail))
    of_venue = "" if exchange is None else f" WHERE exchange = {text_sql(exchange)}"
    counted = f"""
        SELECT exchange, symbol, count(*) AS rows, min(timestamp) AS first, max(timestamp) AS last
        FROM ({rows.sql}){of_venue} GROUP BY ALL ORDER BY ALL"""
    return rows.result(engine.fetch(counted, rows))


COUNTED: Final = """
    WITH trades AS (
        SELECT exchange, symbol, source_sequence AS id FROM lake.trades_v2
        WHERE source_sequence IS NOT NULL AND ($exchange IS NULL OR exchange = $exchange)),
    holes AS (
        SELECT exchange, symbol, before + 1 AS low, id - 1 AS high FROM (
            SELECT *, lag(id) OVER (PARTITION BY exchange, symbol ORDER BY id) AS before
            FROM (SELECT DISTINCT * FROM trades))
        WHERE id > before + 1),
    apart AS (
        SELECT exchange, symbol, to_id, covered + absent AS at_most,
            greatest(from_id, 1 + coalesce(max(to_id) OVER (
                PARTITION BY exchange, symbol ORDER BY from_id, to_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), from_id - 1)) AS from_id
        FROM gaps WHERE state IN ('covered', 'none_at_venue', 'lost')),
    by_gap AS (
        SELECT exchange, symbol, least(any_value(at_most),
            sum(least(high, to_id) - greatest(low, from_id) + 1)) AS ids
        FROM apart JOIN holes USING (exchange, symbol)
        WHERE low <= to_id AND high >= from_id AND from_id <= to_id
        GROUP BY exchange, symbol, from_id, to_id),
    explained AS (SELECT exchange, symbol, sum(ids) AS ids FROM by_gap GROUP BY ALL),
    counted AS (
        SELECT exchange, symbol, min(id) AS first_id, max(id) AS last_id, count(*) AS rows,
            count(*) - count(DISTINCT id) AS twice,
            max(id) - min(id) + 1 - count(DISTINCT id) AS missing
        FROM trades GROUP BY ALL)
    SELECT counted.*, coalesce(explained.ids, 0)::BIGINT AS explained,
        (missing - coalesce(explained.ids, 0))::BIGINT AS unexplained
    FROM counted LEFT JOIN explained USING (exchange, symbol) ORDER BY exchange, symbol
"""


def contiguity(engine: Engine, exchange: str | None = None) -> pl.DataFrame:
    """Count the trade ids of every symbol whose venue counts its trades.

    Returns:
        A row per (exchange, symbol), sorted: first_id, last_id, rows, twice (rows of an id that
        is there already), missing, explained (by closed gaps, each at most as many as it says
        are not to be had, or as aggregates only) and unexplained: 0 where nothing is lost.
    """
    if exchange is not None:
        check_text("exchange", exchange, example="'BINANCE'")
    return engine.sql(COUNTED, {"exchange": exchange})


def read_bars(
    engine: Engine,
    request: ReadRequest,
    *,
    every: str | timedelta = "1m",
) -> ReadResult:
    """Fold the trades of one instrument into bars, and say how complete they are.

    Args:
        request: the trades of its market in its span count, so that the bars at either end can
            be parts; `first` counts bars, `last` and `after` are not for them.
        every: for example `30s`, `5m`, `2h`, or `1d`. Below a day, bars start at whole multiples
            since the epoch; a day is the venue's trading date, from its midnight.
    Returns:
        A row for each bar with a trade, by time: exchange, symbol, start (and trading_date of
        daily bars), open, high, low, close, volume, trades (their number), vwap, turnover (the
        exact sum of price times quantity). vwap is turnover / volume, rounded half away from 0
        to 8 decimals, null where the volume is 0. Open and close are the first and last trade
        by timestamp, source_sequence, platform_sequence, message_id, nulls first.
    Raises:
        QueryError: no such bar length or market, or what `Engine.read` raises.
    """
    length = bar_length(every)
    selection = engine.select("trades_v2", request)
    query = bars_sql(selection.sql, length, of_venue=zone(selection.exchange))
    limit = "" if request.first is None else f" LIMIT {request.first}"
    return selection.result(engine.fetch(query + limit, selection))


def difference(engine: Engine, table: Table, before: AsOf, after: AsOf) -> pl.DataFrame:
    """Return the rows that the later of two snapshots has and the earlier has not, and reverse.

    Args:
        before, after: snapshot ids, tags or moments.
    Returns:
        The table's columns after `change`: `added` or `removed`; in the table's order. Rows that
        maintenance wrote into other files are in neither.
    Raises:
        QueryError: no such snapshot is kept.
    """
    then = set(plan_paths(table, snapshot_id=resolve(table, before)))
    now = set(plan_paths(table, snapshot_id=resolve(table, after)))
    left, came = (table_sql(table, files=sorted(some)) for some in (then - now, now - then))
    query = f"{_only('added', came, left)} UNION ALL {_only('removed', left, came)}"
    order = ", ".join(f"{name} NULLS FIRST" for name in TABLES[table.name()[-1]].order)
    return engine.fetch(f"SELECT * FROM ({query}) ORDER BY change, {order or 'message_id'}")


def _only(change: str, rows: str, others: str) -> str:
    return (
        f"SELECT '{change}' AS change, * FROM ({rows}) ANTI JOIN "
        f"(SELECT message_id FROM ({others})) USING (message_id)"
    )
