"""What SQL sees by name: each table alone, with the rows that only Kafka has, and as bars."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from pyiceberg.table import Table

from k2lib.errors import DamagedFileError, TableError
from k2lib.iceberg.columns import record_table, renamed_columns, snapshot_schema
from k2lib.iceberg.file_sql import relation_sql, table_sql, text_sql
from k2lib.iceberg.manifests import PlanCache, PlannedFile
from k2lib.iceberg.tables import TABLES, columns_as_read
from k2lib.query.answer import CompleteTo, ReadResult
from k2lib.query.request import InstrumentFilter, RowKey, TimeRange
from k2lib.query.table_state import TableView
from k2lib.schema.calendar import DAY, MICROSECOND, UTC_ZONE, ZONES
from k2lib.schema.market import OFF_MARKET, VENUE, Market, market_sql
from k2lib.schema.order import EVENT_ORDER, INSTRUMENT_ORDER, order_sql

BY_EVENT_TIME: Final = order_sql(INSTRUMENT_ORDER)
_KNOWN_ZONES: Final = " ".join(
    f"WHEN {text_sql(venue)} THEN {text_sql(zone.key)}" for venue, zone in ZONES.items()
)
ZONE_OF_ROW: Final = f"CASE exchange {_KNOWN_ZONES} ELSE {text_sql(UTC_ZONE.key)} END"


def units_sql(name: str) -> str:
    """Return a decimal column as a whole number of its last place."""
    return f"replace({name}::VARCHAR, '.', '')::HUGEINT"


def quotient_sql(total: str, count: str, *, digits: int = 18) -> str:
    """Return the quotient of whole numbers, rounded half away from 0; null where it has none.

    A quotient of decimals is a float in DuckDB: the division is done in whole numbers instead.

    Args:
        total: has eight decimal places more than `count`, as the result then has.
        digits: of the result.
    """
    count = f"nullif({count}, 0)"
    rounded = f"({total} + sign({total}) * ({count} // 2)) // {count}"
    return f"({rounded} * 0.00000001::DECIMAL(9, 8))::DECIMAL({digits}, 8)"


# Another writer may have changed the type of a column: with these two the product is exact.
TURNOVER: Final = "sum(price::DECIMAL(18, 8) * quantity::DECIMAL(19, 8))"
# Of columns turnover and volume.
VWAP: Final = quotient_sql(units_sql("turnover"), units_sql("volume"))


def trading_date_sql(zone_sql: str = ZONE_OF_ROW) -> str:
    """Return the venue's date of a row, `zone_sql` being the zone of its venue."""
    return f"timezone({zone_sql}, timestamp)::DATE"


def interval_us_sql(every: timedelta) -> str:
    """Return where the interval of a row begins, in microseconds: at whole multiples of it."""
    length = every // MICROSECOND
    return f"epoch_us(timestamp) - (epoch_us(timestamp) % {length} + {length}) % {length}"


def bars_sql(trades: str, every: timedelta, *, of_venue: ZoneInfo, market: Market = "all") -> str:
    """Return the SELECT of bars over a SELECT of trades of one venue, in order."""
    folded = folded_sql(trades, every, zone_sql=text_sql(of_venue.key), market=market)
    return f"SELECT * FROM ({folded}) ORDER BY exchange, symbol, start"


def folded_sql(trades: str, every: timedelta, *, zone_sql: str, market: Market = "all") -> str:
    """Return the SELECT of bars in no order, `zone_sql` being the zone of a row's venue.

    Raises:
        QueryError: no such market.
    """
    folded = f"""
        SELECT exchange, symbol, {_bar_sql(every, zone_sql)} AS bar,
            first(price ORDER BY {BY_EVENT_TIME}) AS open, max(price) AS high, min(price) AS low,
            last(price ORDER BY {BY_EVENT_TIME}) AS close, sum(quantity) AS volume,
            count(*) AS trades, {TURNOVER} AS turnover
        FROM ({trades}) WHERE {market_sql(market)} GROUP BY ALL"""
    return f"""
        SELECT exchange, symbol, {_start_sql(every, zone_sql)}, open, high, low, close, volume,
            trades, {VWAP} AS vwap, turnover
        FROM ({folded})"""


def _bar_sql(every: timedelta, zone_sql: str) -> str:
    return trading_date_sql(zone_sql) if every == DAY else interval_us_sql(every)


def _start_sql(every: timedelta, zone_sql: str) -> str:
    if every == DAY:
        return f"timezone({zone_sql}, bar::TIMESTAMP) AS start, bar AS trading_date"
    return "make_timestamptz(bar) AS start"


@dataclass(frozen=True)
class TableRows:
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

    def result(self, frame: pl.DataFrame) -> ReadResult:
        """Return a frame made of them as a result."""
        return ReadResult(frame, {self.complete_to.table: self.complete_to})


