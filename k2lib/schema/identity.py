"""Identity of records, a text and its UUID; and of instruments, `EXCHANGE:SYMBOL`."""

import re
import uuid
from collections.abc import Sequence
from typing import Final

import polars as pl
import polars_hash  # noqa: F401 - importing it registers `uuidhash` on expressions

from k2lib.errors import ConfigError

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://k2.marketdata/v2")


EXCHANGE_AND_SYMBOL: Final = re.compile(r"([A-Z0-9_]{1,32}):(.+)", re.DOTALL)


def split_instrument(text: str) -> tuple[str | None, str]:
    """Return venue and symbol of `ASX:BHP`; of `BHP`, which names no venue, None and the symbol."""
    found = EXCHANGE_AND_SYMBOL.fullmatch(text)
    return (None, text) if found is None else (found[1], found[2])


def symbols_at(exchange: str, texts: Sequence[str]) -> list[str]:
    """Return the symbols of instruments that are all of one venue, whether they name it or not.

    Raises:
        ConfigError: one names another venue.
    """
    for text in texts:
        if split_instrument(text)[0] not in (None, exchange):
            raise ConfigError(f"{text} is not of {exchange}: leave it out")
    return [split_instrument(text)[1] for text in texts]


def message_id(*parts: str) -> str:
    """Return the message_id of one record from the parts of its identity text."""
    return str(uuid.uuid5(NAMESPACE, "|".join(parts)))


def message_ids(text: pl.Expr) -> pl.Expr:
    """Return the message_id of every identity text of a column, equal to `message_id`'s."""
    hashed: pl.Expr = text.uuidhash.uuid5(str(NAMESPACE))  # type: ignore[attr-defined]
    return hashed
