"""One client's stream connection, seen from the exchange."""

import asyncio
import contextlib
import socket
import struct
from typing import Protocol

from aiohttp import web

from k2lib.exchange.commands import Subscriptions
from k2lib.exchange.frames import PING, Form, frame, shutdown_frame
from k2lib.exchange.limits import Limits, Recent

GOING_AWAY, POLICY, BROKEN = 1001, 1008, 1011
_CLOSE_WAIT_S = 1.0
# Linger for no time at all: the close is a reset, and the peer sees it as one.
_RESET = struct.pack("ii", 1, 0)


class Shown(Protocol):
    """What streams show of one symbol."""

    @property
    def symbol(self) -> str:
        """Whose it is."""

    def frames(self, kind: str, form: Form) -> bytes:
        """Return the frames of a kind of stream in one form."""


class Connection:
    """Where frames go to, and what a client has to do so that they go on."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        *,
        subscriptions: Subscriptions,
        micros: bool,
        limits: Limits,
        now: float,
    ) -> None:
        self.subscriptions = subscriptions
        self.micros = micros
        self.opened_at = now
        self.stalled = False
        self._wakes_at: float | None = None
        self.close_at: float | None = None
        self.closing = False
        self._ws = ws
        self._transport = transport
        self._limits = limits
        self._messages = Recent(limits.messages_per_s, 1.0)
        self._outbox = bytearray()
        self._pings: dict[bytes, float] = {}
        self._pinged_at = now

    @property
    def waiting_bytes(self) -> int:
        """How much was sent and not yet taken."""
        return len(self._outbox) + self._transport.get_write_buffer_size()

    def publish(self, batch: Shown) -> None:
        """Send what the client listens to."""
        for name, kind in self.subscriptions.known.get(batch.symbol, ()):
            form = Form(name if self.subscriptions.combined else None, self.micros)
            self.send(batch.frames(kind, form))

    def send(self, data: bytes) -> None:
        """Send frames in order; a client that takes too little for too long is cut off."""
        if self.stalled or not data or self.closing or self._transport.is_closing():
            return
        self._outbox += data
        if self.waiting_bytes > self._limits.buffer_bytes:
            self.reset()

    def flush(self, most: int | None = None) -> None:
        """Write what waits, all of it or at most so many bytes."""
        if not self._outbox or self._transport.is_closing():
            return
        if most is None or most >= len(self._outbox):
            self._transport.write(bytes(self._outbox))
            self._outbox.clear()
        elif most:
            self._transport.write(bytes(self._outbox[:most]))
            del self._outbox[:most]

    def stall(self, until: float | None) -> None:
        """Go silent and deaf, without letting go of the socket, until a time or until woken."""
        self.flush()
        self.stalled, self._wakes_at = True, until
        self._transport.pause_reading()

    def wake(self, now: float) -> None:
        """End a stall; what it kept from the client is not made up for."""
        if not self.stalled:
            return
        self.stalled = False
        self._pings.clear()
        self._pinged_at = now
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def took(self, now: float) -> bool:
        """Count a message from the client, and tell whether it may send so many."""
        return self._messages.allows(now)

    def ponged(self, payload: bytes) -> None:
        """Take a pong; one without a matching ping does no harm and no good."""
        if payload in self._pings:
            sent = self._pings[payload]
            self._pings = {name: at for name, at in self._pings.items() if at > sent}

    def tell_shutdown(self, now: float, *, after_s: float) -> None:
        """Announce the end of this connection, and set its time."""
        self.send(
            shutdown_frame(int(now * 1e6), combined=self.subscriptions.combined, micros=self.micros)
        )
        self.close_at = now + after_s

    def upkeep(self, now: float) -> tuple[int, str] | None:
        """Ping if it is time; return close code and reason if the connection has to end."""
        if self.stalled:
            if self._wakes_at is not None and now >= self._wakes_at:
                self.wake(now)
            return None
        if self.close_at is not None and now >= self.close_at:
            return GOING_AWAY, "server shutdown"
        if now - self.opened_at >= self._limits.life_s:
            return GOING_AWAY, "connection has reached its longest life"
        if any(now - sent > self._limits.pong_within_s for sent in self._pings.values()):
            return POLICY, "Pong timeout"
        self._ping(now)
        return None

    def _ping(self, now: float) -> None:
        if now - self._pinged_at < self._limits.ping_s:
            return
        payload = str(int(now * 1000)).encode()
        self._pings[payload] = self._pinged_at = now
        self.send(frame(payload, PING))

    def reset(self) -> None:
        """End the TCP connection by a reset: no close frame, no goodbye."""
        self.closing = True
        self._outbox.clear()
        with contextlib.suppress(OSError):
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    async def close(self, code: int, reason: str) -> None:
        """Send what waits and a close frame, and end the connection with or without the answer."""
        if self.closing:
            return
        self.flush()
        self.closing = True
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_CLOSE_WAIT_S):
                await self._ws.close(code=code, message=reason.encode())
        self._transport.abort()
