"""Locks: one process holds one, and death frees it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k2lib.locks import holder_text, lock_holder, try_lock

HOLDER = """
import sys, pathlib
from k2lib.locks import try_lock
lock = try_lock(pathlib.Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


@contextmanager
def process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that tries the lock, says whether it got it, and lives on."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=pipe, stdout=pipe, text=True
    )
    with child:
        yield child


def has_lock(child: subprocess.Popen[str]) -> bool:
    assert child.stdout is not None
    return child.stdout.readline().strip() == "True"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "one.lock"


def test_a_lock_is_held_once_in_a_process_until_released(path: Path) -> None:
    lock = try_lock(path)
    assert lock is not None and try_lock(path) is None
    lock.close()
    lock.close()
    with try_lock(path) or pytest.fail("not free"):
        assert try_lock(path) is None


def test_a_lock_is_held_against_other_processes_and_tells_its_holder(path: Path) -> None:
    with process(path) as first:
        assert has_lock(first)
        assert try_lock(path) is None
        assert lock_holder(path) == first.pid
        assert holder_text(path) == f"process {first.pid}"
        with process(path) as second:
            assert not has_lock(second)


def test_the_death_of_its_process_frees_a_lock(path: Path) -> None:
    with process(path) as child:
        assert has_lock(child)
        child.kill()
    lock = try_lock(path)
    assert lock is not None
    lock.close()


def test_a_lock_that_nobody_ever_took_has_no_holder(path: Path) -> None:
    assert lock_holder(path) is None
    assert holder_text(path) == "process unknown"


def test_the_holder_of_a_lock_of_ours_is_this_process(path: Path) -> None:
    with try_lock(path) or pytest.fail("not free"):
        assert holder_text(path) == "this process"
