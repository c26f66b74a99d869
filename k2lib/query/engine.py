"""Reads of lake and log together: SQL over views, and the rows of one instrument."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Final

import duckdb
import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import BooleanExpression

from k2lib.errors import ClosedError, DamagedFileError, QueryError, TransientError
from k2lib.iceberg.catalog import cause_text, damage_text
from k2lib.iceberg.duckdb_files import NO_TABLE_FILE, open_duckdb, read_failure
from k2lib.iceberg.manifests import ALL_ROWS, PlanCache, PlannedFile
from k2lib.iceberg.tables import TABLES, TableCache
from k2lib.kafka.cluster import FindLog, no_log
from k2lib.lifecycle import Closing, interrupts_kept
from k2lib.query.answer import CompleteTo, Params, ReadResult, check_sql, fetch_frame, first_lines
from k2lib.query.files import FilePlanner, from_newest, from_oldest, has_first, has_last
from k2lib.query.guard import Guard
from k2lib.query.open_gaps import OpenGaps, within
from k2lib.query.request import (
    AsOf,
    InstrumentFilter,
    ReadRequest,
    TimeBound,
    TimeRange,
    check_as_of,
    check_flag,
    check_span,
    no_such_symbol,
    pick_exchange,
    time_range,
)
from k2lib.query.sql import (
    Selection,
    SqlViews,
    TableRows,
    columns_of,
    in_order,
    in_order_sql,
    in_span,
    instruments_of,
    last_sql,
    of_instrument,
    show_here,
    tail_columns,
    venues_of,
)
from k2lib.query.table_state import TableView
from k2lib.query.tail import TailPool
from k2lib.query.time_travel import resolve
from k2lib.reasons import RESTORE, with_remedy

SETTINGS: Final = (
    "SET GLOBAL TimeZone = 'UTC'",
    "SET GLOBAL late_materialization_max_rows = 100000",
    "SET GLOBAL python_enable_replacements = false",
    "CREATE SCHEMA lake",
    "CREATE SCHEMA on_market",
    "CREATE MACRO lake.moment() AS 1",
)
# Halves the CPU of SQL over a whole lake. Elsewhere it saves little, and it holds the footers of
# files long deleted: up to DuckDB's memory limit, in a server that runs for weeks.
KEEP_FOOTERS: Final = "SET SESSION parquet_metadata_cache = true"
BY_TIME: Final = ("trades_v2", "quotes_v2")
# Venues count trades alone, so of no other table it is known what is missing.
WITH_GAPS: Final = "trades_v2"
GAPS: Final = "gaps"
QUOTED: Final = re.compile(r"['\"]([^'\"]+)['\"]")


class Engine(Closing):
    """Answers from the lake and, beyond it, from Kafka; threads may ask at the same time.

    In SQL, `lake.<table>` is a table as it is stored; `trades_v2`, `quotes_v2` and `gaps` have the
    rows too that only Kafka has yet, each message_id once, and `gaps` is the newest revision of
    each gap; `reference_v2` and `dead_letters` are the tables. A table never written is empty.
    `bars_1s`, `bars_1m`, `bars_5m`, `bars_1h` and `bars_1d` are the bars of every instrument, of
    all its trades; those of the schema `on_market` leave out the off-market prints.
    """

    def __init__(
        self, catalog: Catalog, *, find_log: FindLog = no_log, guard: Guard | None = None
    ) -> None:
        """Open an empty DuckDB; files are read when asked for.

        Args:
            find_log: returns where Kafka is now; by default there is none.
            guard: what a query may take and touch, where strangers ask.
        """
        self._guard = guard
        self._closed = False
        self._plans = plans = PlanCache()
        self._lock = threading.Lock()
        self._tails = TailPool(TableCache(catalog).table, find_log)
        self._connection = open_duckdb()
        for statement in (*SETTINGS, *(() if guard is None else guard.settings)):
            self._connection.execute(statement)
        self._views = SqlViews(self._connection, plans)
        self._planner = FilePlanner(plans, fetch=self.fetch)
        self._gaps = OpenGaps(self.rows, self._rows_of, self.fetch)

    def close(self) -> None:
        """Let go of Kafka, and of the memory that queries took."""
        self._closed = True
        self.leave_log()
        self._connection.close()

    def leave_log(self) -> None:
        """Read Kafka no more: from now on answers are of the lake, and say so."""
        self._tails.close()

    def sql(
        self,
        text: str,
        params: Params | None = None,
        *,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Run SQL and return the last statement's rows, as `run_sql` does."""
        return self.run_sql(text, params, start=start, end=end, tail=tail).frame

    def run_sql(
        self,
        text: str,
        params: Params | None = None,
        *,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        tail: bool = True,
    ) -> ReadResult:
        """Run SQL and return the last statement's rows, and how complete they are.

        All statements see each table at one moment: when they begin.

        Args:
            params: values for `?` in order, or for `$name` by name.
            start, end: `trades_v2`, `quotes_v2` and bars have only `[start, end)`, and no file of
                other times is opened; dates are of UTC.
            tail: whether the views have what only Kafka has yet.
        Raises:
            QueryError: DuckDB refuses it; the message is DuckDB's. Or an argument has a wrong type.
            TableError: another engine left a named table as it cannot be read.
            ClosedError: the engine was closed.
        """
        check_sql(text, params)
        check_span(start, end)
        check_flag("tail", tail)
        views, span = self._views, time_range(start, end)
        hybrid = views.hybrid_named(text) if tail else set()
        table_views = {
            name: self.table_view(name, tail=name in hybrid) for name in views.tables_named(text)
        }
        with self._cursor() as cursor:
            if self._guard is None and span.is_all:
                cursor.execute(KEEP_FOOTERS)
            with self._lock:
                for name, shown in table_views.items():
                    views.show(name, shown.table)
                views.check(text)
                cursor.begin()
                # The transaction holds on to the views from its first look at the catalog.
                cursor.execute("SELECT lake.moment()").fetchall()
            for name, shown in table_views.items():
                self._show_here(cursor, name, shown, span)
            frame = fetch_frame(cursor, text, params)
            cursor.commit()
        views.remember(text, hybrid)
        complete_to = {
            name: _inside(shown.complete_to, start=span.start, end=span.end)
            for name, shown in table_views.items()
        }
        return ReadResult(frame, complete_to)

    def _show_here(
        self, cursor: DuckDBPyConnection, name: str, view: TableView, span: TimeRange
    ) -> None:
        if span.is_all or name not in BY_TIME:
            show_here(cursor, name, view)
            return
        files = self._planner.files_within(view, span)
        lake = f"SELECT * FROM ({self._planner.sql(view, files)}) WHERE {span.where_sql}"
        part = replace(view, rows=in_span(view.rows, span))
        show_here(cursor, name, part, rows_sql=lake)

    def table_view(self, name: str, *, as_of: AsOf | None = None, tail: bool = True) -> TableView:
        """Return a table as it is now, with what only Kafka has; or alone; or as it was.

        Raises:
            QueryError: there is no such table.
            NotFoundError: no such snapshot is kept.
            ClosedError: the engine was closed.
        """
        self.check_open()
        check_table(name)
        check_as_of(as_of)
        view = self._view(name, as_of=as_of, tail=tail)
        if name != WITH_GAPS:
            return view
        gaps = self._tails.at_hand(GAPS) if tail and as_of is None else self._tails.of_lake(GAPS)
        found = self._gaps.of(gaps, view)
        return replace(view, complete_to=replace(view.complete_to, gaps=found))

    def _view(self, name: str, *, as_of: AsOf | None, tail: bool) -> TableView:
        if as_of is not None:
            return self._tails.of_lake(name, resolve=lambda table: resolve(table, as_of))
        return self._tails.view(name) if tail else self._tails.of_lake(name)

    def _rows_of(self, view: TableView, instrument: InstrumentFilter) -> TableRows:
        return self.rows(view, row_filter=instrument.row_filter)

    def read(self, table: str, request: ReadRequest) -> ReadResult:
        """Return the rows of one instrument, in the order of events, and how complete they are.

        Args:
            table: `trades_v2` or `quotes_v2`.
        Raises:
            NotFoundError: no such symbol, venue or snapshot; the message names what there is.
            QueryError: the symbol trades at several venues and the request names none, or a
                moment without a time zone.
        """
        selection = self.select(table, request)
        if request.last is not None:
            return _among(selection.result(self._last(selection, request.last)), newest=True)
        if request.first is not None:
            return _among(selection.result(self._first(selection, request.first)), newest=False)
        return selection.result(self._in_order(selection))

    def select(self, table: str, request: ReadRequest) -> Selection:
        """Find the files and the rows of the tail that a request needs; its counts do not matter.

        Raises:
            NotFoundError, QueryError: as `read`.
        """
        if request.market != "all" and table != "trades_v2":
            raise QueryError(f"market={request.market!r}: {table} has no markets, leave it out")
        view = self.table_view(table, as_of=request.as_of, tail=request.tail)
        venues = self._venues(view, request.symbol, request.exchange)
        chosen = request.at(pick_exchange(request.symbol, request.exchange, venues=venues))
        rows = of_instrument(view.rows, chosen)
        files = self._planner.files_of(view, chosen)

        def lake_sql(files: Sequence[PlannedFile]) -> str:
            return f"SELECT * FROM ({self._planner.sql(view, files)}) WHERE {chosen.where_sql}"

        parts = (lake_sql(files), *_tail_sql(view, rows, f" WHERE {chosen.where_sql}"))
        return Selection(
            parts,
            rows,
            _of(view.complete_to, chosen),
            exchange=chosen.exchange,
            columns=columns_of(view),
            files=files,
            lake_sql=lake_sql,
            after=request.after,
        )

    def rows(self, view: TableView, *, row_filter: BooleanExpression = ALL_ROWS) -> TableRows:
        """Return what holds a table's rows of a filter, and more: they still need filtering."""
        lake = self._planner.sql(view, self._planner.files(view, row_filter=row_filter))
        return TableRows((lake, *_tail_sql(view, view.rows)), view.rows, view.complete_to)

    def venues(self, view: TableView, symbol: str) -> list[str]:
        """Return the venues at which a table holds a symbol, sorted; none where it does not."""
        return sorted({*self._planner.venues(view, symbol), *venues_of(view.rows, symbol)})

    def instruments(self, view: TableView) -> list[str]:
        """Return instruments that a table holds, as `exchange:symbol`: some, the first for sure."""
        return sorted({*self._planner.instruments(view), *instruments_of(view.rows)})

    def fetch(
        self, query: str, chosen: TableRows | None = None, *, params: Params | None = None
    ) -> pl.DataFrame:
        """Run a query over a selection's SQL; the views of the tables may be older there."""
        with self._cursor() as cursor:
            if chosen is not None and chosen.tail.num_rows:
                cursor.register("tail_rows", chosen.tail)
            return fetch_frame(cursor, query, params)

    def _last(self, chosen: Selection, count: int) -> pl.DataFrame:
        """Read back from the newest until no file left out can have more of the rows wanted."""
        for files, rest_us in from_newest(chosen.files, chosen.since_us(count)):
            part = chosen.newest(count).within(files)
            if part.is_of_tail:
                return in_order(part.tail).tail(count)
            frame = self.fetch(last_sql(part, count), part)
            if has_last(frame, count, rest_us=rest_us):
                break
        return frame

    def _in_order(self, chosen: Selection, *, first: int | None = None) -> pl.DataFrame:
        if chosen.is_of_tail:
            rows = in_order(chosen.tail)
            return rows if first is None else rows.head(first)
        return self.fetch(in_order_sql(chosen.sql, first=first), chosen)

    def _first(self, chosen: Selection, count: int) -> pl.DataFrame:
        for files, rest_us in from_oldest(chosen.files):
            part = chosen.within(files)
            frame = self._in_order(part, first=count)
            if has_first(frame, count, rest_us=rest_us):
                break
        return frame

    def _venues(self, view: TableView, symbol: str, exchange: str | None) -> list[str]:
        in_tail = venues_of(view.rows, symbol)
        if exchange in in_tail:
            return in_tail
        venues = self.venues(view, symbol)
        if not venues:
            raise no_such_symbol(
                symbol, table=view.complete_to.table, instruments=self.instruments(view)
            )
        return venues

    def check_open(self) -> None:
        """Refuse an engine that was closed.

        Raises:
            ClosedError: it was.
        """
        if self._closed:
            raise ClosedError("this home was closed: open it again, with K2.open(...)")

    @contextmanager
    def _cursor(self) -> Iterator[DuckDBPyConnection]:
        self.check_open()
        cursor = self._connection.cursor()
        try:
            limit = nullcontext() if self._guard is None else self._guard.limit(cursor)
            with limit, interrupts_kept(cursor.interrupt):
                yield cursor
        except (duckdb.Error, pl.exceptions.PolarsError) as exc:
            raise self._error(exc) from exc
        finally:
            cursor.close()

    def _error(self, exc: Exception) -> QueryError | DamagedFileError | TransientError:
        """Blame the query, unless a file of a table is named that the table does have."""
        failure = read_failure(exc)
        text = failure or first_lines(exc)
        file = next(filter(self._plans.lists, QUOTED.findall(text)), None)
        if file is not None:
            return DamagedFileError(f"the table file {file} {damage_text(exc)}: {RESTORE}")
        if failure is None or NO_TABLE_FILE in failure:
            return QueryError(text)
        return TransientError(f"the lake cannot be read: {with_remedy(cause_text(exc))}")


