"""Holes in the trade ids of the instruments whose venue counts them."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, LessThanOrEqual

from k2lib.iceberg.file_sql import table_sql
from k2lib.iceberg.manifests import compare, plan_paths
from k2lib.query.engine import Engine
from k2lib.query.request import InstrumentFilter
from k2lib.query.table_state import TableView
from k2lib.replay.plan import still_kept
from k2lib.replay.records import EPOCH, Gap
from k2lib.replay.series import NULL, InstrumentSeries, Int64s, times_us

Range = tuple[int, int]
# from_id, to_id, state and note of a gap in the table `gaps`.
RecordedGap = tuple[int, int, str, str]
RECORDED_GAPS: Final = """
    SELECT from_id, to_id, state, note FROM gaps
    WHERE exchange = $exchange AND symbol = $symbol ORDER BY noticed, from_id
"""


class GapFinder:
    """Follows the ids of each lane of trades, and says which are not there."""

    def __init__(self, engine: Engine, view: TableView, *, tail: bool) -> None:
        """Begin before the first trade.

        Args:
            seen: the trades; an id is missing that is nowhere in them, at whatever time.
            tail: whether to look in Kafka too for what is known of a gap.
        """
        self._engine = engine
        self._view = view
        self._tail = tail
        self._highest: dict[int, int] = {}

    def before(self, series: InstrumentSeries, rows: pa.Table) -> list[tuple[int, Gap]]:
        """Return the gaps before the next rows of a lane, each with the place of the row after it.

        An id is looked for between a trade and those before it in the order of events; before
        the first trade of a replay, down to the last id that is known at all.
        """
        column = rows["source_sequence"]
        if column.null_count == len(column):
            return []
        ids: Int64s = column.drop_null().to_numpy()
        jumps, at = self._jumps(series, ids)
        if not jumps:
            return []
        positions = np.flatnonzero(column.is_valid().to_numpy())[at].tolist()
        moments = times_us(rows)
        missing = self._missing(series.instrument, jumps, ids)
        return [
            (position, gap)
            for position, holes in zip(positions, missing, strict=True)
            for gap in self._gaps_in(series.instrument, holes, int(moments[position]))
        ]

    def _jumps(self, series: InstrumentSeries, ids: Int64s) -> tuple[list[Range], Int64s]:
        """The first and last of ids left out, and the place of the id after them."""
        recorded = self._highest.get(series.rank)
        if recorded is None:
            recorded = self._newest_below(series.instrument, int(ids[0]))
        highest = np.maximum.accumulate(np.concatenate([[recorded], ids]))
        self._highest[series.rank] = int(highest[-1])
        at = np.flatnonzero(ids > highest[:-1] + 1)
        return list(zip((highest[at] + 1).tolist(), (ids[at] - 1).tolist(), strict=True)), at

    def _missing(
        self, instrument: InstrumentFilter, jumps: Sequence[Range], ids: Int64s
    ) -> list[list[Range]]:
        there = np.unique(ids)
        left = [hole for jump in jumps for hole in absent(jump, there)]
        if left:
            # An id can stand at another time than those around it, or outside of the span.
            there = np.union1d(there, self._ids_between(instrument, (left[0][0], left[-1][1])))
        return [absent(jump, there) for jump in jumps]

    def _gaps_in(
        self, instrument: InstrumentFilter, holes: Sequence[Range], time_us: int
    ) -> Iterator[Gap]:
        if not holes:
            return
        names = {"exchange": instrument.exchange, "symbol": instrument.symbol}
        recorded: list[RecordedGap] = self._engine.sql(RECORDED_GAPS, names, tail=self._tail).rows()
        moment = EPOCH + timedelta(microseconds=time_us)
        for hole in holes:
            for low, high, state, note in pieces(hole, recorded):
                yield Gap(instrument.exchange, instrument.symbol, low, high, moment, state, note)

    def _newest_below(self, instrument: InstrumentFilter, first: int) -> int:
        """The last id known before the first one replayed; that before it where there is none."""
        if len(self._ids_between(instrument, (first - 1, first - 1))):
            return first - 1
        below = self._ids_between(instrument, (NULL, first - 1), expression="max(source_sequence)")
        return int(below.max(initial=NULL)) if len(below) else first - 1

    def _ids_between(
        self,
        instrument: InstrumentFilter,
        ids: Range,
        *,
        expression: str = "DISTINCT source_sequence",
    ) -> Int64s:
        """The ids of a range that lake and tail have, or what is asked of them."""
        in_tail = _in_tail(self._view.rows, instrument, ids)
        table = self._view.table
        if table is None or self._view.snapshot_id is None:
            return in_tail
        with still_kept(self._view):
            files = plan_paths(
                table, row_filter=_row_filter(instrument, ids), snapshot_id=self._view.snapshot_id
            )
        if not files:
            return in_tail
        rows = table_sql(table, files=files)
        query = f"SELECT {expression} AS id FROM ({rows}) WHERE {_where(instrument, ids)}"
        return np.concatenate([in_tail, self._engine.fetch(query)["id"].drop_nulls().to_numpy()])


def absent(ids: Range, there: Int64s) -> list[Range]:
    """Return the parts of a range that none of the ids, which are sorted, is in."""
    low, high = ids
    inside = there[np.searchsorted(there, low) : np.searchsorted(there, high, side="right")]
    edges = np.concatenate([[low - 1], inside, [high + 1]])
    at = np.flatnonzero(np.diff(edges) > 1)
    return list(zip((edges[at] + 1).tolist(), (edges[at + 1] - 1).tolist(), strict=True))


def pieces(hole: Range, recorded: Sequence[RecordedGap]) -> list[RecordedGap]:
    """Split a hole by what is known of its ids; of two gaps that share some, the later counts."""
    low, high = hole
    touching = [gap for gap in recorded if gap[0] <= high and gap[1] >= low]
    edges = {low, high + 1, *(at for first, last, *_ in touching for at in (first, last + 1))}
    inside = sorted(edge for edge in edges if low <= edge <= high + 1)
    split: list[RecordedGap] = []
    for first, end in pairwise(inside):
        covering = [gap[2:] for gap in touching if gap[0] <= first and end - 1 <= gap[1]]
        split.append((first, end - 1, *(covering[-1] if covering else ("unrecorded", ""))))
    return split


def _row_filter(instrument: InstrumentFilter, ids: Range) -> BooleanExpression:
    low, high = ids
    anywhen = InstrumentFilter(instrument.symbol, instrument.exchange).row_filter
    since = compare(GreaterThanOrEqual, "source_sequence", str(low))
    return And(anywhen, And(since, compare(LessThanOrEqual, "source_sequence", str(high))))


def _where(instrument: InstrumentFilter, ids: Range) -> str:
    anywhen = InstrumentFilter(instrument.symbol, instrument.exchange).where_sql
    return f"{anywhen} AND source_sequence BETWEEN {ids[0]} AND {ids[1]}"


def _in_tail(tail: pa.Table, instrument: InstrumentFilter, ids: Range) -> Int64s:
    of_symbol = pc.and_(
        pc.equal(tail["symbol"], instrument.symbol), pc.equal(tail["exchange"], instrument.exchange)
    )
    found: Int64s = tail["source_sequence"].filter(of_symbol).drop_null().to_numpy()
    return found[(found >= ids[0]) & (found <= ids[1])]
