"""Reading from one end stops early, and never too early."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from support.lake_rows import append, at, catalog_in, trade

from k2lib.iceberg.manifests import PlannedFile
from k2lib.query.engine import Engine
from k2lib.query.files import Step, from_newest, from_oldest, has_first, has_last
from k2lib.query.request import ReadRequest
from k2lib.query.table_state import EPOCH

MANY = 10**6
Contents = dict[str, list[int]]

times = st.lists(st.integers(0, 20), max_size=4)
lakes = st.lists(times, max_size=6).map(lambda some: {str(n): one for n, one in enumerate(some)})


def stored(lake: Contents, *, rows: int = MANY) -> list[PlannedFile]:
    """Return files so large that each is a step of its own; a bound may be wider than the rows."""
    return [
        PlannedFile(path, rows, None, min(times, default=0) - 1, max(times, default=0))
        for path, times in lake.items()
    ]


def found(lake: Contents, files: Sequence[PlannedFile]) -> list[int]:
    return sorted(time for file in files for time in lake[file.path])


def frame_of(times_us: Sequence[int]) -> pl.DataFrame:
    moments = [EPOCH + timedelta(microseconds=one) for one in times_us]
    return pl.DataFrame({"timestamp": moments}, schema={"timestamp": pl.Datetime("us", "UTC")})


def read(
    lake: Contents, steps: Iterator[Step], kept: slice, is_all: Callable[..., bool], count: int
) -> tuple[list[int], int]:
    for files, rest_us in steps:
        rows = found(lake, files)[kept]
        if is_all(frame_of(rows), count, rest_us=rest_us):
            break
    return rows, len(files)


@given(lakes, st.integers(1, 5))
def test_the_last_rows_are_those_of_all_files(lake: Contents, count: int) -> None:
    steps = from_newest(stored(lake), None)
    rows, _ = read(lake, steps, slice(-count, None), has_last, count)
    assert rows == found(lake, stored(lake))[-count:]


@given(lakes, st.integers(1, 5))
def test_the_first_rows_are_those_of_all_files(lake: Contents, count: int) -> None:
    rows, _ = read(lake, from_oldest(stored(lake)), slice(count), has_first, count)
    assert rows == found(lake, stored(lake))[:count]


def test_days_that_cannot_have_one_are_not_read() -> None:
    lake = {str(day): [day * 10, day * 10 + 5] for day in range(50)}
    newest, n_newest = read(lake, from_newest(stored(lake), None), slice(-2, None), has_last, 2)
    oldest, n_oldest = read(lake, from_oldest(stored(lake)), slice(2), has_first, 2)
    assert (newest, oldest) == ([490, 495], [0, 5])
    assert n_newest == n_oldest == 1


def test_small_files_are_read_together() -> None:
    lake = {str(n): [n] for n in range(50)}
    assert [len(files) for files, _ in from_newest(stored(lake, rows=1000), None)] == [50]


def test_files_before_a_time_that_is_enough_are_left_out() -> None:
    lake = {str(n): [n] for n in range(10)}
    [(files, rest_us)] = from_newest(stored(lake, rows=1), 8)
    assert found(lake, files) == [8, 9] and rest_us is None


def test_nothing_asked_for_is_found_in_nothing() -> None:
    assert list(from_newest([], None)) == list(from_oldest([])) == [([], None)]
    assert has_last(frame_of([]), 0, rest_us=7) and has_first(frame_of([]), 0, rest_us=7)


def test_plans_know_the_bounds_and_the_venue_of_a_file(tmp_path: Path) -> None:
    catalog = catalog_in(tmp_path)
    append(catalog, [trade(1), trade(7)])
    with Engine(catalog) as engine:
        [file] = engine.select("trades_v2", ReadRequest("BHP")).files
    bounds = [EPOCH + timedelta(microseconds=us) for us in (file.oldest_us, file.newest_us)]
    assert (file.exchange, file.rows, bounds) == ("ASX", 2, [at(1), at(7)])
