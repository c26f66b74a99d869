"""Feeds opened and closed in one kernel leave threads, descriptors and memory where they were."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.live import CALM, SYMBOLS, venue_of
from support.waiting import wait_until

from k2lib import K2
from k2lib.simulator import OfflineExchange

FEEDS = 10
# Libraries start pools that they keep, and read most of their code, in the first ones.
WARM = 3
MEGABYTES = 40
# pyiceberg's one pool of a process starts its threads one by one, as many as it may have.
POOL = "ThreadPoolExecutor"


@dataclass(frozen=True)
class Resources:
    """Threads of this process, those of libraries too, and its descriptors."""

    threads: int
    descriptors: int


def resources() -> Resources:
    pool = sum(one.name.startswith(POOL) for one in threading.enumerate())
    return Resources(
        threads=len(list(Path("/proc/self/task").iterdir())) - pool,
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
    )


def megabytes() -> int:
    """Return the resident memory, without garbage."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    resident = next(line for line in lines if line.startswith("VmRSS"))
    return int(resident.split()[1]) // 1024


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Let nothing be closed only because Python happens to collect garbage."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.slow
def test_ten_feeds_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    after: list[Resources] = []
    memory: list[int] = []
    with OfflineExchange(SYMBOLS, rate=50.0) as exchange, garbage_kept():
        for number in range(1, FEEDS + 1):
            with (
                K2.open(home=tmp_path / "home", commit_interval_s=0.2, metrics_port=0) as k2,
                k2.feed(SYMBOLS, venue=venue_of(exchange), options=CALM) as feed,
            ):
                wait_until(lambda feed=feed: all(one.trades for one in feed.status().symbols))
                assert k2.sql("select count(*) from trades_v2").height == 1
            after.append(resources())
            if number in (WARM, FEEDS):
                memory.append(megabytes())
    warm, last = after[WARM - 1], after[-1]
    assert last.threads <= warm.threads, after
    assert last.descriptors <= warm.descriptors, after
    assert memory[1] <= memory[0] + MEGABYTES, memory
