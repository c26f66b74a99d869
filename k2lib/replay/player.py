"""Replay: what was traded and quoted, in order of events, as if it happened again."""

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing
from typing import Final, TypeVar

import numpy as np

from k2lib.errors import QueryError
from k2lib.query.answer import CompleteTo
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.replay.events import (
    Batch,
    MergedEvents,
    Placed,
    drop_sort_columns,
    gap_batch,
    merge_events,
    names_of,
    plain,
)
from k2lib.replay.gaps import GapFinder
from k2lib.replay.plan import TABLE_OF, Plan, make_plan
from k2lib.replay.records import Record, RecordBuilder
from k2lib.replay.series import Int64s, SeriesRows, spans

US = 1_000_000


class Pace:
    """Turns event times into waits; the first event is due at once.

    Every wait is reckoned from the first event, so that waits which end late do not add up.
    """

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        """Begin with the first event asked for.

        Args:
            speed: seconds of event time in a second of the clock.
        """
        self._speed = speed
        self._clock = clock
        self._first_us: int | None = None
        self._began = 0.0

    def wait_s(self, time_us: int) -> float:
        """Return how long it is until an event is due; negative where it is late."""
        if self._first_us is None:
            self._first_us, self._began = time_us, self._clock()
        due = self._began + (time_us - self._first_us) / US / self._speed
        return due - self._clock()

    def due_us(self) -> int:
        """Return the event time that is due now."""
        passed = (self._clock() - self._began) * self._speed
        return (self._first_us or 0) + math.floor(passed * US)


def check_speed(speed: float | None) -> None:
    """Refuse a speed that is none.

    Raises:
        QueryError: it is not a number above 0.
    """
    if speed is None:
        return
    if not isinstance(speed, int | float) or isinstance(speed, bool) or not 0 < speed < math.inf:
        raise QueryError(
            f"speed={speed!r}: give a number above 0, 1 for real time and 600 for ten minutes a "
            "second, or None for as fast as possible"
        )


T = TypeVar("T")


async def in_thread(steps: Generator[T, None, None]) -> AsyncGenerator[T, None]:
    """Yield what a generator yields, each step done in a thread; it is closed in the end."""
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, steps, None))
            try:
                found = await asyncio.shield(step)
            except asyncio.CancelledError:
                # A generator cannot be closed while a thread is in it.
                await asyncio.wait([step])
                step.exception()
                raise
            if found is None:
                return
            yield found
    finally:
        steps.close()


BATCH_ROWS: Final = 65_536
# Records made at once: the first one does not wait for more than these.
RECORDS_AT_ONCE: Final = 4_096
Clock = Callable[[], float]
Sleep = Callable[[float], None]
AsyncSleep = Callable[[float], Awaitable[object]]


