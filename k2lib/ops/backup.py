"""A backup of the lake: each table at one commit, with every snapshot that it has kept by then.

A folder with the files as they are and, written last, `k2-backup.json`, which lists them with size
and hash. Iceberg's files never change, so a backup needs no lock and stops nobody: files that a
sink or maintenance deletes meanwhile belong to a commit that is no longer the newest, and the table
is then read again. `ops.restore` makes a lake of it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pyiceberg.catalog import Catalog
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFileContent, ManifestFile
from pyiceberg.table import Table

from k2lib.errors import ConfigError, DamagedFileError, OwnerError, TransientError
from k2lib.iceberg.catalog import read_errors
from k2lib.iceberg.manifests import list_manifests, read_manifest
from k2lib.iceberg.offsets import snapshot_properties
from k2lib.iceberg.relocation import path_below
from k2lib.iceberg.tables import TABLES, load_table
from k2lib.lifecycle import Closing
from k2lib.locks import holder_text, try_lock
from k2lib.reasons import RESTORE, file_errors

MANIFEST: Final = "k2-backup.json"
JOURNAL: Final = "k2-backup.journal"
LOCK: Final = "k2-backup.lock"
FORMAT: Final = 1
CHUNK_BYTES: Final = 1 << 20
# How often a table may move on so far under a backup that files of its plan are gone.
TRIES: Final = 10
# Called with the table's name, the files done and their number.
OnFile = Callable[[str, int, int], None]


class FileKind(StrEnum):
    """What a file of a table is."""

    METADATA = "metadata"
    MANIFEST_LIST = "manifest list"
    MANIFEST = "manifest"
    DATA = "data"
    POSITION_DELETES = "position deletes"


@dataclass(frozen=True)
class BackupFile:
    """One file: where the table had it, where the backup has it, and what is in it."""

    source: str
    path: str
    kind: FileKind
    size: int
    sha256: str


@dataclass(frozen=True)
class BackupTable:
    """One table at one commit."""

    name: str
    location: str
    metadata: str
    snapshot_id: int | None
    rows: int
    files: tuple[BackupFile, ...]


@dataclass(frozen=True)
class Backup:
    """What `k2-backup.json` says."""

    id: str
    made: datetime
    version: str
    tables: tuple[BackupTable, ...]


@dataclass(frozen=True)
class BackupReport:
    """What a backup did: rows of its tables, files and bytes copied, and files it had already."""

    path: str
    rows: Mapping[str, int]
    files_copied: int
    bytes_copied: int
    files_kept: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Planned:
    source: str
    kind: FileKind
    size: int | None


def ignore_files(table: str, done: int, files: int) -> None:
    """Listen to no file."""


def back_up(
    catalog: Catalog, path: Path, *, home: Path, on_file: OnFile = ignore_files
) -> BackupReport:
    """Copy every table to a folder; what it has of an earlier backup is not copied again.

    One that was killed goes on where it was. Rows that only Kafka has are not in it.

    Args:
        path: a folder of backups alone, or one that is not there yet.
        home: of the catalog's settings; the folder must not be in it.
        on_file: called after each file.
    Raises:
        ConfigError: the folder cannot be used, has too little space, or the lake has no table.
        OwnerError: another process makes a backup there.
        DamagedFileError: a file of the lake is missing or damaged.
        TransientError: catalog or storage do not answer, or tables move on faster than the copy.
    """
    path = path.expanduser().absolute()
    _check_folder(path, home.resolve())
    with ExitStack() as stack, file_errors(f"the backup {path}"):
        lock = try_lock(path / LOCK)
        if lock is None:
            raise OwnerError(f"{holder_text(path / LOCK)} makes a backup in {path}: wait for it")
        stack.enter_context(lock)
        copy = stack.enter_context(_Copy(path, on_file))
        tables = [copy.table(catalog, name) for name in TABLES]
        found = tuple(one for one in tables if one is not None)
        if not found:
            raise ConfigError("the lake has no table: there is nothing to back up")
        backup = Backup(str(uuid4()), datetime.now(UTC), version("k2lib"), found)
        _write_manifest(path, backup)
        (path / JOURNAL).unlink()
        _delete_others(path, backup)
    rows = {one.name: one.rows for one in found}
    return BackupReport(str(path), rows, copy.copied, copy.copied_bytes, copy.kept)


def read_backup(path: Path) -> Backup:
    """Read what a backup has.

    Raises:
        ConfigError: there is no backup, or it is of a later version.
        DamagedFileError: its list of files is damaged.
    """
    path = path.expanduser().absolute()
    file = path / MANIFEST
    with file_errors(f"the backup {path}"):
        if not file.exists():
            unfinished = "the backup there did not end" if (path / JOURNAL).exists() else None
            reason = unfinished or "there is no backup there"
            raise ConfigError(f"{path}: {reason} (no {MANIFEST}): run `k2 backup` first")
        content = file.read_bytes()
    try:
        values = json.loads(content)
        if values["format"] > FORMAT:
            raise ConfigError(f"{file}: made by k2lib {values['version']}: restore with that")
        return Backup(
            values["id"],
            datetime.fromisoformat(values["made"]),
            values["version"],
            tuple(map(_table_of, values["tables"])),
        )
    except (ValueError, LookupError, TypeError) as exc:
        raise DamagedFileError(f"{file} is damaged: make the backup again") from exc


class _Copy(Closing):
    """The files of one backup, and what the folder had before."""

    def __init__(self, path: Path, on_file: OnFile) -> None:
        self._path = path
        self._on_file = on_file
        self._earlier = {one.path: one for one in _earlier_files(path)}
        self._journal = (path / JOURNAL).open("a", encoding="utf-8")
        self.copied, self.copied_bytes, self.kept = 0, 0, 0

    def close(self) -> None:
        """Close the journal; it stays for the next backup where this one did not end."""
        self._journal.close()

    def table(self, catalog: Catalog, name: str) -> BackupTable | None:
        """Copy a table at its newest commit; None where nothing was ever written to it."""
        for _ in range(TRIES):
            table = load_table(catalog, name)
            if table is None:
                return None
            try:
                return self._copy_table(name, table)
            except (DamagedFileError, FileNotFoundError):
                fresh = load_table(catalog, name)
                if fresh is not None and fresh.metadata_location == table.metadata_location:
                    raise
        raise TransientError(
            f"table {name}: its files were deleted {TRIES} times while they were copied: "
            "try again, with fewer commits or a longer life of snapshots"
        )

    def _copy_table(self, name: str, table: Table) -> BackupTable:
        with read_errors(f"table {name}"):
            planned = [(one, self._find(name, table, one)) for one in _plan(table)]
            self._check_space(name, planned)
            files = []
            for one, found in planned:
                files.append(found or self._copy(table.io, one, _path_in_backup(name, table, one)))
                self.kept += found is not None
                self._on_file(name, len(files), len(planned))
        totals = snapshot_properties(table.current_snapshot())
        return BackupTable(
            name,
            table.location(),
            table.metadata_location,
            table.metadata.current_snapshot_id,
            int(totals.get("total-records", 0)),
            tuple(files),
        )

    def _check_space(self, name: str, planned: list[tuple[_Planned, BackupFile | None]]) -> None:
        needed = sum(one.size or 0 for one, found in planned if found is None)
        free = shutil.disk_usage(self._path).free
        if needed > free:
            raise ConfigError(
                f"the backup {self._path}: table {name} needs {needed:,} bytes more, {free:,} are "
                "free: free some space, or name another place"
            )

    def _find(self, name: str, table: Table, one: _Planned) -> BackupFile | None:
        """Return a file that the folder has whole."""
        earlier = self._earlier.get(_path_in_backup(name, table, one))
        if earlier is None or earlier.source != one.source or one.size not in (None, earlier.size):
            return None
        file = self._path / earlier.path
        return earlier if file.exists() and file.stat().st_size == earlier.size else None

    def _copy(self, io: FileIO, one: _Planned, relative: str) -> BackupFile:
        copied = self._copy_file(io, one, relative)
        self._journal.write(json.dumps(asdict(copied)) + "\n")
        self._journal.flush()
        self._earlier[copied.path] = copied
        self.copied += 1
        self.copied_bytes += copied.size
        return copied

    def _copy_file(self, io: FileIO, one: _Planned, relative: str) -> BackupFile:
        target = self._path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        digest, size = sha256(), 0
        with io.new_input(one.source).open() as source, part.open("wb") as written:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += written.write(chunk)
            written.flush()
            os.fsync(written.fileno())
        if one.size is not None and size != one.size:
            part.unlink()
            raise DamagedFileError(f"{one.source} has {size} of {one.size} bytes: {RESTORE}")
        part.replace(target)
        return BackupFile(one.source, relative, one.kind, size, digest.hexdigest())


def _plan(table: Table) -> Iterator[_Planned]:
    """Yield every file that the table's metadata refer to, each once."""
    yield _Planned(table.metadata_location, FileKind.METADATA, None)
    metadata = table.metadata
    for statistics in [*metadata.statistics, *metadata.partition_statistics]:
        yield _Planned(statistics.statistics_path, FileKind.DATA, statistics.file_size_in_bytes)
    manifests: dict[str, ManifestFile] = {}
    for snapshot in table.snapshots():
        yield _Planned(snapshot.manifest_list, FileKind.MANIFEST_LIST, None)
        for manifest in list_manifests(table, snapshot.snapshot_id):
            manifests[manifest.manifest_path] = manifest
    data_paths: set[str] = set()
    for manifest in manifests.values():
        yield _Planned(manifest.manifest_path, FileKind.MANIFEST, manifest.manifest_length)
        for entry in read_manifest(table, manifest):
            file = entry.data_file
            if file.file_path not in data_paths:
                data_paths.add(file.file_path)
                is_position = file.content == DataFileContent.POSITION_DELETES
                kind = FileKind.POSITION_DELETES if is_position else FileKind.DATA
                yield _Planned(file.file_path, kind, file.file_size_in_bytes)


