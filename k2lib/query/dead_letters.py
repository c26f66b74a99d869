"""Reads of the dead letters: the newest first, of one reason, source or message_id."""

from collections.abc import Mapping
from typing import Any, Final, get_args

import polars as pl

from k2lib.errors import NotFoundError, QueryError
from k2lib.query.engine import Engine
from k2lib.schema.dead_letters import DeadLetterReason
from k2lib.schema.records import DEAD_LETTER

REASONS: Final = get_args(DeadLetterReason)
COLUMNS: Final = tuple(field.name for field in DEAD_LETTER.fields)


def read_dead_letters(
    engine: Engine,
    message_id: str | None = None,
    *,
    reason: str | None = None,
    source: str | None = None,
    last: int | None = None,
) -> pl.DataFrame:
    """Return dead letters with the columns of the table, the newest first.

    Raises:
        NotFoundError: no dead letter has that message_id, or it has another reason or source.
        QueryError: no such reason, or a number of rows that is none.
    """
    _check(reason, last)
    conditions = {"message_id": message_id, "reason": reason, "source": source}
    filters = {name: value for name, value in conditions.items() if value is not None}
    where = " AND ".join(f"{name} = ${name}" for name in filters) or "true"
    limit = "" if last is None else f" LIMIT {last}"
    text = f"SELECT * FROM dead_letters WHERE {where} ORDER BY noticed DESC, message_id{limit}"
    found = engine.sql(text, filters)
    if message_id is not None and not found.height:
        raise _not_found(engine, message_id, filters)
    # A table that nothing was written to since has fewer columns.
    missing = (pl.lit(None).alias(name) for name in COLUMNS if name not in found.columns)
    return found.with_columns(missing)


def _not_found(engine: Engine, message_id: str, filters: Mapping[str, str]) -> NotFoundError:
    text = "SELECT reason, source FROM dead_letters WHERE message_id = ?"
    letter = next(engine.sql(text, [message_id]).iter_rows(named=True), None)
    if letter is None:
        return NotFoundError(
            f"no dead letter has the message_id {message_id!r}: `k2 dead-letters list` shows all"
        )
    others = [
        f"the {name} {value!r}, not {filters[name]!r}"
        for name, value in letter.items()
        if filters.get(name, value) != value
    ]
    return NotFoundError(f"the dead letter {message_id} has {' and '.join(others)}")


def letter_rows(letters: pl.DataFrame) -> list[dict[str, Any]]:
    """Return dead letters as Python values; headers are a dict."""
    rows = letters.to_dicts()
    return [
        row | {"headers": None if row["headers"] is None else dict(row["headers"])} for row in rows
    ]


def _check(reason: str | None, last: int | None) -> None:
    if reason is not None and reason not in REASONS:
        raise QueryError(f"reason={reason!r}: give one of {', '.join(REASONS)}")
    if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 0):
        raise QueryError(f"last={last!r}: give the number of rows, for example 100")
