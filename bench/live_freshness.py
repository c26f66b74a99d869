"""Seconds from the receipt of a trade until readers of the table see it, at 2,000 trades/s.

Every row counts, from the files that each snapshot added; on the embedded broker and on Kafka.
Run: python -m bench.live_freshness [SECONDS]
"""

import sys
import time
from bisect import bisect_left
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from bench.homes import kafka_in, new_home
from bench.live_exchange import exchange
from bench.measure import SYMBOLS, machine
from k2lib import K2
from k2lib.events import CommitDone, Event
from k2lib.iceberg.tables import load_table

SECONDS = 300.0
RATE = 2_000
COMMIT_S = 2.0
LOOK_S = 2.0


class Waits:
    """Seconds from receipt to commit of each row of the table, snapshot after snapshot."""

    def __init__(self) -> None:
        self.waits_s = np.empty(0)
        self._commits: list[float] = []
        self._measured: set[int] = set()

    def on_event(self, event: Event) -> None:
        """Note when a commit was done; a snapshot's own time is a little earlier."""
        if isinstance(event, CommitDone) and event.table == "trades_v2":
            self._commits.append(time.time())

    def look(self, table: Table | None) -> None:
        """Measure the rows of new snapshots whose commit was reported as done."""
        for snapshot in table.snapshots() if table else ():
            added = snapshot.summary and snapshot.summary.operation is Operation.APPEND
            commit = bisect_left(self._commits, snapshot.timestamp_ms / 1000)
            is_done = commit < len(self._commits)
            if added and is_done and snapshot.snapshot_id not in self._measured and table:
                self._measured.add(snapshot.snapshot_id)
                waits_s = self._commits[commit] - received_us(table, snapshot) / 1e6
                self.waits_s = np.concatenate([self.waits_s, waits_s])


def received_us(table: Table, snapshot: Snapshot) -> npt.NDArray[np.int64]:
    """Return the receipt times of the rows that a snapshot added."""
    name = "ingestion_timestamp"
    parts = [
        pq.read_table(entry.data_file.file_path.removeprefix("file://"), columns=[name])
        for manifest in snapshot.manifests(table.io)
        for entry in manifest.fetch_manifest_entry(table.io)
        if entry.status is ManifestEntryStatus.ADDED and entry.snapshot_id == snapshot.snapshot_id
    ]
    times: npt.NDArray[np.int64] = pa.concat_tables(parts)[name].cast(pa.int64()).to_numpy()
    return times


def run(build: Path, *, seconds: float = SECONDS) -> list[str]:
    """Measure both and return the report's lines."""
    with new_home(build, "bench-freshness") as home:
        embedded = measure(home, "embedded", seconds)
    with new_home(build, "bench-freshness") as home, kafka_in(home):
        kafka = measure(home, "real Kafka", seconds)
    return [
        machine(),
        f"{RATE:,} trades/s for {seconds:g} s, {COMMIT_S:g} s commits",
        *embedded,
        *kafka,
    ]


def measure(home: Path, mode: str, seconds: float) -> list[str]:
    """Stream into a new home for so long; refuse a row that was not measured exactly once."""
    waits = Waits()
    home.mkdir(parents=True, exist_ok=True)
    with (
        exchange(RATE, home) as one,
        K2.open(home=home, commit_interval_s=COMMIT_S, on_event=waits.on_event) as k2,
    ):
        with k2.feed(SYMBOLS, venue=one.venue()) as feed:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not feed.wait(LOOK_S):
                waits.look(load_table(k2.catalog, "trades_v2"))
        k2.pipeline.settle()
        ids = k2.contiguity()
    # Sinks that have ended have reported every commit.
    waits.look(load_table(k2.catalog, "trades_v2"))
    assert int(ids["rows"].sum()) == len(waits.waits_s), ids
    return [_report(mode, waits.waits_s)]


def _report(mode: str, waits_s: npt.NDArray[np.float64]) -> str:
    p50, p99, worst = np.quantile(waits_s, [0.5, 0.99, 1.0])
    return (
        f"{mode:>10}: {len(waits_s):,} rows, receipt to lake p50 {p50:.2f} s, "
        f"p99 {p99:.2f} s (goal 3), worst {worst:.2f} s"
    )


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print("\n".join(run(Path("build"), seconds=duration)))
