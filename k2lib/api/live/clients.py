"""One client of the live stream: what it listens to, and what waits to be sent to it."""

import asyncio
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa

from k2lib.api.responses.formats import texts
from k2lib.schema.records import QUOTE, TRADE, RecordSchema

SCHEMAS: Final[dict[str, RecordSchema]] = {"trades": TRADE, "quotes": QUOTE}
INSTRUMENT: Final = ("exchange", "symbol")
ROWS_A_FRAME: Final = 500


class Wanted(NamedTuple):
    """What somebody listens to: `kind` is trades or quotes."""

    kind: str
    exchange: str
    symbol: str


@dataclass(frozen=True)
class Frame:
    """Records of one instrument as JSON text, made once for all who listen."""

    of: Wanted
    text: str
    rows: int


def frames_of(kind: str, rows: pa.Table) -> Iterator[Frame]:
    """Yield the records of each instrument as they came, some hundred at a time, as `texts`."""
    frame = pl.DataFrame(rows)
    if frame.is_empty():
        return
    for part in frame.partition_by(INSTRUMENT, maintain_order=True):
        of = Wanted(kind, *part.select(INSTRUMENT).row(0))
        for some in part.iter_slices(ROWS_A_FRAME):
            data = texts(some).write_json()
            yield Frame(of, f'{{"type":"{kind}","data":{data}}}', some.height)


GOING_AWAY: Final = (1001, "the server ends")
POLICY: Final = (1008, "too many messages")
TRY_AGAIN: Final = (1013, "too slow")
SLOW: Final = (
    "records came faster than this client reads, and it is cut: "
    "read what it missed with /v1/trades or /v1/quotes, and connect again"
)
Close = tuple[int, str]


class Client:
    """Holds so many bytes for one connection; who reads too slowly is told so and ended."""

    def __init__(self, *, queue_bytes: int) -> None:
        self.wanted: frozenset[Wanted] = frozenset()
        self.close: Close | None = None
        self.ended = asyncio.Event()
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[str, int]] = deque()
        self._queued = 0
        self._changed = asyncio.Event()

    @property
    def is_slow(self) -> bool:
        """Whether it is ended because it reads too slowly."""
        return self.close == TRY_AGAIN

    def tell(self, **message: Any) -> None:
        """Send a message of ours, after what waits already."""
        if self.close is None:
            self._put(json.dumps(message), 0)

    def give(self, frame: Frame) -> None:
        """Send records, unless too much waits already."""
        if self.close is not None:
            return
        if self._queued + len(frame.text) <= self._queue_bytes:
            self._put(frame.text, frame.rows)
            return
        missed = frame.rows + sum(rows for _, rows in self._queue)
        self._queue.clear()
        self.tell(type="slow", missed=missed, detail=SLOW)
        self.end(TRY_AGAIN)

    def end(self, close: Close) -> None:
        """Close the connection once what waits is sent."""
        if self.close is None:
            self.close = close
            self.ended.set()
            self._changed.set()

    async def next(self) -> str | None:
        """Wait for what is to be sent next; None at the end."""
        while not self._queue:
            if self.close is not None:
                return None
            self._changed.clear()
            await self._changed.wait()
        text, _ = self._queue.popleft()
        self._queued -= len(text)
        return text

    def _put(self, text: str, rows: int) -> None:
        self._queue.append((text, rows))
        self._queued += len(text)
        self._changed.set()


INSTRUMENT_TEXT: Final = re.compile(r"([A-Z0-9_]{1,32}):([^\x00-\x20\x7f,]{1,64})")
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
    match = INSTRUMENT_TEXT.fullmatch(text)
    if match is None:
        raise AskedError(f"{text[:100]!r}: give EXCHANGE:SYMBOL, for example BINANCE_SIM:BTCUSDT")
    return match[1], match[2]


def _texts(message: dict[str, Any], word: str, otherwise: list[str]) -> list[str]:
    found = message.get(word, otherwise)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise AskedError(f"{word}: not a list of texts: {FORM}")
    return found
