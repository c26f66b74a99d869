"""What a query may take and touch, where strangers ask."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
from duckdb import DuckDBPyConnection

from k2lib.errors import LimitError
from k2lib.lake.scan import text_sql


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
        folders = ", ".join(text_sql(folder) for folder in self.folders)
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
        timer = threading.Timer(self.timeout_s, cursor.interrupt)
        timer.daemon = True
        timer.start()
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
            timer.cancel()
