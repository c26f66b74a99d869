"""Time travel: which snapshots a table keeps, and which one a question means."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

import polars as pl
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot

from k2lib.errors import NotFoundError, QueryError
from k2lib.iceberg.commit_times import (
    Clock,
    committed_at,
    main_line,
    sequence,
    system_clock,
)
from k2lib.iceberg.offsets import OFFSETS_PROPERTY, snapshot_cause, snapshot_properties
from k2lib.query.request import LISTED_AT_MOST, AsOf, check_as_of, time_of
from k2lib.schema.calendar import LIKE_A_TIME, start_of_day

# A question is answered a little later than it was asked.
JUST_NOW: Final = timedelta(minutes=1)
DATE_DIGITS: Final = len("20140310")
COLUMNS: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "snapshot_id": pl.Int64,
    "parent_id": pl.Int64,
    "committed": pl.Datetime("us", "UTC"),
    "operation": pl.String,
    "cause": pl.String,
    "rows_added": pl.Int64,
    "rows_total": pl.Int64,
    "bytes_total": pl.Int64,
    "files_total": pl.Int64,
    "tags": pl.List(pl.String),
    "offsets": pl.String,
}


def snapshots(table: Table) -> pl.DataFrame:
    """List the snapshots that are kept, newest first.

    Returns:
        One row a snapshot: `cause` is `append` or what maintenance did, `offsets` the JSON text
        of the Kafka offsets up to which it holds the topics, null where it does not say.
    """
    kept = sorted(table.metadata.snapshots, key=sequence, reverse=True)
    return pl.DataFrame([_snapshot_row(one, table) for one in kept], schema=COLUMNS)


def resolve(table: Table, as_of: AsOf, *, now: Clock = system_clock) -> int:
    """Find the snapshot that is meant by an id, a tag, a moment or a date.

    A text is a tag of that name if there is one, else an id if it is of digits alone, else a
    moment or a date. A date means its first moment, by UTC. A moment means the last kept
    snapshot, in the order of the commits, that is dated at or before it, which is the answer only
    where nothing in between has been dropped: where it is current, or the next kept one's parent.
    Now means the current one, though a clock that was ahead has dated it later.

    Raises:
        NotFoundError: no such snapshot is kept; the message names what is.
        QueryError: a moment without a time zone, or one that is none.
    """
    check_as_of(as_of)
    if isinstance(as_of, str):
        as_of = _tagged(table, as_of)
    if isinstance(as_of, datetime):
        return _at(table, as_of, now=now())
    if isinstance(as_of, date):
        return _at(table, start_of_day(as_of), now=now())
    if table.snapshot_by_id(as_of) is None:
        raise NotFoundError(f"as_of={as_of}: {_name(table)} keeps no such snapshot; {_kept(table)}")
    return as_of


def _at(table: Table, moment: datetime, *, now: datetime) -> int:
    if moment.tzinfo is None:
        raise QueryError(f"as_of={moment.isoformat()}: give the time zone, for example tzinfo=UTC")
    line = main_line(table)
    n_before = max((i for i, one in enumerate(line, 1) if committed_at(one) <= moment), default=0)
    later = line[n_before:]
    if line and (not later or _is_now(moment, later, now)):
        return line[-1].snapshot_id
    if not n_before:
        raise NotFoundError(
            f"as_of={moment.isoformat()}: {_name(table)} keeps nothing that old; {_kept(table)}"
        )
    last = line[n_before - 1]
    if later[0].parent_snapshot_id != last.snapshot_id:
        raise NotFoundError(
            f"as_of={moment.isoformat()}: the snapshots of {_name(table)} around that time are no "
            f"longer kept; ask for the one before, {_short(last)}, "
            f"or the one after, {_short(later[0])}"
        )
    return last.snapshot_id


def _is_now(moment: datetime, later: Sequence[Snapshot], now: datetime) -> bool:
    """Say whether a moment is now, and what is dated later was so by a clock that was ahead."""
    return now - moment <= JUST_NOW and all(committed_at(one) > now for one in later)


def _tagged(table: Table, text: str) -> int | date:
    tags = dict(_tags(table))
    if text in tags:
        return tags[text]
    if text.isascii() and text.isdigit() and not _is_date(table, text):
        return int(text)
    if LIKE_A_TIME.match(text):
        return time_of("as_of", text)
    named = f"its tags are {', '.join(sorted(tags))}" if tags else "it has no tags"
    raise NotFoundError(f"as_of={text!r}: {_name(table)} has no such tag; {named}")


def _is_date(table: Table, digits: str) -> bool:
    """Whether eight digits are a date: ids of snapshots have about nineteen."""
    return len(digits) == DATE_DIGITS and table.snapshot_by_id(int(digits)) is None


def _tags(table: Table) -> Iterator[tuple[str, int]]:
    for name, ref in table.refs().items():
        if ref.snapshot_ref_type == SnapshotRefType.TAG:
            yield name, ref.snapshot_id


def _snapshot_row(one: Snapshot, table: Table) -> dict[str, Any]:
    summary = one.summary
    said = snapshot_properties(one)
    numbers = {
        "rows_added": said.get("added-records", 0),
        "rows_total": said.get("total-records"),
        "bytes_total": said.get("total-files-size"),
        "files_total": said.get("total-data-files"),
    }
    return {
        "snapshot_id": one.snapshot_id,
        "parent_id": one.parent_snapshot_id,
        "committed": committed_at(one),
        "operation": summary.operation.value if summary else None,
        "cause": snapshot_cause(one) or "append",
        **{name: None if value is None else int(value) for name, value in numbers.items()},
        "tags": sorted(tag for tag, at in _tags(table) if at == one.snapshot_id),
        "offsets": said.get(OFFSETS_PROPERTY),
    }


def _kept(table: Table) -> str:
    kept = sorted(table.metadata.snapshots, key=sequence, reverse=True)
    if not kept:
        return "it has no snapshots yet"
    more = f" and {len(kept) - LISTED_AT_MOST} more" if len(kept) > LISTED_AT_MOST else ""
    return f"it keeps {', '.join(_short(one) for one in kept[:LISTED_AT_MOST])}{more}"


def _short(one: Snapshot) -> str:
    return f"{one.snapshot_id} ({committed_at(one).isoformat()})"


def _name(table: Table) -> str:
    return table.name()[-1]
