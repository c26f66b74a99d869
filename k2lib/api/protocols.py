"""Uvicorn's protocols with limits: connections, request heads, and clients that do not read.

The only place that uses private modules: uvicorn has no public way to limit the size and time of
a request's head, or to drop a client that does not read its answer.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

MAX_CONNECTIONS: Final = 500
MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_TIMEOUT_S: Final = 20.0
WRITE_STALL_S: Final = 20.0


class WriteWatchdog:
    """Drops a connection whose client reads nothing of its output buffer."""

    def __init__(self, transport: asyncio.Transport, *, seconds: float = WRITE_STALL_S) -> None:
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Check the output buffer again after a while."""
        self.stop()
        buffered = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._check, buffered)

    def stop(self) -> None:
        """Stop checking: the client reads, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, before: int) -> None:
        if self._transport.get_write_buffer_size() >= before:
            self._transport.abort()
        else:
            self.start()


class HttpProtocol(HttpToolsProtocol):
    """HTTP with limits: connections, heads of requests, clients that do not read."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _watchdog: WriteWatchdog

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)
        self._watchdog = WriteWatchdog(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._stop_head_timer()
        self._watchdog.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and drop a connection whose head is too long."""
        is_in_head = self._head_timer is not None
        super().data_received(data)
        if is_in_head and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._start_head_timer()

    def on_headers_complete(self) -> None:
        """End a request's head."""
        self._stop_head_timer()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read, with a limit."""
        super().pause_writing()
        self._watchdog.start()

    def resume_writing(self) -> None:
        """Continue: the client reads."""
        super().resume_writing()
        self._watchdog.stop()

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that is dropped where its client does not read; the application may, too."""

    _watchdog: WriteWatchdog

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection."""
        super().connection_made(transport)
        self._watchdog = WriteWatchdog(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._watchdog.stop()
        super().connection_lost(exc)

    def handle_connect(self, event: Request) -> None:
        """Start the handshake; `state["abort"]` lets the application drop the connection."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["state"]["abort"] = self.transport.abort

    def pause_writing(self) -> None:
        """Wait for the client to read, with a limit."""
        super().pause_writing()
        self._watchdog.start()

    def resume_writing(self) -> None:
        """Continue: the client reads."""
        super().resume_writing()
        self._watchdog.stop()
