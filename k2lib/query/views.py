"""What SQL sees by name: each table alone, with the rows that only Kafka has, and as bars."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from duckdb import DuckDBPyConnection
from pyiceberg.table import Table

from k2lib.lake.scan import PlanCache, relation_sql, table_sql
from k2lib.lake.tables import TABLES
from k2lib.model.lengths import DAY
from k2lib.query.folding import ZONE_OF_ROW, folded_sql
from k2lib.query.seen import Seen
from k2lib.query.selection import tail_columns

HYBRID: Final = ("trades_v2", "quotes_v2", "gaps")
# What a view shows of a table and, in an answer that has some, of the log's rows beyond it.
SHOWN: Final = {
    "gaps": "SELECT * FROM ({rows}) QUALIFY revision = max(revision) OVER (PARTITION BY gap_id)"
}
BARS: Final[Mapping[str, timedelta]] = {
    "bars_1s": timedelta(seconds=1),
    "bars_1m": timedelta(minutes=1),
    "bars_5m": timedelta(minutes=5),
    "bars_1h": timedelta(hours=1),
    "bars_1d": DAY,
}
CREATES: Final = re.compile(r"\bcreate\b", re.IGNORECASE)


class Views:
    """The views of one DuckDB; who changes them holds the engine's lock."""

    def __init__(self, connection: DuckDBPyConnection, plans: PlanCache) -> None:
        self._connection = connection
        self._plans = plans
        self._shown: dict[str, tuple[object, ...]] = {}
        self._in_views: set[str] = set()

    def tables_named(self, text: str) -> set[str]:
        """Return what a text reads: all tables where it names none, as it may list them."""
        named = {name for name in TABLES if _names(text, name)} | self._of_bars(text)
        return (named or set(TABLES)) | self._in_views

    def hybrid_named(self, text: str) -> set[str]:
        """Return the tables to be shown with what only Kafka has: those named without `lake.`."""
        named = {name for name in HYBRID if _names(text, rf"(?<!\blake\.)\b{name}")}
        return named | self._of_bars(text) | self._in_views

    def remember(self, text: str, hybrid: set[str]) -> None:
        """Note what views made by a text read, since later texts name only the views."""
        if CREATES.search(text):
            self._in_views |= hybrid

    def show(self, name: str, table: Table | None) -> None:
        """Let the views of a table be of its current snapshot."""
        state = _state(table)
        if self._shown.get(name) == state:
            return
        if table is None:
            rows = nothing_sql(name)
        else:
            rows = table_sql(table, files=self._plans.files(table))
        self._connection.execute(f"CREATE OR REPLACE VIEW lake.{name} AS {rows}")
        self._connection.execute(
            f"CREATE OR REPLACE VIEW {name} AS {_shown_sql(name, f'SELECT * FROM lake.{name}')}"
        )
        if name == "trades_v2" and name not in self._shown:
            self._show_bars()
        self._shown[name] = state

    def _show_bars(self) -> None:
        for name, every in BARS.items():
            rows = folded_sql("SELECT * FROM trades_v2", every, zone_sql=ZONE_OF_ROW)
            self._connection.execute(f"CREATE VIEW {name} AS {rows}")

    def _of_bars(self, text: str) -> set[str]:
        return {"trades_v2"} if any(_names(text, name) for name in BARS) else set()


def show_here(
    cursor: DuckDBPyConnection, name: str, seen: Seen, *, stored: str | None = None
) -> None:
    """Let the view of a table have the tail's rows, for one cursor alone.

    Args:
        stored: the SELECT of the lake's part, where that is not all of the table.
    """
    if not seen.rows.num_rows and stored is None:
        return
    parts = [f"SELECT * FROM lake.{name}" if stored is None else stored]
    if seen.rows.num_rows:
        cursor.register(f"tail_{name}", seen.rows)
        parts.append(f"SELECT {tail_columns(seen)} FROM tail_{name}")
    cursor.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {_shown_sql(name, *parts)}")


def nothing_sql(name: str) -> str:
    """Return the SELECT of a table's columns and no row."""
    return relation_sql([], schema=TABLES[name].schema.arrow)


def _names(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None


def _shown_sql(name: str, *parts: str) -> str:
    rows = " UNION ALL BY NAME ".join(parts)
    return SHOWN.get(name, "{rows}").format(rows=rows)


def _state(table: Table | None) -> tuple[object, ...]:
    if table is None:
        return ()
    metadata = table.metadata
    return metadata.table_uuid, metadata.current_snapshot_id, metadata.current_schema_id
