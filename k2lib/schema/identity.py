"""Identity of records, a text and its UUID; and of instruments, `EXCHANGE:SYMBOL`."""

import re
import uuid
from typing import Final

import polars as pl
import polars_hash  # noqa: F401 - importing it registers `uuidhash` on expressions

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")


EXCHANGE_AND_SYMBOL: Final = re.compile(r"([A-Z0-9_]{1,32}):(.+)", re.DOTALL)


def split_instrument(text: str) -> tuple[str | None, str]:
    """Return venue and symbol of `ASX:BHP`; of `BHP`, which names no venue, None and the symbol."""
    found = EXCHANGE_AND_SYMBOL.fullmatch(text)
    return (None, text) if found is None else (found[1], found[2])


def message_id(*parts: str) -> str:
    """Return the message_id of one record from the parts of its identity text."""
    return str(uuid.uuid5(NAMESPACE, "|".join(parts)))


def message_ids(text: pl.Expr) -> pl.Expr:
    """Return the message_id of every identity text of a column, equal to `message_id`'s."""
    hashed: pl.Expr = text.uuidhash.uuid5(str(NAMESPACE))  # type: ignore[attr-defined]
    return hashed
