"""What a table's writer does between commits: merge files, expire snapshots, delete old files."""

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
from k2lib.iceberg.compaction import FAN_IN, CompactionCandidates, Merge, compact, plan, total
from k2lib.iceberg.offsets import offset_lineage
from k2lib.iceberg.orphan_files import OrphanFileCleaner, OrphanFileResult
from k2lib.iceberg.tables import TableSpec
from k2lib.iceberg.writer import QuickTransaction

LAST: Final = 16
HOURLY_FOR: Final = timedelta(hours=24)
DAILY_FOR: Final = timedelta(days=30)
_DAY_TAG: Final = "day-"


@dataclass(frozen=True)
class Commit:
    """A snapshot as the rules see it."""

    id: int
    at: datetime


def kept(
    commits: Sequence[Commit], now: datetime, *, pinned: Collection[int] = frozenset()
) -> set[int]:
    """Return the ids to keep: the last ones, one an hour for a day, one a UTC day for 30 days.

    Args:
        commits: every snapshot of the table, in the order of the commits.
        now: aware, as the commits' times are.
        pinned: ids kept for other reasons: the current one, what a user tagged.
    """
    last = {commit.id for commit in commits[-LAST:]}
    hourly = _young(_newest_of_hours(commits).values(), now, limit=HOURLY_FOR)
    daily = _young(_newest_of_days(commits).values(), now, limit=DAILY_FOR)
    return {commit.id for commit in commits} & (last | hourly | daily | set(pinned))


def day_tags(commits: Sequence[Commit], now: datetime) -> dict[str, int]:
    """Return the tags due: `day-2026-03-14` on the newest snapshot of each day that is over."""
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


def outdated_tags(refs: Mapping[str, int], commits: Sequence[Commit], now: datetime) -> list[str]:
    """Name the day tags whose snapshot has outlived the days it is kept for."""
    times = {commit.id: commit.at for commit in commits}
    return [
        name
        for name, snapshot in refs.items()
        if is_day_tag(name) and now - times[snapshot] >= DAILY_FOR
    ]


def _newest_of_hours(commits: Iterable[Commit]) -> dict[datetime, Commit]:
    return {
        commit.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0): commit
        for commit in commits
    }


def _newest_of_days(commits: Iterable[Commit]) -> dict[date, Commit]:
    return {commit.at.astimezone(UTC).date(): commit for commit in commits}


def _young(commits: Iterable[Commit], now: datetime, *, limit: timedelta) -> set[int]:
    return {commit.id for commit in commits if now - commit.at < limit}


CHECK_EVERY: Final = FAN_IN
UNNEEDED: Final = 16
SWEEP_EVERY: Final = timedelta(minutes=1)
CATCHING_UP_FAN_IN: Final = 64


class Maintenance:
    """Maintenance of one table, run by the thread that alone writes it."""

    def __init__(
        self,
        spec: TableSpec,
        *,
        state: Path,
        now: Callable[[], datetime],
        on_event: OnEvent = log_event,
    ) -> None:
        """Begin.

        Args:
            spec: the table.
            state: a file of this table's own that remembers when files lost their last use.
            now: the time, aware.
            on_event: gets a `MaintenanceDone` after every round that changed something.
        """
        self._spec = spec
        self._now = now
        self._on_event = on_event
        self._candidates = CompactionCandidates()
        self._sweep = OrphanFileCleaner(state)
        self._commits = 0
        self._swept_at: datetime | None = None

    def after_commit(self, table: Table, *, catching_up: bool = False) -> Table:
        """Do what is due after a commit; most commits cost nothing.

        Args:
            table: as it stands after the commit.
            catching_up: whether more records already wait: then only a partition with many files
                is merged.
        Returns:
            The handle to go on with.
        Raises:
            StaleWriterError: another writer committed meanwhile.
        """
        due = self._commits % CHECK_EVERY == 0
        self._commits += 1
        if due or self._sweep_is_due():
            fan_in = CATCHING_UP_FAN_IN if catching_up else FAN_IN
            merge = self._merge(table, fan_in=fan_in) if due else Merge()
            tags, expired = self._retain(table, unneeded=UNNEEDED) if due else ((), 0)
            swept = self._sweep_now(table) if self._sweep_is_due() else OrphanFileResult()
            self._report(_summary(self._spec.name, merge, swept, tags=tags, expired=expired))
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
        swept = self._sweep_now(table)
        done = _summary(self._spec.name, total(merges), swept, tags=tags, expired=expired)
        self._report(done)
        return done

    def _report(self, done: MaintenanceDone) -> None:
        if done.has_changes:
            self._on_event(done)

    def _merge(self, table: Table, *, fan_in: int) -> Merge:
        groups = plan(self._candidates.read(table), fan_in=fan_in)
        try:
            return compact(table, groups, order=self._spec.order)
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

    def _sweep_is_due(self) -> bool:
        return self._swept_at is None or self._now() - self._swept_at >= SWEEP_EVERY

    def _sweep_now(self, table: Table) -> OrphanFileResult:
        self._swept_at = self._now()
        return self._sweep.run(table, self._swept_at)

    def _stale(self, table: Table) -> StaleWriterError:
        return StaleWriterError(
            f"{'.'.join(table.name())}: another writer committed during maintenance; "
            "read the table's offsets and begin again there"
        )


def _summary(
    table: str, merge: Merge, swept: OrphanFileResult, *, tags: tuple[str, ...], expired: int
) -> MaintenanceDone:
    return MaintenanceDone(
        table=table,
        files_merged=merge.files_merged,
        files_written=merge.files_written,
        rows_rewritten=merge.rows_rewritten,
        tags=tags,
        snapshots_expired=expired,
        files_deleted=swept.deleted,
        bytes_deleted=swept.deleted_bytes,
        files_waiting=swept.waiting,
        files_missing=swept.missing,
    )


def set_day_tags(table: Table, now: datetime) -> tuple[str, ...]:
    """Tag the newest snapshot of each day that is over, and drop the tags of 30 days ago.

    Returns:
        The names of the tags that were set.
    """
    commits = commits_of(table)
    refs = {name: ref.snapshot_id for name, ref in table.refs().items()}
    due = day_tags(commits, now)
    new = {name: snapshot for name, snapshot in due.items() if name not in refs}
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
    """Expire the snapshots no rule keeps, in one commit, once there are `unneeded` of them."""
    commits = commits_of(table)
    pinned = {ref.snapshot_id for ref in table.refs().values()}
    pinned |= {snapshot.snapshot_id for snapshot in offset_lineage(table)}
    keep = kept(commits, now, pinned=pinned)
    old = [commit.id for commit in commits if commit.id not in keep]
    if len(old) < unneeded:
        return 0
    ExpireSnapshots(QuickTransaction(table, autocommit=True)).by_ids(old).commit()
    return len(old)


def commits_of(table: Table) -> list[Commit]:
    """Return the table's snapshots in the order in which they were committed."""
    snapshots = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
    return [
        Commit(s.snapshot_id, datetime.fromtimestamp(s.timestamp_ms / 1000, tz=UTC))
        for s in snapshots
    ]
