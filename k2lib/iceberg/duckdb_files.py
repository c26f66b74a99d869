"""DuckDB over the files of tables wherever they are: object stores need no extension of its own."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import duckdb
from duckdb import DuckDBPyConnection
from fsspec import AbstractFileSystem
from pyiceberg.io import SCHEMA_TO_FILE_IO, FileIO
from pyiceberg.table import Table

LOCAL: Final = ("file", "")
SCHEMES: Final = tuple(name for name in SCHEMA_TO_FILE_IO if name not in LOCAL)
# DuckDB keeps what it knows of a file by the time of its change; files of tables never change.
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
NO_TABLE_FILE: Final = "is no file of a table"
# Has the footer of a file, and all of a small one.
TAIL_BYTES: Final = 64 * 1024
TAILS_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class FileTail:
    """The size of a file, its last bytes, and how it was read.

    To open a file costs a request, and what pyarrow opens holds no connection.
    """

    size: int
    data: bytes
    io: FileIO
    file: Any

    @property
    def offset(self) -> int:
        """Where the bytes begin."""
        return self.size - len(self.data)


class RemoteFile:
    """A file that threads read at once, each from a position of its own."""

    closed = False

    def __init__(self, tail: FileTail, open_file: Callable[[], Any]) -> None:
        self._tail = tail
        self._open_file = open_file
        self._at = threading.local()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        begin = {os.SEEK_CUR: self.tell(), os.SEEK_END: self._tail.size}.get(whence, 0)
        self._at.offset = begin + offset
        return int(self._at.offset)

    def tell(self) -> int:
        """Return the position."""
        return int(getattr(self._at, "offset", 0))

    def read(self, count: int = -1) -> bytes:
        """Return so many bytes from here; all that follow without a count."""
        offset = self.tell()
        end = self._tail.size if count < 0 else min(offset + count, self._tail.size)
        if offset >= self._tail.offset:
            data = self._tail.data[offset - self._tail.offset : end - self._tail.offset]
        else:
            data = self._open_file().read_at(end - offset, offset)
        self._at.offset = offset + len(data)
        return data

    def close(self) -> None:
        """Do nothing: others read the same file."""


class TableFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files of tables in object stores, read as their catalog says; no other file is there.

    The tails of those read last are kept: they never change.
    """

    protocol = SCHEMES
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[str, FileIO] = {}
        self._tails: OrderedDict[str, FileTail] = OrderedDict()
        self._tails_bytes = 0
        self._lock = threading.Lock()

    def add(self, table: Table) -> None:
        """Read the files of this table from now on, with its newest credentials."""
        location = f"{table.location().rstrip('/')}/"
        known = self._tables.get(location)
        # Each table that is loaded has a client of its own, with connections yet to be made.
        if known is None or known.properties != table.io.properties:
            self._tables[location] = table.io

    def has(self, path: str) -> bool:
        """Say whether a file is one of an object store."""
        return path.partition("://")[0] in SCHEMES

    def open(self, path: str, mode: str = "rb", **_: object) -> RemoteFile:
        """Open a file of a table.

        Raises:
            FileNotFoundError: it is not there.
            PermissionError: it is of no table, or to be written.
        """
        if "w" in mode or "a" in mode:
            raise PermissionError(f"'{path}': files of tables are only read here")
        return RemoteFile(self._tail(path), lambda: self._tail(path).file)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        return self._tail(path).size

    def glob(self, path: str, **_: object) -> list[str]:
        """Return the path itself: files are named, and an object's name may have any character."""
        return [path]

    def modified(self, path: str) -> datetime:
        """Return the same time of every file."""
        return NEVER

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def _io(self, path: str) -> FileIO:
        for location, io in self._tables.items():
            if path.startswith(location):
                return io
        raise PermissionError(f"'{path}' {NO_TABLE_FILE}")

    def _tail(self, path: str) -> FileTail:
        """Return what is kept of a file, read with the credentials of now."""
        io = self._io(path)
        with self._lock:
            kept = self._tails.get(path)
            if kept is not None:
                self._tails.move_to_end(path)
                if kept.io is io:
                    return kept
        tail = _read_tail(path, io)
        self._keep(path, tail)
        return tail

    def _keep(self, path: str, tail: FileTail) -> None:
        with self._lock:
            before = self._tails.get(path)
            self._tails[path] = tail
            self._tails_bytes += len(tail.data) - (0 if before is None else len(before.data))
            while self._tails_bytes > TAILS_BYTES:
                _, oldest = self._tails.popitem(last=False)
                self._tails_bytes -= len(oldest.data)


def _read_tail(path: str, io: FileIO) -> FileTail:
    try:
        file: Any = io.new_input(path).open()
    except FileNotFoundError as exc:
        raise FileNotFoundError(f"'{path}': {os.strerror(errno.ENOENT)}") from exc
    size = file.size()
    count = min(size, TAIL_BYTES)
    return FileTail(size, file.read_at(count, size - count), io, file)


# Of all tables that this process reads; DuckDB asks it by location.
REMOTE: Final = TableFiles()


def read_failure(exc: BaseException) -> str | None:
    """Return why `TableFiles` could not read; None of any other error, or one of DuckDB itself."""
    lines = str(exc).splitlines()
    if not isinstance(exc, duckdb.Error) or not lines or not lines[0].startswith("Traceback "):
        return None
    return lines[-1].partition(": ")[2]


def open_duckdb(path: str = ":memory:", **config: str | int) -> DuckDBPyConnection:
    """Open a DuckDB that reads tables in object stores too, and downloads nothing.

    Args:
        path: of its own file.
        config: options of DuckDB.
    """
    connection = duckdb.connect(path, config={"autoinstall_known_extensions": False, **config})
    connection.register_filesystem(REMOTE)
    return connection
