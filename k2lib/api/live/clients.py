"""Clients of the live stream: their messages, subscriptions and queues."""

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa

from k2lib.query.export import json_array
from k2lib.schema.records import QUOTE, TRADE, RecordSchema

SCHEMAS: Final[dict[str, RecordSchema]] = {"trades": TRADE, "quotes": QUOTE}
INSTRUMENT: Final = ("exchange", "symbol")
ROWS_PER_FRAME: Final = 500


class Subscription(NamedTuple):
    """One kind of records, trades or quotes, of one instrument."""

    kind: str
    exchange: str
    symbol: str


@dataclass(frozen=True)
class Frame:
    """Records of one instrument as JSON text, made once for all subscribers."""

    subscription: Subscription
    text: str
    rows: int


def frames_of(kind: str, rows: pa.Table) -> Iterator[Frame]:
    """Yield the records of each instrument in the order of arrival, some hundred at a time."""
    frame = pl.DataFrame(rows)
    if frame.is_empty():
        return
    for part in frame.partition_by(INSTRUMENT, maintain_order=True):
        subscription = Subscription(kind, *part.select(INSTRUMENT).row(0))
        for chunk in part.iter_slices(ROWS_PER_FRAME):
            data = json_array(chunk).decode()
            yield Frame(subscription, f'{{"type":"{kind}","data":{data}}}', chunk.height)


GOING_AWAY: Final = (1001, "the server ends")
POLICY: Final = (1008, "too many messages")
TRY_AGAIN: Final = (1013, "too slow")
SLOW: Final = (
    "this client does not read what is sent to it, or too slowly, and it is cut: "
    "read what it missed with /v1/trades or /v1/quotes, and connect again"
)
UNKNOWN: Final = (
    "no record of these is there yet: the subscriptions stay, and their records are sent once "
    "there are some; /v1/symbols lists the instruments that have records"
)
UNCHANGED: Final = "the subscriptions stay as they are"
CloseReason = tuple[int, str]