def _path_in_backup(name: str, table: Table, one: _Planned) -> str:
    return f"{name}/{path_below(table.location(), one.source)}"


def _check_folder(path: Path, home: Path) -> None:
    resolved = path.resolve()
    if resolved == home or resolved.is_relative_to(home) or home.is_relative_to(resolved):
        raise ConfigError(
            f"the backup {path}: it is in the home {home}, or around it: name another"
        )
    with file_errors(f"the backup {path}"):
        if not path.exists():
            return
        ours = {MANIFEST, JOURNAL, LOCK, *TABLES}
        others = sorted(one.name for one in path.iterdir() if one.name not in ours)
    if others:
        raise ConfigError(
            f"the backup {path}: it holds {', '.join(others[:5])}: name another folder"
        )


def _earlier_files(path: Path) -> Iterator[BackupFile]:
    """Yield the files of the last backup, and those that one that was killed has copied."""
    if (path / MANIFEST).exists():
        for table in read_backup(path).tables:
            yield from table.files
    if (path / JOURNAL).exists():
        for line in (path / JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                yield _file_of(json.loads(line))
            except (ValueError, LookupError, TypeError):
                return  # it was killed within this line


def _write_manifest(path: Path, backup: Backup) -> None:
    values = {"format": FORMAT, **asdict(backup), "made": backup.made.isoformat()}
    part = path / f"{MANIFEST}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path / MANIFEST)


def _delete_others(path: Path, backup: Backup) -> None:
    """Delete the files of earlier backups that this one does not have."""
    kept = {path / one.path for table in backup.tables for one in table.files}
    for name in TABLES:
        for file in (path / name).rglob("*"):
            if file.is_file() and file not in kept:
                file.unlink()


def _table_of(values: Mapping[str, Any]) -> BackupTable:
    files = tuple(map(_file_of, values["files"]))
    return BackupTable(**{**values, "files": files})


def _file_of(values: Mapping[str, Any]) -> BackupFile:
    return BackupFile(**{**values, "kind": FileKind(values["kind"])})
