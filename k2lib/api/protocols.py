"""Uvicorn's protocols with limits: connections, request heads, and clients that do not read.

The only place that uses private modules: uvicorn has no public way to limit the size and time of
a request's head, or to drop a client that does not read its answer.
"""

import asyncio
from typing import Any, Final

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.http11 import Request

from k2lib.api.limiters import client_network, share
from k2lib.api.options import ApiOptions

BODY_GRACE_S: Final = 1.0


class WriteWatchdog:
    """Drops a connection whose client reads nothing of its output buffer."""

    def __init__(self, transport: asyncio.Transport, *, seconds: float) -> None:
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
    """HTTP with limits: connections, the time and size of requests, clients that do not read.

    A timer runs from the first byte that is awaited of a head to the last of its body.
    """

    network = ""
    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _head_bytes = 0
    _watchdog: WriteWatchdog

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        options: ApiOptions,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._options = options

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)
        self.network = client_network({"client": self.client})
        self._watchdog = WriteWatchdog(transport, seconds=self._options.write_s)
        if self._is_one_too_many():
            transport.abort()
        else:
            self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._stop_timer()
        self._watchdog.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and drop a connection whose head is too long."""
        is_in_head = self._is_in_head
        super().data_received(data)
        if self.transport.get_protocol() is not self:
            return  # it is a WebSocket now, which has no heads
        if is_in_head and self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._options.max_head_bytes:
                self.transport.abort()
        elif self._timer is None and self._is_idle():
            # Bytes that begin no request have ended the wait for the next one.
            self._start_head()

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._start_head()

    def on_headers_complete(self) -> None:
        """End a request's head."""
        self._is_in_head = False
        # The application refuses a slow body with 408 before this ends the connection.
        self._start_timer(self._options.body_s + BODY_GRACE_S)
        self._use_target_host()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request's body."""
        self._stop_timer()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Give the connection to the WebSocket protocol."""
        self._stop_timer()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """Wait for the client to read, with a limit."""
        super().pause_writing()
        self._watchdog.start()

    def resume_writing(self) -> None:
        """Continue: the client reads."""
        super().resume_writing()
        self._watchdog.stop()

    def _is_one_too_many(self) -> bool:
        limit = self._options.connections
        of_network = sum(getattr(one, "network", None) == self.network for one in self.connections)
        return len(self.connections) > limit or of_network > share(limit)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _use_target_host(self) -> None:
        """Take the host of an absolute-form target for the Host header (RFC 9112, 3.2.2)."""
        if self.url.startswith(b"/"):
            return
        target = httptools.parse_url(self.url)
        others = [header for header in self.headers if header[0] != b"host"]
        if target.host is None or len(others) < len(self.headers) - 1:
            return
        host = b"[%b]" % target.host if b":" in target.host else target.host
        authority = host if target.port is None else b"%b:%d" % (host, target.port)
        self.headers[:] = [*others, (b"host", authority)]
        query = b"" if target.query is None else b"?" + target.query
        self.url = (target.path or b"/") + query

    def _start_head(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        self._start_timer(self._options.head_s)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._give_up, seconds)

    def _give_up(self, seconds: float) -> None:
        if self.flow.read_paused:
            self._start_timer(seconds)
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that is dropped where its client does not read; the application may, too."""

    network = ""
    _watchdog: WriteWatchdog

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        options: ApiOptions,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._options = options

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection."""
        super().connection_made(transport)
        self.network = client_network({"client": self.client})
        self._watchdog = WriteWatchdog(self.transport, seconds=self._options.write_s)

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
