"""Whether a venue can be streamed from here: every host asked, each answer timed."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from k2lib.errors import K2Error
from k2lib.events import log_event
from k2lib.schema.identity import split_instrument, symbols_at
from k2lib.venues.base import (
    HostRefusedError,
    Instrument,
    LiveConnection,
    LiveVenue,
    StreamSubscription,
)

TRADE_S: Final = 30.0
A_DAY_US: Final = 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class HostCheck:
    """One step at one host: whether it passed, how long it took, and what there is to say."""

    step: str
    host: str
    passed: bool
    seconds: float
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; `told` is the detail."""
        values = asdict(self)
        detail = values.pop("detail")
        return {**values, "told": detail}


def check_venue(
    venue: LiveVenue, symbols: Sequence[str], *, trade_s: float = TRADE_S
) -> Iterator[HostCheck]:
    """Ask every request host what the venue checks, every stream host for one trade.

    Hosts are asked at the same time. The steps of a host end with the first that fails.

    Args:
        symbols: the venue's names, also with the venue.
        trade_s: how long the first trade may take.
    Raises:
        ConfigError: a symbol is of another venue.
    """
    names: list[str] = []
    texts, symbols = symbols, [split_instrument(text)[1] for text in symbols]
    with ThreadPoolExecutor() as pool:
        for checks in pool.map(
            lambda url: _check_requests(venue, url, symbols, names), venue.request_hosts
        ):
            yield from checks
        named = venue.named(next(iter(names), venue.exchange))
        symbols_at(named.exchange, texts)
        for checks in pool.map(
            lambda url: asyncio.run(_check_stream(named, url, symbols, trade_s)),
            named.stream_hosts,
        ):
            yield from checks


def _check_requests(
    venue: LiveVenue, url: str, symbols: Sequence[str], names: list[str]
) -> list[HostCheck]:
    """Go through the venue's steps at one host; add the name that it gives itself, if it does."""
    alone = venue.at(venue.stream_hosts, (url,)).named(venue.exchange)
    requests = alone.open_requests(on_event=log_event, stop=threading.Event())
    checks: list[HostCheck] = []
    try:
        for step, work in requests.checks(symbols):
            checks.append(_step(step, url, work))
            if not checks[-1].passed:
                break
    finally:
        requests.close()
    if requests.exchange != venue.exchange:
        names.append(requests.exchange)
    return checks


def _step(step: str, host: str, work: Callable[[], str]) -> HostCheck:
    began = time.monotonic()
    try:
        detail, passed = work(), True
    except K2Error as exc:
        detail, passed = str(exc), False
    return HostCheck(step, host, passed, time.monotonic() - began, detail)


class _FirstFrame:
    """Keeps the first frame that comes."""

    def __init__(self) -> None:
        self.frame: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def put(self, frame: bytes, host: str) -> None:
        if not self.frame.done():
            self.frame.set_result(frame)


async def _check_stream(
    venue: LiveVenue, url: str, symbols: Sequence[str], trade_s: float
) -> list[HostCheck]:
    began, first = time.monotonic(), _FirstFrame()
    try:
        connection = await venue.connect(url, inbox=first, on_data=lambda: None)
    except HostRefusedError as exc:
        return [HostCheck("connect", url, False, time.monotonic() - began, str(exc))]
    seconds = time.monotonic() - began
    connected = HostCheck("connect", url, True, seconds, f"as {venue.exchange}")
    began = time.monotonic()
    try:
        frame, passed = await _first_frame(connection, first, symbols, trade_s), True
        detail = _symbol_of(venue, frame, symbols)
    except HostRefusedError as exc:
        detail, passed = str(exc), False
    await connection.close()
    seconds = time.monotonic() - began
    return [connected, HostCheck("first trade", url, passed, seconds, detail)]


async def _first_frame(
    connection: LiveConnection, first: _FirstFrame, symbols: Sequence[str], trade_s: float
) -> bytes:
    await connection.subscribe([StreamSubscription(symbol, "trade") for symbol in symbols])
    ends: list[asyncio.Future[Any]] = [first.frame, connection.over]
    await asyncio.wait(ends, timeout=trade_s, return_when=asyncio.FIRST_COMPLETED)
    if first.frame.done():
        return first.frame.result()
    reason = connection.over.result() if connection.over.done() else f"{trade_s:g} s went by"
    raise HostRefusedError(f"no trade came: {reason}")


def _symbol_of(venue: LiveVenue, frame: bytes, symbols: Sequence[str]) -> str:
    now_us = time.time_ns() // 1000
    parsed = venue.parse_frames(
        [frame],
        [now_us],
        instruments={symbol: Instrument(venue.exchange, symbol) for symbol in symbols},
        latest_us=now_us + A_DAY_US,
        source="check",
    )
    if parsed.refused:
        raise HostRefusedError(f"the first frame is no trade: {parsed.refused[0].detail}")
    return f"of {parsed.trades['symbol'][0]}"
