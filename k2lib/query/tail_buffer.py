"""Rows of Kafka that the lake does not have yet, by offset; dropped once a snapshot has them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.expressions import And, BooleanExpression, In
from pyiceberg.table import Table

from k2lib.errors import LossError
from k2lib.iceberg.deduplication import (
    BOUNDS,
    INSTRUMENT,
    NEWEST_SCHEMA,
    find_deleted_ids,
    find_ids,
    open_lookups,
    possible_duplicates,
)
from k2lib.iceberg.deletions import deletions
from k2lib.iceberg.file_sql import table_sql, text_sql
from k2lib.iceberg.manifests import plan_paths
from k2lib.iceberg.offsets import end_of
from k2lib.iceberg.tables import TableSpec
from k2lib.kafka.consumer import TopicPartition
from k2lib.lifecycle import Closing
from k2lib.query.table_state import EPOCH, EVENT_TIMES, TableState, step

LONG_AGO_US: Final = -(2**63)


@dataclass(frozen=True)
class TailBatch:
    """Rows as they were read, and where each stood: the number of its place, and its offset."""

    rows: pa.Table
    partitions: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def where(self, keep: npt.NDArray[np.bool_]) -> "TailBatch":
        """Return the rows to keep."""
        if keep.all():
            return self
        return TailBatch(
            self.rows.filter(pa.array(keep)), self.partitions[keep], self.offsets[keep]
        )

    @classmethod
    def of(cls, parts: Iterable["TailBatch"], empty: pa.Table) -> "TailBatch":
        """Return all parts as one."""
        some = list(parts)
        none = np.empty(0, np.int64)
        return cls(
            # One chunk: who reads many of them waits at each one for Python's threads.
            pa.concat_tables([empty, *(part.rows for part in some)]).combine_chunks(),
            np.concatenate([none, *(part.partitions for part in some)]),
            np.concatenate([none, *(part.offsets for part in some)]),
        )


@dataclass
class PartitionProgress:
    """A partition as far as it was read: held from `start`, to be read next at `end`."""

    log: str
    start: int
    end: int
    newest_us: int = LONG_AGO_US

    @property
    def newest(self) -> datetime | None:
        """The newest event time read; None where nothing was."""
        if self.newest_us == LONG_AGO_US:
            return None
        return EPOCH + timedelta(microseconds=self.newest_us)


Ends = Mapping[TopicPartition, int]


@dataclass
class TailBuffer(Closing):
    """The rows from a snapshot's offsets on, without those that the snapshot has.

    A row of a log is in the lake up to the snapshot's offset; beyond it, it can still be there
    by an earlier load or another partition. Rows above the newest of their instrument cannot;
    others are looked for where they would lie, once, and after that among what sinks moved.
    """

    spec: TableSpec
    state: TableState
    reached: dict[TopicPartition, PartitionProgress] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._batches: list[TailBatch] = []
        self._nothing = self.spec.schema.arrow.empty_table()
        self._numbers: dict[TopicPartition, int] = {}
        self._newest = pl.DataFrame(schema=NEWEST_SCHEMA)
        self._rows: pa.Table | None = None
        self.n_bytes = 0

    @cached_property
    def _connection(self) -> DuckDBPyConnection:
        return open_lookups()

    @property
    def is_empty(self) -> bool:
        """Whether no row is held."""
        return not self._batches

    def ends(self) -> dict[TopicPartition, int]:
        """Return the offset before which every record is held or in the snapshot."""
        return {tp: max(one.end, self._lake_end(tp)) for tp, one in self.reached.items()}

    def follow(self, tp: TopicPartition, log: str, low: int, high: int) -> None:
        """Begin to hold a partition, from the snapshot's offset, or the first one kept.

        Raises:
            LossError: the log ends before the snapshot's offset: it was cut.
        """
        lake_end = end_of(self.state.offsets, log, tp)
        if lake_end is not None and lake_end > high:
            raise LossError(
                f"{tp.topic} partition {tp.partition} ends at {high}, but {self.spec.name} "
                f"has read up to {lake_end} of this log: the log was cut"
            )
        start = max(lake_end or 0, low)
        self._numbers[tp] = len(self._numbers)
        self.reached[tp] = PartitionProgress(log, start, start)

    def lost(self) -> str | None:
        """Say which records left the log before the lake had them; None where there are none."""
        for tp, one in self.reached.items():
            lake_end = end_of(self.state.offsets, one.log, tp)
            if lake_end is not None and lake_end < one.start:
                where = f"{tp.topic} partition {tp.partition}"
                return (
                    f"{where}: {lake_end} to {one.start - 1} left the log before the lake had them"
                )
        return None

    def append(self, rows: pa.Table, at: list[tuple[TopicPartition, int]], ends: Ends) -> None:
        """Take rows that were read, with where each stood; and how far reading has come."""
        if at:
            partitions = np.array([self._numbers[tp] for tp, _ in at], np.int64)
            batch = TailBatch(rows, partitions, np.array([offset for _, offset in at], np.int64))
            self._note_times(batch)
            self._add_new(batch)
        for tp, end in ends.items():
            self.reached[tp].end = max(self.reached[tp].end, end)

    def advance(self, after: TableState) -> bool:
        """Drop the rows that a later snapshot has; False where its offsets lie before them."""
        before = self.state
        how = step(before, after)
        if how == "same":
            self.state = after
            return True
        if after.problem is not None or how == "elsewhere" or self._goes_back(after):
            return False
        # The log is all that sinks add from, and what was read of it is at hand.
        at_hand = how == "sinks" and self._explains(after)
        self.state = after
        self._rows = None
        batches, self._batches, self.n_bytes = self._batches, [], 0
        kept, moved = self._split(TailBatch.of(batches, self._nothing))
        if at_hand:
            self._moved(moved)
            self._add(kept.where(~_among(kept.rows, moved.rows)))
        else:
            self._newest = self._newest.clear()
            self._add_new(kept)
        return True

    def rows(self) -> pa.Table:
        """Return the rows held, each message_id once, the first of them."""
        if self._rows is None:
            batch = TailBatch.of(self._batches, self._nothing)
            first = pl.Series(batch.rows["message_id"]).is_first_distinct().to_numpy()
            self._rows = batch.where(first).rows
            self._batches = [batch] if batch.rows.num_rows else []
        return self._rows

    def close(self) -> None:
        """Let go of everything."""
        self._batches, self._rows = [], None
        if "_connection" in vars(self):
            self._connection.close()

    def _lake_end(self, tp: TopicPartition) -> int:
        return end_of(self.state.offsets, self.reached[tp].log, tp) or 0

    def _add_new(self, batch: TailBatch) -> None:
        """Hold what the snapshot has neither by offset nor by message_id."""
        kept, _ = self._split(batch)
        if kept.rows.num_rows:
            in_lake = self._in_lake(kept.rows)
            self._add(kept.where(~in_lake))

    def _add(self, batch: TailBatch) -> None:
        if batch.rows.num_rows:
            self._batches.append(batch)
            self.n_bytes += batch.rows.nbytes
            self._rows = None

    def _split(self, batch: TailBatch) -> tuple[TailBatch, TailBatch]:
        """Return what lies beyond the snapshot's offsets, and what it has by them."""
        lake_end = np.array([self._lake_end(tp) for tp in self._numbers], np.int64)
        beyond = batch.offsets >= lake_end[batch.partitions]
        return batch.where(beyond), batch.where(~beyond)

    def _note_times(self, batch: TailBatch) -> None:
        name = next(name for name in EVENT_TIMES if name in batch.rows.column_names)
        times = batch.rows[name].cast(pa.int64()).to_numpy()
        for tp, number in self._numbers.items():
            of_place = times[batch.partitions == number]
            one = self.reached[tp]
            one.newest_us = max(one.newest_us, int(of_place.max(initial=LONG_AGO_US)))

    def _goes_back(self, after: TableState) -> bool:
        ends = {p: end_of(after.offsets, one.log, p) or 0 for p, one in self.reached.items()}
        return any(end < self._lake_end(tp) for tp, end in ends.items())

    def _explains(self, after: TableState) -> bool:
        """Whether everything between the offsets of both snapshots was read from the log."""
        for log, partitions in after.offsets.items():
            for tp, (_, end) in partitions.items():
                one = self.reached.get(tp)
                if end_of(self.state.offsets, log, tp) == end:
                    continue
                if one is None or one.log != log or one.end < end:
                    return False
        return True

    def _moved(self, moved: TailBatch) -> None:
        if self.spec.by_day and moved.rows.num_rows:
            columns = pl.DataFrame(moved.rows.select([*INSTRUMENT, *BOUNDS]))
            self._newest = pl.concat([self._newest, columns]).group_by(INSTRUMENT).max()

    def _in_lake(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        """Say which rows the snapshot has, or lost to another engine after they were received."""
        table = self.state.table
        if table is None:
            return np.zeros(rows.num_rows, bool)
        found = self._ids_in_lake(rows, table) + find_deleted_ids(
            self._connection,
            rows,
            table,
            deletions(table, now=datetime.now(UTC)),
            by_day=self.spec.by_day,
        )
        return _mask(rows, pl.Series(found, dtype=pl.String))

    def _ids_in_lake(self, rows: pa.Table, table: Table) -> list[str]:
        if not self.spec.by_day:
            suspects = pl.DataFrame(rows.select(["message_id"]))
        else:
            frame = pl.DataFrame(rows.select(["message_id", *INSTRUMENT, *BOUNDS]))
            self._read_newest(frame)
            suspects = possible_duplicates(frame, self._newest)
        if suspects.is_empty():
            return []
        return find_ids(self._connection, suspects, table, by_day=self.spec.by_day)

    def _read_newest(self, frame: pl.DataFrame) -> None:
        """Look up the newest of the instruments that were not met before."""
        new = frame.select(INSTRUMENT).unique().join(self._newest, on=INSTRUMENT, how="anti")
        if not new.is_empty():
            nothing = new.select(*INSTRUMENT, **_nulls())
            found = pl.concat([self._newest, nothing, self._newest_of(new)])
            self._newest = found.group_by(INSTRUMENT).max()

    def _newest_of(self, instruments: pl.DataFrame) -> pl.DataFrame:
        table = self.state.table
        assert table is not None
        names = {name: instruments[name].unique().to_list() for name in INSTRUMENT}
        row_filter = And(*(_one_of(name, some) for name, some in names.items()))
        files = plan_paths(table, row_filter=row_filter)
        listed = {name: ", ".join(map(text_sql, some)) for name, some in names.items()}
        where = " AND ".join(f"{name} IN ({some})" for name, some in listed.items())
        rows = table_sql(table, files=files)
        found = self._connection.sql(
            "SELECT exchange, symbol, max(source_sequence) AS source_sequence, "
            f"max(timestamp) AS timestamp FROM ({rows}) WHERE {where} GROUP BY ALL"
        )
        read = pl.DataFrame(found.to_arrow_table(), schema_overrides=NEWEST_SCHEMA)
        return read.join(instruments, on=INSTRUMENT, how="semi")


def _one_of(name: str, values: list[str]) -> BooleanExpression:
    one_of: Any = In
    expression: BooleanExpression = one_of(name, values)
    return expression


def _nulls() -> dict[str, pl.Expr]:
    return {name: pl.lit(None, dtype=NEWEST_SCHEMA[name]) for name in BOUNDS}


def _among(rows: pa.Table, others: pa.Table) -> npt.NDArray[np.bool_]:
    return _mask(rows, pl.Series(others["message_id"]))


def _mask(rows: pa.Table, ids: pl.Series) -> npt.NDArray[np.bool_]:
    return pl.Series(rows["message_id"]).is_in(ids.implode()).to_numpy()
