"""A table as one answer sees it."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from pyiceberg.table import Table

from k2lib.lake.tables import TABLES
from k2lib.query.complete import CompleteTo
from k2lib.query.standing import Standing


@dataclass(frozen=True)
class Seen:
    """A table as it is at one moment: a snapshot, and the rows that only the log has."""

    table: Table | None
    snapshot_id: int | None
    rows: pa.Table
    complete_to: CompleteTo


def of_lake(name: str, standing: Standing, newest: datetime | None, *, reason: str | None) -> Seen:
    """Return a table without what the log has beyond it."""
    ends = {
        log: {place: end for place, (_, end) in places.items()}
        for log, places in standing.offsets.items()
    }
    told = CompleteTo(name, standing.snapshot_id, ends, newest, behind=None, reason=reason)
    empty = TABLES[name].schema.arrow.empty_table()
    return Seen(standing.table, standing.snapshot_id, empty, told)
