"""What a table holds: each instrument, how many rows, from when to when."""

from k2lib.lake.scan import text_sql
from k2lib.query.as_of import AsOf
from k2lib.query.complete import Answer
from k2lib.query.engine import Engine


def ask_symbols(
    engine: Engine,
    *,
    table: str = "trades_v2",
    exchange: str | None = None,
    as_of: AsOf | None = None,
    tail: bool = True,
) -> Answer:
    """Return the instruments that a table of trades or quotes holds.

    Args:
        exchange: only those of one venue.
    Returns:
        A row for each, sorted: exchange, symbol, rows (their number), first and last (the event
        times of the first and last).
    """
    rows = engine.rows(engine.look(table, as_of=as_of, tail=tail))
    of_venue = "" if exchange is None else f" WHERE exchange = {text_sql(exchange)}"
    counted = f"""
        SELECT exchange, symbol, count(*) AS rows, min(timestamp) AS first, max(timestamp) AS last
        FROM ({rows.sql}){of_venue} GROUP BY ALL ORDER BY ALL"""
    return rows.answer(engine.fetch(counted, rows))
