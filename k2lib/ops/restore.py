"""A lake made of a backup: at another place, in another catalog, or on object storage."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.io import FileIO, load_file_io

from k2lib.errors import ConfigError, DamagedFileError, K2Error, OwnerError
from k2lib.iceberg.catalog import lake_errors
from k2lib.iceberg.home_catalog import CATALOG_FILE, RESTORE_MARKER, WAREHOUSE
from k2lib.iceberg.relocation import Relocation
from k2lib.iceberg.tables import NAMESPACE, TABLES, load_table, open_catalog
from k2lib.locks import holder_text, make_private, replace_file, try_lock, writer_lock
from k2lib.ops.backup import (
    CHUNK_BYTES,
    BackupFile,
    BackupTable,
    FileKind,
    OnFile,
    ignore_files,
    read_backup,
)
from k2lib.ops.home_lake import with_home_lake
from k2lib.reasons import file_errors
from k2lib.settings import Settings

# Files whose bytes change come after those that they name.
ORDER: Final = (
    FileKind.DATA,
    FileKind.POSITION_DELETES,
    FileKind.MANIFEST,
    FileKind.MANIFEST_LIST,
)


@dataclass(frozen=True)
class RestoreReport:
    """What was restored: where, rows of each table, files and bytes."""

    home: str
    warehouse: str
    rows: Mapping[str, int]
    files: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def restore(path: Path, settings: Settings, *, on_file: OnFile = ignore_files) -> RestoreReport:
    """Make the tables of a backup in the home, catalog and warehouse of the settings.

    Snapshots and their ids, tags, table ids, properties and offsets are those of the backup: time
    travel works, and a sink goes on where the tables end. A restore that was killed begins anew.

    Args:
        path: the backup; each file is checked by its hash.
        on_file: called after each file.
    Raises:
        ConfigError: there is no backup, or there are tables already.
        DamagedFileError: a file of the backup is missing or damaged.
        OwnerError: a process writes this home.
        TransientError: catalog or storage do not answer.
    """
    path = path.expanduser().absolute()
    backup = read_backup(path)
    for table in backup.tables:
        _check_sizes(path, table)
    home = settings.home.absolute()
    settings = with_home_lake(settings)
    with ExitStack() as stack:
        lock = try_lock(writer_lock(home))
        if lock is None:
            raise OwnerError(f"{holder_text(writer_lock(home))} writes {home}: end that first")
        stack.enter_context(lock)
        unfinished = _leave_unfinished(settings)
        catalog = stack.enter_context(closing(open_catalog(settings)))
        stack.enter_context(lake_errors("the restored tables"))
        _drop(catalog, unfinished)
        _check_empty(catalog)
        with suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace(NAMESPACE)
        with _marked(catalog, settings) as marker:
            copies = [_Restoring(path, table, catalog, on_file) for table in backup.tables]
            for copy in copies:
                copy.run(marker)
    return RestoreReport(
        home=str(home),
        warehouse=catalog.properties.get("warehouse", ""),
        rows={table.name: table.rows for table in backup.tables},
        files=sum(len(table.files) for table in backup.tables),
        bytes=sum(file.size for table in backup.tables for file in table.files),
    )


class _Restoring:
    """One table on its way."""

    def __init__(self, path: Path, table: BackupTable, catalog: Catalog, on_file: OnFile) -> None:
        self._path = path
        self._table = table
        self._catalog = catalog
        self._on_file = on_file
        self._sizes: dict[str, int] = {}
        self._done = 0

    def run(self, marker: "_Marker") -> None:
        """Write all files, then let the catalog have the table."""
        location = _location(self._catalog, self._table.name)
        way = Relocation(self._table.location, location, self._sizes)
        io = load_file_io(dict(self._catalog.properties), location)
        changes: dict[FileKind, Callable[[bytes], bytes]] = {
            FileKind.POSITION_DELETES: way.position_deletes,
            FileKind.MANIFEST: way.manifest,
            FileKind.MANIFEST_LIST: way.manifest_list,
        }
        for kind in ORDER:
            for file in (one for one in self._table.files if one.kind == kind):
                target = way.path(file.source)
                if kind in changes:
                    content = changes[kind](_read(self._path, file))
                    self._sizes[file.source] = len(content)
                    _write(io, target, content)
                else:
                    _write_data(io, target, self._path, file)
                self._count()
        metadata = next(one for one in self._table.files if one.source == self._table.metadata)
        name, content = way.metadata(_read(self._path, metadata))
        target = f"{location}/metadata/{name}"
        _write(io, target, content)
        identifier = (NAMESPACE, self._table.name)
        marker.add(self._table.name, target)
        registered = self._catalog.register_table(identifier, target)
        if registered.metadata.current_snapshot_id != self._table.snapshot_id:
            self._catalog.drop_table(identifier)
            raise ConfigError(
                f"the catalog registered {self._table.name} without what its metadata say: restore "
                "into one that registers tables, as SQL catalogs do"
            )
        self._count()

    def _count(self) -> None:
        self._done += 1
        self._on_file(self._table.name, self._done, len(self._table.files))


def _location(catalog: Catalog, name: str) -> str:
    """Return where the catalog would have a new table; one that decides by itself is asked."""
    if isinstance(catalog, MetastoreCatalog):
        return catalog._resolve_table_location(None, NAMESPACE, name).rstrip("/")
    identifier = (NAMESPACE, name)
    location = catalog.create_table(identifier, TABLES[name].schema.iceberg).location()
    catalog.drop_table(identifier)
    return location.rstrip("/")


def _check_empty(catalog: Catalog) -> None:
    for name in TABLES:
        if load_table(catalog, name) is not None:
            raise ConfigError(
                f"there is a table {name} already: restore into another home (K2_HOME), or a "
                "catalog without it"
            )


def _check_sizes(path: Path, table: BackupTable) -> None:
    for file in table.files:
        found = path / file.path
        if not found.exists():
            raise DamagedFileError(
                f"the backup {path}: {file.path} is missing: run `k2 backup` again"
            )
        if found.stat().st_size != file.size:
            raise _damaged(path, file)


def _damaged(path: Path, file: BackupFile) -> DamagedFileError:
    return DamagedFileError(
        f"the backup {path}: {file.path} is damaged: delete that file, and run `k2 backup` again"
    )


def _chunks(path: Path, file: BackupFile) -> Iterator[bytes]:
    digest = sha256()
    with (path / file.path).open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != file.sha256:
        raise _damaged(path, file)


def _read(path: Path, file: BackupFile) -> bytes:
    return b"".join(_chunks(path, file))


def _write(io: FileIO, target: str, content: bytes) -> None:
    with io.new_output(target).create(overwrite=True) as written:
        written.write(content)


def _write_data(io: FileIO, target: str, path: Path, file: BackupFile) -> None:
    with io.new_output(target).create(overwrite=True) as written:
        for chunk in _chunks(path, file):
            written.write(chunk)


@dataclass
class _Marker:
    """The file that marks a home while it is restored: the metadata file of each table made."""

    path: Path
    tables: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, metadata_location: str) -> None:
        """Note a table before the catalog has it."""
        self.tables[name] = metadata_location
        self.write()

    def write(self) -> None:
        """Write the file."""
        replace_file(self.path, json.dumps(self.tables))


@contextmanager
def _marked(catalog: Catalog, settings: Settings) -> Iterator[_Marker]:
    """Mark the home while its tables are made; one that fails leaves none of them.

    A killed process leaves the mark.
    """
    home = settings.home.absolute()
    marker = _Marker(home / RESTORE_MARKER)
    with file_errors(f"K2_HOME={home}"):
        make_private(marker.path.parent)
        marker.write()
    try:
        yield marker
    except K2Error:
        _drop(catalog, marker.tables)
        if _has_own_catalog(settings):
            shutil.rmtree(home / WAREHOUSE / NAMESPACE, ignore_errors=True)
        marker.path.unlink()
        raise
    marker.path.unlink()


def _has_own_catalog(settings: Settings) -> bool:
    return settings.catalog_uri is None and settings.catalog_config is None


def _leave_unfinished(settings: Settings) -> dict[str, str]:
    """Delete what a killed restore made in the home; return its tables, if it left any."""
    home = settings.home.absolute()
    marker = home / RESTORE_MARKER
    if not marker.exists():
        return {}
    with file_errors(f"K2_HOME={home}"):
        tables: dict[str, str] = json.loads(marker.read_text())
        if _has_own_catalog(settings):
            # Nothing else has been in this home: a restore refuses one that has tables.
            for name in (CATALOG_FILE, f"{CATALOG_FILE}-wal", f"{CATALOG_FILE}-shm"):
                (home / name).unlink(missing_ok=True)
            shutil.rmtree(home / WAREHOUSE, ignore_errors=True)
            tables = {}
        marker.unlink()
    return tables


def _drop(catalog: Catalog, tables: Mapping[str, str]) -> None:
    """Drop tables that are still those of these metadata files: others may be of another home."""
    for name, metadata_location in tables.items():
        table = load_table(catalog, name)
        if table is not None and table.metadata_location == metadata_location:
            catalog.drop_table((NAMESPACE, name))
