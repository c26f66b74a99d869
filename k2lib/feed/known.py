"""What is known of a feed's ids when it starts: by the tables and by what Kafka has beyond them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl

from k2lib.feed.book import Known
from k2lib.log.topics import GAPS, topic_name
from k2lib.model.schemas import GAP, TRADE
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.sources.binance.gaps import OPEN, Gap, uncovered
from k2lib.sources.binance.ids import Hole, Ids

LOOKED_AT: Final = timedelta(days=2)
NEWEST: Final = """
    SELECT symbol, max(source_sequence) AS last_id, epoch_us(max(timestamp)) AS last_us
    FROM lake.trades_v2 WHERE exchange = $exchange AND list_contains($symbols, symbol) GROUP BY ALL
"""
HOLES: Final = """
    SELECT symbol, before + 1 AS low, id - 1 AS high FROM (
        SELECT symbol, source_sequence AS id,
            lag(id) OVER (PARTITION BY symbol ORDER BY source_sequence) AS before
        FROM lake.trades_v2
        WHERE exchange = $exchange AND list_contains($symbols, symbol) AND timestamp >= $since)
    WHERE id > before + 1
"""
HELD: Final = """
    SELECT source_sequence AS id, epoch_us(timestamp) AS us FROM lake.trades_v2
    WHERE exchange = $exchange AND symbol = $symbol AND source_sequence BETWEEN $low AND $high
    ORDER BY id
"""


@dataclass(frozen=True)
class KnownIds:
    """Ids by symbol, and the gaps that are not closed, each with its ids known from aggregates."""

    symbols: dict[str, Known]
    gaps: list[tuple[Gap, list[Hole]]]


def read_known(
    exchange: str, symbols: Sequence[str], *, pipeline: Pipeline, engine: Engine
) -> KnownIds:
    """Read which ids of the symbols came, and which gaps there are.

    Holes nobody has noticed are looked for in the last two days; the table of gaps knows of
    those before.
    """
    tail = pl.DataFrame(pipeline.unread(topic_name("crypto", "trades", exchange), TRADE))
    revisions = _revisions(exchange, pipeline, engine)
    asked: dict[str, object] = {"exchange": exchange, "symbols": list(symbols)}
    since = asked | {"since": datetime.now(UTC) - LOOKED_AT}
    newest = {row["symbol"]: row for row in _rows(engine, NEWEST, asked)}
    holes = _rows(engine, HOLES, since)
    known = {
        symbol: _known(
            newest.get(symbol),
            [(row["low"], row["high"]) for row in holes if row["symbol"] == symbol],
            [gap for gap in revisions if gap.symbol == symbol],
            tail.filter(pl.col("symbol") == symbol),
        )
        for symbol in symbols
    }
    still_open = [gap for gap in revisions if gap.state in OPEN and gap.symbol in known]
    return KnownIds(known, [_reopened(gap, known[gap.symbol], engine) for gap in still_open])


def _known(
    newest: dict[str, Any] | None, holes: list[Hole], gaps: list[Gap], tail: pl.DataFrame
) -> Known:
    """Holes are what no gap explains; a gap that is not closed is a hole until its ids came."""
    closed = [(gap.from_id, gap.to_id) for gap in gaps if gap.state != "noticed"]
    noticed = [(gap.from_id, gap.to_id) for gap in gaps if gap.state == "noticed"]
    known = Known()
    if newest is not None:
        older = [hole for hole in noticed if hole[1] < newest["last_id"]]
        unexplained = uncovered(holes, [*closed, *older])
        known = Known(Ids(newest["last_id"] + 1, [*unexplained, *older]), newest["last_us"])
    ids = tail["source_sequence"].drop_nulls().to_numpy()
    if len(ids):
        known.ids.add(ids.astype(np.int64))
        known.last_us = max(known.last_us or 0, int(tail["timestamp"].dt.epoch("us").max()))  # type: ignore[arg-type]
    return known


def _reopened(gap: Gap, known: Known, engine: Engine) -> tuple[Gap, list[Hole]]:
    """Look which ids of a gap came meanwhile, and between which times it lies."""
    asked = {
        "exchange": gap.exchange,
        "symbol": gap.symbol,
        "low": gap.from_id - 1,
        "high": gap.to_id + 1,
    }
    held = engine.sql(HELD, asked)
    ids = held["id"].to_numpy().astype(np.int64)
    inside = ids[(ids >= gap.from_id) & (ids <= gap.to_id)]
    left = Ids(gap.to_id + 1, [(gap.from_id, gap.to_id)])
    left.add(inside)
    if gap.state == "noticed":
        known.ids.add(inside)
    times = {"after_us": held["us"].min(), "before_us": held["us"].max()}
    return Gap(**{**vars(gap), **times}), left.holes if gap.state == "covered" else []


def _revisions(exchange: str, pipeline: Pipeline, engine: Engine) -> list[Gap]:
    """Return the newest revision of each gap of the exchange, in the table or not yet."""
    stored = engine.sql("SELECT * FROM lake.gaps WHERE exchange = ?", [exchange])
    unread = pl.DataFrame(pipeline.unread(GAPS, GAP)).filter(pl.col("exchange") == exchange)
    both = pl.concat([stored, unread], how="vertical_relaxed")
    names = ["exchange", "symbol", "from_id", "to_id", "revision", "state", "covered", "absent"]
    newest = both.sort("revision").unique("gap_id", keep="last")
    return [Gap(**row) for row in newest.select(*names, "note").iter_rows(named=True)]


def _rows(engine: Engine, query: str, params: Mapping[str, object]) -> list[dict[str, Any]]:
    return engine.sql(query, params).to_dicts()