@dataclass(frozen=True)
class Selection(TableRows):
    """The rows of one instrument: of its symbol, at this venue.

    Attributes:
        columns: of the table.
        files: those of the lake that can have some.
        lake_sql: the SELECT of its rows in some of the files.
        after: a row that they come behind; of the tail's rows `parts` leaves out the others.
    """

    exchange: str
    columns: Sequence[str]
    files: Sequence[PlannedFile]
    lake_sql: Callable[[Sequence[PlannedFile]], str]
    after: RowKey | None = None

    def within(self, files: Sequence[PlannedFile]) -> "Selection":
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
        at = self.tail.num_rows - last
        return int(np.partition(_times_us(self.tail), at)[at])


def venues_of(rows: pa.Table, symbol: str) -> list[str]:
    """Return the exchanges of a symbol's rows."""
    found: list[str] = (
        rows["exchange"].filter(pc.equal(rows["symbol"], symbol)).unique().to_pylist()
    )
    return found


def of_instrument(rows: pa.Table, chosen: InstrumentFilter) -> pa.Table:
    """Return the rows of one instrument in its span."""
    mask = pc.and_(
        pc.equal(rows["symbol"], chosen.symbol), pc.equal(rows["exchange"], chosen.exchange)
    )
    if chosen.start is not None:
        mask = pc.and_(mask, pc.greater_equal(rows["timestamp"], chosen.start))
    if chosen.end is not None:
        mask = pc.and_(mask, pc.less(rows["timestamp"], chosen.end))
    return of_market(rows.filter(mask), chosen.market)


def of_market(trades: pa.Table, market: Market) -> pa.Table:
    """Return the trades that count."""
    if market == "all":
        return trades
    venues = pc.map_lookup(trades["vendor_data"], VENUE, "first")
    is_off = pc.fill_null(pc.equal(venues, OFF_MARKET), False)
    return trades.filter(is_off if market == "off" else pc.invert(is_off))


def instruments_of(rows: pa.Table) -> set[str]:
    """Return the instruments of rows as `exchange:symbol`."""
    pairs = pl.DataFrame(rows.select(["exchange", "symbol"])).unique()
    return {":".join(pair) for pair in pairs.rows()}


def in_span(rows: pa.Table, chosen: TimeRange) -> pa.Table:
    """Return the rows of the span that is wanted."""
    if chosen.start is not None:
        rows = rows.filter(pc.greater_equal(rows["timestamp"], chosen.start))
    if chosen.end is not None:
        rows = rows.filter(pc.less(rows["timestamp"], chosen.end))
    return rows


def columns_of(view: TableView) -> list[str]:
    """Return the columns that an answer has: the table's, and the record's where there is none."""
    if view.table is None:
        names: list[str] = view.rows.column_names
        return names
    schema = snapshot_schema(record_table(view.table), view.snapshot_id)
    return [field.name for field in schema.fields]


def tail_columns(view: TableView) -> str:
    """Name the columns the table has: a record can have more before its sink adds them."""
    names = view.rows.column_names
    if view.table is not None:
        there = columns_of(view)
        names = [name for name in names if name in there]
    return ", ".join(f'"{name}"' for name in names)


def in_order_sql(rows: str, *, first: int | None = None) -> str:
    """Return the SELECT of rows in the order of events, or of the first so many."""
    limit = "" if first is None else f" LIMIT {first}"
    return f"SELECT * FROM ({rows}) ORDER BY {order_sql()}{limit}"


def in_order(rows: pa.Table) -> pl.DataFrame:
    """Return rows of the tail in the order of events, as the same SELECT would."""
    return pl.DataFrame(rows).sort(EVENT_ORDER, nulls_last=False)


def last_sql(chosen: Selection, last: int) -> str:
    """Return the SELECT of the last so many rows in the order of events."""
    since_us = chosen.since_us(last)
    since = "" if since_us is None else f" WHERE timestamp >= make_timestamptz({since_us})"
    in_lake, *in_tail = (f"SELECT * FROM ({part}){since}" for part in chosen.parts)
    rows = _newest_sql(in_lake, last)
    if in_tail:
        rows = _newest_sql(f"({rows}) UNION ALL BY NAME ({in_tail[0]})", last)
    return in_order_sql(rows)


def _newest_sql(rows: str, count: int) -> str:
    return f"SELECT * FROM ({rows}) ORDER BY {order_sql(newest_first=True)} LIMIT {count}"


def _times_us(rows: pa.Table) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times


HYBRID: Final = ("trades_v2", "quotes_v2", "gaps")
BARS: Final[Mapping[str, timedelta]] = {
    "bars_1s": timedelta(seconds=1),
    "bars_1m": timedelta(minutes=1),
    "bars_5m": timedelta(minutes=5),
    "bars_1h": timedelta(hours=1),
    "bars_1d": DAY,
}
# The trades that the bars of each schema count.
BARS_MARKETS: Final[Mapping[str, Market]] = {"main": "all", "on_market": "on"}
CREATES: Final = re.compile(r"\bcreate\b", re.IGNORECASE)


