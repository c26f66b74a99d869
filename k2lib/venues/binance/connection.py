"""One connection to a stream host of Binance: opened, subscribed, its control messages parsed."""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection

from k2lib.resilience.rate_window import RateWindow
from k2lib.venues.base import FrameSink, HostRefusedError, StreamSubscription
from k2lib.venues.binance.fields import BROKEN
from k2lib.venues.binance.hosts import EXCHANGE_HEADER, exchange_of
from k2lib.venues.websocket import OPEN_S, WebSocketConnection, open_socket

DATA: Final = b'{"stream":"'
# What the host itself says comes on a stream with such a name.
WORD: Final = DATA + b"!"
SHUTDOWN: Final = b"serverShutdown"
REPLY_S: Final = 10.0
STREAMS_A_CONNECTION: Final = 1024
STREAMS_A_MESSAGE: Final = 200
# Pings and pongs count too where a host allows five messages a second.
MESSAGES_A_SECOND: Final = 4
STREAM_NAMES: Final = {"trade": "trade", "quote": "bookTicker"}


class BinanceConnection(WebSocketConnection):
    """A combined stream of one host."""

    def __init__(
        self, socket: ClientConnection, host: str, *, inbox: FrameSink, on_data: Callable[[], None]
    ) -> None:
        super().__init__(socket, host, inbox=inbox, on_data=on_data)
        self._awaited: set[int] = set()
        self._replied = asyncio.Event()
        self._refusal: str | None = None

    async def subscribe(self, subscriptions: Sequence[StreamSubscription]) -> None:
        """Subscribe in few messages, at the pace that hosts allow, and wait for the replies.

        Raises:
            HostRefusedError: the host says no, or nothing.
        """
        pace = RateWindow(MESSAGES_A_SECOND, 1.0, clock=time.monotonic)
        for number, names in enumerate(_messages(subscriptions), start=1):
            while wait_s := pace.wait_s():
                await asyncio.sleep(wait_s)
            pace.take()
            self._awaited.add(number)
            self._replied.clear()
            message = {"method": "SUBSCRIBE", "params": names, "id": number}
            await self._send(msgspec.json.encode(message).decode())
        await self._wait_for_replies()

    def is_data(self, frame: bytes) -> bool:
        """Say whether a frame is of a stream that was subscribed to."""
        return frame.startswith(DATA) and not frame.startswith(WORD)

    async def on_other(self, frame: bytes) -> None:
        """Handle replies and words of the host; anything else is for the dead letters."""
        try:
            message = msgspec.json.decode(frame)
        except BROKEN:
            message = None
        if not isinstance(message, dict):
            await self._inbox.put(frame, self.host)
        elif SHUTDOWN in frame:
            self.leave(SHUTDOWN.decode())
        elif message.keys() & {"result", "error", "code"}:
            self._reply(message)
        else:
            await self._inbox.put(frame, self.host)

    def on_end(self) -> None:
        """Let nobody wait for replies any longer."""
        super().on_end()
        self._replied.set()

    async def _wait_for_replies(self) -> None:
        try:
            async with asyncio.timeout(REPLY_S):
                while self._awaited and self._refusal is None and not self.ended:
                    await self._replied.wait()
                    self._replied.clear()
        except TimeoutError as exc:
            raise HostRefusedError(f"no reply to SUBSCRIBE within {REPLY_S:g} s") from exc
        if self._refusal is not None:
            raise HostRefusedError(f"SUBSCRIBE was refused: {self._refusal}")
        if self.ended:
            raise HostRefusedError(f"closed while subscribing: {self.over.result()}")

    def _reply(self, message: dict[str, Any]) -> None:
        error = message["error"] if isinstance(message.get("error"), dict) else message
        if "code" in error:
            self._refusal = f"{error.get('msg')} (code {error['code']})"
        if isinstance(number := message.get("id"), int):
            self._awaited.discard(number)
        self._replied.set()


async def open_connection(
    host: str,
    *,
    exchange: str,
    tls: ssl.SSLContext,
    inbox: FrameSink,
    on_data: Callable[[], None],
    open_s: float = OPEN_S,
) -> BinanceConnection:
    """Open the combined stream of a host, times in microseconds.

    Args:
        exchange: whose trades are asked for: a host that names itself otherwise is refused.
        on_data: called once, at the first frame of data.
        open_s: how long the host may take to answer, TLS handshake included.
    Raises:
        HostRefusedError: the host did not let us in, or not in time.
    """
    socket = await open_socket(f"{host}/stream?timeUnit=MICROSECOND", tls=tls, open_s=open_s)
    header = socket.response.headers.get(EXCHANGE_HEADER) if socket.response else None
    if (name := exchange_of(host, header)) != exchange:
        await socket.close()
        raise HostRefusedError(f"this is {name}, not {exchange}", lasting=True)
    return BinanceConnection(socket, host, inbox=inbox, on_data=on_data)


def _messages(subscriptions: Sequence[StreamSubscription]) -> Iterable[list[str]]:
    names = [f"{symbol.lower()}@{STREAM_NAMES[kind]}" for symbol, kind in subscriptions]
    for start in range(0, len(names), STREAMS_A_MESSAGE):
        yield names[start : start + STREAMS_A_MESSAGE]
