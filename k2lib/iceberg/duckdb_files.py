"""DuckDB over the files of tables wherever they are: object stores need no extension of its own."""

import errno
import os
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Final

import duckdb
from duckdb import DuckDBPyConnection
from fsspec import AbstractFileSystem
from pyiceberg.io import SCHEMA_TO_FILE_IO, FileIO
from pyiceberg.table import Table

LOCAL: Final = ("file", "")
SCHEMES: Final = tuple(name for name in SCHEMA_TO_FILE_IO if name not in LOCAL)
# DuckDB keeps footers by the time of a file's change; files of tables never change.
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
NO_TABLE_FILE: Final = "is no file of a table"
SIZES_KEPT: Final = 65_536


class RemoteFile:
    """A file that threads read at once: each has a position of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._at = threading.local()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position; `whence` as of any file."""
        begin = (0, self.tell(), self.size)[whence]
        self._at.offset = begin + offset
        return int(self._at.offset)

    def tell(self) -> int:
        """Return the position."""
        return int(getattr(self._at, "offset", 0))

    def read(self, count: int = -1) -> bytes:
        """Return so many bytes from here; all without a count."""
        offset = self.tell()
        data: bytes = self._file.read_at(self.size - offset if count < 0 else count, offset)
        self._at.offset = offset + len(data)
        return data

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return int(self._file.size())

    def close(self) -> None:
        """Close it."""
        self._file.close()


class TableFiles(AbstractFileSystem):  # type: ignore[misc]
    """The files of tables in object stores, read as their catalog says; no other file is there."""

    protocol = SCHEMES
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[str, FileIO] = {}
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, table: Table) -> None:
        """Read the files of this table from now on, with its newest credentials."""
        self._tables[f"{table.location().rstrip('/')}/"] = table.io

    def open(self, path: str, mode: str = "rb", **_: object) -> RemoteFile:
        """Open a file of a table.

        Raises:
            FileNotFoundError: it is not there.
            PermissionError: it is of no table, or to be written.
        """
        if "w" in mode or "a" in mode:
            raise PermissionError(f"'{path}': files of tables are only read here")
        try:
            file = RemoteFile(self._io(path).new_input(path).open())
        except FileNotFoundError as exc:
            raise FileNotFoundError(f"'{path}': {os.strerror(errno.ENOENT)}") from exc
        self._remember(path, file.size)
        return file

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        known = self._sizes.get(path)
        return len(self._io(path).new_input(path)) if known is None else known

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

    def _remember(self, path: str, size: int) -> None:
        with self._lock:
            self._sizes[path] = size
            while len(self._sizes) > SIZES_KEPT:
                self._sizes.popitem(last=False)


# Of all tables that this process reads; DuckDB asks it by location.
REMOTE: Final = TableFiles()


def read_failure(exc: BaseException) -> str | None:
    """Return why `TableFiles` could not read; None of any other error, or one of DuckDB itself."""
    lines = str(exc).splitlines()
    if not isinstance(exc, duckdb.Error) or not lines or not lines[0].startswith("Traceback "):
        return None
    return lines[-1].partition(": ")[2]


def open_duckdb(**config: str | int) -> DuckDBPyConnection:
    """Open a DuckDB that reads tables in object stores too, and downloads nothing.

    Args:
        config: options of DuckDB.
    """
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, **config})
    connection.register_filesystem(REMOTE)
    return connection
