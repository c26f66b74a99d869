"""What changed in a table between two snapshots, read only from the files that differ."""

import polars as pl
from pyiceberg.table import Table

from k2lib.lake.scan import planned_files, table_sql
from k2lib.lake.tables import TABLES
from k2lib.query.as_of import AsOf, resolve
from k2lib.query.engine import Engine


def difference(engine: Engine, table: Table, before: AsOf, after: AsOf) -> pl.DataFrame:
    """Return the rows that the later of two snapshots has and the earlier has not, and reverse.

    Args:
        before, after: snapshot ids, tags or moments.
    Returns:
        The table's columns after `change`: `added` or `removed`; in the table's order. Rows that
        maintenance wrote into other files are in neither.
    Raises:
        QueryError: no such snapshot is kept.
    """
    then = set(planned_files(table, snapshot_id=resolve(table, before)))
    now = set(planned_files(table, snapshot_id=resolve(table, after)))
    left, came = (table_sql(table, files=sorted(some)) for some in (then - now, now - then))
    query = f"{_only('added', came, left)} UNION ALL {_only('removed', left, came)}"
    order = ", ".join(f"{name} NULLS FIRST" for name in TABLES[table.name()[-1]].order)
    return engine.fetch(f"SELECT * FROM ({query}) ORDER BY change, {order or 'message_id'}")


def _only(change: str, rows: str, others: str) -> str:
    return (
        f"SELECT '{change}' AS change, * FROM ({rows}) ANTI JOIN "
        f"(SELECT message_id FROM ({others})) USING (message_id)"
    )
