"""Reads of the lake: SQL over views of the tables, and the rows of one instrument."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import duckdb
import polars as pl
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import BooleanExpression, EqualTo
from pyiceberg.table import Table

from k2lib.closing import Closing
from k2lib.errors import QueryError
from k2lib.lake.scan import (
    ALL_ROWS,
    PlanCache,
    compare,
    newest_snapshot_id,
    relation_sql,
    table_sql,
    text_sql,
)
from k2lib.lake.tables import ORDER, TABLES, load_table
from k2lib.query.as_of import AsOf, resolve
from k2lib.query.instruments import (
    NAMED_AT_MOST,
    When,
    no_such_symbol,
    pick_exchange,
    want,
)

Params = Sequence[object] | Mapping[str, object]
SETTINGS: Final = (
    "SET GLOBAL TimeZone = 'UTC'",
    "SET GLOBAL parquet_metadata_cache = true",
    "SET GLOBAL late_materialization_max_rows = 100000",
    "SET GLOBAL python_enable_replacements = false",
    "CREATE SCHEMA lake",
)
NEWEST_REVISIONS: Final = (
    "SELECT * FROM lake.gaps QUALIFY revision = max(revision) OVER (PARTITION BY gap_id)"
)
IN_ORDER: Final = ", ".join(f"{name} ASC NULLS FIRST" for name in ORDER)
LATEST_FIRST: Final = ", ".join(f"{name} DESC NULLS LAST" for name in ORDER)


@dataclass(frozen=True)
class Selection:
    """The rows of one instrument, as a SELECT in no particular order."""

    exchange: str
    sql: str


class Engine(Closing):
    """Answers from the lake; threads may ask at the same time.

    In SQL, `lake.<table>` is a table as it is stored; `trades_v2`, `quotes_v2`, `reference_v2` and
    `dead_letters` are the same, and `gaps` is the newest revision of each gap. A table that was
    never written is empty.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._plans = PlanCache()
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[object, ...]] = {}
        self._connection = duckdb.connect()
        for statement in SETTINGS:
            self._connection.execute(statement)

    def close(self) -> None:
        """Let go of the memory that queries took."""
        self._connection.close()

    def sql(self, text: str, params: Params | None = None) -> pl.DataFrame:
        """Run SQL and return the last statement's rows.

        All statements see the same snapshot of each table: the current one when they begin.

        Args:
            params: values for `?` in order, or for `$name` by name.
        Raises:
            QueryError: DuckDB refuses it; the message is DuckDB's.
        """
        with self._cursor() as cursor:
            with self._lock:
                for name in _tables_named(text):
                    self._show(name)
            cursor.begin()
            frame = _frame(cursor, text, params)
            cursor.commit()
            return frame

    def trades(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        """Return the trades of one instrument in `[start, end)`, in the order of events.

        Args:
            exchange: needed where the symbol is held at more than one.
            start, end: moments with a time zone, or trading dates of the venue.
            as_of: snapshot id, tag or moment; the newest snapshot without it.
            last: keep only the last so many rows.
        Raises:
            QueryError: no such symbol, venue or snapshot, or a moment without a time zone.
        """
        chosen = self.select(
            "trades_v2", symbol, exchange=exchange, start=start, end=end, as_of=as_of
        )
        return self.fetch(_ordered(chosen.sql, last))

    def quotes(
        self,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        """Return the quotes of one instrument in `[start, end)`; everything else as for trades."""
        chosen = self.select(
            "quotes_v2", symbol, exchange=exchange, start=start, end=end, as_of=as_of
        )
        return self.fetch(_ordered(chosen.sql, last))

    def select(
        self,
        name: str,
        symbol: str,
        *,
        exchange: str | None = None,
        start: When | None = None,
        end: When | None = None,
        as_of: AsOf | None = None,
    ) -> Selection:
        """Find the files that hold an instrument's rows; the arguments are those of `trades`."""
        table = load_table(self._catalog, name)
        if table is None:
            raise no_such_symbol(symbol, table=name, held=[])
        at = newest_snapshot_id(table) if as_of is None else resolve(table, as_of)
        held_at = self._venues(table, symbol, at=at)
        wanted = want(
            symbol, pick_exchange(symbol, exchange, held_at=held_at), start=start, end=end
        )
        rows = self._rows_sql(table, at=at, row_filter=wanted.row_filter)
        return Selection(wanted.exchange, f"SELECT * FROM ({rows}) WHERE {wanted.where_sql}")

    def fetch(self, query: str) -> pl.DataFrame:
        """Run a query over a selection's SQL; the views of the tables may be older there."""
        with self._cursor() as cursor:
            return _frame(cursor, query, None)

    def _venues(self, table: Table, symbol: str, *, at: int | None) -> list[str]:
        rows = self._rows_sql(table, at=at, row_filter=compare(EqualTo, "symbol", symbol))
        matching = f"FROM ({rows}) WHERE symbol = {text_sql(symbol)}"
        venues = self.fetch(f"SELECT DISTINCT exchange {matching} ORDER BY exchange")["exchange"]
        if venues.is_empty():
            raise no_such_symbol(symbol, table=table.name()[-1], held=self._held(table, at=at))
        return venues.to_list()

    def _held(self, table: Table, *, at: int | None) -> list[str]:
        rows = self._rows_sql(table, at=at, row_filter=ALL_ROWS)
        instruments = f"SELECT DISTINCT exchange || ':' || symbol AS held FROM ({rows})"
        few = f"{instruments} ORDER BY held LIMIT {NAMED_AT_MOST + 1}"
        return self.fetch(few)["held"].to_list()

    def _rows_sql(self, table: Table, *, at: int | None, row_filter: BooleanExpression) -> str:
        files = self._plans.files(table, row_filter=row_filter, snapshot_id=at)
        with self._lock:
            return table_sql(self._connection, table, files=files)

    def _show(self, name: str) -> None:
        table = load_table(self._catalog, name)
        state = _state(table)
        if self._shown.get(name) == state:
            return
        if table is None:
            rows = relation_sql(self._connection, [], schema=TABLES[name].schema.arrow)
        else:
            rows = table_sql(self._connection, table, files=self._plans.files(table))
        current = NEWEST_REVISIONS if name == "gaps" else f"SELECT * FROM lake.{name}"
        self._connection.execute(f"CREATE OR REPLACE VIEW lake.{name} AS {rows}")
        self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {current}")
        self._shown[name] = state

    @contextmanager
    def _cursor(self) -> Iterator[DuckDBPyConnection]:
        cursor = self._connection.cursor()
        try:
            yield cursor
        except (duckdb.Error, pl.exceptions.PolarsError) as exc:
            raise QueryError(_first_lines(exc)) from exc
        finally:
            cursor.close()


def _state(table: Table | None) -> tuple[object, ...]:
    if table is None:
        return ()
    metadata = table.metadata
    return metadata.table_uuid, metadata.current_snapshot_id, metadata.current_schema_id


def _tables_named(text: str) -> list[str]:
    """All where none is named: the text may list them, or read a view made earlier."""
    named = [name for name in TABLES if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    return named or list(TABLES)


def _ordered(rows: str, last: int | None) -> str:
    if last is None:
        return f"{rows} ORDER BY {IN_ORDER}"
    if last < 0:
        raise QueryError(f"last={last}: give the number of rows to keep, 0 or more")
    return f"SELECT * FROM ({rows} ORDER BY {LATEST_FIRST} LIMIT {last}) ORDER BY {IN_ORDER}"


def _frame(cursor: DuckDBPyConnection, text: str, params: Params | None) -> pl.DataFrame:
    relation = cursor.sql(text, params=params)
    if relation is None:
        return pl.DataFrame()
    kinds = {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
    spans = [name for name, kind in kinds.items() if kind == "INTERVAL"]
    for name, kind in kinds.items():
        if "INTERVAL" in kind and name not in spans:
            raise QueryError(f"column {name} is {kind}: cast the interval in it to VARCHAR")
    frame: pl.DataFrame = _spans_counted(relation, spans).pl()
    return frame.with_columns(pl.col(spans).cast(pl.Duration("us")))


def _spans_counted(relation: DuckDBPyRelation, spans: Sequence[str]) -> DuckDBPyRelation:
    """Polars has no type for months: a month counts as 30 days."""
    if not spans:
        return relation
    counted = ", ".join(f'epoch_us("{name}") AS "{name}"' for name in spans)
    return relation.project(f"* REPLACE ({counted})")


def _first_lines(exc: Exception) -> str:
    told = str(exc).partition("\n\n")[0]
    if "Overflow in multiplication of DECIMAL" in told:
        return f"{told} For example price::DECIMAL(38, 8) * quantity"
    return told
