"""One instrument's rows of one kind: read from files in order, and merged with the others."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import FileIO

from k2lib.query.request import InstrumentFilter
from k2lib.query.table_state import EPOCH
from k2lib.schema.order import EVENT_ORDER

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bounds = tuple[Any, Any]
SeriesRows = tuple["InstrumentSeries", pa.Table]
Parts = Generator[pa.Table, None, None]
# Few texts, many times: read as codes of their distinct texts.
CODED: Final = ("symbol", "exchange", "asset_class", "currency", "side")
NAMED_BY: Final = ("timestamp", "symbol", "exchange")
NULL: Final = -(2**63)
MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class InstrumentSeries:
    """One instrument's records of one kind; `place` is its rank among those of one moment."""

    kind: str
    instrument: InstrumentFilter
    rank: int


def micros(moment: datetime) -> int:
    """Return a moment in microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def times_us(rows: pa.Table) -> Int64s:
    """Return the event times of rows, in microseconds."""
    times: Int64s = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times


def in_file(
    series: InstrumentSeries, path: str, *, io: FileIO, schema: pa.Schema, rows: int, with_ids: bool
) -> Parts:
    """Yield a lane's rows of a file by event time, at most so many at once.

    Args:
        schema: columns to return; null where the file has none.
        with_ids: whether message_id is wanted for itself: it takes long to read, and no two
            rows of an instrument that have a source_sequence are in order by it alone.
    Returns:
        Tables with the columns of `CODED` as codes of their texts.
    """
    with closing(io.new_input(path).open()) as stream:
        coded = [name for name in CODED if name in schema.names]
        file = _File(pq.ParquetFile(stream, read_dictionary=coded), series, rows)
        spared = () if with_ids or not file.is_counted() else ("message_id",)
        names = [name for name in schema.names if name not in spared]
        parts = (_shaped(part, schema) for part in file.parts(names))
        if file.is_in_order():
            yield from parts
        elif found := list(parts):  # written by someone who does not sort: held as a whole
            yield from in_table(one_chunk(found), rows=rows)


def in_table(found: pa.Table, *, rows: int) -> Parts:
    """Yield a lane's rows, held in memory in any order, as `in_file` does."""
    whole = in_event_order(found)
    yield from (whole.slice(at, rows) for at in range(0, whole.num_rows, rows))


def of_tail(tail: pa.Table, series: InstrumentSeries, schema: pa.Schema) -> pa.Table:
    """Return a lane's rows of a tail, with the columns as `in_file` returns them."""
    kept = tail.filter(pa.array(_instrument(tail, series.instrument)))
    for name in (name for name in CODED if name in kept.column_names):
        coded = kept[name].dictionary_encode()
        kept = kept.set_column(kept.column_names.index(name), name, coded)
    return _shaped(kept, schema)


def one_chunk(parts: Sequence[pa.Table]) -> pa.Table:
    """Return tables, at least one, as one whose columns have one chunk each."""
    whole = parts[0] if len(parts) == 1 else pa.concat_tables(parts)
    if whole.column(0).num_chunks == 1:
        return whole
    return whole.unify_dictionaries().combine_chunks()


def in_event_order(rows: pa.Table) -> pa.Table:
    """Return one instrument's rows of one kind in the order of events.

    Only rows of one moment are looked at closer than their time.
    """
    keys = [times_us(rows), *(_numbers(rows, name) for name in EVENT_ORDER if "sequence" in name)]
    if _rises(keys):
        return rows
    order = np.lexsort(keys[::-1])
    if np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys]).any():
        ids = np.array(rows["message_id"].fill_null("").to_pylist(), dtype=object)
        _, ranks = np.unique(ids, return_inverse=True)
        order = np.lexsort([ranks, *keys[::-1]])
    return rows.take(pa.array(order))


def _rises(keys: Sequence[Int64s]) -> bool:
    """Say whether each row is beyond the one before by the first key in which they differ."""
    at = np.arange(1, len(keys[0]))
    for key in keys:
        above, before = key[at], key[at - 1]
        if (above < before).any():
            return False
        at = at[above == before]
        if not len(at):
            return True
    return False


def _numbers(rows: pa.Table, name: str) -> Int64s:
    numbers: Int64s = rows[name].fill_null(NULL).to_numpy()
    return numbers


def _instrument(rows: pa.Table, instrument: InstrumentFilter) -> Bools:
    times = times_us(rows)
    kept: Bools = pc.equal(rows["symbol"], instrument.symbol).to_numpy()
    kept = kept & pc.equal(rows["exchange"], instrument.exchange).to_numpy()
    if instrument.start is not None:
        kept &= times >= micros(instrument.start)
    if instrument.end is not None:
        kept &= times < micros(instrument.end)
    return kept


