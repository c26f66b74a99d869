"""The access log: one event for every request, with the id that its answer has too.

It is written here because it has to be the outermost layer, for WebSockets too, and to hide
secrets; asgi-correlation-id would replace the five lines of `request_id` and log nothing.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from k2lib.api.metrics import ApiMetrics
from k2lib.api.options import ApiKey
from k2lib.api.problems import UNEXPECTED, problem
from k2lib.api.security import without_keys
from k2lib.events import Event, OnEvent, RequestDone

LOG: Final = logging.getLogger("k2lib.api")
VALID_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
SECRET: Final = re.compile(r"key|token|secret|passw|auth|signature", re.IGNORECASE)
MAX_LOGGED: Final = 500
SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY: Final = "Content-Security-Policy"
NO_CONTENT: Final = "default-src 'none'; frame-ancestors 'none'"
STATUSES: Final = {
    "http.response.start": None,
    "websocket.http.response.start": None,
    "websocket.accept": 101,
    "websocket.close": 403,
}


def log_request(event: Event) -> None:
    """Write the event to the log `k2lib.api`, a JSON object a line."""
    fields = event.to_json()
    if fields.get("refused") is None:
        fields.pop("refused", None)
    LOG.info("%s", json.dumps({"event": event.name, **fields}, default=str))


class AccessLogMiddleware:
    """The outermost middleware: gives every request its id, and reports its result.

    It also adds the security headers, and answers 500 for exceptions that nobody caught.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ApiMetrics,
        keys: Sequence[ApiKey] = (),
        on_event: OnEvent = log_request,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._on_event = on_event
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        response = _RecordedSend(send, request_id(Headers(scope=scope).get("x-request-id")))
        scope.setdefault("state", {})["request_id"] = response.request_id
        began = self._clock()
        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, response)
        finally:
            self._metrics.in_flight.dec()
            self._report(scope, response, self._clock() - began)

    async def _answer(self, scope: Scope, receive: Receive, response: "_RecordedSend") -> None:
        try:
            await self._app(scope, receive, response)
        except ClientDisconnect:
            # It left while its request waited: there is nobody to answer.
            return
        except Exception:
            # The only place for unexpected exceptions: they end in the log, and in an answer.
            LOG.exception("request %s failed", response.request_id)
            if response.status is not None:
                raise
            await problem(500, UNEXPECTED)(scope, receive, response)

    def _report(self, scope: Scope, response: "_RecordedSend", seconds: float) -> None:
        method = scope.get("method", "WEBSOCKET")
        status = response.status or 499
        if scope["type"] == "http":
            self._metrics.count_request(method, _route(scope), status, seconds)
        state = scope["state"]
        self._on_event(
            RequestDone(
                request_id=response.request_id,
                client=(scope.get("client") or (None,))[0],
                key=state.get("key"),
                method=method,
                path=path_without_keys(scope["path"], self._keys)[:MAX_LOGGED],
                query=without_secrets(scope["query_string"], self._keys)[:MAX_LOGGED],
                status=status,
                bytes=response.size_bytes,
                seconds=round(seconds, 6),
                refused=state.get("refused"),
            )
        )


class _RecordedSend:
    """Sends, and records the status and the size of what was sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.size_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] in STATUSES and self.status is None:
            self.status = STATUSES[message["type"]] or message["status"]
            message.setdefault("headers", [])
            add_headers(MutableHeaders(scope=message), self.request_id)
        self.size_bytes += _size(message)
        await self._send(message)


def request_id(header: str | None) -> str:
    """Return the id that a request came with if it is a valid one, else a new one."""
    if header is not None and VALID_ID.fullmatch(header) is not None:
        return header
    return uuid.uuid4().hex


def path_without_keys(path: str, keys: Sequence[ApiKey] = ()) -> str:
    """Return a path with the parts that are keys, or look like one, replaced by ***."""
    return "/".join(without_keys(part, keys) for part in path.split("/"))


def without_secrets(query: bytes, keys: Sequence[ApiKey] = ()) -> str:
    """Return a query string with keys, and the values of possible secrets, replaced by ***."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([
        (without_keys(name, keys), "***" if SECRET.search(name) else without_keys(value, keys))
        for name, value in pairs
    ])  # fmt: skip


def add_headers(headers: MutableHeaders, request_id: str) -> None:
    """Add the request's id, and what keeps a browser from running or framing an answer."""
    headers["X-Request-Id"] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if not headers.get("content-type", "").startswith("text/html"):
        headers.setdefault(POLICY, NO_CONTENT)


def _size(message: Message) -> int:
    body: Any = message.get("body") or message.get("text") or message.get("bytes") or b""
    return len(body)


def _route(scope: Scope) -> str:
    """A path as it is declared: labels of paths as they are sent would have no end."""
    return getattr(scope.get("route"), "path", "other")
