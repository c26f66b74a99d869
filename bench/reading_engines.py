"""The ways to ask a lake of generated trades, each with the same four kinds of question."""

import os
from copy import copy
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import duckdb
import polars as pl
from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan

from bench.generated_lake import EXCHANGE
from k2lib import K2
from k2lib.iceberg.manifests import compare
from k2lib.query.sql import bars_sql
from k2lib.schema.calendar import UTC_ZONE
from k2lib.schema.order import order_sql

LAST, BARS, COUNT, ALL_BARS = KINDS = (
    "last 1,000 of a symbol",
    "1-minute bars of a symbol and day",
    "count per symbol of a day",
    "1-minute bars of all symbols of a day",
)
N_LAST: Final = 1_000
MINUTE: Final = timedelta(minutes=1)
OHLCV: Final = ("symbol", "start", "open", "high", "low", "close", "volume", "trades")
# As k2lib sets its own: what is compared is the way to the files.
SETTINGS: Final = (
    "SET TimeZone = 'UTC'",
    "SET parquet_metadata_cache = true",
    "SET late_materialization_max_rows = 100000",
)


@dataclass(frozen=True)
class Question:
    """One of KINDS, about a day, which is the last one for LAST, and about a symbol or all."""

    kind: str
    day: date
    symbol: str

    @property
    def filter(self) -> BooleanExpression:
        """The rows it is about."""
        begin, end = (moment.isoformat() for moment in _span(self.day))
        since, before = GreaterThanOrEqual, LessThan
        of_day = And(compare(since, "timestamp", begin), compare(before, "timestamp", end))
        if self.kind in (COUNT, ALL_BARS):
            return of_day
        of_symbol = compare(EqualTo, "symbol", self.symbol)
        return And(of_day, of_symbol, compare(EqualTo, "exchange", EXCHANGE))


class Way(Protocol):
    """Something that answers."""

    def answer(self, question: Question) -> pl.DataFrame:
        """Return the rows of the answer, in order."""


def span_sql(day: date) -> str:
    """Return the condition that a trade was on a UTC day."""
    begin, end = _span(day)
    return (
        f"timestamp >= TIMESTAMPTZ '{begin.isoformat()}' "
        f"AND timestamp < TIMESTAMPTZ '{end.isoformat()}'"
    )


def question_sql(question: Question, trades: str) -> str:
    """Return the SQL of a question over a SELECT of trades."""
    kind, day, symbol = question.kind, question.day, question.symbol
    of_symbol = f"SELECT * FROM ({trades}) WHERE symbol = '{symbol}' AND exchange = '{EXCHANGE}'"
    of_day = f"SELECT * FROM ({trades}) WHERE {span_sql(day)}"
    if kind == LAST:
        newest = (
            f"SELECT * FROM ({of_symbol}) ORDER BY {order_sql(newest_first=True)} LIMIT {N_LAST}"
        )
        return f"SELECT * FROM ({newest}) ORDER BY {order_sql()}"
    if kind == BARS:
        return bars_sql(f"{of_symbol} AND {span_sql(day)}", MINUTE, of_venue=UTC_ZONE)
    if kind == COUNT:
        return f"SELECT symbol, count(*) AS trades FROM ({of_day}) GROUP BY symbol ORDER BY symbol"
    return bars_sql(of_day, MINUTE, of_venue=UTC_ZONE)


class ThroughK2:
    """k2lib, as a notebook asks it."""

    def __init__(self, k2: K2, *, tail: bool) -> None:
        self._k2, self._tail = k2, tail

    def answer(self, question: Question) -> pl.DataFrame:
        """Return the rows of the answer."""
        kind, day, symbol = question.kind, question.day, question.symbol
        if kind == LAST:
            return self._k2.trades(symbol, last=N_LAST, tail=self._tail)
        if kind == BARS:
            after = day + timedelta(days=1)
            return self._k2.bars(symbol, start=day, end=after, tail=self._tail)
        return self._k2.sql(
            question_sql(question, "SELECT * FROM trades_v2"),
            start=day,
            end=day + timedelta(days=1),
            tail=self._tail,
        )


