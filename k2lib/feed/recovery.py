"""A feed's state when it starts: its ids in the tables, and what Kafka has beyond them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import polars as pl

from k2lib.feed.gaps import OPEN, Ids, SequenceGap, uncovered
from k2lib.feed.sequence_tracker import SymbolSequence
from k2lib.iceberg.commit_times import EPOCH
from k2lib.iceberg.deletions import deleted_at, newest_ids
from k2lib.kafka.topics import GAPS, topic_name
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.records import GAP, TRADE
from k2lib.venues.base import Hole, LiveVenue

LOOKED_AT: Final = timedelta(days=2)
NEWEST: Final = """
    SELECT symbol, max(source_sequence) AS last_id, epoch_us(max(timestamp)) AS last_us
    FROM trades_v2 WHERE exchange = $exchange AND list_contains($symbols, symbol) GROUP BY ALL
"""
HOLES: Final = """
    SELECT symbol, before + 1 AS low, id - 1 AS high FROM (
        SELECT symbol, source_sequence AS id,
            lag(id) OVER same_symbol AS before,
            lag(ingestion_timestamp) OVER same_symbol AS before_received
        FROM trades_v2
        WHERE exchange = $exchange AND list_contains($symbols, symbol) AND timestamp >= $since
        WINDOW same_symbol AS (PARTITION BY symbol ORDER BY source_sequence))
    WHERE id > before + 1 AND before_received >= $deleted
"""
AROUND: Final = 1000
IDS_AROUND: Final = """
    SELECT source_sequence AS id, epoch_us(timestamp) AS us FROM trades_v2
    WHERE exchange = $exchange AND symbol = $symbol AND source_sequence BETWEEN $low AND $high
    ORDER BY id
