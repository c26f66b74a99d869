"""The SQL catalog: pyiceberg's, which several processes may open, fill and change at once."""

from pathlib import Path
from typing import Final

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.io import SCHEMA_TO_FILE_IO
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import StagedTable, Table, TableProperties
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from k2lib.iceberg.commit_times import in_order

# The catalog has two SQL tables: another process can be faster with each of them.
TRIES: Final = 3
# As SQLite and PostgreSQL say it.
MADE_MEANWHILE: Final = "already exists"

LOCATION: Final = text(
    "SELECT metadata_location FROM iceberg_tables "
    "WHERE catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
)

# Location, inode, size and time of change.
MetadataFile = tuple[str, int, int, int]


def _is_of_table(metadata_location: str, location: str) -> bool:
    """Say whether metadata lie where a table has them; one may be a path, the other a URI."""
    *where, path = PyArrowFileIO.parse_location(metadata_location)
    *table_where, folder = PyArrowFileIO.parse_location(location)
    return where == table_where and Path(path).parent == Path(folder, "metadata")


def _metadata_file(location: str) -> MetadataFile | None:
    """Return what tells a file of this machine from all others; None for one in a storage."""
    scheme, _, path = PyArrowFileIO.parse_location(location)
    if scheme != "file":
        return None
    try:
        facts = Path(path).stat()
    except (OSError, ValueError):
        return None
    return location, facts.st_ino, facts.st_size, facts.st_mtime_ns


class SharedSqlCatalog(SqlCatalog):
    """A SQL catalog whose first steps are safe among processes, and whose times never step back.

    pyiceberg looks whether a thing is there and then makes it, and fails where another process
    makes it in between. It dates what changes no snapshot by this machine's clock.
    """

    def __init__(self, name: str, **properties: str) -> None:
        # By table: the metadata loaded last, and the file they are of.
        self._loaded: dict[Identifier, tuple[MetadataFile, TableMetadata]] = {}
        super().__init__(name, **properties)

    def create_tables(self) -> None:
        """Create the catalog's own SQL tables where they are not there."""
        for left in reversed(range(TRIES)):
            try:
                return super().create_tables()
            except (IntegrityError, OperationalError, ProgrammingError) as exc:
                if not left or MADE_MEANWHILE not in str(exc):
                    raise

    def create_namespace(
        self, namespace: str | Identifier, properties: Properties = EMPTY_DICT
    ) -> None:
        """Create a namespace.

        Raises:
            NamespaceAlreadyExistsError: it is there, perhaps since a moment.
        """
        try:
            super().create_namespace(namespace, properties)
        except IntegrityError as exc:
            raise NamespaceAlreadyExistsError(f"Namespace {namespace} already exists") from exc

    def load_table(self, identifier: str | Identifier) -> Table:
        """Load a table; metadata of the same file as before are not parsed again."""
        names = Catalog.identifier_to_tuple(identifier)
        file, metadata = self._loaded.get(names, (None, None))
        if file is not None and metadata is not None and self._is_current(names, file):
            io = self._load_file_io(metadata.properties, file[0])
            return Table(names, metadata, file[0], io, self)
        return super().load_table(identifier)

    def _is_current(self, names: Identifier, file: MetadataFile) -> bool:
        location = self.metadata_location(names)
        return location == file[0] and _metadata_file(location) == file

    def metadata_location(self, names: Identifier) -> str | None:
        """Return where the metadata of a table lie; None where there is none."""
        namespace, name = Catalog.namespace_to_string(names[:-1]), names[-1]
        values = {"catalog": self.name, "namespace": namespace, "name": name}
        with self.engine.connect() as connection:
            location: str | None = connection.execute(LOCATION, values).scalar()
        return location

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        """Load a table; every writer has its metadata in its location.

        Raises:
            ValueError: they are of no storage, or say that the table is elsewhere.
        """
        metadata_location = orm_table.metadata_location or ""
        scheme, is_uri, _ = metadata_location.partition("://")
        if is_uri and scheme not in SCHEMA_TO_FILE_IO:
            raise ValueError(f"nothing is stored at {scheme}://")
        identifier = (*Catalog.identifier_to_tuple(orm_table.table_namespace), orm_table.table_name)
        file = _metadata_file(metadata_location)
        table = super()._convert_orm_to_iceberg(orm_table)
        has_own_path = TableProperties.WRITE_METADATA_PATH in table.properties
        if not has_own_path and not _is_of_table(metadata_location, table.location()):
            raise ValueError(f"it says that the table is at {table.location()!r}")
        if file is not None:
            self._loaded[identifier] = (file, table.metadata)
        return table

    def _update_and_stage_table(
        self,
        current_table: Table | None,
        table_identifier: Identifier,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> StagedTable:
        staged = super()._update_and_stage_table(
            current_table, table_identifier, requirements, updates
        )
        staged.metadata = in_order(staged.metadata)
        return staged
