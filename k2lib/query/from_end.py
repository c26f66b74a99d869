"""The first or last rows of an instrument from the few files that can have them."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import polars as pl

from k2lib.lake.scan import StoredFile
from k2lib.query.standing import EPOCH

FIRST_ROWS: Final = 262_144
GROWTH: Final = 8
MICROSECOND: Final = timedelta(microseconds=1)

# Files, and a time beyond which the files left out have no row; None where none is left out.
Step = tuple[Sequence[StoredFile], int | None]


def from_newest(files: Sequence[StoredFile], since_us: int | None) -> Iterator[Step]:
    """Yield more and more files, those of the newest rows first.

    Args:
        since_us: no row before this time is wanted.
    """
    wanted = [file for file in files if since_us is None or file.newest_us >= since_us]
    ordered = sorted(wanted, key=lambda file: file.newest_us, reverse=True)
    for count in _counts(ordered):
        yield ordered[:count], ordered[count].newest_us if count < len(ordered) else None


def from_oldest(files: Sequence[StoredFile]) -> Iterator[Step]:
    """Yield more and more files, those of the oldest rows first."""
    ordered = sorted(files, key=lambda file: file.oldest_us)
    for count in _counts(ordered):
        yield ordered[:count], ordered[count].oldest_us if count < len(ordered) else None


def has_last(frame: pl.DataFrame, count: int, *, rest_us: int | None) -> bool:
    """Say whether no file left out can have one of the last so many rows, found in order."""
    if rest_us is None or count == 0:
        return True
    return len(frame) == count and _time_us(frame, 0) > rest_us


def has_first(frame: pl.DataFrame, count: int, *, rest_us: int | None) -> bool:
    """Say whether no file left out can have one of the first so many rows, found in order."""
    if rest_us is None or count == 0:
        return True
    return len(frame) == count and _time_us(frame, -1) < rest_us


def _time_us(frame: pl.DataFrame, row: int) -> int:
    time: timedelta = frame["timestamp"][row] - EPOCH
    return time // MICROSECOND


def _counts(files: Sequence[StoredFile]) -> Iterator[int]:
    """So many files that their rows grow eightfold: all of it reads little more than the last."""
    rows, enough = 0, FIRST_ROWS
    for number, file in enumerate(files, start=1):
        rows += file.rows
        if rows >= enough and number < len(files):
            yield number
            enough = rows * GROWTH
    yield len(files)
