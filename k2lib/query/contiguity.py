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
    return engine.sql(COUNTED, {"exchange": exchange})
