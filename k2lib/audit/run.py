"""The audit of a home: pin its tables, read its log and its files, make every check."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final

import confluent_kafka
from duckdb import DuckDBPyConnection

from k2lib.audit import checks, source_files
from k2lib.audit.identity import create_macros
from k2lib.audit.kafka_log import LogRange, create_records, find_log, read_log
from k2lib.audit.report import AuditReport, Check, PartitionAccount, SymbolAccount
from k2lib.audit.tables import (
    COLUMNS,
    Offsets,
    PinnedTable,
    create_empty_views,
    create_views,
)
from k2lib.iceberg.catalog import read_errors
from k2lib.iceberg.duckdb_files import open_duckdb
from k2lib.iceberg.tables import load_table, open_catalog
from k2lib.kafka.cluster import KafkaSource
from k2lib.ops.home import check_catalog, check_home
from k2lib.ops.home_lake import with_home_lake
from k2lib.settings import Settings, read_settings

GRACE_S: Final = 600.0
# A feed may yet fill or record a hole that it has just found.
NEW: Final = timedelta(minutes=1)
MEMORY: Final = "1GB"
# What DuckDB makes of Ctrl-C in the middle of a query.
INTERRUPTED: Final = "Query interrupted"
LIBRARIES: Final = ("k2lib", "confluent-kafka", "fastavro", "pyiceberg", "pyarrow", "duckdb")
NEEDS_LOG: Final = ("records", "values")
NEEDS_ROWS: Final = ("rows of data files", *NEEDS_LOG, "unique ids", "ids")
OF_FILES: Final = ("trades_v2", "quotes_v2")


def audit(
    home: Path | str | Settings,
    files: Iterable[Path | str] = (),
    *,
    grace_s: float | None = None,
    reference: Path | None = None,
    exchange: str | None = None,
    parts: bool = False,
) -> AuditReport:
    """Account for a home: its log, its tables, its files, and files that were loaded.

    It writes nothing in the home, holds no lock, and may run beside sinks and streams.

    Args:
        home: its folder, with the settings of the environment; or the settings.
        files: ASX files, archives of Binance, and folders of them, that were loaded.
        grace_s: how old a file must be to be named because nothing needs it; 10 minutes, or
            `K2_ORPHAN_FILE_DAYS` where another engine may yet commit it, without it.
        reference, exchange, parts: as the files were loaded.
    Raises:
        ConfigError: there is no such home.
        SourceError: one of the files cannot be read.
        TransientError, DamagedFileError: Kafka, registry or catalog do not answer; a file of the
            home cannot be read.
    """
    settings = home if isinstance(home, Settings) else read_settings({"home": Path(home)})
    began, start = datetime.now(UTC), time.monotonic()
    check_home(settings)
    settings = with_home_lake(settings)
    named = source_files.find_files(map(Path, files), reference=reference, exchange=exchange)
    with find_log(settings) as log, _scratch() as connection:
        catalog = open_catalog(settings)
        check_catalog(catalog, settings)
        loaded = {name: load_table(catalog, name) for name in COLUMNS}
        tables = [PinnedTable(name, one) for name, one in loaded.items() if one is not None]
        run = _Run(connection, tables, began=began)
        foreign_s = settings.orphan_age.total_seconds() if grace_s is None else grace_s
        grace_s = GRACE_S if grace_s is None else grace_s
        run.prepare(settings.home / "run", grace_s=grace_s, foreign_s=foreign_s)
        run.check_tables(log)
        run.check_named_files(named, parts=parts)
    return AuditReport(
        home=str(settings.home.absolute()),
        kafka=log if isinstance(log, str) else f"Kafka at {log.cluster.bootstrap}",
        began=began,
        seconds=time.monotonic() - start,
        versions=_versions(),
        snapshots={one.name: one.snapshot_id for one in tables},
        checks=tuple(run.checks),
        partitions=tuple(run.partitions),
        symbols=tuple(run.symbols),
    )


class _Run:
    """The checks made so far, and why the rows of some tables cannot be read."""

    def __init__(
        self, connection: DuckDBPyConnection, tables: Sequence[PinnedTable], *, began: datetime
    ) -> None:
        self.checks: list[Check] = []
        self.partitions: list[PartitionAccount] = []
        self.symbols: list[SymbolAccount] = []
        self._connection = connection
        self._tables = tables
        self._began = began
        self._offsets: dict[str, Offsets] = {}
        self._unreadable: dict[str, str] = {}

    def prepare(self, run_folder: Path, *, grace_s: float, foreign_s: float) -> None:
        """Check the files of all tables first, and make views of those that are all there."""
        create_macros(self._connection)
        for name in COLUMNS:
            create_records(self._connection, name)
        for pinned in self._tables:
            with read_errors(f"table {pinned.name}"):
                pending = _pending(run_folder / f"unreferenced-{pinned.name}.json")
                found = checks.files(
                    pinned,
                    grace_s=grace_s,
                    foreign_s=foreign_s,
                    pending=pending,
                    now=time.time(),
                )
                self.checks.append(found)
                self._offsets[pinned.name] = pinned.offsets
                why = _why_unreadable(pinned, found)
                if why is None:
                    create_views(self._connection, pinned)
                else:
                    self._unreadable[pinned.name] = why
        for name in COLUMNS.keys() - {one.name for one in self._tables} | self._unreadable.keys():
            create_empty_views(self._connection, name)

    def check_tables(self, log: KafkaSource | str) -> None:
        """Read the log, and make the checks of each table."""
        ranges = None if isinstance(log, str) else read_log(log, self._connection, self._offsets)
        for pinned in self._tables:
            theirs = None if ranges is None else [o for o in ranges if o.table == pinned.name]
            with read_errors(f"table {pinned.name}"):
                self.checks.append(checks.offsets(self._connection, pinned, theirs))
                if pinned.name in self._unreadable:
                    names = NEEDS_ROWS + ("venue ids",) * (pinned.name == "trades_v2")
                    self._skip(pinned.name, names, self._unreadable[pinned.name])
                    continue
                self.checks.append(checks.rows_of_files(self._connection, pinned))
                if theirs is None:
                    self._skip(pinned.name, NEEDS_LOG, str(log))
                else:
                    self._check_log(pinned, theirs)
                self._check_ids(pinned, until=None if theirs is None else self._began - NEW)

    def _skip(self, table: str, names: Iterable[str], why: str) -> None:
        self.checks += [checks.not_checked(name, table, why) for name in names]

    def _check_log(self, pinned: PinnedTable, ranges: Sequence[LogRange]) -> None:
        accounts, found = checks.records(self._connection, pinned, ranges)
        self.partitions += accounts
        self.checks += [found, checks.values(self._connection, pinned)]

    def _check_ids(self, pinned: PinnedTable, *, until: datetime | None) -> None:
        self.checks.append(checks.unique_ids(self._connection, pinned))
        self.checks.append(checks.ids(self._connection, pinned))
        if pinned.name == "trades_v2":
            self.checks.append(checks.venue_ids(self._connection, pinned, until=until))

    def check_named_files(self, named: Sequence[source_files.NamedFile], *, parts: bool) -> None:
        """Compare the named files with their tables."""
        why = next(iter(self._unreadable.values()), "" if named else "no files were named")
        if why:
            for table in (one.name for one in self._tables if one.name in OF_FILES):
                self._skip(table, ["rows of named files"], why)
            return
        with read_errors("the tables, beside the named files"):
            self.symbols, found = source_files.compare_files(self._connection, named, parts=parts)
            self.checks += found


def _pending(path: Path) -> list[str]:
    """Return the files that maintenance has noted, and will delete."""
    try:
        return list(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return []


def _why_unreadable(pinned: PinnedTable, files: Check) -> str | None:
    missing = [one.place for one in files.differences if "missing" in one.found]
    if missing:
        return f"{missing[0]} is missing"
    current = pinned.files(pinned.lineage[0]) if pinned.lineage else None
    if current is None:
        return None
    if current.deletes:
        return "another engine left delete files: compact the table with that engine"
    return None


@contextmanager
def _scratch() -> Iterator[DuckDBPyConnection]:
    """Open a database for the time of the audit, on disk: no home is written, memory is bounded."""
    with tempfile.TemporaryDirectory(prefix="k2-audit-") as folder:
        options = {"memory_limit": MEMORY, "temp_directory": folder, "TimeZone": "UTC"}
        with closing(open_duckdb(str(Path(folder) / "audit.db"))) as connection:
            for name, value in options.items():
                connection.execute(f"SET {name} = '{value}'")
            try:
                yield connection
            except RuntimeError as exc:
                if str(exc) == INTERRUPTED:
                    raise KeyboardInterrupt from exc
                raise


def _versions() -> dict[str, str]:
    librdkafka, _ = confluent_kafka.libversion()
    return {**{name: version(name) for name in LIBRARIES}, "librdkafka": librdkafka}
