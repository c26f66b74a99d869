"""Memory while loading 50 million generated trades through real Kafka, or what 10 minutes allow.

Run: python -m bench.memory [ROWS]
"""

import shutil
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from bench.measure import machine
from k2lib import K2
from k2lib.ops.services import down, up
from k2lib.simulator import write_samples

ROWS = 50_000_000
SECONDS = 600.0
DAYS = 5
TRADES_PER_DAY = 200_000
FIRST_DAY = date(2014, 3, 10)


def run(build: Path, *, rows: int = ROWS, seconds: float = SECONDS) -> list[str]:
    """Load week after week of one company, and return the report's lines."""
    home = build / "homes" / "bench-memory"
    shutil.rmtree(home, ignore_errors=True)
    services = up(home, kafka_port=0, registry_port=0)
    try:
        with K2.open(
            home=home,
            kafka_bootstrap=services.bootstrap,
            schema_registry_url=services.registry_url,
        ) as k2:
            loaded = list(_loads(k2, build / "samples" / "bench-memory", rows, seconds))
            stored = int(k2.sql("select count(*) from trades_v2")[0, 0])
    finally:
        down(home)
        shutil.rmtree(home, ignore_errors=True)
    return [machine(), *_report(loaded, stored)]


def _loads(k2: K2, sample: Path, rows: int, seconds: float) -> Iterator[tuple[int, float]]:
    """Yield, after each week's load, all rows so far and the memory held then, in MB."""
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
        yield loaded, rss_mb()
    shutil.rmtree(sample, ignore_errors=True)


def rss_mb() -> float:
    """Return the memory this process holds now, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (held,) = [line.split()[1] for line in status if line.startswith("VmRSS:")]
    return int(held) / 1024


def _report(loaded: list[tuple[int, float]], stored: int) -> list[str]:
    third = max(len(loaded) // 3, 1)
    total = loaded[-1][0]
    return [
        f"{total:,} rows loaded, {stored:,} stored, memory in MB after each million: "
        + ", ".join(f"{mb:.0f}" for _, mb in loaded),
        f"highest of the first third {max(mb for _, mb in loaded[:third]):.0f} MB, "
        f"of the last third {max(mb for _, mb in loaded[-third:]):.0f} MB",
    ]


if __name__ == "__main__":
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    print("\n".join(run(Path("build"), rows=limit)))
