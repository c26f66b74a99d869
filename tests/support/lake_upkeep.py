"""A clock that tests move, and trades committed with offsets as a sink commits them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyiceberg.table import Table
from support.lake_rows import append_rows, catalog_in, rows_table, trade

from k2lib.iceberg.offsets import Offsets, render
from k2lib.iceberg.tables import TABLES, ensure_table
from k2lib.kafka.consumer import TopicPartition

TRADES = TABLES["trades_v2"]
PARTITION = TopicPartition("market.equities.trades.asx", 0)
LOGS = {PARTITION.topic: "log/1"}


class Clock:
    """Begins at the real time, because files and snapshots carry it, and goes on when told."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **step: float) -> None:
        self.now += timedelta(**step)


def trades_table(home: Path) -> Table:
    """Make the table of trades in a home of its own."""
    return ensure_table(catalog_in(home), TRADES)


def offsets(end: int) -> Offsets:
    """Return the offsets of a table that has read one partition up to `end`."""
    return {"log/1": {PARTITION: (0, end)}}


def commit(table: Table, first: int, *, rows: int = 1) -> Table:
    """Append trades numbered from `first`, with the offsets that follow them."""
    numbers = range(first, first + rows)
    properties = {"k2.offsets": render(offsets(first + rows))}
    append_rows(table, rows_table([trade(number) for number in numbers]), **properties)
    return table


def commit_each(table: Table, numbers: range) -> Table:
    """Append one trade a commit."""
    for number in numbers:
        commit(table, number)
    return table


def message_ids(table: Table, snapshot_id: int | None = None) -> list[str]:
    """Return the message ids of all rows, doubles included, sorted."""
    rows = table.scan(snapshot_id=snapshot_id, selected_fields=("message_id",)).to_arrow()
    return sorted(rows["message_id"].to_pylist())


def ids(numbers: range) -> list[str]:
    """Return the message ids of trades by their numbers."""
    return [trade(number)["message_id"] for number in numbers]


def local(path: str) -> Path:
    """Return where a file of the lake lies on the disk."""
    return Path(path.removeprefix("file://"))
