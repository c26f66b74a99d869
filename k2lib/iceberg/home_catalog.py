"""The catalog of a home: its SQLite file, its warehouse, and whether its tables are in that.

Tables have absolute locations: a home that was moved or copied would write into the first one.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlparse

from pyiceberg.io import SCHEMA_TO_FILE_IO
from sqlalchemy import URL

from k2lib.addresses import lower_scheme, public_url
from k2lib.errors import ConfigError, DamagedFileError, TransientError
from k2lib.locks import make_private
from k2lib.reasons import RESTORE, file_errors, with_remedy

CATALOG_FILE: Final = "catalog.db"
WAREHOUSE: Final = "warehouse"
RESTORE_MARKER: Final = "run/restore.json"
FILE_SCHEMES: Final = ("file://", "file:")
# SQLite opens files whose paths have at most 504 bytes.
PATH_BYTES: Final = 504 - len(f"/{CATALOG_FILE}")
# <warehouse>/<namespace>/<table>/metadata/<file>
WAREHOUSE_OF_METADATA: Final = 3
LOCATIONS: Final = "SELECT metadata_location FROM iceberg_tables WHERE table_namespace = ?"


def sqlite_uri(home: Path, *, timeout_s: float) -> str:
    """Return the address of a home's catalog; its path may have any characters.

    Args:
        timeout_s: how long SQLite waits for other writers.
    Raises:
        ConfigError: the path is longer than SQLite takes.
    """
    size = len(os.fsencode(home))
    if size > PATH_BYTES:
        raise ConfigError(
            f"K2_HOME={home}: a path of {size} bytes; SQLite takes {PATH_BYTES}: take a shorter one"
        )
    query = {"timeout": f"{timeout_s:g}"}
    return URL.create("sqlite", database=str(home / CATALOG_FILE), query=query).render_as_string()


def warehouse_location(home: Path) -> str:
    """Return where new tables of a home are: a `file://` URI, or else a plain path.

    Iceberg's readers decode nothing in a URI, but end its path at `#` and `?`.
    """
    folder = str(home / WAREHOUSE)
    return f"file://{folder}" if urlparse(f"file://{folder}").path == folder else folder


def checked_warehouse(location: str) -> str:
    """Return the location of a warehouse, the same whatever the current directory is.

    A plain path is made absolute, with the home of a user for `~`.

    Raises:
        ConfigError: nothing is stored there, or it is below a current directory.
    """
    location = lower_scheme(location)
    scheme, found, rest = location.partition(":")
    if scheme.lower() == "file" and found:
        path = rest.removeprefix("//")
        if path.startswith("/"):
            return f"file:{rest}"
        raise _warehouse_error(location, f"{path.partition('/')[0]} is no folder of this machine")
    if "://" in location:
        if scheme not in SCHEMA_TO_FILE_IO:
            raise _warehouse_error(location, f"nothing is stored at {scheme}://")
        return location
    try:
        return str(Path(location).expanduser().absolute())
    except RuntimeError as exc:
        raise _warehouse_error(location, "there is no such user") from exc


def _warehouse_error(location: str, reason: str) -> ConfigError:
    return ConfigError(
        f"K2_WAREHOUSE={public_url(location)}: {reason}; "
        "give a folder, file:///folder or s3://bucket/folder"
    )


def warehouse_elsewhere(
    home: Path, *, warehouse: str, namespace: str, timeout_s: float
) -> str | None:
    """Return where a home has tables that are not in this warehouse of new ones, if it has."""
    for location in _metadata_locations(home / CATALOG_FILE, namespace, timeout_s=timeout_s):
        if not _is_in(location, warehouse):
            return location.rsplit("/", WAREHOUSE_OF_METADATA + 1)[0]
    return None


def _is_in(location: str, warehouse: str) -> bool:
    path, folder = _local_path(location), _local_path(warehouse)
    if path is None or folder is None:
        return location.startswith(f"{warehouse.rstrip('/')}/")
    return path.is_relative_to(folder)


def make_home(home: Path) -> None:
    """Make a home that only its owner can read; what exists of it keeps its mode.

    Raises:
        ConfigError: it cannot be made.
    """
    with file_errors(f"K2_HOME={home}"):
        make_private(home / WAREHOUSE)
        with suppress(FileExistsError):
            # SQLite takes an empty file for a new one, and its journals have the same mode.
            os.close(os.open(home / CATALOG_FILE, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def check_restored(home: Path) -> None:
    """Refuse a home whose restore did not end.

    Raises:
        ConfigError: names the home.
    """
    with file_errors(f"K2_HOME={home}"):
        if (home / RESTORE_MARKER).exists():
            raise ConfigError(f"{home}: `k2 restore` did not end there: run it again")


def check_locations(home: Path, *, warehouse: str, namespace: str, timeout_s: float) -> None:
    """Refuse the warehouse of another home, and a home whose tables are in neither of these.

    Args:
        home: resolved; its catalog may not be there yet.
        warehouse: of new tables.
        timeout_s: how long SQLite waits for other writers.
    Raises:
        ConfigError: says where the tables are, and what to do.
        DamagedFileError: the catalog names no file, or one that is not there.
        TransientError: another process holds the catalog for that long.
    """
    folder = _local_path(warehouse)
    if folder is not None and _is_of_other_home(folder, home):
        raise ConfigError(
            f"K2_WAREHOUSE={warehouse}: that is in another home: set K2_HOME={folder.parent}"
        )
    folders = [one for one in ((home / WAREHOUSE).resolve(), folder) if one is not None]
    for location in _metadata_locations(home / CATALOG_FILE, namespace, timeout_s=timeout_s):
        path = _local_path(location)
        if path is not None and not any(path.is_relative_to(one) for one in folders):
            _check_is_there(home, path)
            raise ConfigError(_moved_error(home, _warehouse_of(path)))


def _metadata_locations(catalog: Path, namespace: str, *, timeout_s: float) -> list[str]:
    """Return none where the catalog cannot be read: whoever opens it says why."""
    if not catalog.exists():
        return []
    uri = f"file:{quote(str(catalog))}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s)) as connection:
            locations = [location for (location,) in connection.execute(LOCATIONS, [namespace])]
    except sqlite3.Error as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise TransientError(f"the catalog {catalog}: {with_remedy(str(exc))}") from exc
        return []
    if not all(locations):
        raise DamagedFileError(f"the catalog {catalog} names no file of a table: {RESTORE}")
    return locations


def _check_is_there(home: Path, metadata: Path) -> None:
    if _warehouse_of(metadata).exists() and not metadata.exists():
        raise DamagedFileError(
            f"the catalog {home / CATALOG_FILE} names {metadata}, which is not there: {RESTORE}"
        )


def _local_path(location: str) -> Path | None:
    """Return the path with links resolved; None of a location that is not on this machine."""
    prefix = next((one for one in FILE_SCHEMES if location.startswith(one)), "")
    path = location.removeprefix(prefix)
    return Path(path).resolve() if prefix or "://" not in path else None


def _warehouse_of(metadata: Path) -> Path:
    return [metadata, *metadata.parents][: WAREHOUSE_OF_METADATA + 2][-1]


def _is_of_other_home(warehouse: Path, home: Path) -> bool:
    other = warehouse.parent
    return warehouse.name == WAREHOUSE and other != home and (other / CATALOG_FILE).exists()


def _moved_error(home: Path, warehouse: Path) -> str:
    where = f"the home {home} has tables in {warehouse}"
    first = warehouse.parent
    if _is_of_other_home(warehouse, home):
        return (
            f"{where}: it is a copy of the home {first}: use that one, as K2_HOME={first}, or make "
            "a copy with `k2 backup` and `k2 restore`"
        )
    if warehouse.exists():
        return f"{where}: set K2_WAREHOUSE={warehouse}"
    return f"{where}: it was moved: move it back to {first}, or make {first} a link to it"
