"""How the benchmarks measure: CPU seconds of a process of its own, rows, and a line each."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

VERSIONS = ("confluent-kafka", "duckdb", "fastavro", "polars", "pyarrow", "pyiceberg", "pyruhvro")


@dataclass
class Figure:
    """What one piece of work took: CPU of all its threads, user and system."""

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


def tell(*figures: Figure) -> None:
    """Print figures as JSON, for the parent process."""
    print(json.dumps([asdict(figure) for figure in figures]))


def machine() -> str:
    """Return what the figures were measured on."""
    packages = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def peak_mb() -> float:
    """Return the most memory this process ever held, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_of(figures: list[Figure], key: Callable[[Figure], float]) -> Figure:
    """Return the figure in the middle."""
    return sorted(figures, key=key)[len(figures) // 2]
