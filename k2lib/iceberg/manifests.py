"""Manifests: the data files of a table at a snapshot and their bounds.

Every reader of manifests uses these functions but two: `orphan_files` needs the bare paths of all
kept snapshots, and `notebook.measurements` shows how pyiceberg itself prunes files.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import SEEK_END, BytesIO
from itertools import chain
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import fastavro
from pyiceberg.conversions import from_bytes
from pyiceberg.expressions import AlwaysTrue, BooleanExpression, LiteralPredicate
from pyiceberg.manifest import DataFile, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.table import DataScan, FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import NestedField, PrimitiveType

from k2lib.errors import TableError
from k2lib.iceberg.catalog import CATALOG_ERRORS, UNREADABLE, read_errors
from k2lib.iceberg.columns import record_table
from k2lib.iceberg.home_catalog import FILE_SCHEMES

ALL_ROWS: Final = AlwaysTrue()
CHECKED_AT_MOST: Final = 100_000
_CHECKED: Final[set[tuple[str, int]]] = set()
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LONG_AGO_US: Final = -(2**63)
FAR_OFF_US: Final = 2**63 - 1


@dataclass(frozen=True)
class PlannedFile:
    """A data file with the row count and the bounds that its manifest has.

    Attributes:
        path: as DuckDB reads it.
        exchange: of all its rows; None where the file is of no one exchange.
        oldest_us, newest_us: no event time in it lies outside.
        first_symbol, last_symbol: no symbol in it lies outside; None where it is unknown.
    """

    path: str
    rows: int
    exchange: str | None = None
    oldest_us: int = LONG_AGO_US
    newest_us: int = FAR_OFF_US
    first_symbol: str | None = None
    last_symbol: str | None = None

    @classmethod
    def of(cls, table: Table, file: DataFile) -> "PlannedFile":
        """Return a file of a table by its manifest entry."""
        index = _exchange_index(table, file.spec_id)
        exchange = None if index is None else file.partition[index]
        oldest, newest = column_bounds(table, file, "timestamp")
        first, last = column_bounds(table, file, "symbol")
        return cls(
            duckdb_path(file.file_path),
            file.record_count,
            exchange,
            LONG_AGO_US if oldest is None else oldest,
            FAR_OFF_US if newest is None else newest,
            first,
            last,
        )

    def can_have(self, symbol: str, exchange: str | None) -> bool:
        """Say whether it can have rows of an instrument, or of a symbol anywhere."""
        if exchange is not None and self.exchange not in (exchange, None):
            return False
        first, last = self.first_symbol, self.last_symbol
        return (first is None or first <= symbol) and (last is None or symbol <= last)

    def is_within(self, start: datetime | None, end: datetime | None) -> bool:
        """Say whether it can have rows in `[start, end)`."""
        after_start = start is None or self.newest_us >= _microseconds(start)
        return after_start and (end is None or self.oldest_us < _microseconds(end))


def column_bounds(table: Table, file: DataFile, column: str) -> tuple[Any, Any]:
    """Return the least and the greatest value a file can have in a column.

    Returns:
        Times as microseconds since the epoch, texts of at most 16 characters; None where unknown.
    """
    if column not in table.schema().column_names:
        return None, None
    field = table.schema().find_field(column)
    return _bound(file.lower_bounds, field), _bound(file.upper_bounds, field)


File = TypeVar("File")


class ManifestCache(Generic[File]):
    """The data files of a table's snapshots; each manifest is read once while it is in use.

    A manifest never changes, so of the next snapshot only new manifests are read.
    """

    def __init__(self, convert: Callable[[Table, DataFile], File]) -> None:
        """Begin empty.

        Args:
            convert: returns what is kept of a data file.
        """
        self._convert = convert
        self._tables: dict[UUID, dict[str, list[File]]] = {}

    def files(self, table: Table, manifests: Sequence[ManifestFile]) -> list[File]:
        """Return the data files of these manifests, all those of one snapshot."""
        manifests = [one for one in manifests if one.content == ManifestContent.DATA]
        cached = self._tables.get(table.metadata.table_uuid, {})
        self._tables[table.metadata.table_uuid] = listed = {
            manifest.manifest_path: cached[manifest.manifest_path]
            if manifest.manifest_path in cached
            else self._read(table, manifest)
            for manifest in manifests
        }
        return list(chain.from_iterable(listed.values()))

    def _read(self, table: Table, manifest: ManifestFile) -> list[File]:
        return [self._convert(table, entry.data_file) for entry in read_manifest(table, manifest)]


def read_manifest(table: Table, manifest: ManifestFile) -> list[ManifestEntry]:
    """Return the live entries of a manifest.

    Raises:
        DamagedFileError: it is missing or cannot be read.
    """
    _check_manifest(table, manifest)
    with read_errors(f"table {table.name()[-1]}", path=lambda: manifest.manifest_path):
        return manifest.fetch_manifest_entry(table.io)


def _check_manifest(table: Table, manifest: ManifestFile) -> None:
    with read_errors(f"table {table.name()[-1]}", path=lambda: manifest.manifest_path):
        _check_avro(table, manifest.manifest_path)


def list_manifests(table: Table, snapshot_id: int | None) -> list[ManifestFile]:
    """Return the manifests of a snapshot; none where nothing was ever committed."""
    snapshot = None if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        return []
    with read_errors(f"table {table.name()[-1]}", path=lambda: snapshot.manifest_list):
        _check_avro(table, snapshot.manifest_list)
        return snapshot.manifests(table.io)


def _check_avro(table: Table, path: str) -> None:
    """Read a file first where damage is an error: pyiceberg's decoder reads beyond the end.

    It takes a third of the time to plan with a filter. The files never change, so each is read once
    more; one that has another size since was damaged.
    """
    with table.io.new_input(path).open() as file:
        checked = (path, file.seek(0, SEEK_END))
        if checked in _CHECKED:
            return
        file.seek(0)
        for _ in fastavro.reader(BytesIO(file.read())):
            pass
    if len(_CHECKED) >= CHECKED_AT_MOST:
        _CHECKED.clear()
    _CHECKED.add(checked)


def has_delete_files(table: Table, manifests: Iterable[ManifestFile]) -> bool:
    """Say whether a snapshot has delete files; those that were compacted away do not count."""
    return any(
        manifest.content == ManifestContent.DELETES and _has_live_entries(table, manifest)
        for manifest in manifests
    )


def check_readable(table: Table) -> None:
    """Refuse a table whose rows cannot be read from its data files alone.

    Raises:
        TableError: another writer left delete files, which a plain read would ignore.
    """
    manifests = list_manifests(table, table.metadata.current_snapshot_id)
    if has_delete_files(table, manifests):
        plan_files(table)


def is_readable(table: Table, snapshot: Snapshot) -> bool:
    """Say whether the rows of a snapshot are those of its data files."""
    return not has_delete_files(table, list_manifests(table, snapshot.snapshot_id))


def _has_live_entries(table: Table, manifest: ManifestFile) -> bool:
    added, existing = manifest.added_files_count, manifest.existing_files_count
    if added is None or existing is None:
        return bool(read_manifest(table, manifest))
    return added + existing > 0


def data_files(table: Table, snapshot_id: int | None) -> list[DataFile]:
    """Return the data files of a snapshot, whatever deletes apply to them."""
    return [
        entry.data_file
        for manifest in list_manifests(table, snapshot_id)
        if manifest.content == ManifestContent.DATA
        for entry in read_manifest(table, manifest)
    ]


class PlanCache:
    """The plans made last, so that the same question reads no manifest again.

    A snapshot never changes: a plan stays right as long as it is kept.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._plans: OrderedDict[tuple[object, ...], list[PlannedFile]] = OrderedDict()
        self._manifests = ManifestCache(PlannedFile.of)
        self._lock = threading.Lock()

    def paths(
        self,
        table: Table,
        *,
        row_filter: BooleanExpression = ALL_ROWS,
        snapshot_id: int | None = None,
    ) -> list[str]:
        """Return what `plan_paths` returns, planned at most once."""
        planned = self.files(table, row_filter=row_filter, snapshot_id=snapshot_id)
        return [file.path for file in planned]

    def files(
        self,
        table: Table,
        *,
        row_filter: BooleanExpression = ALL_ROWS,
        snapshot_id: int | None = None,
    ) -> list[PlannedFile]:
        """Return what `plan_files` returns, planned at most once."""
        at = table.metadata.current_snapshot_id if snapshot_id is None else snapshot_id
        key = (table.metadata.table_uuid, at, str(row_filter))
        with self._lock:
            if key not in self._plans:
                self._plans[key] = (
                    self._all_files(table, at)
                    if row_filter == ALL_ROWS
                    else plan_files(table, row_filter=row_filter, snapshot_id=at)
                )
            self._plans.move_to_end(key)
            while len(self._plans) > self._limit:
                self._plans.popitem(last=False)
            return self._plans[key]

    def lists(self, path: str) -> bool:
        """Say whether a plan has the file."""
        with self._lock:
            return any(file.path == path for plan in self._plans.values() for file in plan)

    def _all_files(self, table: Table, snapshot_id: int | None) -> list[PlannedFile]:
        manifests = list_manifests(table, snapshot_id)
        if has_delete_files(table, manifests):
            return plan_files(table, snapshot_id=snapshot_id)
        planned = self._manifests.files(record_table(table), manifests)
        return sorted(planned, key=lambda file: file.path)


