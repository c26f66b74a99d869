"""One connection to a stream host: opened, subscribed, read until it ends or is to be left."""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from k2lib.errors import TransientError, reason_of
from k2lib.resilience.rate_window import RateWindow
from k2lib.venues.binance.fields import BROKEN
from k2lib.venues.binance.hosts import EXCHANGE_HEADER, exchange_of

DATA: Final = b'{"stream":"'
# What the host itself says comes on a stream with such a name.
WORD: Final = DATA + b"!"
SHUTDOWN: Final = b"serverShutdown"
OPEN_S: Final = 10.0
REPLY_S: Final = 10.0
CLOSE_S: Final = 2.0
REST_S: Final = 60.0
PING_S: Final = 20.0
STREAMS_A_MESSAGE: Final = 200
# Pings and pongs count too where a host allows five messages a second.
MESSAGES_A_SECOND: Final = 4
LONGEST_FRAME: Final = 1024 * 1024
FRAMES_READ_AHEAD: Final = 256


class HostRefusedError(TransientError):
    """A host did not let us in, or did not take the subscription.

    `lasting`: it will not the next time either. `rest_s`: how long it asks to be left alone.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        lasting: bool = False,
        rest_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.lasting = lasting
        self.rest_s = rest_s


class Frames(Protocol):
    """Where frames go."""

    async def put(self, frame: bytes, host: str) -> None:
        """Take a frame, when there is room."""


class Connection:
    """An open socket; `over` is done when it ended or is to be left, `reader` when it ended."""

    def __init__(
        self, socket: ClientConnection, host: str, *, inbox: Frames, on_data: Callable[[], None]
    ) -> None:
        self.host = host
        self.opened = time.monotonic()
        self.has_data = asyncio.Event()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.frames = 0
        self._socket = socket
        self._inbox = inbox
        self._on_data = on_data
        self._awaited: set[int] = set()
        self._replied = asyncio.Event()
        self._refusal: str | None = None
        self.reader = asyncio.create_task(self._read())
        self.reader.add_done_callback(self._reader_ended)

    def leave(self, reason: str) -> None:
        """Ask for another connection in place of this one, which goes on until then."""
        if not self.over.done():
            self.over.set_result(reason)

    async def subscribe(self, streams: Sequence[str]) -> None:
        """Subscribe in few messages, at the pace that hosts allow, and wait for the replies.

        Raises:
            HostRefusedError: the host says no, or nothing.
        """
        pace = RateWindow(MESSAGES_A_SECOND, 1.0, clock=time.monotonic)
        for number, some in enumerate(_chunks(streams), start=1):
            while wait_s := pace.wait_s():
                await asyncio.sleep(wait_s)
            pace.take()
            self._awaited.add(number)
            self._replied.clear()
            message = {"method": "SUBSCRIBE", "params": some, "id": number}
            try:
                await self._socket.send(msgspec.json.encode(message).decode())
            except ConnectionClosed as exc:
                raise HostRefusedError(f"closed while subscribing: {exc}") from exc
        await self._wait_for_replies()

    async def close(self) -> None:
        """Close the socket, without waiting long for the host's answer."""
        await self._socket.close()
        self.reader.cancel()

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

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._socket.recv(decode=False)
                if frame.startswith(DATA) and not frame.startswith(WORD):
                    if self.frames == 0:
                        self.has_data.set()
                        self._on_data()
                    self.frames += 1
                    await self._inbox.put(frame, self.host)
                else:
                    await self._other(frame)
        except ConnectionClosed as exc:
            self._end(_close_reason(exc))

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """An error of ours must not pass for a silent host."""
        if reader.cancelled():
            self._end("left")
        elif (exc := reader.exception()) is not None:
            if not self.over.done():
                self.over.set_exception(exc)
            self._end("failed")

    def _end(self, reason: str) -> None:
        self.ended = True
        self._replied.set()
        self.leave(reason)

    async def _other(self, frame: bytes) -> None:
        """Handle replies and words of the host; anything else is for the dead letters."""
        try:
            told = msgspec.json.decode(frame)
        except BROKEN:
            told = None
        if not isinstance(told, dict):
            await self._inbox.put(frame, self.host)
        elif SHUTDOWN in frame:
            self.leave(SHUTDOWN.decode())
        elif told.keys() & {"result", "error", "code"}:
            self._reply(told)
        else:
            await self._inbox.put(frame, self.host)

    def _reply(self, told: dict[str, Any]) -> None:
        error = told["error"] if isinstance(told.get("error"), dict) else told
        if "code" in error:
            self._refusal = f"{error.get('msg')} (code {error['code']})"
        if isinstance(number := told.get("id"), int):
            self._awaited.discard(number)
        self._replied.set()


async def open_connection(
    host: str,
    *,
    exchange: str,
    tls: ssl.SSLContext,
    inbox: Frames,
    on_data: Callable[[], None],
    open_s: float = OPEN_S,
) -> Connection:
    """Open the combined stream of a host, times in microseconds.

    Args:
        exchange: whose trades are wanted: a host that names itself otherwise is refused.
        on_data: told once, at the first frame of data.
        open_s: how long the host may take to answer, TLS handshake included.
    Raises:
        HostRefusedError: the host did not let us in, or not in time.
    """
    try:
        socket = await connect(
            f"{host}/stream?timeUnit=MICROSECOND",
            ssl=tls if host.startswith("wss:") else None,
            open_timeout=open_s,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            max_size=LONGEST_FRAME,
            max_queue=FRAMES_READ_AHEAD,
        )
    except InvalidStatus as exc:
        raise _status_refusal(exc) from exc
    except ssl.SSLCertVerificationError as exc:
        raise HostRefusedError(f"certificate: {exc.verify_message}", lasting=True) from exc
    except (WebSocketException, OSError, TimeoutError) as exc:
        raise HostRefusedError(reason_of(exc)) from exc
    said = socket.response.headers.get(EXCHANGE_HEADER) if socket.response else None
    if (name := exchange_of(host, said)) != exchange:
        await socket.close()
        raise HostRefusedError(f"this is {name}, not {exchange}", lasting=True)
    return Connection(socket, host, inbox=inbox, on_data=on_data)


def _status_refusal(exc: InvalidStatus) -> HostRefusedError:
    status, headers = exc.response.status_code, exc.response.headers
    wait = headers.get("Retry-After", "")
    asked_s = float(wait) if wait.isdecimal() else None
    return HostRefusedError(
        f"HTTP {status}",
        status=status,
        lasting=status in (403, 451),
        rest_s=asked_s or REST_S if status in (418, 429) else asked_s,
    )


def _close_reason(exc: ConnectionClosed) -> str:
    if exc.rcvd is not None:
        return f"closed by the host ({exc.rcvd.code} {exc.rcvd.reason})".replace(" )", ")")
    return "cut without a close frame"


def _chunks(streams: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(streams), STREAMS_A_MESSAGE):
        yield list(streams[start : start + STREAMS_A_MESSAGE])
