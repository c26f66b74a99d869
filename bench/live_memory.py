"""Memory of a feed with its sinks on real Kafka, at 5,000 trades/s for 20 minutes.

Run: python -m bench.live_memory [MINUTES]
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.homes import kafka_in, new_home
from bench.live_exchange import exchange
from bench.measure import SYMBOLS, highest_of_thirds, machine, rss_mb
from k2lib import K2
from k2lib.feed.feed import Feed

MINUTES = 20.0
RATE = 5_000
LOOK_S = 1.0


def run(build: Path, *, minutes: float = MINUTES) -> list[str]:
    """Stream for so long and return the report's lines."""
    with (
        new_home(build, "bench-live-memory") as home,
        kafka_in(home),
        exchange(RATE, home) as venue,
        K2.open(home=home, on_event=lambda event: None) as k2,
    ):
        with k2.feed(SYMBOLS, venue=venue.venue()) as feed:
            mb = list(_looks(feed, minutes * 60))
        status = feed.status()
        k2.pipeline.settle()
        rows_in_lake = int(k2.contiguity()["rows"].sum())
    received = sum(one.trades for one in status.symbols)
    return [machine(), f"{received:,} trades received, {rows_in_lake:,} stored", *_report(mb)]


def _looks(feed: Feed, seconds: float) -> Iterator[float]:
    """Yield the memory in use, in MB, once a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not feed.wait(LOOK_S):
        yield rss_mb(os.getpid())


def _report(mb: list[float]) -> list[str]:
    samples = ", ".join(f"{one:.0f}" for one in mb[:: max(len(mb) // 20, 1)])
    return [f"{RATE:,} trades/s, memory in MB along the way: {samples}", highest_of_thirds(mb)]


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    print("\n".join(run(Path("build"), minutes=duration)))