def plan_tasks(scan: DataScan, table: Table) -> list[FileScanTask]:
    """Plan a scan of a table with pyiceberg.

    Raises:
        DamagedFileError: a manifest is missing or cannot be read; the message names it.
        TableError: another writer left delete files that pyiceberg cannot apply.
    """
    snapshot = scan.snapshot()
    manifests = list_manifests(table, None if snapshot is None else snapshot.snapshot_id)
    for manifest in manifests:
        _check_manifest(table, manifest)
    with read_errors(f"table {table.name()[-1]}, its manifests"):
        try:
            return list(scan.plan_files())
        except (*CATALOG_ERRORS, *UNREADABLE):
            for manifest in manifests:
                read_manifest(table, manifest)
            if has_delete_files(table, manifests):  # pyiceberg knows no equality deletes
                raise _delete_files_error(table) from None
            raise


def plan_files(
    table: Table,
    *,
    row_filter: BooleanExpression = ALL_ROWS,
    snapshot_id: int | None = None,
) -> list[PlannedFile]:
    """Return the files that can have rows of the filter, sorted by path; rows still need filtering.

    Raises:
        TableError: another writer left delete files, which a plain read would ignore.
    """
    table = record_table(table)
    tasks = plan_tasks(table.scan(row_filter=row_filter, snapshot_id=snapshot_id), table)
    if any(task.delete_files for task in tasks):
        raise _delete_files_error(table)
    files = [PlannedFile.of(table, task.file) for task in tasks]
    return sorted(files, key=lambda file: file.path)


