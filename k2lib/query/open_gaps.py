"""Gaps in trade ids that are not closed yet, and between which times their trades lie."""

import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl

from k2lib.query.answer import OpenGap
from k2lib.query.request import InstrumentFilter
from k2lib.query.sql import TableRows, newest_revisions_sql
from k2lib.query.table_state import TableView

# A feed notices a hole of the last two days when it starts.
LOOKED_AT: Final = timedelta(days=3)
# The next ids that came are within so many of a gap, mostly.
AROUND: Final = 1000

# Takes a view of trades and one instrument of it; returns the SELECT that has its rows.
RowsOf = Callable[[TableView, InstrumentFilter], TableRows]
Fetch = Callable[[str, TableRows], pl.DataFrame]


class OpenGaps:
    """Reads the newest revisions of gaps again only once the table or its tail has changed."""

    def __init__(self, rows: Callable[[TableView], TableRows], rows_of: RowsOf, fetch: Fetch):
        self._rows = rows
        self._rows_of = rows_of
        self._fetch = fetch
        self._lock = threading.Lock()
        self._read: tuple[object, list[dict[str, Any]]] = (None, [])
        self._placed: dict[OpenGap, OpenGap] = {}

    def of(self, gaps: TableView, trades: TableView) -> tuple[OpenGap, ...]:
        """Return the gaps that are open in a view of their table, with times as far as known."""
        found = []
        for row in self._noticed(gaps):
            noticed = row.pop("noticed")
            gap = OpenGap(**row)
            if gap not in self._placed:
                after, before = self._times(trades, gap, since=noticed - LOOKED_AT)
                placed = OpenGap(**row, after=after, before=before)
                if before is None:
                    found.append(placed)
                    continue
                self._placed[gap] = placed
            found.append(self._placed[gap])
        return tuple(found)

    def _noticed(self, gaps: TableView) -> list[dict[str, Any]]:
        if gaps.table is None and not gaps.rows.num_rows:
            return []
        state = (gaps.table and gaps.table.metadata_location, gaps.rows.num_rows)
        with self._lock:
            if self._read[0] != state:
                rows = self._rows(gaps)
                found = self._fetch(
                    "SELECT exchange, symbol, from_id, to_id, noticed "
                    f"FROM ({newest_revisions_sql(rows.sql)}) WHERE state = 'noticed' ORDER BY ALL",
                    rows,
                )
                self._read = state, found.to_dicts()
                self._placed = {}
            return [dict(row) for row in self._read[1]]

    def _times(
        self, trades: TableView, gap: OpenGap, *, since: datetime
    ) -> tuple[datetime | None, datetime | None]:
        instrument = InstrumentFilter(gap.symbol, gap.exchange, since)
        rows = self._rows_of(trades, instrument)
        found = self._fetch(
            f"""SELECT max(timestamp) FILTER (source_sequence < {gap.from_id}) AS after,
                    min(timestamp) FILTER (source_sequence > {gap.to_id}) AS before
                FROM ({rows.sql}) WHERE {instrument.where_sql}
                AND source_sequence BETWEEN {gap.from_id - AROUND} AND {gap.to_id + AROUND}""",
            rows,
        )
        after, before = found.row(0)
        return after, before


def within(
    gaps: Iterable[OpenGap], *, start: datetime | None, end: datetime | None
) -> tuple[OpenGap, ...]:
    """Return the gaps that may have trades in `[start, end)`."""
    return tuple(
        gap
        for gap in gaps
        if (start is None or gap.before is None or gap.before >= start)
        and (end is None or gap.after is None or gap.after < end)
    )
