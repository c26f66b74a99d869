"""Maintenance by a table's writer between commits: compaction, retention, orphan files."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import ExpireSnapshots

from k2lib.errors import StaleWriterError
from k2lib.events import MaintenanceDone, OnEvent, log_event
from k2lib.iceberg.commit_times import committed_at, main_line, sequence
from k2lib.iceberg.compaction import (
    FAN_IN,
    CompactionCandidates,
    CompactionResult,
    compact,
    plan_compaction,
    remove_folder,
    total,
)
from k2lib.iceberg.offsets import NO_OFFSETS, find_offsets, has_offsets, offset_lineage
from k2lib.iceberg.orphan_files import ORPHAN_AGE, OrphanFileCleaner, OrphanFileResult
from k2lib.iceberg.tables import TableSpec
from k2lib.iceberg.writer import QuickTransaction

LAST: Final = 16
HOURLY_FOR: Final = timedelta(hours=24)
DAILY_FOR: Final = timedelta(days=30)
_DAY_TAG: Final = "day-"


@dataclass(frozen=True)
class SnapshotTime:
    """A snapshot and when it was committed."""

    id: int
    at: datetime


def snapshots_to_keep(
    commits: Sequence[SnapshotTime], now: datetime, *, pinned: Collection[int] = frozenset()
) -> set[int]:
    """Return the ids to keep: the last ones, one an hour for a day, one a UTC day for 30 days.

    Args:
        commits: every snapshot of the table, in the order of the commits; their times may step
            back, as a clock can.
        now: aware, as the commits' times are.
        pinned: ids kept for other reasons: the current one, what a user tagged.
    """
    last = {commit.id for commit in commits[-LAST:]}
    hourly = _young(_newest_of_hours(commits).values(), now, limit=HOURLY_FOR)
    daily = _young(_newest_of_days(commits).values(), now, limit=DAILY_FOR)
    return {commit.id for commit in commits} & (last | hourly | daily | set(pinned))


def day_tags(commits: Sequence[SnapshotTime], now: datetime) -> dict[str, int]:
    """Return the tags due: `day-2026-03-14` on the last snapshot of each day that is over.

    Args:
        commits: the line of the current snapshot, in the order of the commits.
    """
    today = now.astimezone(UTC).date()
    return {
        f"{_DAY_TAG}{day.isoformat()}": commit.id
        for day, commit in _newest_of_days(commits).items()
        if day < today and now - commit.at < DAILY_FOR
    }


def is_day_tag(name: str) -> bool:
    """Say whether a tag is one of those that maintenance sets, and so may remove."""
    try:
        date.fromisoformat(name.removeprefix(_DAY_TAG))
    except ValueError:
        return False
    return name.startswith(_DAY_TAG)


def outdated_tags(
    refs: Mapping[str, int], commits: Sequence[SnapshotTime], now: datetime
) -> list[str]:
    """Name the day tags whose snapshot has outlived the days it is kept for."""
    times = {commit.id: commit.at for commit in commits}
    return [
        name
        for name, snapshot in refs.items()
        if is_day_tag(name) and now - times[snapshot] >= DAILY_FOR
    ]


def _newest_of_hours(commits: Iterable[SnapshotTime]) -> dict[datetime, SnapshotTime]:
    return {
        commit.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0): commit
        for commit in commits
    }


def _newest_of_days(commits: Iterable[SnapshotTime]) -> dict[date, SnapshotTime]:
    return {commit.at.astimezone(UTC).date(): commit for commit in commits}


def _young(commits: Iterable[SnapshotTime], now: datetime, *, limit: timedelta) -> set[int]:
    return {commit.id for commit in commits if now - commit.at < limit}


CHECK_EVERY: Final = FAN_IN
UNNEEDED: Final = 16
CLEAN_EVERY: Final = timedelta(minutes=1)
CATCHING_UP_FAN_IN: Final = 64


class Maintenance:
    """Maintenance of one table, run by the thread that alone writes it."""

    def __init__(
        self,
        spec: TableSpec,
        *,
        state: Path,
        now: Callable[[], datetime],
        orphan_age: timedelta = ORPHAN_AGE,
        on_event: OnEvent = log_event,
    ) -> None:
        """Begin.

        Args:
            spec: the table.
            state: a file for this table, which keeps since when files have been unreferenced;
                temporary files of compaction lie beside it.
            now: the time, aware.
            orphan_age: how long a file stays that another engine may yet commit.
            on_event: gets a `MaintenanceDone` after every round that changed something.
        """
        self._spec = spec
        self._now = now
        self._on_event = on_event
        self._candidates = CompactionCandidates()
        self._cleaner = OrphanFileCleaner(state, age=orphan_age)
        self._spill = state.with_name(f"compaction-{spec.name}")
        remove_folder(self._spill)  # of a process that was killed
        self._commits = 0
        self._cleaned_at: datetime | None = None

    def after_commit(self, table: Table, *, catching_up: bool = False) -> Table:
        """Do what is due after a commit; most commits cost nothing.

        Args:
            table: loaded or refreshed after the commit.
            catching_up: whether more records are ready to be read: then only partitions with many
                files are merged.
        Returns:
            The handle to go on with.
        Raises:
            StaleWriterError: another writer committed meanwhile.
        """
        due = self._commits % CHECK_EVERY == 0
        self._commits += 1
        if due or self._cleaning_is_due():
            fan_in = CATCHING_UP_FAN_IN if catching_up else FAN_IN
            merge = self._merge(table, fan_in=fan_in) if due else CompactionResult()
            tags, expired = self._retain(table, unneeded=UNNEEDED) if due else ((), 0)
            orphans = self._clean(table) if self._cleaning_is_due() else OrphanFileResult()
            self._report(_summary(self._spec.name, merge, orphans, tags=tags, expired=expired))
        return table

    def run_now(self, table: Table) -> MaintenanceDone:
        """Do everything that can be done, due or not; return what was done.

        Raises:
            StaleWriterError: another writer committed meanwhile.
        """
        merges = [self._merge(table, fan_in=2)]
        while merges[-1].files_merged:
            merges.append(self._merge(table, fan_in=2))
        tags, expired = self._retain(table, unneeded=1)
        orphans = self._clean(table)
        done = _summary(self._spec.name, total(merges), orphans, tags=tags, expired=expired)
        self._report(done)
        return done

    def _report(self, done: MaintenanceDone) -> None:
        if done.has_changes:
            self._on_event(done)

    def _merge(self, table: Table, *, fan_in: int) -> CompactionResult:
        groups = plan_compaction(self._candidates.read(table), fan_in=fan_in)
        try:
            return compact(table, groups, order=self._spec.order, spill=self._spill, now=self._now)
        except CommitFailedException as exc:
            raise self._stale(table) from exc

    def _retain(self, table: Table, *, unneeded: int) -> tuple[tuple[str, ...], int]:
        head = table.metadata.current_snapshot_id
        now = self._now()
        try:
            tags = set_day_tags(table, now)
            expired = expire(table, now, unneeded=unneeded)
        except CommitFailedException as exc:
            raise self._stale(table) from exc
        if table.metadata.current_snapshot_id != head:
            raise self._stale(table)
        return tags, expired

    def _cleaning_is_due(self) -> bool:
        return self._cleaned_at is None or self._now() - self._cleaned_at >= CLEAN_EVERY

    def _clean(self, table: Table) -> OrphanFileResult:
        self._cleaned_at = self._now()
        return self._cleaner.run(table, self._cleaned_at)

    def _stale(self, table: Table) -> StaleWriterError:
        return StaleWriterError(
            f"{'.'.join(table.name())}: another writer committed during maintenance; "
            "read the table's offsets and resume there"
        )


def _summary(
    table: str,
    merge: CompactionResult,
    orphans: OrphanFileResult,
    *,
    tags: tuple[str, ...],
    expired: int,
) -> MaintenanceDone:
    return MaintenanceDone(
        table=table,
        files_merged=merge.files_merged,
        files_written=merge.files_written,
        rows_rewritten=merge.rows_rewritten,
        tags=tags,
        snapshots_expired=expired,
        files_deleted=orphans.deleted,
        bytes_deleted=orphans.deleted_bytes,
        files_waiting=orphans.pending,
        files_missing=orphans.missing,
    )


def set_day_tags(table: Table, now: datetime) -> tuple[str, ...]:
    """Tag the last snapshot of each day that is over, and drop the tags of 30 days ago.

    A tag moves where a clock that was ahead had it set before the day was over.

    Returns:
        The names of the tags that were set.
    """
    commits = snapshot_times(table)
    line = [SnapshotTime(one.snapshot_id, committed_at(one)) for one in main_line(table)]
    refs = {name: ref.snapshot_id for name, ref in table.refs().items()}
    due = day_tags(line, now)
    new = {name: snapshot for name, snapshot in due.items() if refs.get(name) != snapshot}
    old = outdated_tags(refs, commits, now)
    if new or old:
        changes = table.manage_snapshots()
        for name, snapshot in new.items():
            changes = changes.create_tag(snapshot, name)
        for name in old:
            changes = changes.remove_tag(name)
        changes.commit()
    return tuple(new)


def expire(table: Table, now: datetime, *, unneeded: int) -> int:
    """Expire the snapshots no rule keeps, in one commit, once there are `unneeded` of them.

    The property then tells of a table that never had offsets that it is so: its first snapshot,
    which says the same, may go.
    """
    commits = snapshot_times(table)
    pinned = {ref.snapshot_id for ref in table.refs().values()}
    lineage = offset_lineage(table)
    pinned |= {snapshot.snapshot_id for snapshot in lineage}
    keep = snapshots_to_keep(commits, now, pinned=pinned)
    old = [commit.id for commit in commits if commit.id not in keep]
    if len(old) < unneeded:
        return 0
    with QuickTransaction(table) as transaction:
        ExpireSnapshots(transaction).by_ids(old).commit()
        if not has_offsets(lineage[-1]) and find_offsets(table) == NO_OFFSETS:
            transaction.set_properties(NO_OFFSETS.to_json())
    return len(old)


def snapshot_times(table: Table) -> list[SnapshotTime]:
    """Return the table's snapshots in the order in which they were committed."""
    return [
        SnapshotTime(one.snapshot_id, committed_at(one))
        for one in sorted(table.snapshots(), key=sequence)
    ]
