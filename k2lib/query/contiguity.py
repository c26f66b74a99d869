"""The proof that nothing is missing: ids are contiguous in the lake, or it is known why not."""

from typing import Final

import polars as pl

from k2lib.query.engine import Engine

COUNTED: Final = """
    WITH trades AS (
        SELECT exchange, symbol, source_sequence AS id FROM lake.trades_v2
        WHERE source_sequence IS NOT NULL AND ($exchange IS NULL OR exchange = $exchange)),
    holes AS (
        SELECT exchange, symbol, before + 1 AS low, id - 1 AS high FROM (
            SELECT *, lag(id) OVER (PARTITION BY exchange, symbol ORDER BY id) AS before
            FROM (SELECT DISTINCT * FROM trades))
        WHERE id > before + 1),
    explained AS (
        SELECT holes.exchange, holes.symbol, sum(high - low + 1) AS ids FROM holes JOIN gaps
            ON gaps.exchange = holes.exchange AND gaps.symbol = holes.symbol
            AND low >= from_id AND high <= to_id AND state IN ('covered', 'none_at_venue', 'lost')
        GROUP BY ALL),
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
        is there already), missing, explained (ids of a closed gap that the venue does not have,
        or has as aggregates only) and unexplained, which is 0 where nothing is lost.
    """
    return engine.sql(COUNTED, {"exchange": exchange})
