"""Rows of several series as one sequence of events, and as record batches of one kind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import structs

from k2lib.iceberg.tables import TABLES
from k2lib.replay.plan import TABLE_OF
from k2lib.replay.records import Gap, Record, RecordBuilder
from k2lib.replay.series import Int64s, SeriesRows, one_chunk, times_us

KINDS: Final = ("trades", "quotes", "gaps")
GAP: Final = KINDS.index("gaps")
Kinds = npt.NDArray[np.int8]
Placed = tuple[int, int, Gap]


@dataclass(frozen=True)
class MergedEvents:
    """Events in order.

    Attributes:
        rows: of each kind, in order.
        gaps: in order.
        kinds: of each event, the place of its kind in `KINDS`.
        times: of each event, in microseconds.
    """

    rows: Mapping[str, pa.Table]
    gaps: Sequence[Gap]
    kinds: Kinds
    times: Int64s

    def records(
        self, builder: RecordBuilder, at_once: int
    ) -> Iterator[tuple[Int64s, list[Record]]]:
        """Yield all events as records with their times, so many at once."""
        taken = np.zeros(len(KINDS), np.int64)
        for low in range(0, len(self.kinds), at_once):
            kinds = self.kinds[low : low + at_once]
            counts = np.bincount(kinds, minlength=len(KINDS))
            yield self.times[low : low + at_once], self._some(builder, kinds, taken, counts)
            taken += counts

    def _some(
        self, builder: RecordBuilder, kinds: Kinds, taken: Int64s, counts: Int64s
    ) -> list[Record]:
        made: list[Sequence[Any]] = []
        for kind, first, count in zip(KINDS, taken.tolist(), counts.tolist(), strict=True):
            if kind == "gaps":
                made.append(self.gaps[first : first + count])
            else:
                made.append(
                    builder.records(kind, self.rows[kind].slice(first, count)) if count else ()
                )
        if len(kinds) in counts:
            return list(made[int(kinds[0])])
        sources = list(map(iter, made))
        return [next(sources[kind]) for kind in kinds.tolist()]

    def stretches(self, rows: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield the stretches of one kind, at most so many rows each.

        Returns:
            The kind, the first event and the one after the last, and the first event's place
            among those of its kind.
        """
        edges = np.flatnonzero(np.diff(self.kinds)) + 1
        taken = dict.fromkeys(range(len(KINDS)), 0)
        for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(self.kinds)], strict=True):
            kind = int(self.kinds[low])
            for at in range(low, high, rows):
                end = min(high, at + rows)
                yield KINDS[kind], at, end, taken[kind]
                taken[kind] += end - at


def merge_events(parts: Sequence[SeriesRows], gaps: Sequence[Placed]) -> MergedEvents:
    """Bring rows of lanes, each in order, and the gaps found among them to one order.

    Args:
        parts: at least one, by the place of their lane.
        gaps: of which part, before which row of it, and what.
    """
    sizes = [rows.num_rows for _, rows in parts]
    times = np.concatenate([times_us(rows) for _, rows in parts])
    kinds = np.repeat(np.array([KINDS.index(series.kind) for series, _ in parts], np.int8), sizes)
    order = np.arange(len(times)) if len(parts) == 1 else np.argsort(times, kind="stable")
    kinds, times = kinds[order], times[order]
    by_kind = {
        kind: _of_kind(kind, parts, order)
        for kind in dict.fromkeys(series.kind for series, _ in parts)
    }
    if not gaps:
        return MergedEvents(by_kind, [], kinds, times)
    return _with_gaps(by_kind, gaps, kinds, times, order, np.cumsum([0, *sizes]))


def _of_kind(kind: str, parts: Sequence[SeriesRows], order: Int64s) -> pa.Table:
    chosen = [rows for series, rows in parts if series.kind == kind]
    rows = one_chunk(chosen)
    if len(chosen) == 1:
        return rows
    # The place of each row among those of its kind, in the order of all.
    among = np.concatenate([np.full(part.num_rows, series.kind == kind) for series, part in parts])
    positions = np.cumsum(among) - 1
    return rows.take(pa.array(positions[order][among[order]]))


def _with_gaps(
    by_kind: Mapping[str, pa.Table],
    gaps: Sequence[Placed],
    kinds: Kinds,
    times: Int64s,
    order: Int64s,
    starts: Int64s,
) -> MergedEvents:
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order))
    at = np.array([positions[starts[part] + row] for part, row, _ in gaps])
    sorted_at = np.argsort(at, kind="stable")
    at = at[sorted_at]
    return MergedEvents(
        by_kind,
        [gaps[one][2] for one in sorted_at.tolist()],
        np.insert(kinds, at, np.int8(GAP)),
        np.insert(times, at, times[at]),
    )


GAPS: Final = pa.schema(
    [
        pa.field("exchange", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("from_id", pa.int64(), nullable=False),
        pa.field("to_id", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("note", pa.string(), nullable=False),
    ]
)


class Batch(NamedTuple):
    """Rows of one kind, `trades`, `quotes` or `gaps`, in the order of events."""

    kind: str
    rows: pa.RecordBatch


def names_of(kind: str) -> list[str]:
    """Return the columns of a kind."""
    names: list[str] = TABLES[TABLE_OF[kind]].schema.arrow.names
    return names


def drop_sort_columns(
    parts: Sequence[SeriesRows], columns: Sequence[str] | None
) -> Sequence[SeriesRows]:
    """Leave out the columns that were read for the order alone, before rows are moved."""
    if columns is None:
        return parts
    needed = {*columns, "timestamp"}
    return [
        (series, rows.select([n for n in rows.column_names if n in needed]))
        for series, rows in parts
    ]


def plain(kind: str, rows: pa.Table, columns: Sequence[str] | None) -> pa.RecordBatch:
    """Return rows with the columns asked for, or all, and their types in the table."""
    schema = TABLES[TABLE_OF[kind]].schema.arrow
    fields = [one for one in schema if columns is None or one.name in columns]
    selected = rows.select([one.name for one in fields]).cast(pa.schema(fields))
    return selected.combine_chunks().to_batches()[0]


def gap_batch(gaps: Sequence[Gap]) -> pa.RecordBatch:
    """Return gaps as a batch."""
    return pa.RecordBatch.from_pylist([structs.asdict(gap) for gap in gaps], schema=GAPS)
