"""The edge of the HTTP API: what every request passes before it is answered."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from k2lib.api.access_log import AccessLog, log_request
from k2lib.api.health import ApiMetrics, health_router
from k2lib.api.limits import Open, Rates, Turn, Turns, client_of
from k2lib.api.live.stream import Streams, stream_router
from k2lib.api.options import Options
from k2lib.api.problems import problem
from k2lib.api.security import (
    Refused,
    check_content_type,
    check_key,
    check_loopback,
    check_origin,
    key_name,
)
from k2lib.client import K2
from k2lib.events import OnEvent
from k2lib.query.engine import Engine


def check_url(scope: Scope, longest: int) -> None:
    """Refuse a path and query of too many bytes.

    Raises:
        Refused: it is longer.
    """
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > longest:
        raise Refused(414, "url", f"a URL of {size} bytes: send {longest} at most")


def has_body(headers: Headers) -> bool:
    """Say whether a request comes with a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def read_body(
    receive: Receive, headers: Headers, *, longest: int, within_s: float
) -> bytes | None:
    """Return a request's whole body; None where the client left.

    Raises:
        Refused: it is longer, or takes too long to arrive.
    """
    said = headers.get("content-length", "0")
    if said.isdigit() and int(said) > longest:
        raise _too_large(longest)
    try:
        async with asyncio.timeout(within_s):
            return await _collected(receive, longest)
    except TimeoutError:
        raise Refused(
            408,
            "body",
            f"the body did not arrive within {within_s:g} s: send it at once",
            headers={"Connection": "close"},
        ) from None


def with_body(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body that was read, and then what the client does."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def _collected(receive: Receive, longest: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > longest:
            raise _too_large(longest)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(longest: int) -> Refused:
    return Refused(
        413,
        "body",
        f"the body is larger than {longest} bytes: ask for less at a time",
        headers={"Connection": "close"},
    )


OPEN_TO_ALL: Final = "/health"
QUERIES: Final = "/v1/"
EXPOSED: Final = (
    "X-Request-Id", "ETag", "Retry-After", "Link", "X-K2-Complete-To", "X-K2-Next",
)  # fmt: skip


def add_edge(
    app: FastAPI,
    *,
    k2: K2,
    engine: Engine,
    options: Options,
    on_event: OnEvent = log_request,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Put an application behind its edge, and add health, metrics and the live stream.

    To be called after all other middlewares were added: what is added last is passed first.
    """
    metrics = ApiMetrics()
    rates = Rates(options.rate_per_s, options.burst, clock=clock)
    streams = Streams(k2.find_log, options=options, metrics=metrics, rates=rates)
    app.state.streams = streams
    app.include_router(health_router(k2, metrics))
    app.include_router(stream_router(streams))
    app.add_middleware(Gate, options=options, metrics=metrics, rates=rates)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-Id"],
            expose_headers=EXPOSED,
        )
    app.add_middleware(AccessLog, metrics=metrics, on_event=on_event)


class Gate:
    """Lets a request pass that is allowed, within its limits, and gives it its turn."""

    def __init__(
        self, app: ASGIApp, *, options: Options, metrics: ApiMetrics, rates: Rates
    ) -> None:
        self._app = app
        self._options = options
        self._metrics = metrics
        self._rates = rates
        self._turns = Turns(options.concurrency, wait_s=options.wait_s)
        self._open = Open(options.open_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with a problem document."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
            await self._admit(scope, receive, send)
        except Refused as exc:
            scope["state"]["refused"] = exc.reason
            self._metrics.rejected.labels(exc.reason).inc()
            refusal = problem(exc.status, exc.detail, headers=exc.headers)
            await refusal(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        keys = self._options.keys
        if not keys:
            check_loopback(headers, (scope.get("client") or (None,))[0])
        check_url(scope, self._options.max_url_bytes)
        name = scope["state"]["key"] = key_name(headers, keys)
        if scope["path"] == OPEN_TO_ALL:
            return
        rated = scope["state"]["rated"] = f"key {name}" if name else client_of(scope)
        self._rates.check(rated)
        check_key(name, keys)
        if not keys:
            check_origin(headers, self._options.cors_origins)
        check_content_type(scope.get("method", ""), headers)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or not scope["path"].startswith(QUERIES):
            await self._app(scope, receive, send)
            return
        key = scope["state"]["key"]
        with self._open.one(key):
            given = await self._body(scope, receive)
            if given is None:
                return
            turn = await self._turns.begin(*_shares(scope))
            try:
                await self._app(scope, given, _until_answered(send, turn))
            finally:
                turn.end()

    async def _body(self, scope: Scope, receive: Receive) -> Receive | None:
        """Read it before the turn begins: who sends slowly keeps nobody waiting."""
        headers = Headers(scope=scope)
        if not has_body(headers):
            return receive
        options = self._options
        body = await read_body(
            receive, headers, longest=options.max_body_bytes, within_s=options.body_s
        )
        return None if body is None else with_body(body, receive)


def _shares(scope: Scope) -> list[str]:
    """Whose half of the turns a request takes: its key's, and where it can be heavy the POSTs'."""
    posts = ["POST"] if scope["method"] == "POST" else []
    return posts if scope["state"]["key"] is None else [*posts, scope["state"]["rated"]]


def _until_answered(send: Send, turn: Turn) -> Send:
    """End the turn with the first of an answer: who reads slowly keeps nobody waiting."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            turn.end()
        await send(message)

    return sending
