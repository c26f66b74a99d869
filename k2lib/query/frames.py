"""What DuckDB answers, as Polars frames."""

from collections.abc import Mapping, Sequence

import polars as pl
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from k2lib.errors import QueryError

Params = Sequence[object] | Mapping[str, object]


def fetch_frame(cursor: DuckDBPyConnection, text: str, params: Params | None) -> pl.DataFrame:
    """Run SQL and return the last statement's rows; no rows where it has none.

    Raises:
        QueryError: a column has a type that Polars does not know.
    """
    relation = cursor.sql(text, params=params)
    if relation is None:
        return pl.DataFrame()
    kinds = {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
    spans = [name for name, kind in kinds.items() if kind == "INTERVAL"]
    for name, kind in kinds.items():
        if "INTERVAL" in kind and name not in spans:
            raise QueryError(f"column {name} is {kind}: cast the interval in it to VARCHAR")
    frame: pl.DataFrame = _spans_counted(relation, spans).pl()
    return frame.with_columns(pl.col(spans).cast(pl.Duration("us")))


def _spans_counted(relation: DuckDBPyRelation, spans: Sequence[str]) -> DuckDBPyRelation:
    """Polars has no type for months: a month counts as 30 days."""
    if not spans:
        return relation
    counted = ", ".join(f'epoch_us("{name}") AS "{name}"' for name in spans)
    return relation.project(f"* REPLACE ({counted})")


def first_lines(exc: Exception) -> str:
    """Return what DuckDB says, without its picture of the place."""
    told = str(exc).partition("\n\n")[0]
    if "Overflow in multiplication of DECIMAL" in told:
        return f"{told} For example price::DECIMAL(38, 8) * quantity"
    return told
