"""The catalog of a home, and what the libraries of catalog and files raise, as errors of ours."""

import errno
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import duckdb
import pydantic
from pyiceberg.catalog import (
    PY_CATALOG_IMPL,
    Catalog,
    CatalogType,
    infer_catalog_type,
    load_catalog,
)
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    CommitStateUnknownException,
    NoSuchTableError,
    NotInstalledError,
    RESTError,
    ValidationError,
)
from pyiceberg.table import Table
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from k2lib.addresses import is_http_url, public_url, redact, without_secrets
from k2lib.errors import ConfigError, DamagedFileError, K2Error, TransientError, reason_of
from k2lib.iceberg.duckdb_files import read_failure
from k2lib.iceberg.home_catalog import make_home
from k2lib.iceberg.sql_catalog import SharedSqlCatalog
from k2lib.reasons import QUOTED_PATH, RESTORE, file_errors, os_reason, with_remedy
from k2lib.resilience.time_limit import TimeLimit

CATALOG_ERRORS: Final = (
    SQLAlchemyError,
    RESTError,
    OSError,
    CommitStateUnknownException,
    duckdb.IOException,
)
# What the readers of JSON, Avro and Parquet raise of bytes that are none.
UNREADABLE: Final = (
    ValueError,
    EOFError,
    LookupError,
    AssertionError,
    TypeError,
    OverflowError,
    ValidationError,
    zlib.error,
    duckdb.InvalidInputException,
    duckdb.SerializationException,
)
# What they raise of bytes of no format at all, or of half a file.
NO_FORMAT: Final = (UnicodeDecodeError, EOFError, LookupError, AssertionError, zlib.error)
NO_PARQUET: Final = ("No magic bytes found", "too small to be a Parquet file")
NO_FILE: Final = ("No such file", "No files found")
IS_FOLDER: Final = "is a directory"
SQL_TABLES: Final = "sqlite_master WHERE name IN ('iceberg_tables', 'iceberg_namespace_properties')"
CATALOG_URI: Final = "K2_CATALOG_URI"
# Any other is for SQLite itself, which reads it where `uri` is given too.
SQLITE_OPTIONS: Final = {
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "isolation_level",
    "timeout",
    "uri",
}
SECRET_OPTIONS: Final = ("secret", "password", "token", "credential")


@contextmanager
def lake_errors(part: str) -> Iterator[None]:
    """Raise what the libraries of catalog and storage raise as an error of ours, in one line.

    Args:
        part: what is read or written here.
    Raises:
        DamagedFileError: a file is missing, or SQLite's is damaged.
        TransientError: catalog or storage do not answer, or refuse.
    """
    try:
        yield
    except (*CATALOG_ERRORS, duckdb.Error) as exc:
        if not isinstance(exc, CATALOG_ERRORS) and read_failure(exc) is None:
            raise
        raise _failure(f"{part}: ", exc) from without_secrets(exc)


