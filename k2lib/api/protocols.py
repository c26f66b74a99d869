"""Connections that take too much or too long are dropped before they cost the others."""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

CONNECTIONS: Final = 500
LONGEST_HEAD: Final = 64 * 1024
HEAD_S: Final = 20.0
STALLED_S: Final = 20.0


class Stall:
    """Drops a connection whose client reads nothing of what waits for it."""

    def __init__(self, transport: asyncio.Transport, *, seconds: float = STALLED_S) -> None:
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Look again after a while."""
        self.end()
        waiting = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._look, waiting)

    def end(self) -> None:
        """Look no more: the client reads, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int) -> None:
        if self._transport.get_write_buffer_size() >= before:
            self._transport.abort()
        else:
            self.begin()


class HttpProtocol(HttpToolsProtocol):
    """HTTP whose requests begin in time and within bounds, and whose answers are read."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _stall: Stall

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are enough."""
        super().connection_made(transport)
        self._stall = Stall(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._end_head()
        self._stall.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless a head has no end."""
        head_had_begun = self._head_timer is not None
        super().data_received(data)
        if head_had_begun and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """End a request's head."""
        self._end_head()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self._stall.end()

    def _begin_head(self) -> None:
        self._end_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class StreamProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that can be dropped, by itself or by the stream, where nobody reads it."""

    _stall: Stall

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a connection."""
        super().connection_made(transport)
        self._stall = Stall(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._stall.end()
        super().connection_lost(exc)

    def handle_connect(self, event: Request) -> None:
        """Begin the handshake, and let the application drop the connection."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["state"]["abort"] = self.transport.abort

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self._stall.end()
