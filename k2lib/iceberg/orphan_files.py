"""Deletion of orphan files: those in a table's folder that no kept snapshot refers to.

Expired snapshots and killed writers leave them. A writer has such files too until it commits: K2,
and what any engine writes of its files, take seconds to that; a job of another engine may take
hours. Paths are read with fastavro, not by `manifests`: all kept snapshots are read here, and
pyiceberg takes ten times as long to parse more than paths.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import fastavro
import pyarrow as pa
from pyarrow import parquet
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyiceberg.manifest import DataFile, ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from k2lib.errors import DamagedFileError
from k2lib.iceberg.catalog import read_errors
from k2lib.iceberg.file_io import StorageFileIO
from k2lib.iceberg.manifests import plan_tasks
from k2lib.iceberg.writer import FILE_PREFIX
from k2lib.locks import make_private, replace_file

GRACE: Final = timedelta(minutes=10)
# As Iceberg's own remove_orphan_files.
ORPHAN_AGE: Final = timedelta(days=3)
# Data files of K2; metadata, manifest lists and manifests as every engine names them in a commit.
_SOON_COMMITTED: Final = re.compile(
    rf"{FILE_PREFIX}[^/]*\.parquet|[^/]*\.metadata\.json|snap-[^/]*\.avro|[0-9a-f-]{{36}}-m\d+\.avro"
)
# Takes a record of a manifest list or a manifest; returns the file that it refers to.
Reference = Callable[[Any], str | None]
_SUFFIXES: Final = (".parquet", ".orc", ".avro", ".metadata.json", ".puffin", ".stats")


@dataclass(frozen=True)
class OrphanFileResult:
    """What was deleted, what is to be deleted later, and which referenced files are missing.

    Nothing is deleted while a file is missing: the listing cannot be trusted then.
    """

    deleted: int = 0
    deleted_bytes: int = 0
    pending: int = 0
    missing: tuple[str, ...] = ()


def update_unreferenced(
    unreferenced: Iterable[str], since: Mapping[str, datetime], now: datetime
) -> dict[str, datetime]:
    """Return since when each of these files is known to be unreferenced, and drop all others."""
    return {path: min(since.get(path, now), now) for path in unreferenced}


def deletable(
    since: Mapping[str, datetime],
    modified: Mapping[str, datetime],
    now: datetime,
    *,
    age: timedelta = ORPHAN_AGE,
) -> set[str]:
    """Return the files that were written and unreferenced for at least 10 minutes.

    Args:
        age: how long ago a file must have been written that another engine may yet commit.
    """
    return {
        path
        for path, moment in since.items()
        if now - moment >= GRACE and now - modified[path] >= _least_age(path, age)
    }


def _least_age(path: str, age: timedelta) -> timedelta:
    is_soon_committed = _SOON_COMMITTED.fullmatch(path.rpartition("/")[2])
    return GRACE if is_soon_committed else max(GRACE, age)


class OrphanFileCleaner:
    """Deletes a table's orphan files; a state file lets a new process continue."""

    def __init__(self, state: Path, *, age: timedelta = ORPHAN_AGE) -> None:
        self._state = state
        self._age = age
        self._references_of: dict[str, frozenset[str]] = {}

    def run(self, table: Table, now: datetime) -> OrphanFileResult:
        """List the files, find those no kept snapshot refers to, and delete what is old enough."""
        listed = _list(table)
        fresh = table.catalog.load_table(table.name())
        try:
            with read_errors(f"table {table.name()[-1]}"):
                referenced = self._referenced(fresh)
        except DamagedFileError as exc:
            return OrphanFileResult(missing=(str(exc),))
        if missing := sorted(_below(fresh, referenced) - listed.keys()):
            return OrphanFileResult(missing=tuple(missing))
        orphans = listed.keys() - referenced - _keys(_logged(fresh.metadata))
        since = update_unreferenced(orphans, _read(self._state), now)
        modified = {path: info.mtime for path, info in listed.items()}
        deleted = deletable(since, modified, now, age=self._age)
        _delete(table, deleted)
        _write(self._state, {path: at for path, at in since.items() if path not in deleted})
        size = sum(listed[path].size for path in deleted)
        return OrphanFileResult(len(deleted), size, len(since) - len(deleted))

    def _referenced(self, table: Table) -> set[str]:
        snapshots = table.snapshots()
        metadata = {table.metadata_location, *_statistics(table.metadata)}
        lists = _keys(snapshot.manifest_list for snapshot in snapshots)
        manifests = self._references(lists, table, reference=_manifest_path)
        data = self._references(manifests, table, reference=_live_path)
        self._references_of = {path: self._references_of[path] for path in lists | manifests}
        return _keys(metadata) | lists | manifests | data

    def _references(self, paths: Set[str], table: Table, *, reference: Reference) -> set[str]:
        """Read each file only once, because manifests and manifest lists never change."""
        for path in paths - self._references_of.keys():
            self._references_of[path] = _read_references(table, path, reference=reference)
        return set().union(*(self._references_of[path] for path in paths))


