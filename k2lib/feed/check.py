"""Whether a venue can be streamed from here: every host asked, each answer timed."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgspec

from k2lib.errors import ConfigError, K2Error
from k2lib.events import log_event
from k2lib.venues.binance.connection import Connection, HostRefusedError, open_connection
from k2lib.venues.binance.hosts import Venue, told_apart
from k2lib.venues.binance.instruments import read_exchange_info
from k2lib.venues.binance.rest import Rest, clock_offset_s

INFO_WEIGHT: Final = 20
TRADE_S: Final = 30.0
# The lag's alert fires at as much: a clock that is further off fires it always, or never.
CLOCK_S: Final = 5.0


@dataclass(frozen=True)
class Check:
    """One step at one host: whether it passed, how long it took, and what there is to say."""

    step: str
    host: str
    passed: bool
    seconds: float
    told: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def check_venue(
    venue: Venue, symbols: Sequence[str], *, trade_s: float = TRADE_S
) -> Iterator[Check]:
    """Ask every REST host for its time and the symbols, every stream host for one trade.

    Hosts are asked at the same time. The steps of a host end with the first that fails.

    Args:
        trade_s: how long the first trade may take.
    """
    said: list[str | None] = []
    with ThreadPoolExecutor() as pool:
        for checks in pool.map(lambda url: _ask(venue, url, symbols, said), venue.rest_urls):
            yield from checks
        known = told_apart(venue, next(filter(None, said), None))
        for checks in pool.map(
            lambda url: asyncio.run(_listen(known, url, symbols, trade_s)), known.ws_urls
        ):
            yield from checks


def _ask(venue: Venue, url: str, symbols: Sequence[str], said: list[str | None]) -> list[Check]:
    alone = replace(venue, rest_urls=(url,))
    with Rest(alone, on_event=log_event, stop=threading.Event()) as rest:
        clock = _step("REST time", url, lambda: _clock(rest))
        if not clock.passed:
            return [clock]
        return [clock, _step("exchangeInfo", url, lambda: _instruments(rest, symbols, said))]


def _step(step: str, host: str, work: Callable[[], str]) -> Check:
    began = time.monotonic()
    try:
        told, passed = work(), True
    except K2Error as exc:
        told, passed = str(exc), False
    return Check(step, host, passed, time.monotonic() - began, told)


def _clock(rest: Rest) -> str:
    offset_s = clock_offset_s(rest)
    told = f"our clock is {abs(offset_s):.3f} s {'ahead' if offset_s > 0 else 'behind'}"
    if abs(offset_s) > CLOCK_S:
        raise ConfigError(f"{told}: set this machine's clock, lags are wrong by that")
    return told


def _instruments(rest: Rest, symbols: Sequence[str], said: list[str | None]) -> str:
    reply = rest.get("/api/v3/exchangeInfo", {}, weight=INFO_WEIGHT)
    said.append(reply.exchange)
    found = read_exchange_info(reply.body, symbols).values()
    return ", ".join(f"{one.symbol} is {one.base_asset}/{one.quote_asset}" for one in found)


class _First:
    """Keeps the first frame that comes."""

    def __init__(self) -> None:
        self.frame: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def put(self, frame: bytes, host: str) -> None:
        if not self.frame.done():
            self.frame.set_result(frame)


class _Named(msgspec.Struct):
    """A frame of a combined stream, as far as it is looked at here."""

    stream: str


async def _listen(venue: Venue, url: str, symbols: Sequence[str], trade_s: float) -> list[Check]:
    began, first = time.monotonic(), _First()
    try:
        connection = await open_connection(
            url, exchange=venue.exchange, tls=venue.tls, inbox=first, on_data=lambda: None
        )
    except HostRefusedError as exc:
        return [Check("connect", url, False, time.monotonic() - began, str(exc))]
    connected = Check("connect", url, True, time.monotonic() - began, f"as {venue.exchange}")
    began = time.monotonic()
    try:
        told, passed = await _first_trade(connection, first, symbols, trade_s), True
    except HostRefusedError as exc:
        told, passed = str(exc), False
    await connection.close()
    return [connected, Check("first trade", url, passed, time.monotonic() - began, told)]


async def _first_trade(
    connection: Connection, first: _First, symbols: Sequence[str], trade_s: float
) -> str:
    await connection.subscribe([f"{symbol.lower()}@trade" for symbol in symbols])
    ends: list[asyncio.Future[Any]] = [first.frame, connection.over]
    await asyncio.wait(ends, timeout=trade_s, return_when=asyncio.FIRST_COMPLETED)
    if not first.frame.done():
        told = connection.over.result() if connection.over.done() else f"{trade_s:g} s went by"
        raise HostRefusedError(f"no trade came: {told}")
    try:
        return msgspec.json.decode(first.frame.result(), type=_Named).stream
    except msgspec.MsgspecError as exc:
        raise HostRefusedError(f"what came is no trade: {exc}") from exc
