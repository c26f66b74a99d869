"""Deduplication: drop rows that the table has already, or twice in one batch; the first stays."""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    GreaterThanOrEqual,
    LessThanOrEqual,
)
from pyiceberg.table import Table

from k2lib.iceberg.catalog import read_errors
from k2lib.iceberg.commit_times import Clock, system_clock
from k2lib.iceberg.deletions import Deletion, deletions
from k2lib.iceberg.duckdb_files import open_duckdb
from k2lib.iceberg.file_sql import table_sql
from k2lib.iceberg.manifests import ALL_ROWS, compare, plan_paths
from k2lib.iceberg.tables import TableSpec

INSTRUMENT: Final = ["exchange", "symbol"]
BOUNDS: Final = ["source_sequence", "timestamp"]
NEWEST_SCHEMA: Final[dict[str, Any]] = {
    "exchange": pl.String,
    "symbol": pl.String,
    "source_sequence": pl.Int64,
    "timestamp": pl.Datetime("us", "UTC"),
}
RECEIVED: Final = ("ingestion_timestamp", "noticed")


class Deduplicator:
    """Drops rows whose message_id the table has already.

    A venue's counter, or else its clock, is part of a record's identity, so the table cannot have
    a row that is newer than its newest row of that exchange and symbol: only others are looked up.
    """

    def __init__(self, table: Table, spec: TableSpec, *, now: Clock = system_clock) -> None:
        self._by_day = spec.by_day
        self._newest = self._read_newest(table) if self._by_day else pl.DataFrame()
        self._deletions = deletions(table, now=now())

    @cached_property
    def _connection(self) -> DuckDBPyConnection:
        return open_lookups()

    @property
    def newest(self) -> pl.DataFrame:
        """The greatest source_sequence and timestamp of each exchange and symbol; else empty."""
        return self._newest

    def new_rows(self, rows: pa.Table, table: Table) -> pa.Table:
        """Return the rows that the table does not have, each message_id once, in order.

        Nor those that were received before another engine deleted them from it.
        """
        names = ["message_id", *INSTRUMENT, *BOUNDS] if self._by_day else ["message_id"]
        frame = pl.DataFrame(rows.select(names))
        keep = frame["message_id"].is_first_distinct()
        suspects = possible_duplicates(frame, self._newest) if self._by_day else frame
        if suspects.height:
            duplicates = find_ids(self._connection, suspects, table, by_day=self._by_day)
            keep &= ~frame["message_id"].is_in(duplicates)
        if self._deletions:
            deleted = find_deleted_ids(
                self._connection, rows, table, self._deletions, by_day=self._by_day
            )
            keep &= ~frame["message_id"].is_in(deleted)
        return rows if keep.all() else rows.filter(keep.to_arrow())

    def note_committed(self, rows: pa.Table) -> None:
        """Take rows that were committed into account."""
        if self._by_day and rows.num_rows:
            both = pl.concat([self._newest, newest_rows(rows)])
            self._newest = both.group_by(INSTRUMENT).max()

    def _read_newest(self, table: Table) -> pl.DataFrame:
        files = plan_paths(table)
        if not files:
            return pl.DataFrame(schema=NEWEST_SCHEMA)
        lake = table_sql(table, files=files)
        with read_errors(f"table {table.name()[-1]}"):
            found = self._connection.sql(
                "select exchange, symbol, max(source_sequence) as source_sequence, "
                f"max(timestamp) as timestamp from ({lake}) group by all"
            )
            return pl.DataFrame(found.to_arrow_table())


def open_lookups() -> DuckDBPyConnection:
    """Open a DuckDB of one thread; it takes 12 ms, so who may never ask it opens it when asking."""
    connection = open_duckdb(threads=1)
    connection.execute("set TimeZone = 'UTC'")
    return connection


def possible_duplicates(frame: pl.DataFrame, newest: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that a table may have: those no newer than its newest of their instrument.

    Args:
        frame: message_id, exchange, symbol, source_sequence and timestamp.
        newest: the greatest source_sequence and timestamp of each exchange and symbol.
    """
    counted = pl.col("source_sequence").is_not_null()
    return frame.join(newest, on=INSTRUMENT, suffix="_newest", maintain_order="left").filter(
        pl.when(counted)
        .then(pl.col("source_sequence") <= pl.col("source_sequence_newest"))
        .otherwise(pl.col("timestamp") <= pl.col("timestamp_newest"))
    )


def find_deleted_ids(
    connection: DuckDBPyConnection,
    rows: pa.Table,
    table: Table,
    deletions: Sequence[Deletion],
    *,
    by_day: bool,
) -> list[str]:
    """Return the message_ids of rows received before the deletion of the same row.

    Rows received later were loaded again on purpose, and come back.
    """
    received = next(name for name in RECEIVED if name in rows.column_names)
    names = ["message_id", *INSTRUMENT, *BOUNDS] if by_day else ["message_id"]
    frame = pl.DataFrame(rows.select(dict.fromkeys([*names, received])))
    found: list[str] = []
    for deletion in deletions:
        suspects = frame.filter(pl.col(received) < deletion.at)
        if suspects.height:
            at = deletion.parent_id
            found += find_ids(connection, suspects, table, by_day=by_day, snapshot_id=at)
    return found


def find_ids(
    connection: DuckDBPyConnection,
    suspects: pl.DataFrame,
    table: Table,
    *,
    by_day: bool,
    snapshot_id: int | None = None,
) -> list[str]:
    """Return those message_ids of possible duplicates that the table has.

    Args:
        by_day: plan only files in the range of the suspects; the whole table otherwise.
        snapshot_id: where to look; the current one where it is None.
    """
    found: list[str] = []
    for row_filter, part in _ranges(suspects) if by_day else [(ALL_ROWS, suspects)]:
        files = plan_paths(table, row_filter=row_filter, snapshot_id=snapshot_id)
        if files:
            with read_errors(f"table {table.name()[-1]}"):
                found += _ids_in(table_sql(table, files=files), connection, part)
    return found


def _ids_in(lake: str, connection: DuckDBPyConnection, suspects: pl.DataFrame) -> list[str]:
    connection.register("suspects", suspects.select("message_id").to_arrow())
    found = connection.execute(
        f"select message_id from suspects semi join ({lake}) using (message_id)"
    )
    return [message_id for (message_id,) in found.fetchall()]


def _ranges(suspects: pl.DataFrame) -> list[tuple[BooleanExpression, pl.DataFrame]]:
    """Rows with a source_sequence are looked up by that, others by their time."""
    counted = pl.col("source_sequence").is_not_null()
    parts = {
        "source_sequence": suspects.filter(counted),
        "timestamp": suspects.filter(~counted),
    }
    return [(_range(part, name), part) for name, part in parts.items() if part.height]


def newest_rows(rows: pa.Table) -> pl.DataFrame:
    """Return the greatest source_sequence and timestamp of each exchange and symbol."""
    frame = pl.DataFrame(rows.select([*INSTRUMENT, *BOUNDS]))
    return frame.group_by(INSTRUMENT).agg(pl.col(BOUNDS).max())


def _range(rows: pl.DataFrame, name: str) -> BooleanExpression:
    """Rows between the least and the greatest of these in exchange, symbol and `name`."""
    row_filter: BooleanExpression = AlwaysTrue()
    for column in (*INSTRUMENT, name):
        low, high = rows[column].min(), rows[column].max()
        row_filter = And(row_filter, compare(GreaterThanOrEqual, column, _literal(low)))
        row_filter = And(row_filter, compare(LessThanOrEqual, column, _literal(high)))
    return row_filter


def _literal(value: object) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
