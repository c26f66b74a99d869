"""What a replay is of: its instruments, and where their rows stand at one snapshot."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import pyarrow as pa
from pyiceberg.expressions import Or

from k2lib.errors import QueryError
from k2lib.iceberg.manifests import PlannedFile, plan_files
from k2lib.iceberg.tables import TABLES
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest, no_such_symbol, pick_exchange
from k2lib.query.table_state import TableView
from k2lib.replay.series import (
    InstrumentSeries,
    Parts,
    SortedRun,
    in_file,
    in_table,
    of_tail,
    times_us,
)
from k2lib.schema.order import EVENT_ORDER

TABLE_OF: Final = {"trades": "trades_v2", "quotes": "quotes_v2"}
# Rows read at once of all runs together; of one run, at least and at most.
ROWS_HELD: Final = 1_000_000
FEWEST: Final = 2_048
MOST: Final = 32_768


@dataclass(frozen=True)
class Plan:
    """What a replay is of, and how it is read.

    Attributes:
        all_series: by their rank.
        views: the table of each kind, as it was when the replay was made.
        files: of each kind, those that can hold rows of its series.
        rows: of a lane that are read at once.
    """

    all_series: tuple[InstrumentSeries, ...]
    views: Mapping[str, TableView]
    files: Mapping[str, Sequence[PlannedFile]]
    rows: int

    def series(self, kind: str, symbol: str) -> "Plan":
        """Return the plan of the records of one kind and symbol."""
        series = [one for one in self.all_series if one.kind == kind]
        return replace(
            self,
            all_series=tuple(one for one in series if one.instrument.symbol == symbol),
            views={kind: self.views[kind]},
        )

    def runs(self, columns: Sequence[str] | None) -> list[SortedRun]:
        """Return where the rows stand, to be read with these columns, or all."""
        found: list[SortedRun] = []
        for kind, view in self.views.items():
            schema = _schema(kind, columns)
            all_series = [series for series in self.all_series if series.kind == kind]
            with_ids = columns is None or "message_id" in columns
            read = partial(in_file, schema=schema, rows=self.rows, with_ids=with_ids)
            found += _runs_of_files(all_series, self.files[kind], view, read)
            found += _in_tail(all_series, view, schema, self.rows)
        return found


def make_plan(
    engine: Engine, requests: Sequence[ReadRequest], views: Mapping[str, TableView]
) -> Plan:
    """Find the venue of each symbol and the span of time there.

    Args:
        views: the table of each kind.
    Raises:
        NotFoundError: no such symbol or venue.
        QueryError: a symbol of several venues, or no such span.
    """
    located = {(_exchange(engine, one, views), one.symbol): one for one in requests}
    filters = [one.at(exchange) for (exchange, _), one in sorted(located.items(), key=_name)]
    pairs = [(kind, one) for one in filters for kind in TABLE_OF if kind in views]
    all_series = tuple(InstrumentSeries(*pair, rank) for rank, pair in enumerate(pairs))
    files = {
        kind: _files([series for series in all_series if series.kind == kind], one)
        for kind, one in views.items()
    }
    return Plan(all_series, views, files, max(FEWEST, min(MOST, ROWS_HELD // len(all_series))))


def _name(located: tuple[tuple[str, str], ReadRequest]) -> tuple[str, str]:
    return located[0]


def _exchange(engine: Engine, request: ReadRequest, views: Mapping[str, TableView]) -> str:
    symbol = request.symbol
    venues = {venue for view in views.values() for venue in engine.venues(view, symbol)}
    if not venues:
        names = " or ".join(view.complete_to.table for view in views.values())
        instruments = {name for view in views.values() for name in engine.instruments(view)}
        raise no_such_symbol(symbol, table=names, instruments=sorted(instruments))
    return pick_exchange(symbol, request.exchange, venues=sorted(venues))


def _schema(kind: str, columns: Sequence[str] | None) -> pa.Schema:
    whole = TABLES[TABLE_OF[kind]].schema.arrow
    needed = whole.names if columns is None else {*columns, *EVENT_ORDER}
    return pa.schema([one for one in whole if one.name in needed])


@contextmanager
def still_kept(view: TableView) -> Iterator[None]:
    """Say of files that are gone why they are.

    Raises:
        QueryError: one was not found.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise QueryError(
            f"snapshot {view.snapshot_id} of {view.complete_to.table} is no longer kept, and files "
            "of it are gone: replay faster, or as_of= a tag, which keeps a snapshot"
        ) from exc


def _files(all_series: Sequence[InstrumentSeries], view: TableView) -> list[PlannedFile]:
    table = view.table
    if table is None or view.snapshot_id is None:
        return []
    filters = [series.instrument.row_filter for series in all_series]
    either = filters[0] if len(filters) == 1 else Or(*filters)
    return plan_files(table, row_filter=either, snapshot_id=view.snapshot_id)


def _runs_of_files(
    all_series: Sequence[InstrumentSeries],
    files: Sequence[PlannedFile],
    view: TableView,
    read: Callable[..., Parts],
) -> Iterator[SortedRun]:
    table = view.table
    if table is None:
        return
    for file in files:
        for series in all_series:
            if file.can_have(series.instrument.symbol, series.instrument.exchange):
                parts = partial(read, series, file.path, io=table.io)
                yield SortedRun(series, file.oldest_us, partial(_while_kept, parts, view))


def _while_kept(read: Callable[[], Parts], view: TableView) -> Parts:
    with still_kept(view):
        yield from read()


def _in_tail(
    all_series: Sequence[InstrumentSeries], view: TableView, schema: pa.Schema, rows: int
) -> Iterator[SortedRun]:
    if not view.rows.num_rows:
        return
    for series in all_series:
        found = of_tail(view.rows, series, schema)
        if found.num_rows:
            since = int(times_us(found).min())
            yield SortedRun(series, since, partial(in_table, found, rows=rows))
