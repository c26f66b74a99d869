"""The times of commits: never before the last one's, whatever this machine's clock says.

Other engines refuse a table whose log of snapshots steps back in time. Where our clock is behind
the last commit, a snapshot carries that commit's time, and our clock's as `k2.committed-ms`.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Final, TypeVar

from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import MetadataLogEntry, Snapshot, SnapshotLogEntry, Summary
from pyiceberg.table.update import AddSnapshotUpdate, TableUpdate

COMMITTED_PROPERTY: Final = "k2.committed-ms"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)

Clock = Callable[[], datetime]
Entry = TypeVar("Entry", SnapshotLogEntry, MetadataLogEntry)


def system_clock() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.now(UTC)


def committed_at(snapshot: Snapshot) -> datetime:
    """Return when a snapshot was committed, by the clock of who committed it."""
    properties = {} if snapshot.summary is None else snapshot.summary.additional_properties
    return EPOCH + int(properties.get(COMMITTED_PROPERTY, snapshot.timestamp_ms)) * MILLISECOND


def sequence(snapshot: Snapshot) -> tuple[int, int]:
    """Return what sorts snapshots in the order of their commits, whatever their times are."""
    return snapshot.sequence_number or 0, snapshot.timestamp_ms


def main_line(table: Table) -> list[Snapshot]:
    """Return the kept snapshots that the current one was built on, itself included, oldest first.

    Parents alone do not tell, because dropping a snapshot cuts the line; the table's own log of
    what was current does: going back to a snapshot disowns those that came after it.
    """
    line: list[Snapshot] = []
    for entry in table.history():
        entered = table.snapshot_by_id(entry.snapshot_id)
        if entered is not None:
            line = [one for one in line if sequence(one) < sequence(entered)] + [entered]
    return line


def not_before(
    updates: Iterable[TableUpdate], metadata: TableMetadata, now: datetime
) -> tuple[TableUpdate, ...]:
    """Return the updates with new snapshots dated now, or as the last commit if that is later."""
    now_ms = (now - EPOCH) // MILLISECOND
    last_ms = _last_ms(metadata)

    def dated(update: TableUpdate) -> TableUpdate:
        if not isinstance(update, AddSnapshotUpdate):
            return update
        return AddSnapshotUpdate(snapshot=_dated(update.snapshot, now_ms, last_ms))

    return tuple(map(dated, updates))


def in_order(metadata: TableMetadata) -> TableMetadata:
    """Return the metadata with every time in its logs no earlier than the one before it."""
    changes = {
        "snapshot_log": _sorted_log(metadata.snapshot_log),
        "metadata_log": _sorted_log(metadata.metadata_log),
        "last_updated_ms": _last_ms(metadata),
    }
    same = all(getattr(metadata, name) == value for name, value in changes.items())
    return metadata if same else metadata.model_copy(update=changes)


def _last_ms(metadata: TableMetadata) -> int:
    logs: tuple[Iterable[SnapshotLogEntry | MetadataLogEntry], ...]
    logs = (metadata.snapshot_log, metadata.metadata_log)
    return max([metadata.last_updated_ms, *(one.timestamp_ms for log in logs for one in log)])


def _dated(snapshot: Snapshot, now_ms: int, last_ms: int) -> Snapshot:
    if now_ms >= last_ms:
        return snapshot.model_copy(update={"timestamp_ms": now_ms})
    summary = snapshot.summary
    if summary is not None:
        properties = summary.additional_properties | {COMMITTED_PROPERTY: str(now_ms)}
        summary = Summary(summary.operation, **properties)
    return snapshot.model_copy(update={"timestamp_ms": last_ms, "summary": summary})


def _sorted_log(log: list[Entry]) -> list[Entry]:
    times = accumulate((entry.timestamp_ms for entry in log), max)
    return [
        entry if entry.timestamp_ms == at else entry.model_copy(update={"timestamp_ms": at})
        for entry, at in zip(log, times, strict=True)
    ]