def plan_paths(
    table: Table,
    *,
    row_filter: BooleanExpression = ALL_ROWS,
    snapshot_id: int | None = None,
) -> list[str]:
    """Return the paths of `plan_files`, as DuckDB reads them.

    Raises:
        TableError: as `plan_files`.
    """
    planned = plan_files(table, row_filter=row_filter, snapshot_id=snapshot_id)
    return [file.path for file in planned]


def compare(kind: type[LiteralPredicate], column: str, value: str) -> BooleanExpression:
    """Return a row filter; for example `compare(EqualTo, "symbol", "BHP")`."""
    return kind(column, value)


def duckdb_path(uri: str) -> str:
    """Return a file's location as DuckDB reads it: local ones without `file://`, others as is."""
    prefix = next((prefix for prefix in FILE_SCHEMES if uri.startswith(prefix)), "")
    return uri.removeprefix(prefix)


def _delete_files_error(table: Table) -> TableError:
    return TableError(
        f"table {'.'.join(table.name())} has delete files, which are not read here: "
        "compact it with the engine that deleted the rows"
    )


def _exchange_index(table: Table, spec_id: int) -> int | None:
    """Return where in a file's partition its one exchange stands; another writer may say more."""
    schema = table.schema()
    for index, field in enumerate(table.specs()[spec_id].fields):
        name = schema.find_column_name(field.source_id)
        if name == "exchange" and isinstance(field.transform, IdentityTransform):
            return index
    return None


def _bound(bounds: dict[int, bytes] | None, field: NestedField) -> Any:
    bound, kind = (bounds or {}).get(field.field_id), field.field_type
    if bound is None or not isinstance(kind, PrimitiveType):
        return None
    return from_bytes(kind, bound)


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)