def _tail_sql(view: TableView, rows: pa.Table, where: str = "") -> list[str]:
    return [f"SELECT {tail_columns(view)} FROM tail_rows{where}"] if rows.num_rows else []


def _inside(complete_to: CompleteTo, *, start: datetime | None, end: datetime | None) -> CompleteTo:
    """Return it with only those gaps that may have trades in `[start, end)`."""
    if not complete_to.gaps:
        return complete_to
    return replace(complete_to, gaps=within(complete_to.gaps, start=start, end=end))


def _of(complete_to: CompleteTo, chosen: InstrumentFilter) -> CompleteTo:
    """Return it with only the gaps of one instrument in its span."""
    if not complete_to.gaps:
        return complete_to
    instrument = (chosen.exchange, chosen.symbol)
    gaps = (gap for gap in complete_to.gaps if (gap.exchange, gap.symbol) == instrument)
    return replace(complete_to, gaps=within(gaps, start=chosen.start, end=chosen.end))


def _among(result: ReadResult, *, newest: bool) -> ReadResult:
    """Leave out the gaps that lie before the newest rows, or behind the oldest."""
    times = result.frame.get_column("timestamp", default=pl.Series(dtype=pl.Datetime("us", "UTC")))
    if times.is_empty():
        return result
    start, end = (times[0], None) if newest else (None, times[-1])
    complete_to = {
        name: _inside(one, start=start, end=end) for name, one in result.complete_to.items()
    }
    return ReadResult(result.frame, complete_to)


def check_table(name: str) -> None:
    """Refuse the name of a table that does not exist.

    Raises:
        QueryError: names those that do.
    """
    if not isinstance(name, str) or name not in TABLES:
        raise QueryError(f"no table {name}; there are {', '.join(TABLES)}")
