"""Files of the tables: pyiceberg's way to them, on storages with a time limit for each operation.

The libraries of storages try again for minutes, or wait for ever where one answers byte by byte.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, ParamSpec, TypeVar

import pyarrow as pa
from pyarrow.fs import (
    AwsStandardS3RetryStrategy,
    FileInfo,
    FileSelector,
    FileSystem,
    FileSystemHandler,
    PyFileSystem,
)
from pyiceberg.io import (
    PY_IO_IMPL,
    S3_CONNECT_TIMEOUT,
    S3_REQUEST_TIMEOUT,
    S3_RETRY_STRATEGY_IMPL,
)
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from k2lib.addresses import redact
from k2lib.errors import reason_of
from k2lib.resilience.time_limit import TimeLimit

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT_S: Final = "k2.timeout-s"
DEFAULT_S: Final = 10.0
ON_THIS_MACHINE: Final = "file"
# A larger read or write is several: a slow storage is not one that does not answer.
CHUNK_BYTES: Final = 8 * 2**20


class FewTries(AwsStandardS3RetryStrategy):  # type: ignore[misc]
    """The tries of the S3 library: those of its default take half a minute."""

    def __init__(self) -> None:
        super().__init__(max_attempts=3)


class StorageFileIO(PyArrowFileIO):
    """pyiceberg's files by PyArrow; each operation on a storage ends within a time limit.

    The property `k2.timeout-s` has the seconds. Files of this machine have no limit.

    Attributes:
        limit: of each operation.
    """

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        seconds = float(properties.get(TIMEOUT_S, DEFAULT_S))
        self.limit = TimeLimit(seconds)
        few = f"{FewTries.__module__}.{FewTries.__name__}"
        ours = {
            S3_CONNECT_TIMEOUT: f"{seconds:g}",
            S3_REQUEST_TIMEOUT: f"{seconds:g}",
            S3_RETRY_STRATEGY_IMPL: few,
        }
        super().__init__({**ours, **properties})

    def _initialize_fs(self, scheme: str, netloc: str | None = None) -> FileSystem:
        if scheme == ON_THIS_MACHINE:
            return super()._initialize_fs(scheme, netloc)
        # Those of Hadoop have the host in no path.
        root = f"{scheme}://{netloc}" if scheme in ("hdfs", "viewfs") else f"{scheme}://"
        connect = cache(partial(super()._initialize_fs, scheme, netloc))
        return PyFileSystem(_StorageHandler(connect, _Calls(self.limit, root)))


def file_io_properties(timeout_s: float) -> dict[str, str]:
    """Return the properties of a catalog whose files end every operation in time."""
    impl = f"{StorageFileIO.__module__}.{StorageFileIO.__name__}"
    return {PY_IO_IMPL: impl, TIMEOUT_S: f"{timeout_s:g}"}


class _Calls:
    """Makes calls in time, whose errors name the address of the file."""

    def __init__(self, limit: TimeLimit, root: str) -> None:
        self._limit = limit
        self._root = root

    def __call__(self, path: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self._limit.call(work, *args, **kwargs)
        except (OSError, ValueError, TypeError, ImportError) as exc:
            error = self._named(path, exc)
        # Not where it is handled: the innermost error is the one that is shown.
        raise error

    def _named(self, path: str, exc: Exception) -> OSError:
        address = redact(f"{self._root}{path}")
        if isinstance(exc, FileNotFoundError):
            return FileNotFoundError(f"{address}: {os.strerror(errno.ENOENT)}")
        if isinstance(exc, TypeError):  # of an argument that no property gave
            return OSError(f"{address}: its account is not known: give it in K2_CATALOG_CONFIG")
        kind = type(exc) if isinstance(exc, TimeoutError | PermissionError) else OSError
        return kind(f"{address}: {redact(reason_of(exc))}")


class _StorageFile:
    """A file of a storage, as `pyarrow.PythonFile` reads and writes it.

    One whose operation was given up is left to the thread that waits for it.
    """

    def __init__(self, file: pa.NativeFile, call: _Calls, path: str) -> None:
        self._file: pa.NativeFile | None = file
        self._call = call
        self._path = path

    @property
    def closed(self) -> bool:
        return self._file is None

    def readable(self) -> bool:
        return self._file is not None and self._file.readable()

    def writable(self) -> bool:
        return self._file is not None and self._file.writable()

    def seekable(self) -> bool:
        return self._file is not None and self._file.seekable()

    def read(self, size: int = -1) -> bytes:
        parts, left = [], size
        while left != 0:
            ask = CHUNK_BYTES if left < 0 else min(left, CHUNK_BYTES)
            part = self._do("read", ask)
            if not part:
                break
            parts.append(part)
            left -= len(part) if left > 0 else 0
        return b"".join(parts)

    def write(self, data: Any) -> int:
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            self._do("write", view[start : start + CHUNK_BYTES])
        return len(view)

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._do("seek", position, whence))

    def tell(self) -> int:
        return int(self._do("tell"))

    def size(self) -> int:
        return int(self._do("size"))

    def flush(self) -> None:
        self._do("flush")

    def close(self) -> None:
        if self._file is not None:
            self._do("close")
            self._file = None

    def __del__(self) -> None:
        with suppress(Exception):  # a destructor has nobody to tell
            self.close()

    def _do(self, name: str, *args: Any) -> Any:
        if self._file is None:
            raise ValueError(f"{self._path} is closed")
        work = getattr(self._file, name)
        try:
            return self._call(self._path, work, *args)
        except TimeoutError:
            self._file = None
            raise


class _StorageHandler(FileSystemHandler):  # type: ignore[misc]
    """A file system whose every operation ends in time."""

    def __init__(self, connect: Callable[[], FileSystem], call: _Calls) -> None:
        self._connect = connect
        self._calls = call

    def _call(self, path: str, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._calls(path, lambda: getattr(self._connect(), name)(*args, **kwargs))

    def _file(self, path: str, name: str, mode: str, **kwargs: Any) -> pa.NativeFile:
        file = self._call(path, name, path, **kwargs)
        return pa.PythonFile(_StorageFile(file, self._calls, path), mode=mode)

    def get_type_name(self) -> str:
        return "storage"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return list(self._call(paths[0], "get_file_info", paths))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return list(self._call(selector.base_dir, "get_file_info", selector))

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._file(path, "open_input_file", "r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self._file(path, "open_input_stream", "r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self._file(path, "open_output_stream", "w", metadata=metadata)

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self._file(path, "open_append_stream", "w", metadata=metadata)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._call(path, "create_dir", path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._call(path, "delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        self._call(path, "delete_dir_contents", path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("nothing deletes all of a storage")

    def delete_file(self, path: str) -> None:
        self._call(path, "delete_file", path)

    def move(self, src: str, dest: str) -> None:
        self._call(src, "move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._call(src, "copy_file", src, dest)
