"""The pace of a replay, by a clock that stands still; and what happens in an event loop."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog import Catalog
from support.fake_clock import FakeClock
from support.lake_rows import append, at, catalog_in, quote, trade
from support.open_files import open_files
from support.replaying import replay_of

from k2lib.errors import QueryError
from k2lib.query.engine import Engine
from k2lib.replay import Batch, Record, Replay

SECONDS = [0, 1, 1, 4, 10]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    made = catalog_in(tmp_path)
    append(made, [trade(n, timestamp=at(second)) for n, second in enumerate(SECONDS)])
    return made


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as opened:
        yield opened


class Sleeper:
    """Sleeps by moving a clock, a little too long each time, and remembers for how long."""

    def __init__(self, clock: FakeClock, *, too_long_s: float = 0.0) -> None:
        self.clock = clock
        self.too_long_s = too_long_s
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.clock.advance(seconds + self.too_long_s)

    async def later(self, seconds: float) -> None:
        self(seconds)
        await asyncio.sleep(0)


def paced(engine: Engine, sleeper: Sleeper, *, speed: float | None = 1.0, **options: Any) -> Replay:
    return replay_of(
        engine,
        "BHP",
        start=at(-100),
        end=at(100_000),
        speed=speed,
        clock=sleeper.clock,
        sleep=sleeper,
        async_sleep=sleeper.later,
        **options,
    )


def came_at(records: Any, clock: FakeClock) -> list[float]:
    began = clock()
    return [round(clock() - began, 6) for _ in records]


@pytest.mark.parametrize("speed", [1.0, 100.0, 0.5])
def test_each_event_comes_as_much_later_as_it_was_then(engine: Engine, speed: float) -> None:
    sleeper = Sleeper(FakeClock())
    times = came_at(paced(engine, sleeper, speed=speed), sleeper.clock)
    assert times == pytest.approx([second / speed for second in SECONDS])


def test_the_first_event_comes_at_once(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock())
    next(iter(paced(engine, sleeper)))
    assert sleeper.slept == []


def test_waits_that_end_late_do_not_add_up(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock(), too_long_s=0.25)
    assert came_at(paced(engine, sleeper), sleeper.clock) == [0, 1.25, 1.25, 4.25, 10.25]


def test_without_a_speed_nobody_waits(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock())
    assert len(list(paced(engine, sleeper, speed=None))) == len(SECONDS)
    assert sleeper.slept == []


def test_a_slow_consumer_gets_every_event_and_is_told_how_late(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock())
    replayed, behind = paced(engine, sleeper), []
    for _ in replayed:
        behind.append(replayed.behind_s)
        sleeper.clock.advance(3)
    assert behind == pytest.approx([0, 2, 5, 5, 2])
    assert sleeper.slept == []


def test_a_consumer_that_is_in_time_again_is_not_behind(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock())
    replayed = paced(engine, sleeper)
    records = iter(replayed)
    next(records)
    sleeper.clock.advance(3)
    behind = [replayed.behind_s for _ in records]
    assert behind == pytest.approx([2, 2, 0, 0])


def test_each_iteration_begins_again(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock())
    replayed = paced(engine, sleeper)
    assert came_at(replayed, sleeper.clock) == came_at(replayed, sleeper.clock)


def test_a_batch_holds_what_is_due(engine: Engine) -> None:
    sleeper = Sleeper(FakeClock())
    replayed, sizes = paced(engine, sleeper), []
    for batch in replayed.batches():
        sizes.append(batch.rows.num_rows)
        sleeper.clock.advance(1.5)
    assert sizes == [1, 2, 1, 1]
    assert sleeper.slept == pytest.approx([1.0, 4.5])


def heard(replayed: Replay) -> tuple[list[Record], list[Batch]]:
    async def both() -> tuple[list[Record], list[Batch]]:
        records = [one async for one in replayed]
        return records, [one async for one in replayed.abatches(rows=2)]

    return asyncio.run(both())


@pytest.mark.parametrize("speed", [None, 2.0])
def test_async_is_the_same_as_sync(catalog: Catalog, engine: Engine, speed: float | None) -> None:
    append(
        catalog, [quote(n, timestamp=at(second)) for n, second in enumerate((0, 3))], "quotes_v2"
    )
    sleeper = Sleeper(FakeClock())
    replayed = paced(engine, sleeper, speed=speed)
    records, batches = list(replayed), list(replayed.batches(rows=2))
    slept, sleeper.slept = sleeper.slept, []
    assert heard(replayed) == (records, batches)
    assert sleeper.slept == slept


def test_an_error_of_the_reading_thread_is_raised(engine: Engine, tmp_path: Path) -> None:
    replayed = paced(engine, Sleeper(FakeClock()))
    for file in tmp_path.glob("warehouse/**/*.parquet"):
        file.unlink()
    with pytest.raises(QueryError, match="no longer kept"):
        heard(replayed)


def test_others_run_while_a_replay_waits(engine: Engine) -> None:
    async def main() -> int:
        turns = 0
        ended = asyncio.Event()

        async def other() -> None:
            nonlocal turns
            while not ended.is_set():
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.create_task(other())
        async for _ in paced(engine, Sleeper(FakeClock())):
            pass
        ended.set()
        await running
        return turns

    assert asyncio.run(main()) > len(set(SECONDS))


@pytest.mark.parametrize("waits", ["for an event", "for the files"])
def test_cancellation_closes_the_files(engine: Engine, waits: str) -> None:
    async def main() -> None:
        arrived = asyncio.Event()
        never = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await never.wait()

        options = {"start": at(-100), "end": at(1000), "speed": 1.0, "async_sleep": sleep}

        async def consume() -> None:
            if waits == "for the files":
                arrived.set()
            async for _ in replay_of(engine, "BHP", **options):
                arrived.set()

        task = asyncio.create_task(consume())
        await arrived.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_asyncgens()

    asyncio.run(main())
    assert open_files() == []


def test_an_iterator_that_is_let_go_of_closes_its_files(engine: Engine) -> None:
    replayed = paced(engine, Sleeper(FakeClock()), speed=None)
    batches = replayed.batches(rows=1)
    next(batches)
    batches.close()
    for _ in replayed:
        break
    assert open_files() == []