@contextmanager
def read_errors(part: str, *, path: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Raise what `lake_errors` raises, and what readers say of bytes that they cannot read.

    Args:
        part: what is read here.
        path: finds the file, where its reader does not name it.
    Raises:
        DamagedFileError: a file is missing, or is not what its name says.
        TransientError: catalog or storage do not answer, or refuse.
    """
    try:
        with lake_errors(part):
            yield
    except UNREADABLE as exc:
        file = path() or _quoted_path(str(exc))
        where = "" if file is None else f"{file} "
        message = f"{part}: {where}{damage_text(exc)}: {RESTORE}"
        raise DamagedFileError(message) from without_secrets(exc)


def _failure(part: str, exc: Exception) -> DamagedFileError | TransientError:
    reason = cause_text(exc)
    if is_missing(reason):
        return DamagedFileError(f"{part}{reason}: move it back, or {RESTORE}")
    if _is_no_database(exc) or IS_FOLDER in reason.lower():
        return DamagedFileError(f"{part}{reason}: {RESTORE}")
    return TransientError(f"{part}{with_remedy(reason)}")


def damage_text(exc: BaseException) -> str:
    """Say of a file what a reader's error means: is missing, is damaged, or cannot be read."""
    reason, inner = cause_text(exc), _innermost(exc)
    if is_missing(reason):
        return "is missing"
    is_no_parquet = any(words in reason for words in NO_PARQUET)
    if isinstance(inner, NO_FORMAT) or is_no_parquet or _is_no_json(inner):
        return "is damaged"
    return f"cannot be read ({reason})"


def is_missing(reason: str) -> bool:
    """Say whether a library says that a file is not there."""
    return any(words in reason for words in NO_FILE)


def _is_no_json(exc: BaseException) -> bool:
    return isinstance(exc, pydantic.ValidationError) and exc.errors()[0]["type"] == "json_invalid"


def _quoted_path(text: str) -> str | None:
    quoted = QUOTED_PATH.search(text)
    return None if quoted is None else quoted[1]


def _is_no_database(exc: Exception) -> bool:
    """Say whether SQLite finds its file damaged; a lock or a full disk are operational."""
    cause = exc.orig if isinstance(exc, DBAPIError) else None
    return isinstance(cause, sqlite3.DatabaseError) and not isinstance(
        cause, sqlite3.OperationalError
    )


def cause_text(exc: BaseException) -> str:
    """Return why a library failed, in one line without secrets: its innermost reason."""
    if isinstance(exc, DBAPIError) and exc.orig is not None:
        return redact(reason_of(exc.orig))
    inner = _innermost(exc)
    if isinstance(inner, NoSuchModuleError):
        return "there is no such kind of catalog"
    if _is_no_json(inner):
        return "its answer is no JSON"
    if isinstance(inner, pydantic.ValidationError):
        return redact(str(inner.errors()[0]["msg"]))
    if isinstance(inner, OSError):
        return redact(os_reason(inner))
    reason = " ".join((read_failure(inner) or reason_of(inner)).split())
    if "No files found" in reason:
        return redact(f"{_quoted_path(reason)}: {os.strerror(errno.ENOENT)}")
    return redact(reason)


def connect(
    name: str,
    properties: Mapping[str, str],
    *,
    home: Path | None,
    home_warehouse: Path | None,
    timeout_s: float,
) -> Catalog:
    """Connect to the catalog of these properties.

    Args:
        home: whose own catalog it is.
        home_warehouse: the folder of its tables, where it is the home's own.
        timeout_s: how long each answer may take in all.
    Raises:
        ConfigError: there is no such catalog.
        DamagedFileError: it is an SQLite file that is damaged.
        TransientError: it does not answer.
    """
    uri = properties["uri"]
    part = f"the catalog {_shown(uri)}"
    secrets = _secrets(properties)
    try:
        if uri.startswith("sqlite") and PY_CATALOG_IMPL not in properties:
            _check_sqlite_options(uri, part)
            return SqliteCatalog(name, home=home, home_warehouse=home_warehouse, **properties)
        if not uri.startswith("http"):
            return _load(name, _with_time_limits(properties, timeout_s))
        if not is_http_url(uri):
            raise ConfigError(f"{part}: that is no address: give http://host:port in {CATALOG_URI}")
        return _load_in_time(name, properties, TimeLimit(timeout_s))
    except (DBAPIError, RESTError, OSError) as exc:
        failure = _failure(f"{part}: ", exc)
        raise type(failure)(redact(str(failure), secrets=secrets)) from without_secrets(
            exc, secrets=secrets
        )
    except (ValueError, TypeError, SQLAlchemyError, ImportError, NotInstalledError) as exc:
        reason = with_remedy(cause_text(exc), otherwise=f"correct {CATALOG_URI}")
        raise ConfigError(redact(f"{part}: {reason}", secrets=secrets)) from without_secrets(
            exc, secrets=secrets
        )


def _with_time_limits(properties: Mapping[str, str], timeout_s: float) -> Mapping[str, str]:
    """Let no answer of PostgreSQL, nor a lock in it, be waited for without an end."""
    url = make_url(properties["uri"])
    if url.get_backend_name() != "postgresql":
        return properties
    limit_ms = round(timeout_s * 1000)
    limits = {
        "connect_timeout": f"{max(timeout_s, 2):.0f}",
        "tcp_user_timeout": f"{limit_ms}",
        # The one for locks ends first, because it says why.
        "options": f"-c lock_timeout={limit_ms * 9 // 10} -c statement_timeout={limit_ms}",
    }
    url = url.update_query_dict({k: v for k, v in limits.items() if k not in url.query})
    uri = url.render_as_string(hide_password=False)
    return {"pool_pre_ping": "true", **properties, "uri": uri}


def _load_in_time(name: str, properties: Mapping[str, str], limit: TimeLimit) -> Catalog:
    """Load a catalog that is asked over HTTP, where pyiceberg would wait without an end."""
    catalog = limit.call(_load, name, properties)
    if isinstance(catalog, RestCatalog):
        ask = partial(catalog._session.request, timeout=limit.seconds)
        catalog._session.request = partial(limit.call, ask)  # type: ignore[method-assign]
    return catalog


def _load(name: str, properties: Mapping[str, str]) -> Catalog:
    if PY_CATALOG_IMPL not in properties and _kind_of(name, properties) == CatalogType.SQL:
        return SharedSqlCatalog(name, **properties)
    return load_catalog(name, **properties)


def _kind_of(name: str, properties: Mapping[str, str]) -> CatalogType | None:
    if "type" in properties:
        return CatalogType(properties["type"].lower())
    return infer_catalog_type(name, {**properties})


def _shown(uri: str) -> str:
    """Return the file of an SQLite catalog, the address of any other."""
    if uri.startswith("sqlite") and ":///" in uri:
        return make_url(uri).database or uri
    return f"at {public_url(uri)}"


def _sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite catalog, None where it is in memory."""
    database = make_url(uri).database
    return None if database in (None, "", ":memory:") else Path(database or "")


def _check_sqlite_options(uri: str, part: str) -> None:
    """Refuse what SQLAlchemy would ignore with a warning."""
    options = make_url(uri).query
    unknown = sorted(options.keys() - SQLITE_OPTIONS)
    if unknown and "uri" not in options:
        raise ConfigError(
            f"{part}: SQLite has no option {', '.join(unknown)}: leave it out of {CATALOG_URI}"
        )


def _secrets(properties: Mapping[str, str]) -> list[str]:
    texts = [v for k, v in properties.items() if any(word in k.lower() for word in SECRET_OPTIONS)]
    try:
        password = urlsplit(properties["uri"]).password or ""
    except ValueError:
        password = ""
    return [*texts, password, unquote(password)]


def _innermost(exc: BaseException) -> BaseException:
    # Beyond an error of ours is what was handled when the library was called.
    while (inner := exc.__cause__ or exc.__context__) and not isinstance(inner, K2Error):
        exc = inner
    return exc


class SqliteCatalog(SharedSqlCatalog):
    """A catalog in an SQLite file that the first write makes; before it has nothing.

    Args:
        home: whose own catalog it is.
        home_warehouse: the folder of its tables, where it is the home's own.
    """

    def __init__(
        self, name: str, *, home: Path | None, home_warehouse: Path | None, **properties: str
    ) -> None:
        self._home = home
        self._file = _sqlite_file(properties["uri"])
        self._warehouse = home_warehouse
        self._is_open = False
        super().__init__(name, **properties)

    @property
    def missing_file(self) -> Path | None:
        """The file, where it is not that of a home, and is not there."""
        is_there = self._file is None or self._file.exists()
        return None if is_there or self._home is not None else self._file

    def _init_catalog(self) -> None:
        """Open the file if it is there; pyiceberg would make it."""
        if self._file is None:
            super()._init_catalog()
            self._is_open = True
            return
        self.open()

    def open(self) -> bool:
        """Open the file if it is there, and say whether it has tables of a catalog.

        Raises:
            DamagedFileError: the file, or what it said, is gone, while the warehouse has tables.
        """
        if self._is_open:
            return True
        if self._count(SQL_TABLES) < 2:  # or another process is making them
            self._check_not_emptied()
            return False
        super()._init_catalog()
        if self._count("iceberg_tables") == 0:
            self._check_not_emptied()
        self._is_open = True
        return True

    def load_table(self, identifier: str | Identifier) -> Table:
        """Load a table; there is none before the first write."""
        if not self.open():
            raise NoSuchTableError(f"{self._file} does not exist yet")
        return super().load_table(identifier)

    def namespace_exists(self, namespace: str | Identifier) -> bool:
        """Say whether a namespace exists; none does before the first write."""
        return self.open() and super().namespace_exists(namespace)

    def list_namespaces(self, namespace: str | Identifier = ()) -> list[Identifier]:
        """List the namespaces; there are none before the first write."""
        return super().list_namespaces(namespace) if self.open() else []

    def create_namespace(
        self, namespace: str | Identifier, properties: Properties = EMPTY_DICT
    ) -> None:
        """Create a namespace, and before it the file."""
        if not self.open():
            if self._home is not None:
                make_home(self._home)
            elif self._file is not None:
                with file_errors(f"the catalog {self._file}"):
                    self._file.parent.mkdir(parents=True, exist_ok=True)
            super()._init_catalog()
            self._is_open = True
        super().create_namespace(namespace, properties)

    def _count(self, table: str) -> int:
        """Count rows; pyiceberg would take a file that is locked for one without tables."""
        if self._file is None or not self._file.exists():
            return 0
        with self.engine.connect() as connection:
            count: Any = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar()
        return int(count)

    def _check_not_emptied(self) -> None:
        if self._warehouse is None or self._file is None:
            return
        commit = next(self._warehouse.glob("*/*/metadata/snap-*.avro"), None)
        if commit is not None:
            state = "is empty" if self._file.exists() else "is missing"
            raise DamagedFileError(
                f"the catalog {self._file} {state}, but {self._warehouse} has tables: "
                "restore it from a copy, or move the warehouse away to begin anew"
            )