class Replay:
    """Trades, quotes and gaps of several instruments in the order of events.

    Each iteration begins again, on the same rows: those of the snapshots that were current when
    the replay was made. Whoever takes the events sets the pace: none is made before the one
    before it was taken, and none is left out because it is late. An iterator that is not read to
    its end is closed by `close()` or `aclose()`, or by letting go of it.

    The order is (timestamp, exchange, symbol), then trades before quotes, then source_sequence,
    platform_sequence and message_id, nulls first: a quote of a trade's moment may be what the
    trade made of it, and not what it met. A gap stands before the trade after it.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        *,
        speed: float | None,
        tail: bool,
        clock: Clock,
        sleep: Sleep,
        async_sleep: AsyncSleep,
    ) -> None:
        self.speed = speed
        self._engine = engine
        self._plan = plan
        self._tail = tail
        self._clock = clock
        self._sleep = sleep
        self._async_sleep = async_sleep
        self._behind_s = 0.0

    @property
    def behind_s(self) -> float:
        """By how many seconds of the clock the newest event came after it was due."""
        return self._behind_s

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is replayed: `trades`, `quotes` or both."""
        return tuple(self._plan.views)

    @property
    def instruments(self) -> list[tuple[str, str]]:
        """What is replayed, as exchange and symbol."""
        return sorted(
            {(one.instrument.exchange, one.instrument.symbol) for one in self._plan.all_series}
        )

    @property
    def column_names(self) -> list[str]:
        """The columns of what is replayed, sorted."""
        return sorted({name for kind in self.kinds for name in names_of(kind)})

    @property
    def complete_to(self) -> Mapping[str, CompleteTo]:
        """The snapshot and offsets that the rows come from, by table."""
        return {one.complete_to.table: one.complete_to for one in self._plan.views.values()}

    def series(self, kind: str, symbol: str) -> "Replay":
        """Return the rows of one kind and symbol, as fast as they are taken."""
        return Replay(
            self._engine,
            self._plan.series(kind, symbol),
            speed=None,
            tail=self._tail,
            clock=self._clock,
            sleep=self._sleep,
            async_sleep=self._async_sleep,
        )

    def __iter__(self) -> Iterator[Record]:
        """Begin, and yield each event as a `Trade`, `Quote` or `Gap`."""
        return self._records()

    def __aiter__(self) -> AsyncIterator[Record]:
        """Begin, as `iter` does; the rows are read in a thread of their own."""
        return self._arecords()

    def batches(
        self, rows: int = BATCH_ROWS, *, columns: Sequence[str] | None = None
    ) -> Generator[Batch, None, None]:
        """Begin, and yield the events as record batches, in time and across batches in order.

        A batch ends where the kind changes: where trades and quotes alternate, ask for one kind
        to get large ones. At a speed, a batch holds what is due when it is given.

        Args:
            rows: of a batch, at most.
            columns: to read; all without it. Fewer are faster.
        Raises:
            QueryError: no such column, or not one row.
        """
        self._check(rows, columns)
        return self._batches(rows, columns)

    def abatches(
        self, rows: int = BATCH_ROWS, *, columns: Sequence[str] | None = None
    ) -> AsyncGenerator[Batch, None]:
        """Begin, as `batches` does; the rows are read in a thread of their own."""
        self._check(rows, columns)
        return self._abatches(rows, columns)

    def _records(self) -> Generator[Record, None, None]:
        pace = self._pace()
        with closing(self._made()) as made:
            for times, records in made:
                if pace is None:
                    yield from records
                    continue
                for moment, record in zip(times.tolist(), records, strict=True):
                    if (wait_s := self._late(pace, moment)) > 0:
                        self._sleep(wait_s)
                    yield record

    async def _arecords(self) -> AsyncGenerator[Record, None]:
        pace = self._pace()
        async with aclosing(in_thread(self._made())) as made:
            async for times, records in made:
                for moment, record in zip(times.tolist(), records, strict=True):
                    if pace is not None and (wait_s := self._late(pace, moment)) > 0:
                        await self._async_sleep(wait_s)
                    yield record

    def _batches(self, rows: int, columns: Sequence[str] | None) -> Generator[Batch, None, None]:
        pace = self._pace()
        with closing(self._cut(rows, columns)) as cut:
            for times, batch in cut:
                if pace is None:
                    yield batch
                    continue
                while len(times):
                    if (wait_s := self._late(pace, int(times[0]))) > 0:
                        self._sleep(wait_s)
                    due, times, batch = _due(pace, times, batch)
                    yield due

    async def _abatches(
        self, rows: int, columns: Sequence[str] | None
    ) -> AsyncGenerator[Batch, None]:
        pace = self._pace()
        async with aclosing(in_thread(self._cut(rows, columns))) as cut:
            async for times, batch in cut:
                if pace is None:
                    yield batch
                    continue
                while len(times):
                    if (wait_s := self._late(pace, int(times[0]))) > 0:
                        await self._async_sleep(wait_s)
                    due, times, batch = _due(pace, times, batch)
                    yield due

    def _pace(self) -> Pace | None:
        self._behind_s = 0.0
        return None if self.speed is None else Pace(self.speed, self._clock)

    def _late(self, pace: Pace, moment: int) -> float:
        wait_s = pace.wait_s(moment)
        self._behind_s = max(0.0, -wait_s)
        return wait_s

    def _made(self) -> Generator[tuple[Int64s, list[Record]], None, None]:
        builder = RecordBuilder()
        with closing(self._woven(None)) as woven:
            for one in woven:
                yield from one.records(builder, RECORDS_AT_ONCE)

    def _cut(
        self, rows: int, columns: Sequence[str] | None
    ) -> Generator[tuple[Int64s, Batch], None, None]:
        with closing(self._woven(columns)) as woven:
            for one in woven:
                whole = {kind: plain(kind, found, columns) for kind, found in one.rows.items()}
                for kind, low, high, first in one.stretches(rows):
                    if kind == "gaps":
                        batch = gap_batch(one.gaps[first : first + high - low])
                    else:
                        batch = whole[kind].slice(first, high - low)
                    yield one.times[low:high], Batch(kind, batch)

    def _woven(self, columns: Sequence[str] | None) -> Generator[MergedEvents, None, None]:
        trades = self._plan.views.get("trades")
        gap_finder = None if trades is None else GapFinder(self._engine, trades, tail=self._tail)
        with closing(spans(self._plan.runs(columns))) as parts:
            for some in parts:
                yield merge_events(
                    drop_sort_columns(some, columns),
                    [] if gap_finder is None else list(_gaps(some, gap_finder)),
                )

    def _check(self, rows: int, columns: Sequence[str] | None) -> None:
        if rows < 1:
            raise QueryError(f"rows={rows}: a batch has 1 row or more")
        names = self.column_names
        unknown = [name for name in columns or () if name not in names]
        if unknown:
            raise QueryError(
                f"no column {', '.join(unknown)} in {' or '.join(self.kinds)}; "
                f"there are {', '.join(names)}"
            )


