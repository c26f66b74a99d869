"""WebSockets of venues, read until they end; errors say whether and when to retry the host."""

import asyncio
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from k2lib.errors import reason_of
from k2lib.resilience.failover import judge_status
from k2lib.venues.base import FrameSink, HostRefusedError, StreamSubscription

OPEN_S: Final = 10.0
CLOSE_S: Final = 2.0
PING_S: Final = 20.0
# A host that has had nothing to say for so long is asked whether it is there.
PROBE_S: Final = 2.0
LONGEST_FRAME: Final = 1024 * 1024
FRAMES_READ_AHEAD: Final = 256


async def open_socket(
    url: str, *, tls: ssl.SSLContext | None = None, open_s: float = OPEN_S
) -> ClientConnection:
    """Open a WebSocket that pings its host.

    Args:
        tls: verifies the host of a `wss:` address.
        open_s: how long the host may take to answer, TLS handshake included.
    Raises:
        HostRefusedError: the host did not let us in, or not in time.
    """
    try:
        return await connect(
            url,
            ssl=tls if url.startswith("wss:") else None,
            open_timeout=open_s,
            close_timeout=CLOSE_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            max_size=LONGEST_FRAME,
            max_queue=FRAMES_READ_AHEAD,
        )
    except InvalidStatus as exc:
        status = exc.response.status_code
        verdict = judge_status(status, exc.response.headers.get("Retry-After"))
        raise HostRefusedError(
            f"HTTP {status}", status=status, lasting=verdict.lasting, pause_s=verdict.pause_s
        ) from exc
    except ssl.SSLCertVerificationError as exc:
        raise HostRefusedError(f"certificate: {exc.verify_message}", lasting=True) from exc
    except (WebSocketException, OSError, TimeoutError) as exc:
        raise HostRefusedError(reason_of(exc)) from exc


class WebSocketConnection(ABC):
    """An open socket whose frames go to an inbox; a `LiveConnection`.

    A venue subscribes in `subscribe`. It may say in `is_data` which frames are data, and handle
    the others in `on_other`. Once the socket ended, `on_end` is called.
    """

    def __init__(
        self, socket: ClientConnection, host: str, *, inbox: FrameSink, on_data: Callable[[], None]
    ) -> None:
        self.host = host
        self.opened = time.monotonic()
        self.has_data = asyncio.Event()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.frames = 0
        self.answered_at = float("-inf")
        self._socket = socket
        self._inbox = inbox
        self._on_data = on_data
        self._prober = asyncio.create_task(self._probe())
        self.reader = asyncio.create_task(self._read())
        self.reader.add_done_callback(self._reader_ended)

    def leave(self, reason: str) -> None:
        """Ask for another connection in place of this one, which goes on until then."""
        if not self.over.done():
            self.over.set_result(reason)

    @abstractmethod
    async def subscribe(self, subscriptions: Sequence[StreamSubscription]) -> None:
        """Subscribe, and wait until the host agrees.

        Raises:
            HostRefusedError: the host says no, or nothing.
        """

    def is_data(self, frame: bytes) -> bool:
        """Say whether a frame is data, as all are without more; called for each."""
        return True

    async def on_other(self, frame: bytes) -> None:
        """Handle a frame that is not data: without more, it is for the dead letters."""
        await self._inbox.put(frame, self.host)

    def on_end(self) -> None:
        """Take note that the socket ended."""
        self.ended = True

    async def close(self) -> None:
        """Close the socket, without waiting long for the host's answer."""
        self._prober.cancel()
        await self._socket.close()
        self.reader.cancel()

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send(text)
        except ConnectionClosed as exc:
            raise HostRefusedError(f"closed while subscribing: {exc}") from exc

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._socket.recv(decode=False)
                if not self.is_data(frame):
                    await self.on_other(frame)
                    continue
                if self.frames == 0:
                    self.has_data.set()
                    self._on_data()
                self.frames += 1
                await self._inbox.put(frame, self.host)
        except ConnectionClosed as exc:
            self._end(_close_reason(exc))

    async def _probe(self) -> None:
        """Ping while nothing comes: what the host sent before its answer has arrived with that."""
        with suppress(ConnectionClosed):
            while True:
                frames = self.frames
                await asyncio.sleep(PROBE_S)
                if self.frames == frames:
                    sent_at = time.monotonic()
                    await (await self._socket.ping())
                    self.answered_at = sent_at

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """An error of ours must not pass for a silent host."""
        if reader.cancelled():
            self._end("left")
        elif (exc := reader.exception()) is not None:
            if not self.over.done():
                self.over.set_exception(exc)
            self._end("failed")

    def _end(self, reason: str) -> None:
        self._prober.cancel()
        self.leave(reason)
        self.on_end()


def _close_reason(exc: ConnectionClosed) -> str:
    if exc.rcvd is not None:
        return f"closed by the host ({exc.rcvd.code} {exc.rcvd.reason})".replace(" )", ")")
    return "cut without a close frame"
