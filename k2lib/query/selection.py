"""The rows of one instrument in lake and tail, and the SQL that puts them in order."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2lib.errors import QueryError
from k2lib.lake.tables import ORDER
from k2lib.query.complete import Answer, CompleteTo
from k2lib.query.instruments import Wanted
from k2lib.query.seen import Seen

IN_ORDER: Final = ", ".join(f"{name} ASC NULLS FIRST" for name in ORDER)
LATEST_FIRST: Final = ", ".join(f"{name} DESC NULLS LAST" for name in ORDER)


@dataclass(frozen=True)
class Rows:
    """Rows of one table in lake and tail, in no particular order.

    Each of `parts` is a SELECT: of the lake, and of `tail_rows`, which `Engine.fetch` shows.
    """

    parts: tuple[str, ...]
    tail: pa.Table
    complete_to: CompleteTo

    @property
    def sql(self) -> str:
        """All of them as one SELECT."""
        return " UNION ALL BY NAME ".join(self.parts)

    def answer(self, frame: pl.DataFrame) -> Answer:
        """Return what was made of them, as an answer."""
        return Answer(frame, {self.complete_to.table: self.complete_to})


@dataclass(frozen=True)
class Selection(Rows):
    """The rows of one instrument: of its symbol, at this venue."""

    exchange: str


def where(rows: pa.Table, column: str, value: str) -> pa.Table:
    """Return the rows with this value."""
    return rows.filter(pc.equal(rows[column], value))


def in_span(rows: pa.Table, wanted: Wanted) -> pa.Table:
    """Return the rows of the span that is wanted."""
    if wanted.start is not None:
        rows = rows.filter(pc.greater_equal(rows["timestamp"], wanted.start))
    if wanted.end is not None:
        rows = rows.filter(pc.less(rows["timestamp"], wanted.end))
    return rows


def tail_columns(seen: Seen) -> str:
    """Name the columns the table has: a record can have more before its sink adds them."""
    names = seen.rows.column_names
    if seen.table is not None:
        names = [name for name in names if name in seen.table.schema().column_names]
    return ", ".join(f'"{name}"' for name in names)


def ordered_sql(chosen: Selection, *, first: int | None = None, last: int | None = None) -> str:
    """Return the SELECT of the rows in the order of events, or of the first or last so many.

    Raises:
        QueryError: a number is negative, or both are given.
    """
    for name, count in (("first", first), ("last", last)):
        if count is not None and count < 0:
            raise QueryError(f"{name}={count}: give the number of rows to keep, 0 or more")
    if first is not None and last is not None:
        raise QueryError(f"first={first} and last={last}: give one of them")
    if last is not None:
        return f"SELECT * FROM ({_last_sql(chosen, last)}) ORDER BY {IN_ORDER}"
    limit = "" if first is None else f" LIMIT {first}"
    return f"SELECT * FROM ({chosen.sql}) ORDER BY {IN_ORDER}{limit}"


def _last_sql(chosen: Selection, last: int) -> str:
    since = _nth_newest(chosen.tail, last)
    newest = [_newest_sql(f"SELECT * FROM ({part}){since}", last) for part in chosen.parts]
    if len(newest) == 1:
        return newest[0]
    return _newest_sql(" UNION ALL BY NAME ".join(f"({part})" for part in newest), last)


def _newest_sql(rows: str, count: int) -> str:
    return f"SELECT * FROM ({rows}) ORDER BY {LATEST_FIRST} LIMIT {count}"


def _nth_newest(tail: pa.Table, count: int) -> str:
    """Nothing older than the tail's so many newest is among the newest of lake and tail."""
    if not 0 < count <= tail.num_rows:
        return ""
    times = np.sort(tail["timestamp"].cast(pa.int64()).to_numpy())
    return f" WHERE timestamp >= make_timestamptz({times[-count]})"
