"""How the benchmarks measure: CPU seconds, rows and memory of processes of their own.

The measured clients import it too, in environments without k2lib.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CONNECTED = "connected"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
VERSIONS = ("confluent-kafka", "duckdb", "fastavro", "polars", "pyarrow", "pyiceberg", "pyruhvro")


@dataclass
class Figure:
    """CPU of all threads, user and system, and wall time of one piece of work."""

    name: str
    rows: int
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def us_per_row(self) -> float:
        """CPU microseconds a row."""
        return self.cpu_s / self.rows * 1e6

    def __str__(self) -> str:
        rate = self.rows / self.cpu_s if self.cpu_s else float("inf")
        return (
            f"{self.name:<44} {self.rows:>11,} rows {self.us_per_row:8.2f} CPU µs/row "
            f"{rate:>11,.0f} rows/CPU-s {self.rows / self.wall_s:>10,.0f} rows/s wall"
        )


@contextmanager
def measured(name: str, rows: int = 0) -> Iterator[Figure]:
    """Measure this process from here to the end of the block."""
    figure = Figure(name, rows)
    cpu, wall = time.process_time(), time.monotonic()
    yield figure
    figure.cpu_s, figure.wall_s = time.process_time() - cpu, time.monotonic() - wall


def in_child(module: str, *arguments: str, home: Path) -> list[Figure]:
    """Run `python -m module` and return the figures it prints as JSON."""
    environment = {**os.environ, "K2_HOME": str(home)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return [Figure(**fields) for fields in json.loads(done.stdout)]


def print_figures(*figures: Figure) -> None:
    """Print figures as JSON, for the parent process."""
    print(json.dumps([asdict(figure) for figure in figures]))


def machine() -> str:
    """Return cores and versions, for the report."""
    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def peak_mb() -> float:
    """Return the peak memory of this process, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_of(figures: list[Figure], key: Callable[[Figure], float]) -> Figure:
    """Return the figure in the middle."""
    return sorted(figures, key=key)[len(figures) // 2]


def load_average() -> str:
    """Return the load average of 1, 5 and 15 minutes."""
    minutes = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"load average {minutes} on {os.cpu_count()} cores"


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process took, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGE_BYTES / 2**20


def highest_of_thirds(mb: Sequence[float]) -> str:
    """Say how much memory was used at most in the first and in the last third of a run."""
    third = max(len(mb) // 3, 1)
    return (
        f"highest of the first third {max(mb[:third]):.0f} MB, "
        f"of the last third {max(mb[-third:]):.0f} MB"
    )


def wait_for_go() -> None:
    """Report to the parent process that trades arrive, and wait until it says go."""
    print(CONNECTED, flush=True)
    sys.stdin.readline()