class SqlViews:
    """The views of one DuckDB; who changes them holds the engine's lock."""

    def __init__(self, connection: DuckDBPyConnection, plans: PlanCache) -> None:
        self._connection = connection
        self._plans = plans
        self._shown: dict[str, tuple[object, ...]] = {}
        self._in_views: set[str] = set()
        self._refused: dict[str, TableError] = {}

    def tables_named(self, text: str) -> set[str]:
        """Return what a text reads: all tables where it names none, as it may list them."""
        return (self._named(text) or set(TABLES)) | self._in_views

    def hybrid_named(self, text: str) -> set[str]:
        """Return the tables to be shown with what only Kafka has: those named without `lake.`."""
        named = {name for name in HYBRID if _names(text, rf"(?<!\blake\.)\b{name}")}
        return named | self._of_bars(text) | self._in_views

    def remember(self, text: str, hybrid: set[str]) -> None:
        """Note what views made by a text read, since later texts name only the views."""
        if CREATES.search(text):
            self._in_views |= hybrid

    def show(self, name: str, table: Table | None) -> None:
        """Let the views of a table be of its current snapshot, or say why it cannot be read."""
        state = _state(table)
        if self._shown.get(name) == state:
            return
        self._refused.pop(name, None)
        try:
            rows, named = self._rows_sql(name, table), view_sql(name, table)
        except TableError as exc:
            self._refused[name] = exc
            rows, named = _refusal_sql(name, exc), f"SELECT * FROM lake.{name}"
        if name == "trades_v2" and name not in self._shown:
            self._show_bars()
        self._connection.execute(f"CREATE OR REPLACE VIEW lake.{name} AS {rows}")
        self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {_shown_sql(name, named)}")
        # A file that is missing may come back; what another engine did stays so in this snapshot.
        is_damaged = isinstance(self._refused.get(name), DamagedFileError)
        self._shown[name] = ("damaged",) if is_damaged else state

    def check(self, text: str) -> None:
        """Refuse a text that names a table which cannot be read.

        Raises:
            TableError: says why.
        """
        for name, refusal in self._refused.items():
            if name in self._named(text):
                raise refusal

    def _rows_sql(self, name: str, table: Table | None) -> str:
        if table is None:
            return nothing_sql(name)
        schema = columns_as_read(table, table.schema())
        return table_sql(table, files=self._plans.paths(table), schema=schema)

    def _named(self, text: str) -> set[str]:
        return {name for name in TABLES if _names(text, name)} | self._of_bars(text)

    def _show_bars(self) -> None:
        """Make the bars, of a table that has all columns: a dropped one fails in bars alone."""
        self._connection.execute(f"CREATE OR REPLACE VIEW trades_v2 AS {nothing_sql('trades_v2')}")
        for name, every in BARS.items():
            for schema, market in BARS_MARKETS.items():
                rows = folded_sql(
                    "SELECT * FROM trades_v2", every, zone_sql=ZONE_OF_ROW, market=market
                )
                self._connection.execute(f"CREATE OR REPLACE VIEW {schema}.{name} AS {rows}")

    def _of_bars(self, text: str) -> set[str]:
        return {"trades_v2"} if any(_names(text, name) for name in BARS) else set()


def show_here(
    cursor: DuckDBPyConnection, name: str, view: TableView, *, rows_sql: str | None = None
) -> None:
    """Let the view of a table have the tail's rows, for one cursor alone.

    Args:
        rows_sql: the SELECT of the lake's part, where that is not all of the table.
    """
    if not view.rows.num_rows and rows_sql is None:
        return
    parts = [view_sql(name, view.table) if rows_sql is None else rows_sql]
    if view.rows.num_rows:
        cursor.register(f"tail_{name}", view.rows)
        parts.append(f"SELECT {tail_columns(view)} FROM tail_{name}")
    cursor.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {_shown_sql(name, *parts)}")


def view_sql(name: str, table: Table | None) -> str:
    """Return the SELECT of a table's view in `lake`, with our names for columns renamed there."""
    renamed = {} if table is None else renamed_columns(table)
    if not renamed:
        return f"SELECT * FROM lake.{name}"
    names = ", ".join(f'"{theirs}" AS "{ours}"' for theirs, ours in renamed.items())
    return f"SELECT * RENAME ({names}) FROM lake.{name}"


def newest_revisions_sql(gaps: str) -> str:
    """Return the SELECT of the newest revision of each gap, over a SELECT of all revisions."""
    newest = "revision = max(revision) OVER (PARTITION BY gap_id)"
    return f"SELECT * FROM ({gaps}) QUALIFY {newest}"


def nothing_sql(name: str) -> str:
    """Return the SELECT of a table's columns and no row."""
    return relation_sql([], schema=TABLES[name].schema.iceberg)


def _refusal_sql(name: str, reason: TableError) -> str:
    """Return a SELECT that fails once it is read: views on it can be made."""
    columns = nothing_sql(name).removesuffix(" WHERE false")
    return f"{columns} WHERE error({text_sql(str(reason))}) IS NULL"


def _names(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None


def _shown_sql(name: str, *parts: str) -> str:
    rows = " UNION ALL BY NAME ".join(parts)
    return newest_revisions_sql(rows) if name == "gaps" else rows


def _state(table: Table | None) -> tuple[object, ...]:
    if table is None:
        return ()
    metadata = table.metadata
    return metadata.table_uuid, metadata.current_snapshot_id, metadata.current_schema_id
