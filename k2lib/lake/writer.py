"""Exactly once: a batch and the offsets it ends at become visible in one commit, or not at all."""

import time
from collections.abc import Mapping
from typing import Final

import duckdb
import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, RESTError
from pyiceberg.table import Table
from sqlalchemy.exc import SQLAlchemyError

from k2lib.errors import ConfigError, StaleWriterError, TransientError
from k2lib.events import Event, OnEvent
from k2lib.lake.doubles import Doubles
from k2lib.lake.files import write_files
from k2lib.lake.offsets import SUMMARY_KEY, Range, advance, end_of, read_offsets, render
from k2lib.lake.tables import TableSpec
from k2lib.lake.transaction import QuickTransaction
from k2lib.log.reader import Place

CATALOG_ERRORS: Final = (
    SQLAlchemyError,
    RESTError,
    OSError,
    CommitStateUnknownException,
    duckdb.IOException,
)
RETRIES: Final = "commit.retry.num-retries"


class TableWriter:
    """Appends to one table; knows where the table ended when it last looked."""

    def __init__(self, table: Table, spec: TableSpec, *, on_event: OnEvent) -> None:
        """Check the table.

        Raises:
            ConfigError: the table would commit again by itself, which lands a stale batch twice.
        """
        if table.properties.get(RETRIES) != "0":
            raise ConfigError(
                f"table {spec.name}: set its property {RETRIES} to 0, then start again"
            )
        self.table = table
        self._spec = spec
        self._on_event = on_event
        self._doubles = Doubles(table, spec)
        self._ends = read_offsets(table)

    def end_of(self, log: str, place: Place) -> int | None:
        """Return the next offset to read, None where the table never read this partition."""
        return end_of(self._ends, log, place)

    def append(self, rows: pa.Table, read: Mapping[Place, Range], logs: Mapping[str, str]) -> int:
        """Commit the rows that the table does not have, with the offsets they end at.

        Args:
            read: [start, end) of every partition of which something was read.
            logs: the log of each topic.
        Returns:
            How many rows were added; the others were there already.
        Raises:
            StaleWriterError: the table moved on: nothing was added by this call.
            TransientError: the catalog failed, and the outcome is unknown: read the table again.
        """
        known = self.table.metadata.current_snapshot_id
        try:
            self.table.refresh()
            self._check_head(known)
            new_rows = self._doubles.without(rows, self.table)
            self._commit(new_rows, render(advance(self._ends, logs, read)))
        except CommitFailedException as exc:
            raise StaleWriterError(
                f"table {self._spec.name}: another writer committed first"
            ) from exc
        except CATALOG_ERRORS as exc:
            raise TransientError(f"table {self._spec.name}: the catalog failed: {exc}") from exc
        self._doubles.added(new_rows)
        self._ends = read_offsets(self.table)
        return int(new_rows.num_rows)

    def _check_head(self, known: int | None) -> None:
        """Refuse a table that moved on or back: offsets and doubles were read before it did."""
        now = self.table.metadata.current_snapshot_id
        if now != known:
            raise StaleWriterError(
                f"table {self._spec.name}: another writer moved it to snapshot {now}, "
                f"this batch follows {known}"
            )

    def _commit(self, rows: pa.Table, offsets: str) -> None:
        began = time.monotonic()
        transaction = QuickTransaction(self.table)
        files = write_files(self.table, self._spec, rows) if rows.num_rows else []
        self._tell("files_written", files=len(files))
        summary = {SUMMARY_KEY: offsets}
        with transaction.update_snapshot(snapshot_properties=summary).merge_append() as update:
            for file in files:
                update.append_data_file(file)
        self._tell("commit_begun", rows=rows.num_rows)
        transaction.commit_transaction()
        self._tell("commit_done", rows=rows.num_rows, seconds=time.monotonic() - began)

    def _tell(self, name: str, **fields: object) -> None:
        self._on_event(Event(name, {"table": self._spec.name, **fields}))
