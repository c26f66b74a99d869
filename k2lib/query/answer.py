"""Answers, and the offsets and event time up to which each is complete (`CompleteTo`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
import polars as pl
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from k2lib.errors import QueryError
from k2lib.kafka.consumer import TopicPartition

EndsByLog = Mapping[str, Mapping[TopicPartition, int]]


@dataclass(frozen=True)
class OpenGap:
    """Trades that are missing and not explained yet.

    Attributes:
        after, before: event times of the trades around it, None where there is none yet.
    """

    exchange: str
    symbol: str
    from_id: int
    to_id: int
    after: datetime | None = None
    before: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all of it in what JSON can say, times as ISO 8601."""
        times = {"after": self.after, "before": self.before}
        return vars(self) | {name: at and at.isoformat() for name, at in times.items()}


@dataclass(frozen=True)
class CompleteTo:
    """What an answer rests on.

    Attributes:
        table: its name.
        snapshot_id: the lake's snapshot; None where nothing was ever committed.
        offsets: by log and partition, the offset before which every record is in the answer.
        time: the newest event time in the table and the log up to those offsets; None where
            there is no record.
        times: the newest event time read from each partition of the log, where there was any.
        log: whether the log was read beyond the snapshot.
        tail_rows: how many rows the log had beyond the snapshot.
        behind: how many offsets Kafka had at the time of asking beyond `offsets`; None where it
            did not say.
        reason: why the answer is not complete, or why it is of the lake only; None where it is
            as it was asked for.
        gaps: of trades: the gaps that are open now, and may have trades among those of the answer.
    """

    table: str
    snapshot_id: int | None = None
    offsets: EndsByLog = field(default_factory=dict)
    time: datetime | None = None
    times: Mapping[TopicPartition, datetime] = field(default_factory=dict)
    log: bool = False
    tail_rows: int = 0
    behind: int | None = 0
    reason: str | None = None
    gaps: tuple[OpenGap, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it in what JSON can say, times as ISO 8601."""
        return {
            "table": self.table,
            "snapshot_id": self.snapshot_id,
            "offsets": {log: by_topic(ends) for log, ends in self.offsets.items()},
            "time": None if self.time is None else self.time.isoformat(),
            "log": self.log,
            "tail_rows": self.tail_rows,
            "behind": self.behind,
            "reason": self.reason,
            "gaps": [gap.to_json() for gap in self.gaps],
        }


def by_topic(ends: Mapping[TopicPartition, int]) -> dict[str, dict[str, int]]:
    """Return offsets as the tables' summaries name them: by topic, then partition."""
    offsets: dict[str, dict[str, int]] = {}
    for tp, end in sorted(ends.items()):
        offsets.setdefault(tp.topic, {})[str(tp.partition)] = end
    return offsets


@dataclass(frozen=True)
class ReadResult:
    """Rows, and up to where each table that they come from is complete in them."""

    frame: pl.DataFrame
    complete_to: Mapping[str, CompleteTo]


Params = Sequence[object] | Mapping[str, object]


def check_sql(text: object, params: object) -> None:
    """Refuse SQL that is no text, and values that are neither in order nor by name.

    Raises:
        QueryError: names the argument.
    """
    if not isinstance(text, str):
        raise QueryError(f"text={text!r}: give SQL as a text, for example 'FROM trades_v2'")
    if params is None or isinstance(params, Mapping):
        return
    if isinstance(params, str | bytes) or not isinstance(params, Sequence):
        raise QueryError(
            f"params={params!r}: give a list of the values of ?, or a dict of those of $names"
        )


def fetch_frame(cursor: DuckDBPyConnection, text: str, params: Params | None) -> pl.DataFrame:
    """Run SQL and return the last statement's rows; no rows where it has none.

    Raises:
        QueryError: a column has a type that Polars does not know, or a value one that SQL does
            not know.
    """
    try:
        relation = cursor.sql(text, params=params)
    except duckdb.NotImplementedException as exc:
        if not params:
            raise
        raise QueryError(
            f"params={params!r}: give numbers, texts, dates, datetimes, Decimals, bytes, lists or "
            f"None. {first_lines(exc)}"
        ) from exc
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


def first_lines(exc: Exception) -> str:
    """Return what DuckDB says, without its picture of the place."""
    offsets = str(exc).partition("\n\n")[0]
    if "Overflow in multiplication of DECIMAL" in offsets:
        return f"{offsets} For example price::DECIMAL(38, 8) * price"
    return offsets