"""


@dataclass(frozen=True)
class RecoveredState:
    """Ids by symbol, and the gaps that are not closed, each with its ids known from aggregates."""

    symbols: dict[str, SymbolSequence]
    gaps: list[tuple[SequenceGap, list[Hole]]]


def recover_state(
    venue: LiveVenue, symbols: Sequence[str], *, pipeline: Pipeline, engine: Engine
) -> RecoveredState:
    """Read which ids of the symbols came, and which gaps there are.

    Holes nobody has noticed are looked for in the last two days; the table of gaps knows of
    those before. A closed gap of which more is missing than it says is open again: its trades
    were in a log that ended before the lake had them.

    Not so where another engine deleted rows of the lake meanwhile: what was received or closed
    before is taken as complete, since a deletion cannot be told from a hole, and nothing brings
    back what was deleted on purpose.
    """
    # The tails come first: what the sinks move into the lake meanwhile is then seen twice.
    exchange = venue.exchange
    tail = _tail(topic_name(venue.asset_class, "trades", exchange), pipeline)
    table = engine.table_view("trades_v2", tail=False).table
    deleted = EPOCH if table is None else deleted_at(table)
    recorded = {} if table is None else newest_ids(table).get(exchange, {})
    gaps = _newest_gaps(exchange, pipeline, engine)
    settled = {gap.gap_id for gap, noticed in gaps if noticed < deleted}
    parameters: dict[str, object] = {"exchange": exchange, "symbols": list(symbols)}
    since = parameters | {"since": datetime.now(UTC) - LOOKED_AT, "deleted": deleted}
    newest = {row["symbol"]: row for row in engine.sql(NEWEST, parameters, tail=False).to_dicts()}
    holes = engine.sql(HOLES, since, tail=False)
    state = RecoveredState({}, [])
    for symbol in symbols:
        one = _Symbol(
            newest.get(symbol),
            [row[1:] for row in holes.filter(pl.col("symbol") == symbol).iter_rows()],
            [gap for gap, _ in gaps if gap.symbol == symbol],
            tail.filter(pl.col("symbol") == symbol),
            recorded.get(symbol),
            settled,
        )
        state.symbols[symbol] = one.sequence()
        state.gaps.extend(one.open_gaps(state.symbols[symbol], engine))
    return state


@dataclass(frozen=True)
class _Symbol:
    """What tables and log say of one symbol.

    Attributes:
        recorded_id: the greatest id that the table has had.
        settled: ids of gaps whose last revision is older than a deletion by another engine.
    """

    newest: Mapping[str, Any] | None
    holes: list[Hole]
    gaps: list[SequenceGap]
    tail: pl.DataFrame
    recorded_id: int | None
    settled: Collection[str]

    def sequence(self) -> SymbolSequence:
        """Return the ids; a hole is what did not come, whether a gap explains it or not."""
        sequence = SymbolSequence(self._ids())
        if self.newest is not None:
            sequence.last_us = self.newest["last_us"]
        if not self.tail.is_empty():
            sequence.ids.add(self.tail["id"].to_numpy())
            sequence.last_us = max(sequence.last_us or 0, int(self.tail["us"].max()))  # type: ignore[arg-type]
        return sequence

    def _ids(self) -> Ids:
        """A gap tells that ids went on past it, whatever became of the trades after it."""
        if self.newest is None and self.recorded_id is None and not self.gaps:
            return Ids()
        first = min((gap.from_id for gap in self.gaps), default=0)
        last = first - 1 if self.newest is None else int(self.newest["last_id"])
        last = max(last, last if self.recorded_id is None else self.recorded_id)
        end = max([last, *(gap.to_id for gap in self.gaps)])
        noticed = [(gap.from_id, gap.to_id) for gap in self.gaps if gap.state == "noticed"]
        older = [hole for hole in noticed if hole[1] <= last]
        beyond = [(last + 1, end)] if end > last else []
        return Ids(end + 1, [*uncovered(self.holes, older), *older, *beyond])

    def open_gaps(
        self, sequence: SymbolSequence, engine: Engine
    ) -> list[tuple[SequenceGap, list[Hole]]]:
        """Take what closed gaps explain as complete; return the others, with their covered ids."""
        still_open = []
        for gap in self.gaps:
            if gap.state in OPEN:
                still_open.append(self._reopened(gap, sequence.ids, engine))
            elif gap.gap_id in self.settled or self._is_explained(gap, sequence.ids):
                sequence.ids.explain(gap.from_id, gap.to_id)
            else:
                again = replace(gap, state="noticed", covered=0, absent=0)
                still_open.append(self._reopened(again, sequence.ids, engine))
        return still_open

    def _is_explained(self, gap: SequenceGap, ids: Ids) -> bool:
        return _count(ids.missing(gap.from_id, gap.to_id)) <= gap.covered + gap.absent

    def _reopened(
        self, gap: SequenceGap, ids: Ids, engine: Engine
    ) -> tuple[SequenceGap, list[Hole]]:
        """Look which ids of a gap came meanwhile, and between which times it lies."""
        parameters = {
            "exchange": gap.exchange,
            "symbol": gap.symbol,
            "low": gap.from_id - AROUND,
            "high": gap.to_id + AROUND,
        }
        stored_ids = pl.concat(
            [engine.sql(IDS_AROUND, parameters, tail=False), self.tail.select("id", "us")]
        )
        inside = stored_ids.filter(pl.col("id").is_between(gap.from_id, gap.to_id))["id"].to_numpy()
        times: dict[str, Any] = {
            "after_us": stored_ids.filter(pl.col("id") < gap.from_id)["us"].max(),
            "before_us": stored_ids.filter(pl.col("id") > gap.to_id)["us"].min(),
        }
        ids.add(inside)
        if gap.state == "noticed":
            return replace(gap, **times), []
        left = Ids(gap.to_id + 1, [(gap.from_id, gap.to_id)])
        left.add(inside)
        ids.explain(gap.from_id, gap.to_id)
        return replace(gap, **times), left.holes


def _tail(topic: str, pipeline: Pipeline) -> pl.DataFrame:
    """Return symbol, id and event time of the trades that the lake does not have yet."""
    rows = pipeline.unread(topic, TRADE)
    columns = pl.DataFrame(rows.select(["symbol", "source_sequence", "timestamp"]))
    return columns.select(
        "symbol", id=pl.col("source_sequence"), us=pl.col("timestamp").dt.epoch("us")
    ).drop_nulls()


def _newest_gaps(
    exchange: str, pipeline: Pipeline, engine: Engine
) -> list[tuple[SequenceGap, datetime]]:
    """Return the newest revision of each gap of the exchange, in the table or not yet."""
    unread = pl.DataFrame(pipeline.unread(GAPS, GAP)).filter(pl.col("exchange") == exchange)
    in_table = engine.sql("SELECT * FROM lake.gaps WHERE exchange = ?", [exchange])
    both = pl.concat([in_table, unread], how="vertical_relaxed")
    names = ["exchange", "symbol", "from_id", "to_id", "revision", "state", "covered", "absent"]
    newest = both.sort("revision").unique("gap_id", keep="last").sort("from_id")
    rows = newest.select(*names, "note").iter_rows(named=True)
    return [(SequenceGap(**row), at) for row, at in zip(rows, newest["noticed"], strict=True)]


def _count(holes: list[Hole]) -> int:
    return sum(high - low + 1 for low, high in holes)