def replay(
    engine: Engine,
    requests: Sequence[ReadRequest],
    *,
    kinds: Sequence[str] = ("trades", "quotes"),
    speed: float | None = None,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
    async_sleep: AsyncSleep = asyncio.sleep,
) -> Replay:
    """Replay the trades and quotes of instruments, in the order of events.

    Args:
        requests: one an instrument, with the same `as_of` and `tail`; their counts do not matter.
        kinds: `trades`, `quotes` or both. Only trades have gaps, and only where a venue counts.
        speed: seconds of event time in a second: 1 for real time, 600 for ten minutes a second;
            None for as fast as the events are taken. The first event comes at once, each other
            one as much later as it was then.
        clock, sleep, async_sleep: seconds that only ever grow, and how to wait some.
    Raises:
        NotFoundError: no such symbol, venue or snapshot; the message names what there is.
        QueryError: no such kind, speed or span, or a symbol of several venues.
    """
    check_speed(speed)
    as_of, tail = requests[0].as_of, requests[0].tail
    views = {
        kind: engine.table_view(TABLE_OF[kind], as_of=as_of, tail=tail) for kind in _kinds(kinds)
    }
    return Replay(
        engine,
        make_plan(engine, requests, views),
        speed=speed,
        tail=tail and as_of is None,
        clock=clock,
        sleep=sleep,
        async_sleep=async_sleep,
    )


def _kinds(kinds: Sequence[str]) -> list[str]:
    names = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(names, Sequence) or not names or not set(names) <= set(TABLE_OF):
        raise QueryError(f"kinds={names}: give some of {', '.join(TABLE_OF)}")
    return [kind for kind in TABLE_OF if kind in names]


def _gaps(parts: Sequence[SeriesRows], gap_finder: GapFinder) -> Iterator[Placed]:
    for part, (series, rows) in enumerate(parts):
        if series.kind == "trades":
            yield from ((part, row, gap) for row, gap in gap_finder.before(series, rows))


def _due(pace: Pace, times: Int64s, batch: Batch) -> tuple[Batch, Int64s, Batch]:
    """What is due of a batch, at least a row, and what is left of it."""
    count = max(1, int(np.searchsorted(times, pace.due_us(), side="right")))
    due = Batch(batch.kind, batch.rows.slice(0, count))
    return due, times[count:], Batch(batch.kind, batch.rows.slice(count))
