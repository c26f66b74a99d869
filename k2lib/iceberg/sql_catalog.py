"""The SQL catalog: pyiceberg's, which several processes may open, fill and change at once."""

from typing import Final

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.table import StagedTable, Table
from pyiceberg.table.update import TableRequirement, TableUpdate
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from k2lib.iceberg.commit_times import in_order

# The catalog has two SQL tables: another process can be faster with each of them.
TRIES: Final = 3
# As SQLite and PostgreSQL say it.
MADE_MEANWHILE: Final = "already exists"


class SharedSqlCatalog(SqlCatalog):
    """A SQL catalog whose first steps are safe among processes, and whose times never step back.

    pyiceberg looks whether a thing is there and then makes it, and fails where another process
    makes it in between. It dates what changes no snapshot by this machine's clock.
    """

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
