"""Tables as they stand now, for who reads often: one that did not move is not loaded again."""

import threading
from typing import Final

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from sqlalchemy import text

from k2lib.lake.tables import NAMESPACE, load_table

LOCATION: Final = text(
    "SELECT metadata_location FROM iceberg_tables "
    "WHERE catalog_name = :catalog AND table_namespace = :namespace AND table_name = :name"
)


class Loaded:
    """The tables loaded last; threads may ask."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()

    def table(self, name: str) -> Table | None:
        """Return a table as it stands, None where nothing was ever written to it."""
        known = self._tables.get(name)
        if known is not None and known.metadata_location == self._location(name):
            return known
        table = load_table(self._catalog, name)
        with self._lock:
            if table is not None:
                self._tables[name] = table
        return table

    def _location(self, name: str) -> str | None:
        """A twentieth of what it takes to load a table; other catalogs than SQL do not say."""
        if not isinstance(self._catalog, SqlCatalog):
            return None
        values = {"catalog": self._catalog.name, "namespace": NAMESPACE, "name": name}
        with self._catalog.engine.connect() as connection:
            location: str | None = connection.execute(LOCATION, values).scalar()
        return location
