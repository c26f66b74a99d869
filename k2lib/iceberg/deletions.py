"""Rows that another engine deleted: what is known of them, so that no sink or feed restores them.

The snapshots of other engines tell when rows were deleted, and their parents which rows. Other
engines also expire snapshots: so a commit that follows a deletion keeps its time in the property
`k2.deleted-at`, and each commit of trades the newest id of each instrument in `k2.newest-ids`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, ancestors_of

from k2lib.iceberg.commit_times import EPOCH, MILLISECOND, committed_at
from k2lib.iceberg.manifests import is_readable
from k2lib.iceberg.offsets import (
    OffsetsProperty,
    find_offsets,
    has_offsets,
    is_first,
    leads,
    snapshot_cause,
)

DELETED_PROPERTY: Final = "k2.deleted-at"
NEWEST_PROPERTY: Final = "k2.newest-ids"
_DELETES: Final = (Operation.DELETE, Operation.OVERWRITE)

NewestIds = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Deletion:
    """A snapshot of another engine that may have deleted rows; `parent_id` still has them."""

    parent_id: int
    at: datetime


def deletions(table: Table, *, now: datetime) -> list[Deletion]:
    """Return the deletions by other engines of which the rows can still be read, newest first.

    Args:
        now: none is later, though the other engine's clock may say so.
    """
    return [
        Deletion(parent.snapshot_id, min(committed_at(one), now))
        for one in _foreign_deletes(table)
        if (parent := _parent(table, one)) is not None and is_readable(table, parent)
    ]


def deleted_at(table: Table) -> datetime:
    """Return when another engine last deleted rows, as far as it is known; else the epoch.

    Where another engine expired the snapshots since ours, what it did before is not known: then
    that is taken for a deletion.
    """
    recorded = EPOCH + _recorded_ms(table) * MILLISECOND
    times = [committed_at(one) for one in _foreign_deletes(table)]
    kept = list(ancestors_of(table.current_snapshot(), table.metadata))
    if kept and not any(map(_is_ours, kept)) and not is_first(kept[-1]):
        times.append(committed_at(kept[-1]))
    return max([recorded, *times])


def deletion_property(table: Table) -> dict[str, str]:
    """Return the property that a commit sets where it follows a deletion."""
    milliseconds = (deleted_at(table) - EPOCH) // MILLISECOND
    return {DELETED_PROPERTY: str(milliseconds)} if milliseconds > _recorded_ms(table) else {}


def newest_ids(table: Table) -> NewestIds:
    """Return the greatest id of each exchange and symbol that the table has had.

    Nothing after a rollback, until the sink has followed it: the rows are to come again.
    """
    if leads(OffsetsProperty.of(table), find_offsets(table)):
        return {}
    try:
        ids: NewestIds = json.loads(table.properties.get(NEWEST_PROPERTY, "{}"))
    except ValueError:
        return {}
    return ids


def with_newest(ids: NewestIds, newest: pl.DataFrame) -> NewestIds:
    """Return the greatest ids after more rows.

    Args:
        newest: exchange, symbol and source_sequence, which is null where a venue counts nothing.
    """
    after = {exchange: dict(of_symbols) for exchange, of_symbols in ids.items()}
    for row in newest.drop_nulls("source_sequence").iter_rows(named=True):
        of_symbols = after.setdefault(row["exchange"], {})
        symbol, newest_id = row["symbol"], row["source_sequence"]
        of_symbols[symbol] = max(of_symbols.get(symbol, newest_id), newest_id)
    return after


def newest_property(ids: NewestIds) -> dict[str, str]:
    """Return the property that a commit sets."""
    return {NEWEST_PROPERTY: json.dumps(ids, sort_keys=True, separators=(",", ":"))}


def _foreign_deletes(table: Table) -> Iterator[Snapshot]:
    for one in ancestors_of(table.current_snapshot(), table.metadata):
        if one.summary is not None and one.summary.operation in _DELETES and not _is_ours(one):
            yield one


def _parent(table: Table, one: Snapshot) -> Snapshot | None:
    parent_id = one.parent_snapshot_id
    return None if parent_id is None else table.snapshot_by_id(parent_id)


def _is_ours(one: Snapshot) -> bool:
    return has_offsets(one) or snapshot_cause(one) is not None


def _recorded_ms(table: Table) -> int:
    text = table.properties.get(DELETED_PROPERTY, "")
    return int(text) if text.isdecimal() else 0
