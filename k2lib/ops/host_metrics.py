"""Metrics of this machine: its processors, its memory, and the disk that a home is on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

MEMORY: Final = Path("/proc/meminfo")


class HostCollector(Collector):
    """Measures at each scrape; what this system does not tell is left out."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing, so that registering measures nothing."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        yield _gauge("k2_host_processors", "Processors of this machine", os.cpu_count() or 1)
        yield _gauge("k2_host_load", "Processes that run or want to, over a minute", _load())
        for name, n_bytes in _memory():
            yield _gauge(f"k2_host_memory_{name}_bytes", f"Memory, {name}", n_bytes)
        if (disk := _disk(self._home)) is not None:
            yield _gauge("k2_disk_total_bytes", "Size of the disk of the home", disk[0])
            yield _gauge("k2_disk_free_bytes", "Free on the disk of the home", disk[1])


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _load() -> float:
    return os.getloadavg()[0]


def _memory() -> list[tuple[str, int]]:
    if not MEMORY.exists():
        return []
    lines = (line.split() for line in MEMORY.read_text(encoding="ascii").splitlines())
    kib = {line[0]: int(line[1]) for line in lines}
    return [("total", kib["MemTotal:"] * 1024), ("available", kib["MemAvailable:"] * 1024)]


def _disk(home: Path) -> tuple[int, int] | None:
    """The home may be yet to come: its disk is that of the nearest folder that exists."""
    folder = next((one for one in (home, *home.absolute().parents) if one.exists()), None)
    if folder is None:
        return None
    usage = shutil.disk_usage(folder)
    return usage.total, usage.free
