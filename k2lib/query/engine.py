"""Reads of lake and log together: SQL over views, and the rows of one instrument."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final

import duckdb
import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import BooleanExpression

from k2lib.errors import QueryError
from k2lib.iceberg.manifests import ALL_ROWS, PlanCache, PlannedFile
from k2lib.iceberg.tables import TableCache
from k2lib.kafka.cluster import FindLog, no_log
from k2lib.lifecycle import Closing
from k2lib.query.answer import Params, ReadResult, fetch_frame, first_lines
from k2lib.query.files import FilePlanner, from_newest, from_oldest, has_first, has_last
from k2lib.query.guard import Guard
from k2lib.query.request import (
    RowKey,
    TimeBound,
    TimeRange,
    instrument_filter,
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
from k2lib.query.time_travel import AsOf, resolve

SETTINGS: Final = (
    "SET GLOBAL TimeZone = 'UTC'",
    "SET GLOBAL late_materialization_max_rows = 100000",
    "SET GLOBAL python_enable_replacements = false",
    "CREATE SCHEMA lake",
    "CREATE MACRO lake.moment() AS 1",
)
# Halves the CPU of SQL over a whole lake. Elsewhere it saves little, and it holds the footers of
# files long deleted: up to DuckDB's memory limit, in a server that runs for weeks.
KEEP_FOOTERS: Final = "SET SESSION parquet_metadata_cache = true"
BY_TIME: Final = ("trades_v2", "quotes_v2")


class Engine(Closing):
    """Answers from the lake and, beyond it, from Kafka; threads may ask at the same time.

    In SQL, `lake.<table>` is a table as it is stored; `trades_v2`, `quotes_v2` and `gaps` have the
    rows too that only Kafka has yet, each message_id once, and `gaps` is the newest revision of
    each gap; `reference_v2` and `dead_letters` are the tables. A table never written is empty.
    `bars_1s`, `bars_1m`, `bars_5m`, `bars_1h` and `bars_1d` are the bars of every instrument.
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
        plans = PlanCache()
        self._lock = threading.Lock()
        self._tails = TailPool(TableCache(catalog).table, find_log)
        self._connection = duckdb.connect()
        for statement in (*SETTINGS, *(() if guard is None else guard.settings)):
            self._connection.execute(statement)
        self._views = SqlViews(self._connection, plans)
        self._planner = FilePlanner(plans, fetch=self.fetch)

    def close(self) -> None:
        """Let go of Kafka, and of the memory that queries took."""
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
        """Run SQL and return the last statement's rows; see `run_sql`."""
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
            QueryError: DuckDB refuses it; the message is DuckDB's.
        """
        views, wanted = self._views, time_range(start, end)
        hybrid = views.hybrid_named(text) if tail else set()
        table_views = {
            name: self.table_view(name, tail=name in hybrid) for name in views.tables_named(text)
        }
        with self._cursor() as cursor:
            if self._guard is None and wanted.is_all:
                cursor.execute(KEEP_FOOTERS)
            with self._lock:
                for name, one in table_views.items():
                    views.show(name, one.table)
                cursor.begin()
                # The transaction holds on to the views from its first look at the catalog.
                cursor.execute("SELECT lake.moment()").fetchall()
            for name, one in table_views.items():
                self._show_here(cursor, name, one, wanted)
            frame = fetch_frame(cursor, text, params)
            cursor.commit()
        views.remember(text, hybrid)
        return ReadResult(frame, {name: one.complete_to for name, one in table_views.items()})

    def _show_here(
        self, cursor: DuckDBPyConnection, name: str, view: TableView, wanted: TimeRange
    ) -> None:
        if wanted.is_all or name not in BY_TIME:
            show_here(cursor, name, view)
            return
        files = self._planner.files_within(view, wanted)
        stored = f"SELECT * FROM ({self._planner.sql(view, files)}) WHERE {wanted.where_sql}"
        some = replace(view, rows=in_span(view.rows, wanted))
        show_here(cursor, name, some, stored=stored)

    def table_view(self, name: str, *, as_of: AsOf | None = None, tail: bool = True) -> TableView:
        """Return a table as it is now, with what only Kafka has; or alone; or as it was."""
        if as_of is not None:
            return self._tails.of_lake(name, resolve=lambda table: resolve(table, as_of))
        return self._tails.view(name) if tail else self._tails.of_lake(name)

    def trades(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return the trades of one instrument in `[start, end)`, in the order of events.

        Args:
            exchange: needed where the symbol is held at more than one.
            start, end: moments with a time zone, or trading dates of the venue.
            as_of: snapshot id, tag or moment: the table as it was then, and nothing of Kafka.
            last: keep only the last so many rows.
            tail: whether to add what only Kafka has yet.
        Raises:
            QueryError: no such symbol, venue or snapshot, or a moment without a time zone.
        """
        return self.ask(
            "trades_v2",
            symbol,
            exchange=exchange,
            start=start,
            end=end,
            as_of=as_of,
            last=last,
            tail=tail,
        ).frame

    def quotes(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
        tail: bool = True,
    ) -> pl.DataFrame:
        """Return the quotes of one instrument in `[start, end)`; everything else as for trades."""
        return self.ask(
            "quotes_v2",
            symbol,
            exchange=exchange,
            start=start,
            end=end,
            as_of=as_of,
            last=last,
            tail=tail,
        ).frame

    def ask(
        self,
        name: str,
        symbol: str,
        *,
        exchange: str | None = None,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        as_of: AsOf | None = None,
        first: int | None = None,
        last: int | None = None,
        after: RowKey | None = None,
        tail: bool = True,
    ) -> ReadResult:
        """Return rows of one instrument, as `trades` does, and how complete they are.

        Args:
            first: keep only the first so many rows.
            after: only rows behind this one in the order of events; not together with `last`.
        """
        _check_counts(first=first, last=last, after=after)
        chosen = self.select(
            name,
            symbol,
            exchange=exchange,
            start=start,
            end=end,
            as_of=as_of,
            after=after,
            tail=tail,
        )
        if last is not None:
            return chosen.answer(self._last(chosen, last))
        if first is not None:
            return chosen.answer(self._first(chosen, first))
        return chosen.answer(self._in_order(chosen))

    def select(
        self,
        name: str,
        symbol: str,
        *,
        exchange: str | None = None,
        start: TimeBound | None = None,
        end: TimeBound | None = None,
        as_of: AsOf | None = None,
        after: RowKey | None = None,
        tail: bool = True,
    ) -> Selection:
        """Find what holds an instrument's rows; the arguments are those of `trades`."""
        view = self.table_view(name, as_of=as_of, tail=tail)
        venues = self._venues(view, symbol, exchange)
        wanted = instrument_filter(
            symbol, pick_exchange(symbol, exchange, venues=venues), start=start, end=end
        ).behind(after)
        rows = of_instrument(view.rows, wanted)
        files = self._planner.files_of(view, wanted)

        def lake_sql(some: Sequence[PlannedFile]) -> str:
            return f"SELECT * FROM ({self._planner.sql(view, some)}) WHERE {wanted.where_sql}"

        parts = (lake_sql(files), *_tail_sql(view, rows, f" WHERE {wanted.where_sql}"))
        return Selection(
            parts,
            rows,
            view.complete_to,
            exchange=wanted.exchange,
            columns=columns_of(view),
            files=files,
            lake_sql=lake_sql,
            after=after,
        )

    def rows(self, view: TableView, *, row_filter: BooleanExpression = ALL_ROWS) -> TableRows:
        """Return what holds a table's rows of a filter, and more: they still need filtering."""
        stored = self._planner.sql(view, self._planner.files(view, row_filter=row_filter))
        return TableRows((stored, *_tail_sql(view, view.rows)), view.rows, view.complete_to)

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
            some = chosen.newest(count).within(files)
            if some.is_of_tail:
                return in_order(some.tail).tail(count)
            frame = self.fetch(last_sql(some, count), some)
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
            some = chosen.within(files)
            frame = self._in_order(some, first=count)
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

    @contextmanager
    def _cursor(self) -> Iterator[DuckDBPyConnection]:
        cursor = self._connection.cursor()
        try:
            with nullcontext() if self._guard is None else self._guard.limit(cursor):
                yield cursor
        except (duckdb.Error, pl.exceptions.PolarsError) as exc:
            raise QueryError(first_lines(exc)) from exc
        finally:
            cursor.close()


def _tail_sql(view: TableView, rows: pa.Table, where: str = "") -> list[str]:
    return [f"SELECT {tail_columns(view)} FROM tail_rows{where}"] if rows.num_rows else []


def _check_counts(*, first: int | None, last: int | None, after: RowKey | None) -> None:
    for name, count in (("first", first), ("last", last)):
        if count is not None and count < 0:
            raise QueryError(f"{name}={count}: give the number of rows to keep, 0 or more")
    if last is not None and first is not None:
        raise QueryError(f"first={first} and last={last}: give one of them")
    if last is not None and after is not None:
        raise QueryError(f"last={last} and after={after}: give one of them")
