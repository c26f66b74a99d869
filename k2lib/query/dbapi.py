"""SQL for tools that want a connection: JupySQL, and whatever else speaks Python's DB-API."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

from polars import DataFrame

from k2lib.errors import QueryError
from k2lib.lifecycle import Closing
from k2lib.query.answer import Params
from k2lib.query.engine import Engine


class DbApiConnection(Closing):
    """A DB-API connection and cursor in one, as DuckDB's own is.

    Every statement is one read of its own: each table at one moment, with what only Kafka has.
    DuckDB's own connection cannot serve here: its views would stay at the moment they were made.
    Nothing is written anywhere, so there is nothing to commit or to roll back.
    """

    def __init__(self, engine: Engine, *, tail: bool = True) -> None:
        self._engine = engine
        self._tail = tail
        self._frame: DataFrame | None = None
        self._next = 0

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        """The columns of the last result, as PEP 249 has them; None where there is none."""
        if self._frame is None:
            return None
        kinds = self._frame.schema.items()
        return [(name, str(kind), None, None, None, None, None) for name, kind in kinds]

    @property
    def rowcount(self) -> int:
        """How many rows the last result has; -1 where there is none."""
        return -1 if self._frame is None else self._frame.height

    def cursor(self) -> Self:
        """Return another one, with a result of its own."""
        return type(self)(self._engine, tail=self._tail)

    def execute(self, text: str, params: Params | None = None) -> Self:
        """Run SQL; see `Engine.run_sql`.

        Raises:
            QueryError: DuckDB refuses it.
        """
        self._frame, self._next = self._engine.sql(text, params, tail=self._tail), 0
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row of the result, None behind its end."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int = 1) -> Sequence[tuple[Any, ...]]:
        """Return the next rows of the result."""
        rows: list[tuple[Any, ...]] = self._result().slice(self._next, size).rows()
        self._next += len(rows)
        return rows

    def fetchall(self) -> Sequence[tuple[Any, ...]]:
        """Return all further rows of the result."""
        return self.fetchmany(self._result().height)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())

    def pl(self) -> DataFrame:
        """Return the whole result as a Polars frame."""
        return self._result()

    def df(self) -> Any:
        """Return the whole result as a pandas frame."""
        return self._result().to_pandas()

    def commit(self) -> None:
        """Do nothing: every statement stands by itself."""

    def rollback(self) -> None:
        """Do nothing: every statement stands by itself."""

    def close(self) -> None:
        """Let go of the result."""
        self._frame = None

    def _result(self) -> DataFrame:
        if self._frame is None:
            raise QueryError("there is no result: execute something first")
        return self._frame
