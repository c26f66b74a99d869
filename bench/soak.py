"""Constant reads, over HTTP and in the library, while a feed commits and maintenance compacts.

The exchange, the feed with its sinks, the server and the library's reader are a process each.
Run: python -m bench.soak [MINUTES]
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from bench.homes import new_home
from bench.http import Answers, at_rate, serving
from bench.live_exchange import exchange
from bench.measure import SYMBOLS, highest_of_thirds, load_average, machine, rss_mb
from bench.soak_reader import Read
from k2lib import K2
from k2lib.events import CommitDone, Event, MaintenanceDone

MINUTES: Final = 15.0
TRADES_A_SECOND: Final = 1_000.0
REQUESTS_A_SECOND: Final = 5.0
COMMIT_S: Final = 2.0
BEGIN_S: Final = 10.0
LOOK_S: Final = 1.0
SHOWN: Final = 20


@dataclass
class Work:
    """Counts of what sinks and maintenance did."""

    commits: int = 0
    merged: int = 0
    deleted: int = 0

    def on_event(self, event: Event) -> None:
        """Count an event."""
        match event:
            case CommitDone():
                self.commits += 1
            case MaintenanceDone(files_merged=merged, files_deleted=deleted):
                self.merged += merged
                self.deleted += deleted


@dataclass
class Memory:
    """Memory of processes in MB, by name, once a second."""

    pids: Mapping[str, int]
    mb: dict[str, list[float]] = field(default_factory=dict)

    def look(self) -> None:
        """Note the memory of each."""
        for name, pid in self.pids.items():
            self.mb.setdefault(name, []).append(rss_mb(pid))


def run(build: Path, *, minutes: float = MINUTES) -> list[str]:
    """Read for so long and return the report's lines."""
    work, before = Work(), load_average()
    with (
        new_home(build, "bench-soak") as home,
        exchange(TRADES_A_SECOND, home) as one,
        K2.open(home=home, commit_interval_s=COMMIT_S, on_event=work.on_event) as k2,
        k2.feed(SYMBOLS, venue=one.venue()) as feed,
    ):
        feed.wait(BEGIN_S)
        answers, library, memory = _read(home, minutes * 60)
        status = feed.status()
    received = sum(symbol.trades for symbol in status.symbols)
    return [
        machine(),
        f"{minutes:g} minutes; before: {before}; after: {load_average()}",
        f"{received:,} trades, {work.commits} commits, {work.merged} files merged, "
        f"{work.deleted} deleted",
        f"HTTP: {len(answers.seconds):,} answers, {_failures(answers.failed)}",
        f"library: {library.answered:,} answers, {_failures(library.failed)}",
        *itertools.chain.from_iterable(map(_memory_lines, memory.mb, memory.mb.values())),
    ]


def paths() -> Iterator[str]:
    """Yield requests for ever."""
    for symbol in itertools.cycle(SYMBOLS):
        now = datetime.now(UTC)
        since = (now - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield f"/v1/trades/recent?symbol={symbol}&limit=1000"
        yield f"/v1/bars?symbol={symbol}&start={since}"
        yield f"/v1/trades?symbol={symbol}&start={since}&limit=1000"
        yield f"/v1/summary/BINANCE_SIM/{symbol}/{now.date()}"
        yield "/v1/symbols"
        yield "/v1/stats"
        yield "/v1/snapshots"


def _read(home: Path, seconds: float) -> tuple[Answers, Read, Memory]:
    command = [sys.executable, "-m", "bench.soak_reader", str(home)]
    with (
        serving(home) as server,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader,
    ):
        pids = {"feed and sinks": os.getpid(), "server": server.pid, "library": reader.pid}
        with _watched(Memory(pids)) as memory:
            requests = at_rate(server.url, paths(), seconds=seconds, rate=REQUESTS_A_SECOND)
            answers = asyncio.run(requests)
        output, _ = reader.communicate()
    return answers, Read(**json.loads(output)), memory


@contextmanager
def _watched(memory: Memory) -> Iterator[Memory]:
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_S):
            memory.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()


def _memory_lines(name: str, mb: list[float]) -> list[str]:
    some = ", ".join(f"{one:.0f}" for one in mb[:: max(len(mb) // SHOWN, 1)])
    return [f"memory of {name}: {highest_of_thirds(mb)}; along the way {some}"]


def _failures(failed: list[str]) -> str:
    return f"{len(failed)} failed" + (f", the first: {failed[0]}" if failed else "")


if __name__ == "__main__":
    chosen = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    print("\n".join(run(Path("build"), minutes=chosen)))
