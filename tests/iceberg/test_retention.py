"""Which snapshots are kept, against the rule read word by word."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from k2lib.iceberg.maintenance import (
    SnapshotTime,
    day_tags,
    is_day_tag,
    outdated_tags,
    snapshots_to_keep,
)

NOW = datetime(2026, 3, 14, 12, 30, tzinfo=UTC)
AGES = st.lists(st.integers(0, 40 * 24 * 60), min_size=1, max_size=120)


def _commits(*ages: timedelta) -> list[SnapshotTime]:
    return [
        SnapshotTime(number, NOW - age) for number, age in enumerate(sorted(ages, reverse=True))
    ]


def _by_the_rule(commits: list[SnapshotTime], pinned: set[int]) -> set[int]:
    def newest(one: SnapshotTime, pattern: str) -> bool:
        period = one.at.strftime(pattern)
        return all(
            later.at.strftime(pattern) != period for later in commits[commits.index(one) + 1 :]
        )

    return {
        one.id
        for place, one in enumerate(commits)
        if place >= len(commits) - 16
        or (NOW - one.at < timedelta(days=1) and newest(one, "%Y-%m-%d %H"))
        or (NOW - one.at < timedelta(days=30) and newest(one, "%Y-%m-%d"))
        or one.id in pinned
    }


@given(AGES, st.sets(st.integers(0, 119), max_size=3))
def test_kept_snapshots_are_those_of_the_rule(ages: list[int], pinned: set[int]) -> None:
    commits = _commits(*(timedelta(minutes=age) for age in ages))
    assert snapshots_to_keep(commits, NOW, pinned=pinned) == _by_the_rule(commits, pinned)


@given(AGES)
def test_the_newest_snapshot_is_always_kept(ages: list[int]) -> None:
    commits = _commits(*(timedelta(minutes=age) for age in ages))
    assert commits[-1].id in snapshots_to_keep(commits, NOW)


def test_a_month_of_commits_every_two_minutes_keeps_seventy() -> None:
    commits = _commits(*(timedelta(minutes=2 * number) for number in range(30 * 24 * 30)))
    assert len(snapshots_to_keep(commits, NOW)) <= 16 + 24 + 30


def test_day_tags_mark_the_newest_of_days_that_are_over() -> None:
    commits = _commits(*(timedelta(hours=hours) for hours in (1, 13, 14, 40)))
    assert day_tags(commits, NOW) == {"day-2026-03-13": 2, "day-2026-03-12": 0}


def test_a_day_tag_is_outdated_after_thirty_days() -> None:
    commits = _commits(timedelta(days=29), timedelta(days=30))
    refs = {"day-2026-02-12": 0, "day-2026-02-13": 1, "before-the-demo": 0, "main": 1}
    assert outdated_tags(refs, commits, NOW) == ["day-2026-02-12"]


def test_a_tag_of_a_user_is_no_day_tag() -> None:
    assert is_day_tag("day-2026-03-14")
    assert not is_day_tag("day-one")
    assert not is_day_tag("2026-03-14")
