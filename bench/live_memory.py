"""Memory of a feed with its sinks on real Kafka, at 5,000 trades/s for 20 minutes.

Run: python -m bench.live_memory [MINUTES]
"""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.live_exchange import exchange
from bench.live_start import SYMBOLS
from bench.measure import machine
from bench.memory import rss_mb
from k2lib import K2
from k2lib.feed.feed import Feed
from k2lib.ops.services import down, up

MINUTES = 20.0
RATE = 5_000
LOOK_S = 1.0


def run(build: Path, *, minutes: float = MINUTES) -> list[str]:
    """Stream for so long and return the report's lines."""
    home = build / "homes" / "bench-live-memory"
    shutil.rmtree(home, ignore_errors=True)
    services = up(home, kafka_port=0, registry_port=0)
    try:
        with (
            exchange(RATE, home) as one,
            K2.open(
                home=home,
                kafka_bootstrap=services.bootstrap,
                schema_registry_url=services.registry_url,
                on_event=lambda event: None,
            ) as k2,
        ):
            with k2.feed(SYMBOLS, venue=one.venue()) as feed:
                held = list(_looks(feed, minutes * 60))
            status = feed.status()
            k2.pipeline.settle()
            stored = int(k2.contiguity()["rows"].sum())
    finally:
        down(home)
        shutil.rmtree(home, ignore_errors=True)
    received = sum(one.trades for one in status.symbols)
    return [machine(), f"{received:,} trades received, {stored:,} stored", *_report(held)]


def _looks(feed: Feed, seconds: float) -> Iterator[float]:
    """Yield the memory held, in MB, once a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not feed.wait(LOOK_S):
        yield rss_mb()


def _report(held: list[float]) -> list[str]:
    third = max(len(held) // 3, 1)
    told = held[:: max(len(held) // 20, 1)]
    return [
        f"{RATE:,} trades/s, memory in MB along the way: " + ", ".join(f"{mb:.0f}" for mb in told),
        f"highest of the first third {max(held[:third]):.0f} MB, "
        f"of the last third {max(held[-third:]):.0f} MB",
    ]


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    print("\n".join(run(Path("build"), minutes=duration)))
