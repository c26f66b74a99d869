"""Files of a home that processes share: locks, which the system frees when theirs dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from k2lib.errors import ConfigError
from k2lib.lifecycle import Closing
from k2lib.reasons import file_errors


class Lock(Closing):
    """A lock on a file; `close()`, or the end of its process, frees it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Free the lock; a second time does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def make_private(folder: Path) -> None:
    """Make a folder of a home, and the home, so that only their owner can enter them.

    What exists keeps its mode.
    """
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for one in (folder.parent, folder):
        one.mkdir(mode=0o700, exist_ok=True)


def replace_file(file: Path, text: str) -> None:
    """Write a file of a home as a whole, because a process may be killed at any time."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def writer_lock(home: Path) -> Path:
    """Return the lock of the one process that writes a home through an embedded broker."""
    return home / "run" / "writer.lock"


def try_lock(path: Path) -> Lock | None:
    """Take the lock and write our pid into it; None where another process holds it.

    Raises:
        ConfigError: its file cannot be written.
    """
    with file_errors(f"the lock {path}"):
        make_private(path.parent)
        if path.is_dir():
            raise ConfigError(f"the lock {path}: Is a directory: delete the folder")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return Lock(path, descriptor)


def locked_by(path: Path) -> int | None:
    """Return the pid of the process that holds a lock, None where none does; changes nothing."""
    with file_errors(f"the lock {path}"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock_holder(path)
        finally:
            os.close(descriptor)
    return None


def lock_holder(path: Path) -> int | None:
    """Return the pid last written into a lock's file; None where there is none."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


def holder_text(path: Path) -> str:
    """Return who holds a lock, for a message: `this process`, or another one by its pid."""
    pid = lock_holder(path)
    return "this process" if pid == os.getpid() else f"process {pid or 'unknown'}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file over a `with` block, after waiting for the process that has locked it.

    Raises:
        ConfigError: it cannot be written.
    """
    with ExitStack() as stack:
        with file_errors(f"the lock {path}"):
            make_private(path.parent)
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