def damaged_files(table: Table) -> list[str]:
    """Return which data files of the current snapshot are missing or no Parquet, and how."""
    files = [task.file for task in plan_tasks(table.scan(), table)]
    found = ((file.file_path, _damage(table, file)) for file in files)
    return [f"{path} {damage}" for path, damage in found if damage is not None]


def _damage(table: Table, file: DataFile) -> str | None:
    try:
        with table.io.new_input(file.file_path).open() as opened:
            rows = parquet.read_metadata(opened).num_rows
    except FileNotFoundError:
        return "is missing"
    except pa.ArrowInvalid:
        return "is no Parquet file"
    return None if rows == file.record_count else f"has {rows} of {file.record_count} rows"


def _read_references(table: Table, path: str, *, reference: Reference) -> frozenset[str]:
    filesystem, _ = _folder(table)
    with filesystem.open_input_file(path) as file:
        found = (reference(record) for record in fastavro.reader(file))
        return frozenset(sys.intern(_key(location)) for location in found if location is not None)


def _manifest_path(record: Any) -> str | None:
    return str(record["manifest_path"])


def _live_path(record: Any) -> str | None:
    deleted = record["status"] == ManifestEntryStatus.DELETED
    return None if deleted else str(record["data_file"]["file_path"])


def _folder(table: Table) -> tuple[FileSystem, str]:
    """Return the file system of the table and its folder in it."""
    io = StorageFileIO(table.io.properties)
    scheme, netloc, path = StorageFileIO.parse_location(table.location())
    return io.fs_by_scheme(scheme, netloc), path.rstrip("/") + "/"


def _list(table: Table) -> dict[str, FileInfo]:
    filesystem, folder = _folder(table)
    selector = FileSelector(folder, recursive=True, allow_not_found=True)
    return {
        info.path: info
        for info in filesystem.get_file_info(selector)
        if info.type == FileType.File and info.path.endswith(_SUFFIXES)
    }


def _delete(table: Table, paths: Iterable[str]) -> None:
    filesystem, _ = _folder(table)
    for path in sorted(paths):
        with suppress(FileNotFoundError):
            filesystem.delete_file(path)


def _below(table: Table, paths: Iterable[str]) -> set[str]:
    _, folder = _folder(table)
    return {path for path in paths if path.startswith(folder)}


def _statistics(metadata: TableMetadata) -> set[str]:
    files = [*metadata.statistics, *metadata.partition_statistics]
    return {file.statistics_path for file in files}


def _logged(metadata: TableMetadata) -> set[str]:
    return {entry.metadata_file for entry in metadata.metadata_log}


def _keys(locations: Iterable[str]) -> set[str]:
    return {_key(location) for location in locations}


def _key(location: str) -> str:
    """Return the form in which a listing names the file."""
    return StorageFileIO.parse_location(location)[2]


def _read(state: Path) -> dict[str, datetime]:
    try:
        since = json.loads(state.read_text(encoding="utf-8"))
        return {path: datetime.fromisoformat(at) for path, at in since.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _write(state: Path, since: Mapping[str, datetime]) -> None:
    make_private(state.parent)
    times = {path: at.astimezone(UTC).isoformat() for path, at in sorted(since.items())}
    replace_file(state, json.dumps(times))
