"""One client's stream connection, seen from the exchange."""

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from k2lib.simulator.binance.frames import KINDS, PING, Form, frame, shutdown_frame
from k2lib.simulator.binance.limits import ExchangeLimits, Recent

Json = dict[str, Any]
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_ID = re.compile(r"[A-Za-z0-9_-]{0,36}")
_INT64 = range(-(2**63), 2**63)


@dataclass
class Subscriptions:
    """What a connection listens to; `known` has the streams that exist, by symbol."""

    symbols: frozenset[str]
    limit: int
    combined: bool
    names: dict[str, None] = field(default_factory=dict)
    known: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, names: Iterable[str]) -> None:
        """Listen to these too.

        Raises:
            _Refused: that would be more streams than a connection may have.
        """
        wanted = {**self.names, **dict.fromkeys(names)}
        if len(wanted) > self.limit:
            raise _Refused(2, f"Invalid request: too many streams, at most {self.limit}")
        self.names = wanted
        self._resolve()

    def remove(self, names: Iterable[str]) -> None:
        """Listen to these no more."""
        gone = set(names)
        self.names = {name: None for name in self.names if name not in gone}
        self._resolve()

    def _resolve(self) -> None:
        self.known = {}
        for name in self.names:
            symbol, _, kind = name.partition("@")
            if symbol.islower() and symbol.upper() in self.symbols and kind in KINDS:
                self.known.setdefault(symbol.upper(), []).append((name, kind))


class _Refused(Exception):
    """A request that is answered by an error."""

    def __init__(self, code: int, message: str, *, with_id: bool = False) -> None:
        super().__init__(message)
        self.body = {"code": code, "msg": message}
        self.with_id = with_id


def answer(text: str, subscriptions: Subscriptions) -> Json:
    """Do what a control message asks, and return the reply."""
    request: Any = None
    try:
        request = _parsed(text)
        method = _method(request, text)
        return {"result": _DO[method](subscriptions, request, text), "id": request.get("id")}
    except _Refused as refused:
        known_id = {"id": request.get("id")} if refused.with_id else {}
        return {**refused.body, **known_id}


def too_many(names: list[str], subscriptions: Subscriptions) -> bool:
    """Tell whether a connection cannot be opened with so many streams; otherwise add them."""
    try:
        subscriptions.add(names)
    except _Refused:
        return True
    return False


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno} column {exc.colno}"
        raise _Refused(3, f"Invalid JSON: expected value at {place}") from None
    except RecursionError:
        raise _Refused(3, "Invalid JSON: recursion limit exceeded at line 1 column 128") from None


def _method(request: Any, text: str) -> str:
    end = _end(text)
    if not isinstance(request, dict):
        raise _Refused(2, f"Invalid request: invalid type, expected a request object {end}")
    if not _is_id(request.get("id")):
        raise _Refused(2, "Invalid request: request ID must be an unsigned integer")
    if "method" not in request:
        raise _Refused(2, f"Invalid request: missing field `method` {end}")
    if request["method"] not in _METHODS:
        named = ", ".join(f"`{name}`" for name in _METHODS)
        variant = f"unknown variant `{request['method']}`, expected one of {named}"
        raise _Refused(2, f"Invalid request: {variant} {end}")
    return str(request["method"])


def _end(text: str) -> str:
    lines = text.splitlines() or [""]
    return f"at line {len(lines)} column {len(lines[-1])}"


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return _ID.fullmatch(value) is not None
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, int) and value in _INT64)


def _params(request: Json, text: str) -> list[Any]:
    if "params" not in request:
        raise _Refused(2, f"Invalid request: missing field `params` {_end(text)}")
    params = request["params"]
    if not isinstance(params, list):
        raise _Refused(2, f"Invalid request: invalid type, expected a sequence {_end(text)}")
    return params


def _streams(request: Json, text: str) -> list[str]:
    params = _params(request, text)
    if not all(isinstance(name, str) for name in params):
        raise _Refused(2, f"Invalid request: invalid type, expected a string {_end(text)}")
    return params


def _property(request: Json, text: str, *, values: int) -> list[Any]:
    params = _params(request, text)
    if len(params) > 1 + values:
        raise _Refused(2, "Invalid request: too many parameters")
    if len(params) < 1 + values:
        raise _Refused(2, "Invalid request: too few parameters")
    if not isinstance(params[0], str):
        raise _Refused(2, "Invalid request: property name must be a string")
    if params[0] != "combined":
        raise _Refused(0, "Unknown property", with_id=True)
    return params


def _subscribe(subscriptions: Subscriptions, request: Json, text: str) -> None:
    subscriptions.add(_streams(request, text))


def _unsubscribe(subscriptions: Subscriptions, request: Json, text: str) -> None:
    subscriptions.remove(_streams(request, text))


def _list(subscriptions: Subscriptions, _request: Json, _text: str) -> list[str]:
    return list(subscriptions.names)


def _set(subscriptions: Subscriptions, request: Json, text: str) -> None:
    value = _property(request, text, values=1)[1]
    if not isinstance(value, bool):
        raise _Refused(1, "Invalid value type: expected Boolean")
    subscriptions.combined = value


def _get(subscriptions: Subscriptions, request: Json, text: str) -> bool:
    _property(request, text, values=0)
    return subscriptions.combined


_DO: dict[str, Callable[[Subscriptions, Json, str], object]] = {
    "SUBSCRIBE": _subscribe,
    "UNSUBSCRIBE": _unsubscribe,
    "LIST_SUBSCRIPTIONS": _list,
    "SET_PROPERTY": _set,
    "GET_PROPERTY": _get,
}


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
        limits: ExchangeLimits,
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