class StreamClient:
    """The queue of one connection; a client that reads too slowly is closed."""

    def __init__(
        self,
        rate_client: str,
        *,
        queue_bytes: int,
        stall_s: float,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with an empty queue.

        Args:
            stall_s: how long a client with a full queue may read nothing.
            wait_s: how long all others may wait for it until it has read all of its queue.
        """
        self.rate_client = rate_client
        self.subscriptions: frozenset[Subscription] = frozenset()
        self.close: CloseReason | None = None
        self.closing = asyncio.Event()
        self._queue_bytes = queue_bytes
        self._stall_s = stall_s
        self._wait_s = wait_s
        self._clock = clock
        self._queue: deque[tuple[str, int]] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._has_read = asyncio.Event()
        self._read_at = 0.0
        self._waited_s = 0.0
        self._unchecked: set[Subscription] = set()
        self._added = asyncio.Event()

    @property
    def is_slow(self) -> bool:
        """Whether it is closed because it reads too slowly."""
        return self.close == TRY_AGAIN

    def send_message(self, **message: Any) -> None:
        """Queue a message that is not records."""
        if self.close is None:
            self._put(json.dumps(message), 0)

    def subscribe(self, subscriptions: frozenset[Subscription]) -> None:
        """Replace the subscriptions."""
        self._unchecked |= subscriptions - self.subscriptions
        self.subscriptions = subscriptions
        if self._unchecked:
            self._added.set()

    async def added(self) -> list[Subscription]:
        """Wait for subscriptions that are new since the last call, and return those that remain."""
        await self._added.wait()
        added, self._unchecked = self._unchecked & self.subscriptions, set()
        self._added.clear()
        return sorted(added)

    def has_room(self, frame: Frame) -> bool:
        """Whether its queue has room for records; one that is closed takes none."""
        return self.close is not None or self._queued_bytes + len(frame.text) <= self._queue_bytes

    async def wait_for_room(self, frame: Frame) -> None:
        """Wait until its queue has room for records, while it reads."""
        began = self._clock()
        while self._queue and not self.has_room(frame) and (left_s := self._left_s(began)) > 0:
            self._has_read.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._has_read.wait()
        self._waited_s += self._clock() - began

    def _left_s(self, began: float) -> float:
        now = self._clock()
        return min(
            self._read_at + self._stall_s - now, self._wait_s - self._waited_s - (now - began)
        )

    def send_frame(self, frame: Frame) -> None:
        """Queue records, or close the client where its queue is full."""
        if self.close is not None:
            return
        if self._queued_bytes + len(frame.text) <= self._queue_bytes:
            self._put(frame.text, frame.rows)
            return
        missed = frame.rows + sum(rows for _, rows in self._queue)
        self._queue.clear()
        self.send_message(type="slow", missed=missed, detail=SLOW)
        self.end(TRY_AGAIN)

    def end(self, close: CloseReason) -> None:
        """Close the connection once its queue is sent."""
        if self.close is None:
            self.close = close
            self.closing.set()
            self._changed.set()
            self._has_read.set()

    async def next(self) -> str | None:
        """Wait for the next message to send; None at the end."""
        while not self._queue:
            if self.close is not None:
                return None
            self._changed.clear()
            await self._changed.wait()
        text, _ = self._queue.popleft()
        self._queued_bytes -= len(text)
        self._read_at = self._clock()
        if not self._queue:
            self._waited_s = 0.0
        self._has_read.set()
        return text

    def _put(self, text: str, rows: int) -> None:
        if not self._queue:
            self._read_at = self._clock()
        self._queue.append((text, rows))
        self._queued_bytes += len(text)
        self._changed.set()


INSTRUMENT_TEXT: Final = re.compile(r"([A-Z0-9_]{1,32}):([^\x00-\x20\x7f,]{1,64})")
FORM: Final = 'send {"subscribe": ["BINANCE_SIM:BTCUSDT"], "kinds": ["trades", "quotes"]}'
MESSAGE_KEYS: Final = ("subscribe", "unsubscribe", "kinds")
ADDRESS_KEYS: Final = ("symbols", "kinds")


class SubscriptionError(Exception):
    """A message that is no valid subscription, with the form of a valid one."""


@dataclass(frozen=True)
class SubscriptionChange:
    """Subscriptions to add and to remove."""

    added: frozenset[Subscription] = frozenset()
    removed: frozenset[Subscription] = frozenset()


def parse_message(text: str) -> SubscriptionChange:
    """Parse a client's message.

    Raises:
        SubscriptionError: it is not valid.
    """
    try:
        message = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise SubscriptionError(f"not JSON: {FORM}") from None
    if not isinstance(message, dict) or not message or set(message) - set(MESSAGE_KEYS):
        raise SubscriptionError(f"not an object of {', '.join(MESSAGE_KEYS)}: {FORM}")
    kinds = _texts(message, "kinds", ["trades"])
    added, removed = (_texts(message, name, []) for name in ("subscribe", "unsubscribe"))
    if not kinds or not (added or removed):
        raise SubscriptionError(f"nothing to subscribe or unsubscribe: {FORM}")
    return SubscriptionChange(subscriptions(added, kinds), subscriptions(removed, kinds))


def parse_address(parameters: Sequence[tuple[str, str]]) -> SubscriptionChange:
    """Parse the query of a stream's address.

    Raises:
        SubscriptionError: it is not valid.
    """
    names = [name for name, _ in parameters]
    for name in names:
        if name not in ADDRESS_KEYS or names.count(name) > 1:
            raise SubscriptionError(f"{name[:64]}: give {' and '.join(ADDRESS_KEYS)}, each once")
    symbols, kinds = (_split(dict(parameters).get(key, "")) for key in ADDRESS_KEYS)
    if "kinds" in names and not kinds:
        raise SubscriptionError(f"kinds names none: give {' or '.join(SCHEMAS)}, or both")
    return SubscriptionChange(added=subscriptions(symbols, kinds or ["trades"]))


def by_kind(some: Iterable[Subscription]) -> dict[str, list[str]]:
    """Return subscriptions as messages name them: EXCHANGE:SYMBOL by kind, sorted."""
    named: dict[str, list[str]] = {kind: [] for kind in SCHEMAS}
    for one in sorted(some):
        named[one.kind].append(f"{one.exchange}:{one.symbol}")
    return named


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise SubscriptionError(f"{name[:64]} is repeated: {FORM}")
        found[name] = value
    return found


def subscriptions(symbols: Sequence[str], kinds: Sequence[str]) -> frozenset[Subscription]:
    """Return the subscriptions to each kind of records of each instrument.

    Args:
        symbols: EXCHANGE:SYMBOL each.
        kinds: trades, quotes.
    Raises:
        SubscriptionError: a kind or a symbol is not valid.
    """
    unknown = [kind for kind in kinds if kind not in SCHEMAS]
    if unknown:
        raise SubscriptionError(f"kind {unknown[0][:64]!r}: give {' or '.join(SCHEMAS)}")
    # Each once: a message may repeat thousands of kinds beside thousands of instruments.
    instruments = {_instrument(symbol) for symbol in symbols}
    return frozenset(Subscription(kind, *one) for kind in set(kinds) for one in instruments)


def _instrument(text: str) -> tuple[str, str]:
    match = INSTRUMENT_TEXT.fullmatch(text)
    if match is None:
        raise SubscriptionError(
            f"{text[:100]!r}: give EXCHANGE:SYMBOL, for example BINANCE_SIM:BTCUSDT"
        )
    return match[1], match[2]


def _texts(message: dict[str, Any], key: str, default: list[str]) -> list[str]:
    values = message.get(key, default)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SubscriptionError(f"{key}: not a list of texts: {FORM}")
    return values
