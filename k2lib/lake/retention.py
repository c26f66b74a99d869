"""Which snapshots of a table are kept: pure rules, the clock passed in."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

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
