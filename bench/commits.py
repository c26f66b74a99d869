"""Commit 2,000 times 1,000 trades, maintenance included: does a commit stay as fast?

Run: python -m bench.commits [commits]
"""

import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.table import Table

from k2lib.events import Event
from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.consumer import TopicPartition
from k2lib.schema.records import TRADE
from k2lib.settings import Settings

ROWS = 1000
PARTITION = TopicPartition("market.equities.trades.asx_sim", 0)
EVERY = timedelta(seconds=2)
WINDOW = 100
SYMBOLS = np.array(["BHP", "CBA", "MWR", "RIO", "WBC"])
FIRST_TRADE = datetime(2026, 3, 14, 20, tzinfo=UTC)


@dataclass
class Clock:
    """Commits come every two seconds by this clock, however long they take."""

    now: datetime

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def advance(self, step: timedelta) -> None:
        """Let time pass."""
        self.now += step


@dataclass
class Result:
    """What a run measured, and the table it left."""

    table: Table
    seconds: list[float]
    events: list[Event] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The mean of the last commits over the mean of the first."""
        return statistics.mean(self.seconds[-WINDOW:]) / statistics.mean(self.seconds[:WINDOW])


def trades(first: int, rows: int = ROWS) -> pa.Table:
    """Make trades numbered from `first`, ten a second, over five symbols."""
    numbers = np.arange(first, first + rows)
    start = int(FIRST_TRADE.timestamp() * 1_000_000)
    times = pa.array(start + numbers * 100_000, pa.timestamp("us", tz="UTC"))
    ids = [str(uuid.UUID(int=int(number))) for number in numbers]
    columns: dict[str, Any] = {
        "message_id": ids,
        "trade_id": [f"ASX_SIM-{one}" for one in ids],
        "symbol": pa.array(SYMBOLS[numbers % len(SYMBOLS)], pa.string()),
        "exchange": ["ASX_SIM"] * rows,
        "asset_class": ["equities"] * rows,
        "timestamp": times,
        "price": [Decimal(number % 1000) / 100 for number in numbers.tolist()],
        "quantity": [Decimal(number % 77 + 1) for number in numbers.tolist()],
        "currency": ["AUD"] * rows,
        "side": ["UNKNOWN"] * rows,
        "trade_conditions": [["0"]] * rows,
        "source_sequence": pa.nulls(rows, pa.int64()),
        "ingestion_timestamp": times,
        "platform_sequence": pa.array(numbers),
        "vendor_data": [[("buyer_id", "17"), ("venue", "X")]] * rows,
    }
    table = pa.table({name: columns[name] for name in TRADE.arrow.names}, schema=TRADE.arrow)
    return table.sort_by([(name, "ascending") for name in TABLES["trades_v2"].order])


def run(home: Path, commits: int) -> Result:
    """Commit so many times into a new table in `home`."""
    spec = TABLES["trades_v2"]
    table = ensure_table(open_catalog(Settings(home=home)), spec)
    writer = TableWriter(table, spec, on_event=lambda event: None)
    clock = Clock(datetime.now(UTC))
    result = Result(table, [])
    maintenance = Maintenance(
        spec, state=home / "sweep.json", now=clock, on_event=result.events.append
    )
    for first in range(0, commits * ROWS, ROWS):
        rows = trades(first)
        began = time.perf_counter()
        writer.append(rows, {PARTITION: (first, first + ROWS)}, {PARTITION.topic: "bench/0"})
        maintenance.after_commit(writer.table)
        result.seconds.append(time.perf_counter() - began)
        clock.advance(EVERY)
    return result


def measured(commits: int = 2000) -> list[str]:
    """Run in a folder of its own and return the report's lines."""
    with tempfile.TemporaryDirectory(prefix="k2-bench-") as folder:
        return list(report(run(Path(folder), commits)))


def report(result: Result) -> Iterator[str]:
    """Describe a run in lines of text."""
    yield f"{len(result.seconds)} commits of {ROWS} rows, maintenance included, ms a commit"
    for name, seconds in (
        (f"first {WINDOW}", result.seconds[:WINDOW]),
        (f"last {WINDOW}", result.seconds[-WINDOW:]),
        ("all", result.seconds),
    ):
        yield f"{name:>10}: {_figures(seconds)}"
    yield f"last {WINDOW} / first {WINDOW}: {result.ratio:.2f}"
    yield f"snapshots left: {len(result.table.snapshots())}"
    for kind, count in _files(result.table).items():
        yield f"{kind} files left: {count}"
    for name in ("rows_rewritten", "files_deleted", "snapshots_expired"):
        yield f"{name}: {sum(event.to_json()[name] for event in result.events)}"


def _figures(seconds: list[float]) -> str:
    ms = sorted(1000 * second for second in seconds)
    p99 = ms[min(len(ms) - 1, int(len(ms) * 0.99))]
    return (
        f"mean {statistics.mean(ms):.0f}, median {statistics.median(ms):.0f}, "
        f"p99 {p99:.0f}, worst {ms[-1]:.0f}"
    )


def _files(table: Table) -> dict[str, int]:
    home = Path(table.location().removeprefix("file://"))
    return {
        "live data": len(list(table.scan().plan_files())),
        "data": len(list(home.glob("data/**/*.parquet"))),
        "metadata": len([path for path in home.glob("metadata/*") if path.is_file()]),
    }


if __name__ == "__main__":
    print("\n".join(measured(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)))
