"""Identity of records: one text per record, and the UUID of that text."""

import uuid
from typing import Final

import polars as pl
import polars_hash  # noqa: F401 - importing it registers `uuidhash` on expressions

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")


def message_id(*parts: str) -> str:
    """Return the message_id of one record from the parts of its identity text."""
    return str(uuid.uuid5(NAMESPACE, "|".join(parts)))


def message_ids(text: pl.Expr) -> pl.Expr:
    """Return the message_id of every identity text of a column, equal to `message_id`'s."""
    hashed: pl.Expr = text.uuidhash.uuid5(str(NAMESPACE))  # type: ignore[attr-defined]
    return hashed