def _shaped(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` in its order, as they were read, and null where there were none."""
    there = set(rows.column_names)
    columns = [
        rows[field.name] if field.name in there else pa.nulls(rows.num_rows, _coded(field))
        for field in schema
    ]
    return pa.table(columns, names=schema.names)


def _coded(field: pa.Field) -> pa.DataType:
    return pa.dictionary(pa.int32(), field.type) if field.name in CODED else field.type


class _File:
    """A Parquet file as one lane sees it: the row groups that can hold rows of it."""

    def __init__(self, file: pq.ParquetFile, series: InstrumentSeries, rows: int) -> None:
        self._file = file
        self._instrument = series.instrument
        self._rows = rows
        leaves = (file.metadata.schema.column(one) for one in range(file.metadata.num_columns))
        self._names = set(file.schema_arrow.names)
        self._leaf = {leaf.path: rank for rank, leaf in enumerate(leaves)}
        self._groups = [one for one in range(file.num_row_groups) if self._may_hold(one)]

    def parts(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows wanted, in the order of the file."""
        for group in self._groups:
            only = self._holds_only(group)
            columns = {*names, *(() if only else NAMED_BY)} & self._names
            for batch in self._file.iter_batches(
                self._rows, row_groups=[group], columns=list(columns), use_threads=False
            ):
                part = pa.Table.from_batches([batch])
                if not only:
                    part = part.filter(pa.array(_instrument(part, self._instrument)))
                if part.num_rows:
                    yield part

    def is_counted(self) -> bool:
        """Say whether every row has a source_sequence."""
        found = [self._statistics(group, "source_sequence") for group in self._groups]
        return all(one is not None and one.null_count == 0 for one in found)

    def is_in_order(self) -> bool:
        """Say whether the rows wanted stand by event time."""
        before = NULL
        for part in self.parts(["timestamp"]):
            times = times_us(part)
            if times[0] < before or (np.diff(times) < 0).any():
                return False
            before = int(times[-1])
        return True

    def _may_hold(self, group: int) -> bool:
        instrument = self._instrument
        low, high = self._bounds(group, "symbol")
        first, last = self._bounds(group, "timestamp")
        return (
            (low is None or low <= instrument.symbol <= high)
            and (instrument.start is None or last is None or last >= instrument.start)
            and (instrument.end is None or first is None or first < instrument.end)
        )

    def _holds_only(self, group: int) -> bool:
        instrument = self._instrument
        first, last = self._bounds(group, "timestamp")
        return (
            self._bounds(group, "symbol") == (instrument.symbol, instrument.symbol)
            and self._bounds(group, "exchange") == (instrument.exchange, instrument.exchange)
            and (instrument.start is None or (first is not None and first >= instrument.start))
            and (instrument.end is None or (last is not None and last < instrument.end))
        )

    def _bounds(self, group: int, name: str) -> Bounds:
        statistics = self._statistics(group, name)
        if statistics is None or not statistics.has_min_max:
            return None, None
        return statistics.min, statistics.max

    def _statistics(self, group: int, name: str) -> Any:
        leaf = self._leaf.get(name)
        return (
            None if leaf is None else self._file.metadata.row_group(group).column(leaf).statistics
        )


FOREVER: Final = 2**63 - 1


@dataclass(frozen=True)
class SortedRun:
    """Where rows of a lane stand by event time: none is before `since_us`."""

    series: InstrumentSeries
    since_us: int
    read: Callable[[], Parts]


class _Head:
    """What was read of a run and not yet given; one part is read ahead, to know the last one."""

    def __init__(self, run: SortedRun) -> None:
        self.series = run.series
        self.parts = run.read()
        self.rows: pa.Table | None = None
        self.times: Int64s = np.empty(0, np.int64)
        self._ahead = next(self.parts, None)
        self.grow()

    @property
    def ended(self) -> bool:
        """Whether all of the run is read."""
        return self._ahead is None

    @property
    def limit(self) -> int:
        """Before this moment, no row is still to be read."""
        return FOREVER if self.ended else int(self.times[-1])

    def grow(self) -> None:
        """Hold one more part."""
        part, self._ahead = self._ahead, next(self.parts, None)
        if part is not None:
            self.rows = part if self.rows is None else pa.concat_tables([self.rows, part])
            self.times = np.concatenate([self.times, times_us(part)])

    def take(self, horizon: int) -> pa.Table | None:
        """Give the rows before a moment."""
        count = int(np.searchsorted(self.times, horizon))
        if self.rows is None or not count:
            return None
        taken, self.times = self.rows.slice(0, count), self.times[count:]
        self.rows = self.rows.slice(count) if len(self.times) else None
        return taken


def spans(
    runs: Sequence[SortedRun],
) -> Generator[list[SeriesRows], None, None]:
    """Yield the rows of all runs in spans of time, one after the other.

    Only the runs that have rows of the moment are open, each with a part or two in memory.

    Returns:
        The lanes that have rows of a span, by their place, and the rows of each in its order.
    """
    unopened = sorted(runs, key=lambda run: run.since_us, reverse=True)
    heads: list[_Head] = []
    try:
        while heads or unopened:
            _open_due(heads, unopened)
            horizon = min(
                min((head.limit for head in heads), default=FOREVER),
                unopened[-1].since_us if unopened else FOREVER,
            )
            taken = [(head.series, head.take(horizon)) for head in heads]
            some = [(series, rows) for series, rows in taken if rows is not None]
            if some:
                yield _by_series(some)
            _refill(heads, horizon)
    finally:
        for head in heads:
            head.parts.close()


def _open_due(heads: list[_Head], unopened: list[SortedRun]) -> None:
    while unopened and unopened[-1].since_us <= _earliest(heads):
        head = _Head(unopened.pop())
        if head.rows is not None:
            heads.append(head)


def _earliest(heads: Sequence[_Head]) -> int:
    return min((int(head.times[0]) for head in heads), default=FOREVER)


def _refill(heads: list[_Head], horizon: int) -> None:
    for head in list(heads):
        if not head.ended and (head.rows is None or head.limit == horizon):
            head.grow()
        if head.rows is None:
            heads.remove(head)


def _by_series(
    taken: Sequence[SeriesRows],
) -> list[SeriesRows]:
    all_series = {series.rank: series for series, _ in taken}
    return [
        (series, in_event_order(pa.concat_tables([rows for one, rows in taken if one is series])))
        for _, series in sorted(all_series.items())
    ]
