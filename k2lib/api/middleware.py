"""The middleware of the HTTP API: access, limits, CORS and the access log."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from k2lib.api.access_log import AccessLogMiddleware, log_request
from k2lib.api.limiters import (
    OpenRequestLimiter,
    QueryLimiter,
    QuerySlot,
    RateLimiter,
    client_network,
)
from k2lib.api.live.stream import LiveStream, stream_router
from k2lib.api.metrics import ApiMetrics
from k2lib.api.options import ApiOptions
from k2lib.api.problems import problem
from k2lib.api.routes.health import health_router
from k2lib.api.security import (
    RequestRejectedError,
    check_key,
    check_loopback,
    check_origin,
    key_name,
)
from k2lib.client import K2
from k2lib.events import OnEvent
from k2lib.query.engine import Engine


def check_url(scope: Scope, max_bytes: int) -> None:
    """Refuse a path and query of too many bytes.

    Raises:
        RequestRejectedError: 414, it is longer.
    """
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size > max_bytes:
        raise RequestRejectedError(414, "url", f"a URL of {size} bytes: send {max_bytes} at most")


def has_body(headers: Headers) -> bool:
    """Return whether a request comes with a body."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


async def read_body(
    receive: Receive, headers: Headers, *, max_bytes: int, within_s: float
) -> bytes | None:
    """Return a request's whole body; None where the client left.

    Raises:
        RequestRejectedError: it is longer, or takes too long to arrive.
    """
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(within_s):
            return await _collected(receive, max_bytes)
    except TimeoutError:
        raise RequestRejectedError(
            408,
            "body",
            f"the body did not arrive within {within_s:g} s: send it at once",
            headers={"Connection": "close"},
        ) from None


def with_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, and then what the client sends."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again


async def _collected(receive: Receive, max_bytes: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(max_bytes: int) -> RequestRejectedError:
    return RequestRejectedError(
        413,
        "body",
        f"the body is larger than {max_bytes} bytes: ask for less at a time",
        headers={"Connection": "close"},
    )


PUBLIC_PATH: Final = "/health"
QUERY_PREFIX: Final = "/v1/"
EXPOSED_HEADERS: Final = (
    "X-Request-Id", "ETag", "Retry-After", "Link", "X-K2-Complete-To", "X-K2-Next",
    "X-K2-Market", "RateLimit", "RateLimit-Policy",
)  # fmt: skip


def add_middleware(
    app: FastAPI,
    *,
    k2: K2,
    options: ApiOptions,
    engine: Engine | None = None,
    on_event: OnEvent = log_request,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Add the middleware, and the routes with its state: health, metrics, live stream.

    Call it after all other middleware is added: the last one added comes first.
    """
    metrics = ApiMetrics()
    rate_limiter = RateLimiter(options.rate_per_s, options.burst, clock=clock)
    live_stream = LiveStream(
        k2.find_log,
        engine=k2.engine if engine is None else engine,
        options=options,
        metrics=metrics,
        rate_limiter=rate_limiter,
    )
    app.state.live_stream = live_stream
    app.state.options = options
    app.include_router(health_router(k2, metrics))
    app.include_router(stream_router(live_stream))
    app.add_middleware(HeadMiddleware)
    app.add_middleware(
        AccessMiddleware, options=options, metrics=metrics, rate_limiter=rate_limiter
    )
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-Id"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(AccessLogMiddleware, metrics=metrics, keys=options.keys, on_event=on_event)


class HeadMiddleware:
    """Answers a HEAD as the GET of its path, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        get = {**scope, "method": "GET"}
        try:
            await self._app(get, receive, _without_body(send))
        finally:
            scope["route"] = get.get("route")


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await send({**message, "body": b""} if is_body else message)

    return send_head


class AccessMiddleware:
    """Checks each request's access and limits, and starts its query once a slot is free."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        options: ApiOptions,
        metrics: ApiMetrics,
        rate_limiter: RateLimiter,
    ) -> None:
        self._app = app
        self._options = options
        self._metrics = metrics
        self._rate_limiter = rate_limiter
        self._query_limiter = QueryLimiter(options.concurrency, wait_s=options.wait_s)
        self._open_requests = OpenRequestLimiter(options.open_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with a problem document."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        send = self._with_rate(scope, send)
        try:
            self._check(scope, Headers(scope=scope))
            await self._admit(scope, receive, send)
        except RequestRejectedError as exc:
            scope["state"]["refused"] = exc.reason
            self._metrics.rejected.labels(exc.reason).inc()
            refusal = problem(exc.status, exc.detail, headers=exc.headers)
            await refusal(scope, receive, send)

    def _with_rate(self, scope: Scope, send: Send) -> Send:
        """Say in each answer to a client with a rate how much of it is left."""

        async def send_with_rate(message: Message) -> None:
            client = scope["state"].get("rate_client")
            if client is not None and message["type"].endswith("http.response.start"):
                message.setdefault("headers", [])
                MutableHeaders(scope=message).update(self._rate_limiter.headers(client))
            await send(message)

        return send_with_rate

    def _check(self, scope: Scope, headers: Headers) -> None:
        keys = self._options.keys
        if not keys:
            check_loopback(headers, (scope.get("client") or (None,))[0])
        check_url(scope, self._options.max_url_bytes)
        name = scope["state"]["key"] = key_name(headers, keys)
        if scope["path"] == PUBLIC_PATH:
            return
        client = scope["state"]["rate_client"] = f"key {name}" if name else client_network(scope)
        self._rate_limiter.check(client)
        check_key(name, keys)
        if not keys:
            check_origin(headers, self._options.cors_origins)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or not scope["path"].startswith(QUERY_PREFIX):
            await self._app(scope, receive, send)
            return
        client = scope["state"]["rate_client"]
        with self._open_requests.open(client):
            with_whole_body = await self._read_body(scope, receive)
            if with_whole_body is None:
                return
            slot = await self._query_limiter.acquire(*_groups(scope), client=client)
            try:
                await self._app(scope, with_whole_body, _releasing(send, slot))
            finally:
                slot.release()

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive | None:
        """Read it before the query gets its slot: a slow sender delays nobody else."""
        headers = Headers(scope=scope)
        if not has_body(headers):
            return receive
        options = self._options
        body = await read_body(
            receive, headers, max_bytes=options.max_body_bytes, within_s=options.body_s
        )
        return None if body is None else with_body(body, receive)


def _groups(scope: Scope) -> list[str]:
    """The groups whose half of the slots a request takes: its key's, and the POSTs'."""
    posts = ["POST"] if scope["method"] == "POST" else []
    return posts if scope["state"]["key"] is None else [*posts, scope["state"]["rate_client"]]


def _releasing(send: Send, slot: QuerySlot) -> Send:
    """Release the slot when the answer starts: a slow reader delays nobody else."""

    async def send_and_release(message: Message) -> None:
        if message["type"] == "http.response.start":
            slot.release()
        await send(message)

    return send_and_release
