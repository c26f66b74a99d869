"""One client's stream connection at the server, and the control messages it takes."""

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import WSCloseCode, web

from k2lib.simulator.binance.frames import KINDS, PING, FrameFormat, frame, shutdown_frame
from k2lib.simulator.binance.limits import AttemptLimit, ExchangeLimits
from k2lib.simulator.binance.statistics_streams import ALL, ALL_MINI_TICKERS, STATISTICS_KINDS

Json = dict[str, Any]
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_ID = re.compile(r"[A-Za-z0-9_-]{0,36}")
_INT64 = range(-(2**63), 2**63)
_STREAM_KINDS = frozenset(KINDS) | STATISTICS_KINDS


@dataclass
class Subscriptions:
    """Streams of a connection; `by_symbol` has name and kind of those that exist.

    What is of all symbols has `ALL` as its symbol.
    """

    symbols: frozenset[str]
    limit: int
    combined: bool
    names: dict[str, None] = field(default_factory=dict)
    by_symbol: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, names: Iterable[str]) -> None:
        """Subscribe to more streams.

        Raises:
            _ControlError: more streams than a connection may have.
        """
        requested = {**self.names, **dict.fromkeys(names)}
        if len(requested) > self.limit:
            raise _ControlError(2, f"Invalid request: too many streams, at most {self.limit}")
        self.names = requested
        self._resolve()

    def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe from streams."""
        removed = set(names)
        self.names = {name: None for name in self.names if name not in removed}
        self._resolve()

    def _resolve(self) -> None:
        self.by_symbol = {}
        for name in self.names:
            symbol, _, kind = name.partition("@")
            if name == ALL_MINI_TICKERS:
                self.by_symbol.setdefault(ALL, []).append((name, name))
            elif symbol.islower() and symbol.upper() in self.symbols and kind in _STREAM_KINDS:
                self.by_symbol.setdefault(symbol.upper(), []).append((name, kind))


class _ControlError(Exception):
    """A control message that is answered by an error."""

    def __init__(self, code: int, message: str, *, with_id: bool = False) -> None:
        super().__init__(message)
        self.body = {"code": code, "msg": message}
        self.with_id = with_id


def handle_control_message(text: str, subscriptions: Subscriptions) -> Json:
    """Carry out a control message, and return the reply."""
    request: Any = None
    try:
        request = _parsed(text)
        method = _method(request, text)
        return {
            "result": _METHOD_CALLS[method](subscriptions, request, text),
            "id": request.get("id"),
        }
    except _ControlError as exc:
        request_id = {"id": request.get("id")} if exc.with_id else {}
        return {**exc.body, **request_id}


def subscribe_all(names: list[str], subscriptions: Subscriptions) -> bool:
    """Subscribe to the streams of an address; return False if they are too many."""
    try:
        subscriptions.add(names)
    except _ControlError:
        return False
    return True


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        position = f"line {exc.lineno} column {exc.colno}"
        raise _ControlError(3, f"Invalid JSON: expected value at {position}") from None
    except RecursionError:
        raise _ControlError(
            3, "Invalid JSON: recursion limit exceeded at line 1 column 128"
        ) from None


def _method(request: Any, text: str) -> str:
    end = _end(text)
    if not isinstance(request, dict):
        raise _ControlError(2, f"Invalid request: invalid type, expected a request object {end}")
    if not _is_id(request.get("id")):
        raise _ControlError(2, "Invalid request: request ID must be an unsigned integer")
    if "method" not in request:
        raise _ControlError(2, f"Invalid request: missing field `method` {end}")
    if request["method"] not in _METHODS:
        named = ", ".join(f"`{name}`" for name in _METHODS)
        variant = f"unknown variant `{request['method']}`, expected one of {named}"
        raise _ControlError(2, f"Invalid request: {variant} {end}")
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
        raise _ControlError(2, f"Invalid request: missing field `params` {_end(text)}")
    params = request["params"]
    if not isinstance(params, list):
        raise _ControlError(2, f"Invalid request: invalid type, expected a sequence {_end(text)}")
    return params


def _streams(request: Json, text: str) -> list[str]:
    params = _params(request, text)
    if not all(isinstance(name, str) for name in params):
        raise _ControlError(2, f"Invalid request: invalid type, expected a string {_end(text)}")
    return params


def _property(request: Json, text: str, *, values: int) -> list[Any]:
    params = _params(request, text)
    if len(params) > 1 + values:
        raise _ControlError(2, "Invalid request: too many parameters")
    if len(params) < 1 + values:
        raise _ControlError(2, "Invalid request: too few parameters")
    if not isinstance(params[0], str):
        raise _ControlError(2, "Invalid request: property name must be a string")
    if params[0] != "combined":
        raise _ControlError(0, "Unknown property", with_id=True)
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
        raise _ControlError(1, "Invalid value type: expected Boolean")
    subscriptions.combined = value


def _get(subscriptions: Subscriptions, request: Json, text: str) -> bool:
    _property(request, text, values=0)
    return subscriptions.combined


_METHOD_CALLS: dict[str, Callable[[Subscriptions, Json, str], object]] = {
    "SUBSCRIBE": _subscribe,
    "UNSUBSCRIBE": _unsubscribe,
    "LIST_SUBSCRIPTIONS": _list,
    "SET_PROPERTY": _set,
    "GET_PROPERTY": _get,
}

_CLOSE_WAIT_S = 1.0
# Linger for no time at all: the close is a reset, and the peer sees it as one.
_RESET = struct.pack("ii", 1, 0)


class FrameSource(Protocol):
    """Events of one symbol that streams can send as frames."""

    @property
    def symbol(self) -> str:
        """Symbol of the events."""

    def frames(self, kind: str, form: FrameFormat) -> bytes:
        """Return the frames of a kind of stream in one format."""


class ServerConnection:
    """A client's connection: frames to send, pings, and the limits that end it."""

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
        self._messages = AttemptLimit(limits.messages_per_s, 1.0)
        self._outbox = bytearray()
        self._pings: dict[bytes, float] = {}
        self._pinged_at = now

    @property
    def pending_bytes(self) -> int:
        """Bytes sent that the client has not taken yet."""
        return len(self._outbox) + self._transport.get_write_buffer_size()

    def publish(self, events: FrameSource) -> None:
        """Send the events of subscribed streams."""
        for name, kind in self.subscriptions.by_symbol.get(events.symbol, ()):
            form = FrameFormat(name if self.subscriptions.combined else None, self.micros)
            self.send(events.frames(kind, form))

    def send(self, data: bytes) -> None:
        """Send frames in order; a client that leaves too many bytes pending is cut off."""
        if self.stalled or not data or self.closing or self._transport.is_closing():
            return
        self._outbox += data
        if self.pending_bytes > self._limits.buffer_bytes:
            self.reset()

    def flush(self, max_bytes: int | None = None) -> None:
        """Write pending frames, all of them or at most `max_bytes`."""
        if not self._outbox or self._transport.is_closing():
            return
        if max_bytes is None or max_bytes >= len(self._outbox):
            self._transport.write(bytes(self._outbox))
            self._outbox.clear()
        elif max_bytes:
            self._transport.write(bytes(self._outbox[:max_bytes]))
            del self._outbox[:max_bytes]

    def stall(self, until: float | None) -> None:
        """Send and read nothing on the open socket, until a time or until `wake`."""
        self.flush()
        self.stalled, self._wakes_at = True, until
        self._transport.pause_reading()

    def wake(self, now: float) -> None:
        """End a stall; frames of that time are never sent."""
        if not self.stalled:
            return
        self.stalled = False
        self._pings.clear()
        self._pinged_at = now
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def count_message(self, now: float) -> bool:
        """Count a message from the client; return whether it is within the limit."""
        return self._messages.allows(now)

    def receive_pong(self, payload: bytes) -> None:
        """Take a pong; one without a matching ping is ignored."""
        if payload in self._pings:
            sent = self._pings[payload]
            self._pings = {name: at for name, at in self._pings.items() if at > sent}

    def announce_shutdown(self, now: float, *, after_s: float) -> None:
        """Announce the end of this connection, and schedule it."""
        self.send(
            shutdown_frame(int(now * 1e6), combined=self.subscriptions.combined, micros=self.micros)
        )
        self.close_at = now + after_s

    def upkeep(self, now: float) -> tuple[int, str] | None:
        """Ping if one is due; return close code and reason if the connection has to end."""
        if self.stalled:
            if self._wakes_at is not None and now >= self._wakes_at:
                self.wake(now)
            return None
        if self.close_at is not None and now >= self.close_at:
            return WSCloseCode.GOING_AWAY, "server shutdown"
        if now - self.opened_at >= self._limits.life_s:
            return WSCloseCode.GOING_AWAY, "connection has reached its longest life"
        if any(now - sent > self._limits.pong_within_s for sent in self._pings.values()):
            return WSCloseCode.POLICY_VIOLATION, "Pong timeout"
        self._ping(now)
        return None

    def _ping(self, now: float) -> None:
        if now - self._pinged_at < self._limits.ping_s:
            return
        payload = str(int(now * 1000)).encode()
        self._pings[payload] = self._pinged_at = now
        self.send(frame(payload, PING))

    def reset(self) -> None:
        """End the TCP connection by a reset, without a close frame."""
        self.closing = True
        self._outbox.clear()
        with contextlib.suppress(OSError):
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    async def close(self, code: int, reason: str) -> None:
        """Send pending frames and a close frame; end the connection, answered or not."""
        if self.closing:
            return
        self.flush()
        self.closing = True
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_CLOSE_WAIT_S):
                await self._ws.close(code=code, message=reason.encode())
        self._transport.abort()
