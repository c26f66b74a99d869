"""Memory while loading 50 million generated trades through real Kafka, or what 10 minutes allow.

Run: python -m bench.memory [ROWS]
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from bench.homes import kafka_in, new_home
from bench.measure import highest_of_thirds, machine, rss_mb
from k2lib import K2
from k2lib.simulator import write_samples

ROWS = 50_000_000
SECONDS = 600.0
DAYS = 5
TRADES_PER_DAY = 200_000
FIRST_DAY = date(2014, 3, 10)


def run(build: Path, *, rows: int = ROWS, seconds: float = SECONDS) -> list[str]:
    """Load week after week of one company, and return the report's lines."""
    with new_home(build, "bench-memory") as home, kafka_in(home), K2.open(home=home) as k2:
        loaded = list(_loads(k2, build / "samples" / "bench-memory", rows, seconds))
        rows_in_lake = int(k2.sql("select count(*) from trades_v2")[0, 0])
    return [machine(), *_report(loaded, rows_in_lake)]


def _loads(k2: K2, sample: Path, rows: int, seconds: float) -> Iterator[tuple[int, float]]:
    """Yield, after each week's load, all rows so far and the memory in use, in MB."""
    began, loaded, week = time.monotonic(), 0, FIRST_DAY
    while loaded < rows and time.monotonic() - began < seconds:
        shutil.rmtree(sample, ignore_errors=True)
        write_samples(
            sample,
            companies=1,
            days=DAYS,
            trades_per_day=TRADES_PER_DAY,
            quotes_per_day=12,
            first_day=week,
        )
        loaded += sum(file.rows for file in k2.load_asx(sample / "trades").files[:1])
        week += timedelta(days=7)
        yield loaded, rss_mb(os.getpid())
    shutil.rmtree(sample, ignore_errors=True)


def _report(loaded: list[tuple[int, float]], rows_in_lake: int) -> list[str]:
    total = loaded[-1][0]
    mb = [mb for _, mb in loaded]
    return [
        f"{total:,} rows loaded, {rows_in_lake:,} stored, memory in MB after each million: "
        + ", ".join(f"{one:.0f}" for one in mb),
        highest_of_thirds(mb),
    ]


if __name__ == "__main__":
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    print("\n".join(run(Path("build"), rows=limit)))
