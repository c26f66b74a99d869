"""One event for every request, with an id that its answer has too."""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from k2lib.api.health import ApiMetrics
from k2lib.api.problems import UNEXPECTED, problem
from k2lib.events import Event, OnEvent

LOG: Final = logging.getLogger("k2lib.api")
SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
SECRET: Final = re.compile(r"key|token|secret|passw|auth|signature", re.IGNORECASE)
LONGEST: Final = 500
ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY: Final = "Content-Security-Policy"
NOTHING_INSIDE: Final = "default-src 'none'; frame-ancestors 'none'"
STATUSES: Final = {
    "http.response.start": None,
    "websocket.http.response.start": None,
    "websocket.accept": 101,
    "websocket.close": 403,
}


def log_request(event: Event) -> None:
    """Write the event to the log `k2lib.api`, a JSON object a line."""
    LOG.info("%s", json.dumps({"event": event.name, **event.fields}, default=str))


class AccessLog:
    """The outermost layer: gives every request its id, and tells what became of it.

    What an answer may not lack is added here too, and here ends what nobody caught.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ApiMetrics,
        on_event: OnEvent = log_request,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._on_event = on_event
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        sent = _Sent(send, request_id(Headers(scope=scope).get("x-request-id")))
        scope.setdefault("state", {})["request_id"] = sent.request_id
        began = self._clock()
        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, sent)
        finally:
            self._metrics.in_flight.dec()
            self._tell(scope, sent, self._clock() - began)

    async def _answer(self, scope: Scope, receive: Receive, sent: "_Sent") -> None:
        try:
            await self._app(scope, receive, sent)
        except Exception:
            # The one place in which whatever went wrong ends: in the log, and in an answer.
            LOG.exception("request %s failed", sent.request_id)
            if sent.status is not None:
                raise
            await problem(500, UNEXPECTED)(scope, receive, sent)

    def _tell(self, scope: Scope, sent: "_Sent", seconds: float) -> None:
        method = scope.get("method", "WEBSOCKET")
        status = sent.status or 499
        if scope["type"] == "http":
            self._metrics.answered(method, _route(scope), status, seconds)
        state = scope["state"]
        fields = {
            "request_id": sent.request_id,
            "client": (scope.get("client") or (None,))[0],
            "key": state.get("key"),
            "method": method,
            "path": scope["path"][:LONGEST],
            "query": without_secrets(scope["query_string"])[:LONGEST],
            "status": status,
            "bytes": sent.n_bytes,
            "seconds": round(seconds, 6),
        }
        if "refused" in state:
            fields["refused"] = state["refused"]
        self._on_event(Event("request_done", fields))


class _Sent:
    """Sends, and remembers what was sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.n_bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] in STATUSES and self.status is None:
            self.status = STATUSES[message["type"]] or message["status"]
            message.setdefault("headers", [])
            add_headers(MutableHeaders(scope=message), self.request_id)
        self.n_bytes += _size(message)
        await self._send(message)


def request_id(given: str | None) -> str:
    """Return the id that a request came with if it is a sane one, else a new one."""
    if given is not None and SANE_ID.fullmatch(given) is not None:
        return given
    return uuid.uuid4().hex


def without_secrets(query: bytes) -> str:
    """Return a query string in which the values of what may be secrets are not shown."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([(name, "***" if SECRET.search(name) else value) for name, value in pairs])


def add_headers(headers: MutableHeaders, request_id: str) -> None:
    """Add the request's id, and what keeps a browser from making more of an answer than it is."""
    headers["X-Request-Id"] = request_id
    for name, value in ALWAYS.items():
        headers.setdefault(name, value)
    if not headers.get("content-type", "").startswith("text/html"):
        headers.setdefault(POLICY, NOTHING_INSIDE)


def _size(message: Message) -> int:
    body: Any = message.get("body") or message.get("text") or message.get("bytes") or b""
    return len(body)


def _route(scope: Scope) -> str:
    """A path as it is declared: metrics of paths as they are sent would have no end."""
    return getattr(scope.get("route"), "path", "other")
