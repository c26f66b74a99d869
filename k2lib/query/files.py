"""The data files that can hold the requested rows, and the venues that have a symbol."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

import polars as pl
from pyiceberg.expressions import BooleanExpression

from k2lib.iceberg.columns import record_table, snapshot_schema
from k2lib.iceberg.file_sql import table_sql, text_sql
from k2lib.iceberg.manifests import ALL_ROWS, PlanCache, PlannedFile
from k2lib.iceberg.tables import columns_as_read
from k2lib.query.request import LISTED_AT_MOST, InstrumentFilter, TimeRange
from k2lib.query.sql import nothing_sql
from k2lib.query.table_state import EPOCH, TableView

VENUES_KEPT: Final = 256


class FilePlanner:
    """Plans files, and remembers at which venues symbols were found; threads may ask."""

    def __init__(
        self,
        plans: PlanCache,
        *,
        fetch: Callable[[str], pl.DataFrame],
    ) -> None:
        """Begin with nothing known.

        Args:
            fetch: runs SQL.
        """
        self._plans = plans
        self._lock = threading.Lock()
        self._fetch = fetch
        self._venues: dict[tuple[object, ...], list[str]] = {}

    def files(
        self, view: TableView, *, row_filter: BooleanExpression = ALL_ROWS
    ) -> list[PlannedFile]:
        """Return the files that can have rows of the filter."""
        if view.table is None:
            return []
        return self._plans.files(view.table, row_filter=row_filter, snapshot_id=view.snapshot_id)

    def files_of(self, view: TableView, chosen: InstrumentFilter) -> list[PlannedFile]:
        """Return the files that can have rows of an instrument in a span.

        Chosen from all of them: to plan anew for each question takes more than to answer some.
        """
        return [
            file
            for file in self.files_within(view, TimeRange(chosen.start, chosen.end))
            if file.can_have(chosen.symbol, chosen.exchange)
        ]

    def files_within(self, view: TableView, time_range: TimeRange) -> list[PlannedFile]:
        """Return the files that can have rows in a span."""
        return [
            file for file in self.files(view) if file.is_within(time_range.start, time_range.end)
        ]

    def sql(self, view: TableView, files: Sequence[PlannedFile]) -> str:
        """Return the SELECT over some files of a table."""
        if view.table is None:
            return nothing_sql(view.complete_to.table)
        schema = snapshot_schema(record_table(view.table), view.snapshot_id)
        schema = columns_as_read(view.table, schema)
        return table_sql(view.table, files=[file.path for file in files], schema=schema)

    def venues(self, view: TableView, symbol: str) -> list[str]:
        """Return where the lake holds a symbol: of a snapshot that never changes, so asked once."""
        identity = None if view.table is None else view.table.metadata.table_uuid
        key = (identity, view.snapshot_id, symbol)
        venues = self._venues.get(key)
        if venues is None:
            venues = self._look_for_venues(view, symbol)
            with self._lock:
                while len(self._venues) >= VENUES_KEPT:
                    del self._venues[next(iter(self._venues))]
                self._venues[key] = venues
        return venues

    def instruments(self, view: TableView) -> set[str]:
        """Return instruments that the lake holds as `exchange:symbol`: the first few, sorted."""
        rows = self.sql(view, self.files(view))
        instruments = f"SELECT DISTINCT exchange || ':' || symbol AS name FROM ({rows})"
        few = f"{instruments} ORDER BY name LIMIT {LISTED_AT_MOST + 1}"
        return set(self._fetch(few)["name"])

    def _look_for_venues(self, view: TableView, symbol: str) -> list[str]:
        """Each file is of one exchange: a row of the symbol in any of its files is enough."""
        files = [file for file in self.files(view) if file.can_have(symbol, None)]
        by_exchange: dict[str | None, list[PlannedFile]] = {}
        for file in sorted(files, key=lambda file: file.newest_us, reverse=True):
            by_exchange.setdefault(file.exchange, []).append(file)
        found: set[str] = set()
        for exchange, part in by_exchange.items():
            if exchange is None:
                rows = f"FROM ({self.sql(view, part)}) WHERE symbol = {text_sql(symbol)}"
                found |= set(self._fetch(f"SELECT DISTINCT exchange {rows}")["exchange"])
            elif self._has(view, part, symbol):
                found.add(exchange)
        return sorted(found)

    def _has(self, view: TableView, files: Sequence[PlannedFile], symbol: str) -> bool:
        """Look into one file, then into eight times as many, since DuckDB opens all it is given."""
        begin, count = 0, 1
        while begin < len(files):
            part = files[begin : begin + count]
            rows = f"FROM ({self.sql(view, part)}) WHERE symbol = {text_sql(symbol)}"
            if len(self._fetch(f"SELECT 1 {rows} LIMIT 1")):
                return True
            begin, count = begin + count, count * 8
        return False


FIRST_ROWS: Final = 262_144
GROWTH: Final = 8
MICROSECOND: Final = timedelta(microseconds=1)

# Files, and a time beyond which the files left out have no row; None where none is left out.
Step = tuple[Sequence[PlannedFile], int | None]


def from_newest(files: Sequence[PlannedFile], since_us: int | None) -> Iterator[Step]:
    """Yield more and more files, those of the newest rows first.

    Args:
        since_us: no row before this time is wanted.
    """
    chosen = [file for file in files if since_us is None or file.newest_us >= since_us]
    ordered = sorted(chosen, key=lambda file: file.newest_us, reverse=True)
    for count in _counts(ordered):
        yield ordered[:count], ordered[count].newest_us if count < len(ordered) else None


def from_oldest(files: Sequence[PlannedFile]) -> Iterator[Step]:
    """Yield more and more files, those of the oldest rows first."""
    ordered = sorted(files, key=lambda file: file.oldest_us)
    for count in _counts(ordered):
        yield ordered[:count], ordered[count].oldest_us if count < len(ordered) else None


def has_last(frame: pl.DataFrame, count: int, *, rest_us: int | None) -> bool:
    """Say whether no file left out can have one of the last so many rows, found in order."""
    if rest_us is None or count == 0:
        return True
    return len(frame) == count and _time_us(frame, 0) > rest_us


def has_first(frame: pl.DataFrame, count: int, *, rest_us: int | None) -> bool:
    """Say whether no file left out can have one of the first so many rows, found in order."""
    if rest_us is None or count == 0:
        return True
    return len(frame) == count and _time_us(frame, -1) < rest_us


def _time_us(frame: pl.DataFrame, row: int) -> int:
    time: timedelta = frame["timestamp"][row] - EPOCH
    return time // MICROSECOND


def _counts(files: Sequence[PlannedFile]) -> Iterator[int]:
    """So many files that their rows grow eightfold: all of it reads little more than the last."""
    rows, enough = 0, FIRST_ROWS
    for number, file in enumerate(files, start=1):
        rows += file.rows
        if rows >= enough and number < len(files):
            yield number
            enough = rows * GROWTH
    yield len(files)
