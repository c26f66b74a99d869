"""A catalog that loses its replies."""

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.table import CommitTableResponse, Table


class ForgetfulCatalog(SqlCatalog):
    """Commits, and then does not know whether it did: as when a reply is lost."""

    def commit_table(self, table: Table, *args: object) -> CommitTableResponse:
        super().commit_table(table, *args)  # type: ignore[arg-type]
        raise CommitStateUnknownException("the reply was lost")
