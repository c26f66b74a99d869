"""What a replay is of: its instruments, and where their rows stand at one snapshot."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa
from pyiceberg.expressions import Or

from k2lib.errors import QueryError
from k2lib.iceberg.manifests import PlannedFile, plan_files
from k2lib.iceberg.tables import TABLES
from k2lib.query.engine import Engine
from k2lib.query.request import TimeBound, instrument_filter, no_such_symbol, pick_exchange
from k2lib.query.table_state import TableView
from k2lib.replay.lanes import Lane, Parts, in_file, in_table, of_tail, times_us
from k2lib.replay.merge import Run
from k2lib.schema.records import EVENT_ORDER

TABLE_OF: Final = {"trades": "trades_v2", "quotes": "quotes_v2"}
# Rows read at once of all runs together; of one run, at least and at most.
ROWS_HELD: Final = 1_000_000
FEWEST: Final = 2_048
MOST: Final = 32_768


@dataclass(frozen=True)
class Plan:
    """What a replay is of, and how it is read.

    Attributes:
        lanes: by their place.
        seen: the table of each kind, as it was when the replay was made.
        files: of each kind, those that can hold rows of its lanes.
        rows: of a lane that are read at once.
    """

    lanes: tuple[Lane, ...]
    seen: Mapping[str, TableView]
    files: Mapping[str, Sequence[PlannedFile]]
    rows: int

    def runs(self, columns: Sequence[str] | None) -> list[Run]:
        """Return where the rows stand, to be read with these columns, or all."""
        found: list[Run] = []
        for kind, seen in self.seen.items():
            schema = _schema(kind, columns)
            lanes = [lane for lane in self.lanes if lane.kind == kind]
            with_ids = columns is None or "message_id" in columns
            read = partial(in_file, schema=schema, rows=self.rows, with_ids=with_ids)
            found += _stored(lanes, self.files[kind], seen, read)
            found += _in_tail(lanes, seen, schema, self.rows)
        return found


def make_plan(
    engine: Engine,
    symbols: Sequence[str],
    seen: Mapping[str, TableView],
    *,
    exchange: str | None,
    start: TimeBound,
    end: TimeBound,
) -> Plan:
    """Find the venue of each symbol and the span of time there.

    Args:
        symbols: `BHP` or, with its exchange, `ASX:BHP`.
        seen: the table of each kind.
    Raises:
        QueryError: no such symbol, or one at several exchanges; no symbols, or no such span.
    """
    if not symbols:
        raise QueryError("symbols=[]: name at least one, for example BHP or BINANCE:BTCUSDT")
    instruments = sorted({_instrument(engine, text, exchange, seen) for text in symbols})
    wanted = [
        instrument_filter(symbol, venue, start=start, end=end) for venue, symbol in instruments
    ]
    pairs = [(kind, one) for one in wanted for kind in TABLE_OF if kind in seen]
    lanes = tuple(Lane(*pair, place) for place, pair in enumerate(pairs))
    files = {
        kind: _files([lane for lane in lanes if lane.kind == kind], one)
        for kind, one in seen.items()
    }
    return Plan(lanes, seen, files, max(FEWEST, min(MOST, ROWS_HELD // len(lanes))))


def _instrument(
    engine: Engine, text: str, exchange: str | None, seen: Mapping[str, TableView]
) -> tuple[str, str]:
    venue, colon, symbol = text.rpartition(":")
    asked = venue if colon else exchange
    venues = {one for each in seen.values() for one in engine.venues(each, symbol)}
    if not venues:
        names = " or ".join(each.complete_to.table for each in seen.values())
        held = {one for each in seen.values() for one in engine.instruments(each)}
        raise no_such_symbol(symbol, table=names, instruments=sorted(held))
    return pick_exchange(symbol, asked, venues=sorted(venues)), symbol


def _schema(kind: str, columns: Sequence[str] | None) -> pa.Schema:
    whole = TABLES[TABLE_OF[kind]].schema.arrow
    needed = whole.names if columns is None else {*columns, *EVENT_ORDER}
    return pa.schema([one for one in whole if one.name in needed])


@contextmanager
def still_kept(seen: TableView) -> Iterator[None]:
    """Say of files that are gone why they are.

    Raises:
        QueryError: one was not found.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise QueryError(
            f"snapshot {seen.snapshot_id} of {seen.complete_to.table} is no longer kept, and files "
            "of it are gone: replay faster, or as_of= a tag, which keeps a snapshot"
        ) from exc


def _files(lanes: Sequence[Lane], seen: TableView) -> list[PlannedFile]:
    table = seen.table
    if table is None or seen.snapshot_id is None:
        return []
    filters = [lane.wanted.row_filter for lane in lanes]
    either = filters[0] if len(filters) == 1 else Or(*filters)
    return plan_files(table, row_filter=either, snapshot_id=seen.snapshot_id)


def _stored(
    lanes: Sequence[Lane], files: Sequence[PlannedFile], seen: TableView, read: Callable[..., Parts]
) -> Iterator[Run]:
    table = seen.table
    if table is None:
        return
    for file in files:
        for lane in lanes:
            if file.can_have(lane.wanted.symbol, lane.wanted.exchange):
                parts = partial(read, lane, file.path, io=table.io)
                yield Run(lane, file.oldest_us, partial(_kept, parts, seen))


def _kept(read: Callable[[], Parts], seen: TableView) -> Parts:
    with still_kept(seen):
        yield from read()


def _in_tail(lanes: Sequence[Lane], seen: TableView, schema: pa.Schema, rows: int) -> Iterator[Run]:
    if not seen.rows.num_rows:
        return
    for lane in lanes:
        found = of_tail(seen.rows, lane, schema)
        if found.num_rows:
            since = int(times_us(found).min())
            yield Run(lane, since, partial(in_table, found, rows=rows))
