"""What a client of the live stream asks for, in its address and in its messages."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from k2lib.api.live.frames import SCHEMAS, Wanted

INSTRUMENT: Final = re.compile(r"([A-Z0-9_]{1,32}):([^\x00-\x20\x7f,]{1,64})")
FORM: Final = 'send {"subscribe": ["BINANCE_SIM:BTCUSDT"], "kinds": ["trades", "quotes"]}'
WORDS: Final = ("subscribe", "unsubscribe", "kinds")


class AskedError(Exception):
    """A message that asks for nothing that there is; it says what would."""


@dataclass(frozen=True)
class Asked:
    """What to listen to from now on, and what no more."""

    more: frozenset[Wanted] = frozenset()
    less: frozenset[Wanted] = frozenset()


def asked(text: str) -> Asked:
    """Read a message.

    Raises:
        AskedError: it is not one.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise AskedError(f"not JSON: {FORM}") from None
    if not isinstance(message, dict) or not message or set(message) - set(WORDS):
        raise AskedError(f"not an object of {', '.join(WORDS)}: {FORM}")
    kinds = _texts(message, "kinds", ["trades"])
    return Asked(
        wanted(_texts(message, "subscribe", []), kinds),
        wanted(_texts(message, "unsubscribe", []), kinds),
    )


def wanted(symbols: Sequence[str], kinds: Sequence[str]) -> frozenset[Wanted]:
    """Return every kind of records of every instrument.

    Args:
        symbols: EXCHANGE:SYMBOL each.
        kinds: trades, quotes.
    Raises:
        AskedError: one of them is none.
    """
    unknown = [kind for kind in kinds if kind not in SCHEMAS]
    if unknown:
        raise AskedError(f"kind {unknown[0][:64]!r}: give {' or '.join(SCHEMAS)}")
    found = [_instrument(symbol) for symbol in symbols]
    return frozenset(Wanted(kind, *one) for kind in kinds for one in found)


def _instrument(text: str) -> tuple[str, str]:
    match = INSTRUMENT.fullmatch(text)
    if match is None:
        raise AskedError(f"{text[:100]!r}: give EXCHANGE:SYMBOL, for example BINANCE_SIM:BTCUSDT")
    return match[1], match[2]


def _texts(message: dict[str, Any], word: str, otherwise: list[str]) -> list[str]:
    found = message.get(word, otherwise)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise AskedError(f"{word}: not a list of texts: {FORM}")
    return found
