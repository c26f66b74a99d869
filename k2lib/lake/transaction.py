"""A transaction whose cost does not grow with every look at the table's metadata."""

from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata


class QuickTransaction(Transaction):
    """A pyiceberg transaction that works out its metadata once per staged change.

    `Transaction.table_metadata` copies all metadata deeply at each access, some twenty times a
    commit, which is most of the time a commit takes. Nothing changes the copy, so one serves.
    """

    def __init__(self, table: Table, *, autocommit: bool = False) -> None:
        """Begin on the table as it stands."""
        super().__init__(table, autocommit)
        self._worked_out: tuple[object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """Return the table's metadata with the changes staged so far."""
        if self._worked_out is None or self._worked_out[0] is not self._updates:
            self._worked_out = (self._updates, super().table_metadata)
        return self._worked_out[1]
