"""Reads of lake and log together: SQL over views, and the rows of one instrument."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import duckdb
import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import BooleanExpression, EqualTo
from pyiceberg.table import Table

from k2lib.closing import Closing
from k2lib.errors import QueryError
from k2lib.lake.scan import (
    ALL_ROWS,
    PlanCache,
    compare,
    relation_sql,
    table_sql,
    text_sql,
)
from k2lib.lake.tables import TABLES, load_table
from k2lib.log.source import FindLog, no_log
from k2lib.query.as_of import AsOf, resolve
from k2lib.query.complete import Answer
from k2lib.query.frames import Params, fetch_frame, first_lines
from k2lib.query.instruments import (
    NAMED_AT_MOST,
    When,
    no_such_symbol,
    pick_exchange,
    want,
)
from k2lib.query.seen import Seen
from k2lib.query.selection import Selection, in_span, ordered_sql, tail_columns, where
from k2lib.query.tails import Tails

SETTINGS: Final = (
    "SET GLOBAL TimeZone = 'UTC'",
    "SET GLOBAL parquet_metadata_cache = true",
    "SET GLOBAL late_materialization_max_rows = 100000",
    "SET GLOBAL python_enable_replacements = false",
    "CREATE SCHEMA lake",
    "CREATE MACRO lake.moment() AS 1",
)
# What a view shows of a table and, in an answer that has some, of the log's rows beyond it.
SHOWN: Final = {
    "gaps": "SELECT * FROM ({rows}) QUALIFY revision = max(revision) OVER (PARTITION BY gap_id)"
}
VENUES_KEPT: Final = 256
HYBRID: Final = ("trades_v2", "quotes_v2", "gaps")
CREATES: Final = re.compile(r"\bcreate\b", re.IGNORECASE)


class Engine(Closing):
    """Answers from the lake and, beyond it, from Kafka; threads may ask at the same time.

    In SQL, `lake.<table>` is a table as it is stored; `trades_v2`, `quotes_v2` and `gaps` have the
    rows too that only Kafka has yet, each message_id once, and `gaps` is the newest revision of
    each gap; `reference_v2` and `dead_letters` are the tables. A table never written is empty.
    """

    def __init__(self, catalog: Catalog, *, find_log: FindLog = no_log) -> None:
        """Open an empty DuckDB; files are read when asked for.

        Args:
            find_log: returns where Kafka is now; by default there is none.
        """
        self._catalog = catalog
        self._plans = PlanCache()
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[object, ...]] = {}
        self._in_views: set[str] = set()
        self._venues_known: dict[tuple[object, ...], list[str]] = {}
        self._tails = Tails(lambda name: load_table(catalog, name), find_log)
        self._connection = duckdb.connect()
        for statement in SETTINGS:
            self._connection.execute(statement)

    def close(self) -> None:
        """Let go of Kafka, and of the memory that queries took."""
        self.leave_log()
        self._connection.close()

    def leave_log(self) -> None:
        """Read Kafka no more: from now on answers are of the lake, and say so."""
        self._tails.close()

    def sql(self, text: str, params: Params | None = None, *, tail: bool = True) -> pl.DataFrame:
        """Run SQL and return the last statement's rows; see `ask_sql`."""
        return self.ask_sql(text, params, tail=tail).frame

    def ask_sql(self, text: str, params: Params | None = None, *, tail: bool = True) -> Answer:
        """Run SQL and return the last statement's rows, and how complete they are.

        All statements see each table at one moment: when they begin.

        Args:
            params: values for `?` in order, or for `$name` by name.
            tail: whether the views have what only Kafka has yet.
        Raises:
            QueryError: DuckDB refuses it; the message is DuckDB's.
        """
        hybrid = self._hybrid_named(text) if tail else set()
        seen = {name: self.look(name, tail=name in hybrid) for name in self._tables_named(text)}
        with self._cursor() as cursor:
            with self._lock:
                for name, one in seen.items():
                    self._show(name, one.table)
                cursor.begin()
                # The transaction holds on to the views from its first look at the catalog.
                cursor.execute("SELECT lake.moment()").fetchall()
            for name, one in seen.items():
                _show_tail(cursor, name, one)
            frame = fetch_frame(cursor, text, params)
            cursor.commit()
        if CREATES.search(text):
            self._in_views |= hybrid
        return Answer(frame, {name: one.complete_to for name, one in seen.items()})

    def look(self, name: str, *, as_of: AsOf | None = None, tail: bool = True) -> Seen:
        """Return a table as it is now, with what only Kafka has; or alone; or as it was."""
        if as_of is not None:
            return self._tails.of_lake(name, resolve=lambda table: resolve(table, as_of))
        return self._tails.ask(name) if tail else self._tails.of_lake(name)

    def trades(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
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
        start: When | None = None,
        end: When | None = None,
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
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
        tail: bool = True,
    ) -> Answer:
        """Return rows of one instrument, as `trades` does, and how complete they are."""
        chosen = self.select(
            name, symbol, exchange=exchange, start=start, end=end, as_of=as_of, tail=tail
        )
        return chosen.answer(self.fetch(ordered_sql(chosen, last), chosen))

    def select(
        self,
        name: str,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        tail: bool = True,
    ) -> Selection:
        """Find what holds an instrument's rows; the arguments are those of `trades`."""
        seen = self.look(name, as_of=as_of, tail=tail)
        of_symbol = where(seen.rows, "symbol", symbol)
        held_at = self._venues(seen, symbol, of_symbol, exchange=exchange)
        wanted = want(
            symbol, pick_exchange(symbol, exchange, held_at=held_at), start=start, end=end
        )
        rows = in_span(where(of_symbol, "exchange", wanted.exchange), wanted)
        stored = self._rows_sql(seen, row_filter=wanted.row_filter)
        parts = [f"SELECT * FROM ({stored}) WHERE {wanted.where_sql}"]
        if rows.num_rows:
            parts.append(f"SELECT {tail_columns(seen)} FROM tail_rows")
        return Selection(wanted.exchange, tuple(parts), rows, seen.complete_to)

    def fetch(self, query: str, chosen: Selection | None = None) -> pl.DataFrame:
        """Run a query over a selection's SQL; the views of the tables may be older there."""
        with self._cursor() as cursor:
            if chosen is not None and chosen.tail.num_rows:
                cursor.register("tail_rows", chosen.tail)
            return fetch_frame(cursor, query, None)

    def files_sql(self, table: Table, files: Sequence[str]) -> str:
        """Return the SELECT over some files of a table, for `fetch`."""
        with self._lock:
            return table_sql(self._connection, table, files=files)

    def _tables_named(self, text: str) -> set[str]:
        """All where none is named: the text may list them, or read a view made earlier."""
        named = {name for name in TABLES if re.search(rf"\b{name}\b", text, re.IGNORECASE)}
        return (named or set(TABLES)) | self._in_views

    def _hybrid_named(self, text: str) -> set[str]:
        """The tables to be shown with what only Kafka has: named alone, or in a view made here."""
        alone = r"(?<!\blake\.)\b{}\b"
        named = {n for n in HYBRID if re.search(alone.format(n), text, re.IGNORECASE)}
        return named | self._in_views

    def _venues(
        self, seen: Seen, symbol: str, of_symbol: pa.Table, *, exchange: str | None
    ) -> list[str]:
        in_tail = set(of_symbol["exchange"].to_pylist())
        if exchange in in_tail:
            return sorted(in_tail)
        venues = sorted({*self._stored_venues(seen, symbol), *in_tail})
        if not venues:
            raise no_such_symbol(symbol, table=seen.complete_to.table, held=self._held(seen))
        return venues

    def _stored_venues(self, seen: Seen, symbol: str) -> list[str]:
        """What a snapshot holds never changes, so it is asked once."""
        identity = None if seen.table is None else seen.table.metadata.table_uuid
        key = (identity, seen.snapshot_id, symbol)
        known = self._venues_known.get(key)
        if known is None:
            rows = self._rows_sql(seen, row_filter=compare(EqualTo, "symbol", symbol))
            matching = f"FROM ({rows}) WHERE symbol = {text_sql(symbol)}"
            known = self.fetch(f"SELECT DISTINCT exchange {matching}")["exchange"].to_list()
            with self._lock:
                while len(self._venues_known) >= VENUES_KEPT:
                    del self._venues_known[next(iter(self._venues_known))]
                self._venues_known[key] = known
        return known

    def _held(self, seen: Seen) -> list[str]:
        rows = self._rows_sql(seen, row_filter=ALL_ROWS)
        instruments = f"SELECT DISTINCT exchange || ':' || symbol AS held FROM ({rows})"
        few = f"{instruments} ORDER BY held LIMIT {NAMED_AT_MOST + 1}"
        in_tail = pl.DataFrame(seen.rows.select(["exchange", "symbol"])).unique().rows()
        held = {*self.fetch(few)["held"], *(":".join(one) for one in in_tail)}
        return sorted(held)[: NAMED_AT_MOST + 1]

    def _rows_sql(self, seen: Seen, *, row_filter: BooleanExpression) -> str:
        table = seen.table
        if table is None:
            return _nothing_sql(self._connection, seen.complete_to.table)
        files = self._plans.files(table, row_filter=row_filter, snapshot_id=seen.snapshot_id)
        return self.files_sql(table, files)

    def _show(self, name: str, table: Table | None) -> None:
        state = _state(table)
        if self._shown.get(name) == state:
            return
        if table is None:
            rows = _nothing_sql(self._connection, name)
        else:
            rows = table_sql(self._connection, table, files=self._plans.files(table))
        self._connection.execute(f"CREATE OR REPLACE VIEW lake.{name} AS {rows}")
        self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {_shown_sql(name)}")
        self._shown[name] = state

    @contextmanager
    def _cursor(self) -> Iterator[DuckDBPyConnection]:
        cursor = self._connection.cursor()
        try:
            yield cursor
        except (duckdb.Error, pl.exceptions.PolarsError) as exc:
            raise QueryError(first_lines(exc)) from exc
        finally:
            cursor.close()


def _state(table: Table | None) -> tuple[object, ...]:
    if table is None:
        return ()
    metadata = table.metadata
    return metadata.table_uuid, metadata.current_snapshot_id, metadata.current_schema_id


def _nothing_sql(connection: DuckDBPyConnection, name: str) -> str:
    return relation_sql(connection, [], schema=TABLES[name].schema.arrow)


def _shown_sql(name: str, *more: str) -> str:
    rows = " UNION ALL BY NAME ".join([f"SELECT * FROM lake.{name}", *more])
    return SHOWN.get(name, "{rows}").format(rows=rows)


def _show_tail(cursor: DuckDBPyConnection, name: str, seen: Seen) -> None:
    """Let the view of a table have the tail's rows, for one cursor alone."""
    if seen.rows.num_rows:
        cursor.register(f"tail_{name}", seen.rows)
        shown = _shown_sql(name, f"SELECT {tail_columns(seen)} FROM tail_{name}")
        cursor.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {shown}")
