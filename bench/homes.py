"""Homes of the benchmarks, and Kafka in them; both are gone when a benchmark ends."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k2lib.ops.services import Services, down, up


@contextmanager
def new_home(build: Path, name: str) -> Iterator[Path]:
    """Yield an empty home; delete it at the end."""
    home = build / "homes" / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def kafka_in(home: Path) -> Iterator[Services]:
    """Run Kafka and the registry in a home, at free ports; `K2.open` of that home finds them."""
    services = up(home, kafka_port=0, registry_port=0)
    try:
        yield services
    finally:
        down(home)
