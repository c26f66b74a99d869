"""Constant reads, over HTTP and in the library, while a feed commits and maintenance compacts.

The exchange, the feed with its sinks, the server and the library's reader are a process each.
Run: python -m bench.soak [MINUTES]
"""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from bench.http import Answers, at_rate, serving
from bench.live_exchange import exchange
from bench.live_start import SYMBOLS
from bench.load import busy, rss_mb
from bench.measure import machine
from bench.soak_reader import Read
from k2lib import K2
from k2lib.events import CommitDone, Event, MaintenanceDone

MINUTES: Final = 15.0
TRADES_A_SECOND: Final = 1_000.0
REQUESTS_A_SECOND: Final = 5.0
COMMIT_S: Final = 2.0
BEGIN_S: Final = 10.0
LOOK_S: Final = 1.0
TOLD: Final = 20


@dataclass
class Work:
    """What sinks and maintenance did meanwhile."""

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
    """MB that processes hold, by name, once a second."""

    pids: Mapping[str, int]
    held: dict[str, list[float]] = field(default_factory=dict)

    def look(self) -> None:
        """Note what each holds now."""
        for name, pid in self.pids.items():
            self.held.setdefault(name, []).append(rss_mb(pid))


def run(build: Path, *, minutes: float = MINUTES) -> list[str]:
    """Read for so long and return the report's lines."""
    home = build / "homes" / "bench-soak"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    work, before = Work(), busy()
    try:
        with (
            exchange(TRADES_A_SECOND, home) as one,
            K2.open(home=home, commit_interval_s=COMMIT_S, on_event=work.on_event) as k2,
            k2.feed(SYMBOLS, venue=one.venue()) as feed,
        ):
            feed.wait(BEGIN_S)
            answers, library, memory = _read(home, minutes * 60)
            status = feed.status()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    received = sum(symbol.trades for symbol in status.symbols)
    return [
        machine(),
        f"{minutes:g} minutes; before: {before}; after: {busy()}",
        f"{received:,} trades, {work.commits} commits, {work.merged} files merged, "
        f"{work.deleted} deleted",
        f"HTTP: {len(answers.seconds):,} answers, {_failures(answers.failed)}",
        f"library: {library.answered:,} answers, {_failures(library.failed)}",
        *itertools.chain.from_iterable(map(_flatness, memory.held, memory.held.values())),
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
            asked = at_rate(server.url, paths(), seconds=seconds, rate=REQUESTS_A_SECOND)
            answers = asyncio.run(asked)
        told, _ = reader.communicate()
    return answers, Read(**json.loads(told)), memory


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


def _flatness(name: str, held: list[float]) -> list[str]:
    third = max(len(held) // 3, 1)
    told = ", ".join(f"{mb:.0f}" for mb in held[:: max(len(held) // TOLD, 1)])
    return [
        f"memory of {name}: highest of the first third {max(held[:third]):.0f} MB, "
        f"of the last third {max(held[-third:]):.0f} MB; along the way {told}",
    ]


def _failures(failed: list[str]) -> str:
    return f"{len(failed)} failed" + (f", the first: {failed[0]}" if failed else "")


if __name__ == "__main__":
    chosen = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    print("\n".join(run(Path("build"), minutes=chosen)))