class ByHand:
    """DuckDB over the right files, for one who knows them: the day's, or of it the newest."""

    def __init__(self, home: Path) -> None:
        self._connection = _duckdb()
        self._files: dict[str, list[Path]] = {}
        for file in sorted((home / "warehouse").glob("*/trades_v2/data/*/*/*.parquet")):
            day = file.parts[-3].removeprefix("timestamp_day=")
            self._files.setdefault(day, []).append(file)
        self._newest = self._newest_of(self._files[max(self._files)])

    def cursor(self) -> "ByHand":
        """Return another one for another thread; the first one closes both."""
        other = copy(self)
        other._connection = self._connection.cursor()
        return other

    def answer(self, question: Question) -> pl.DataFrame:
        """Return the rows of the answer."""
        of_day = self._files[question.day.isoformat()]
        rows = _rows_sql([self._newest] if question.kind == LAST else of_day)
        frame: pl.DataFrame = self._connection.sql(question_sql(question, rows)).pl()
        return frame

    def _newest_of(self, files: list[Path]) -> Path:
        def newest(file: Path) -> datetime:
            found = self._connection.sql(f"SELECT max(timestamp) AS at FROM ({_rows_sql([file])})")
            time: datetime = found.pl()["at"][0]
            return time

        return max(files, key=newest)

    def close(self) -> None:
        """Let go of DuckDB."""
        self._connection.close()


class Pyiceberg:
    """pyiceberg reads what the question needs into Arrow, DuckDB answers from there."""

    def __init__(self, k2: K2) -> None:
        self._k2 = k2
        self._connection = _duckdb()

    def answer(self, question: Question) -> pl.DataFrame:
        """Return the rows of the answer."""
        only = ("symbol", "timestamp") if question.kind == COUNT else ("*",)
        table = self._k2.table("trades_v2")
        rows = table.scan(row_filter=question.filter, selected_fields=only).to_arrow()
        self._connection.register("rows", rows)
        query = question_sql(question, "SELECT * FROM rows")
        frame: pl.DataFrame = self._connection.sql(query).pl()
        self._connection.unregister("rows")
        return frame

    def close(self) -> None:
        """Let go of DuckDB."""
        self._connection.close()


class ThroughPolars:
    """`polars.scan_iceberg`; its bars have neither turnover nor vwap, which need wider decimals."""

    def __init__(self, k2: K2) -> None:
        self._k2 = k2
        # Polars warns where its own planner is not installed, and then plans with pyiceberg.
        os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")

    def answer(self, question: Question) -> pl.DataFrame:
        """Return the rows of the answer."""
        begin, end = _span(question.day)
        rows = pl.scan_iceberg(self._k2.table("trades_v2")).filter(
            pl.col("timestamp") >= begin, pl.col("timestamp") < end
        )
        if question.kind in (LAST, BARS):
            rows = rows.filter(pl.col("symbol") == question.symbol, pl.col("exchange") == EXCHANGE)
        return _POLARS[question.kind](rows).collect()


def _polars_last(rows: pl.LazyFrame) -> pl.LazyFrame:
    return _in_order(rows).tail(N_LAST)


def _polars_count(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.group_by("symbol").agg(pl.len().alias("trades").cast(pl.Int64)).sort("symbol")


def _polars_bars(rows: pl.LazyFrame) -> pl.LazyFrame:
    start = pl.col("timestamp").dt.truncate("1m").alias("start")
    price, volume = pl.col("price"), pl.col("quantity").sum().alias("volume")
    folded = _in_order(rows).group_by("symbol", start, maintain_order=True)
    return folded.agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        volume,
        pl.len().alias("trades").cast(pl.Int64),
    ).sort("symbol", "start")


def _in_order(rows: pl.LazyFrame) -> pl.LazyFrame:
    order = ("timestamp", "source_sequence", "platform_sequence", "message_id")
    return rows.sort(order, nulls_last=False)


_POLARS: Final = {
    LAST: _polars_last,
    BARS: _polars_bars,
    COUNT: _polars_count,
    ALL_BARS: _polars_bars,
}


def _span(day: date) -> tuple[datetime, datetime]:
    begin = datetime.combine(day, datetime.min.time(), UTC)
    return begin, begin + timedelta(days=1)


def _duckdb() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for setting in SETTINGS:
        connection.execute(setting)
    return connection


def _rows_sql(files: list[Path]) -> str:
    listed = ", ".join(f"'{file}'" for file in files)
    return f"SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"
