"""The state of a table: its snapshot, end offsets, and changes since the last state."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import pyarrow as pa
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, ancestors_of

from k2lib.errors import TableError
from k2lib.iceberg.columns import record_table, snapshot_schema
from k2lib.iceberg.manifests import column_bounds, data_files
from k2lib.iceberg.offsets import Offsets, has_offsets, read_offsets, snapshot_cause
from k2lib.iceberg.tables import TABLES
from k2lib.query.answer import CompleteTo

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIMES_KEPT: Final = 64
EVENT_TIMES: Final = ("timestamp", "noticed", "ingestion_timestamp")

Step = Literal["same", "sinks", "others", "elsewhere"]


@dataclass(frozen=True)
class TableState:
    """A table at a snapshot, None where nothing was ever committed to it.

    `problem` says why the offsets are not known.
    """

    table: Table | None
    snapshot: Snapshot | None = None
    offsets: Offsets = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def of(cls, table: Table | None, snapshot_id: int | None = None) -> "TableState":
        """Return where a table stands, by the metadata it was loaded with, or stood once."""
        if table is None:
            return cls(None)
        current = table.current_snapshot()
        snapshot = current if snapshot_id is None else table.snapshot_by_id(snapshot_id)
        try:
            return cls(table, snapshot, {} if snapshot is None else read_offsets(table, snapshot))
        except TableError as exc:
            return cls(table, snapshot, problem=str(exc))

    @property
    def snapshot_id(self) -> int | None:
        """The snapshot's id."""
        return None if self.snapshot is None else self.snapshot.snapshot_id


def step(before: TableState, after: TableState) -> Step:
    """Say how a table came from one state to a later one.

    Returns:
        `same` snapshot; commits of `sinks` alone and maintenance, which say by their offsets what
        they added; commits of `others` too; or `elsewhere`: not from there.
    """
    if before.snapshot_id == after.snapshot_id and _same_table(before, after):
        return "same"
    if after.table is None or not _same_table(before, after):
        return "elsewhere"
    between: list[Snapshot] = []
    for one in ancestors_of(after.snapshot, after.table.metadata):
        if one.snapshot_id == before.snapshot_id:
            return _made_by(between)
        between.append(one)
    from_nothing = before.snapshot_id is None and between[-1].parent_snapshot_id is None
    return _made_by(between) if from_nothing else "elsewhere"


def newest_time(table: Table, snapshot: Snapshot) -> datetime | None:
    """Return the newest event time in a snapshot of a table, by what its files say."""
    table = record_table(table)
    schema = snapshot_schema(table, snapshot.snapshot_id)
    name = next((name for name in EVENT_TIMES if name in schema.column_names), None)
    if name is None:
        return None
    files = data_files(table, snapshot.snapshot_id)
    newest = [column_bounds(table, file, name)[1] for file in files]
    times = [time for time in newest if time is not None]
    return EPOCH + timedelta(microseconds=max(times)) if times else None


class NewestTimes:
    """The newest event time of each snapshot asked for last."""

    def __init__(self) -> None:
        self._times: dict[tuple[object, ...], datetime | None] = {}
        self._lock = threading.Lock()

    def of(self, state: TableState) -> datetime | None:
        """Return the newest event time in a snapshot, by what its files say."""
        if state.table is None or state.snapshot is None:
            return None
        key = (state.table.metadata.table_uuid, state.snapshot_id)
        with self._lock:
            if key not in self._times:
                while len(self._times) >= TIMES_KEPT:
                    del self._times[next(iter(self._times))]
                self._times[key] = newest_time(state.table, state.snapshot)
            return self._times[key]


def _same_table(before: TableState, after: TableState) -> bool:
    if before.table is None or after.table is None:
        return before.table is None
    return before.table.metadata.table_uuid == after.table.metadata.table_uuid


def _made_by(commits: Iterable[Snapshot]) -> Step:
    return "sinks" if all(map(_tells_what_it_added, commits)) else "others"


def _tells_what_it_added(one: Snapshot) -> bool:
    if snapshot_cause(one) is not None:
        return True
    added = one.summary is not None and one.summary.operation == Operation.APPEND
    return added and has_offsets(one)


@dataclass(frozen=True)
class TableView:
    """A table as it is at one moment: a snapshot, and the rows that only the log has."""

    table: Table | None
    snapshot_id: int | None
    rows: pa.Table
    complete_to: CompleteTo


def of_lake(
    name: str, state: TableState, newest: datetime | None, *, reason: str | None
) -> TableView:
    """Return a table without what the log has beyond it."""
    ends = {
        log: {tp: end for tp, (_, end) in partitions.items()}
        for log, partitions in state.offsets.items()
    }
    complete_to = CompleteTo(name, state.snapshot_id, ends, newest, behind=None, reason=reason)
    empty = TABLES[name].schema.arrow.empty_table()
    return TableView(state.table, state.snapshot_id, empty, complete_to)
