"""Limits of queries from outside: time, memory, and the files they may read."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import duckdb
from duckdb import DuckDBPyConnection

from k2lib.errors import LimitError
from k2lib.iceberg.file_sql import literal_path, text_sql

AGAIN_S: Final = 0.05


@dataclass(frozen=True)
class Guard:
    """Limits of an engine whose queries come from outside.

    Attributes:
        timeout_s: of one query, after which it is cut.
        memory_bytes: of all queries together; none spills to disk.
        folders: the only ones whose files are read; nothing else of the machine is reachable.
    """

    timeout_s: float
    memory_bytes: int
    folders: tuple[str, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """What locks a DuckDB down; nothing can be set in it afterwards."""
        paths = {path for folder in self.folders for path in (folder, literal_path(folder))}
        folders = ", ".join(text_sql(path) for path in sorted(paths))
        return (
            f"SET GLOBAL memory_limit = '{self.memory_bytes}B'",
            "SET GLOBAL temp_directory = ''",
            f"SET GLOBAL allowed_directories = [{folders}]",
            "SET GLOBAL enable_external_access = false",
            "SET GLOBAL lock_configuration = true",
        )

    @contextmanager
    def limit(self, cursor: DuckDBPyConnection) -> Iterator[None]:
        """Cut what runs on a cursor when its time is over.

        Raises:
            LimitError: it took more than it may.
        """
        over = threading.Event()
        watch = threading.Thread(target=self._cut, args=(cursor, over), daemon=True)
        watch.start()
        try:
            yield
        except duckdb.InterruptException as exc:
            raise LimitError(
                f"the query was cut after {self.timeout_s:g} s: ask for a shorter span, "
                "fewer symbols or fewer rows"
            ) from exc
        except duckdb.OutOfMemoryException as exc:
            raise LimitError(
                f"the query needs more than the {self.memory_bytes // 2**20} MiB there are for "
                "all: ask for a shorter span, fewer symbols or fewer rows"
            ) from exc
        finally:
            over.set()
            watch.join()

    def _cut(self, cursor: DuckDBPyConnection, over: threading.Event) -> None:
        """Again and again: what comes between two statements stops neither."""
        wait_s = self.timeout_s
        while not over.wait(wait_s):
            cursor.interrupt()
            wait_s = AGAIN_S
