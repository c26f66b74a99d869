"""The rows of one instrument in lake and tail, and the SQL that puts them in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2lib.lake.scan import StoredFile
from k2lib.lake.tables import ORDER
from k2lib.query.complete import Answer, CompleteTo
from k2lib.query.instruments import Span, Wanted
from k2lib.query.paging import Key
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
    """The rows of one instrument: of its symbol, at this venue.

    Attributes:
        columns: of the table.
        files: those of the lake that can have some.
        lake_sql: the SELECT of its rows in some of the files.
        after: a row that they come behind; of the tail's rows `parts` leaves out the others.
    """

    exchange: str
    columns: Sequence[str]
    files: Sequence[StoredFile]
    lake_sql: Callable[[Sequence[StoredFile]], str]
    after: Key | None = None

    def within(self, files: Sequence[StoredFile]) -> "Selection":
        """Return it without the lake's other files."""
        return replace(self, files=files, parts=(self.lake_sql(files), *self.parts[1:]))

    @property
    def is_of_tail(self) -> bool:
        """Whether the tail has all of them, with all columns, and nothing else."""
        same = self.tail.column_names == list(self.columns)
        return same and not self.files and self.after is None

    def newest(self, count: int) -> "Selection":
        """Return it without the rows of the tail that are not among its newest so many.

        Rows of the same time as the last of these stay.
        """
        since_us = self.since_us(count)
        if since_us is None:
            return self
        return replace(self, tail=self.tail.filter(pa.array(_times_us(self.tail) >= since_us)))

    def since_us(self, last: int) -> int | None:
        """Return a time before which no row is among the last so many, None where it is unknown.

        Nothing older than the tail's so many newest is among the newest of lake and tail.
        """
        if not 0 < last <= self.tail.num_rows:
            return None
        place = self.tail.num_rows - last
        return int(np.partition(_times_us(self.tail), place)[place])


def venues_of(rows: pa.Table, symbol: str) -> list[str]:
    """Return the exchanges of a symbol's rows."""
    found: list[str] = (
        rows["exchange"].filter(pc.equal(rows["symbol"], symbol)).unique().to_pylist()
    )
    return found


def of_instrument(rows: pa.Table, wanted: Wanted) -> pa.Table:
    """Return the rows of one instrument in its span."""
    is_wanted = pc.and_(
        pc.equal(rows["symbol"], wanted.symbol), pc.equal(rows["exchange"], wanted.exchange)
    )
    if wanted.start is not None:
        is_wanted = pc.and_(is_wanted, pc.greater_equal(rows["timestamp"], wanted.start))
    if wanted.end is not None:
        is_wanted = pc.and_(is_wanted, pc.less(rows["timestamp"], wanted.end))
    return rows.filter(is_wanted)


def instruments(rows: pa.Table) -> set[str]:
    """Return the instruments of rows as `exchange:symbol`."""
    pairs = pl.DataFrame(rows.select(["exchange", "symbol"])).unique()
    return {":".join(pair) for pair in pairs.rows()}


def in_span(rows: pa.Table, wanted: Span) -> pa.Table:
    """Return the rows of the span that is wanted."""
    if wanted.start is not None:
        rows = rows.filter(pc.greater_equal(rows["timestamp"], wanted.start))
    if wanted.end is not None:
        rows = rows.filter(pc.less(rows["timestamp"], wanted.end))
    return rows


def columns_of(seen: Seen) -> list[str]:
    """Return the columns that an answer has: the table's, and the record's where there is none."""
    if seen.table is None:
        names: list[str] = seen.rows.column_names
        return names
    return [field.name for field in seen.table.schema().fields]


def tail_columns(seen: Seen) -> str:
    """Name the columns the table has: a record can have more before its sink adds them."""
    names = seen.rows.column_names
    if seen.table is not None:
        names = [name for name in names if name in seen.table.schema().column_names]
    return ", ".join(f'"{name}"' for name in names)


def in_order_sql(rows: str, *, first: int | None = None) -> str:
    """Return the SELECT of rows in the order of events, or of the first so many."""
    limit = "" if first is None else f" LIMIT {first}"
    return f"SELECT * FROM ({rows}) ORDER BY {IN_ORDER}{limit}"


def in_order(rows: pa.Table) -> pl.DataFrame:
    """Return rows of the tail in the order of events, as the same SELECT would."""
    return pl.DataFrame(rows).sort(ORDER, nulls_last=False)


def last_sql(chosen: Selection, last: int) -> str:
    """Return the SELECT of the last so many rows in the order of events."""
    since_us = chosen.since_us(last)
    since = "" if since_us is None else f" WHERE timestamp >= make_timestamptz({since_us})"
    stored, *in_tail = (f"SELECT * FROM ({part}){since}" for part in chosen.parts)
    rows = _newest_sql(stored, last)
    if in_tail:
        rows = _newest_sql(f"({rows}) UNION ALL BY NAME ({in_tail[0]})", last)
    return in_order_sql(rows)


def _newest_sql(rows: str, count: int) -> str:
    return f"SELECT * FROM ({rows}) ORDER BY {LATEST_FIRST} LIMIT {count}"


def _times_us(rows: pa.Table) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times
