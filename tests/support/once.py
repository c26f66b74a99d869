"""What several workers need and one of them makes."""

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> tuple[Path, T]:
    """Return a folder of this run, and what the first worker that asked made of it.

    The folder is only read after that: the others may be reading it too.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            # What a maker left that failed or ran out of time is no start for the next one.
            shutil.rmtree(shared / name, ignore_errors=True)
            (shared / name).mkdir()
            value = make(shared / name)
            made.write_bytes(pickle.dumps(value))
    return shared / name, pickle.loads(made.read_bytes())
