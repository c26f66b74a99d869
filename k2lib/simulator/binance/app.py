"""The HTTP application of a host: stream connections, REST, archive and control."""

import asyncio
import json
from pathlib import Path

from aiohttp import web

from k2lib.errors import ConfigError
from k2lib.simulator.binance.engine import ExchangeEngine, ExchangeHost
from k2lib.simulator.binance.faults import FAULTS, FaultOptions
from k2lib.simulator.binance.limits import Rejection
from k2lib.simulator.binance.rest import is_long, rest_body, weight_of
from k2lib.simulator.binance.rest_request import RestError, RestRequest
from k2lib.simulator.binance.stream_server import Handler, check_host, stream_routes

BINANCE_SIM = "BINANCE_SIM"
HEADER = "X-K2-Exchange"
_MICROS = "microsecond"
_WEIGHT = "X-MBX-USED-WEIGHT-1M"
_BODIES = {
    418: {"code": -1003, "msg": "Way too many requests; IP banned."},
    429: {"code": -1003, "msg": "Too many requests; wait before the next one."},
    451: {"code": 0, "msg": "Service unavailable from a restricted location."},
}


def application(host: ExchangeHost, engine: ExchangeEngine) -> web.Application:
    """Return the application of one host."""
    handlers = _Handlers(host, engine)
    app = web.Application(middlewares=[check_host(host.host), handlers.reject])
    app.on_response_prepare.append(_add_exchange)
    app.add_routes(
        [
            *stream_routes(handlers.stream),
            web.get("/api/v3/{name:.*}", handlers.rest),
            # There are no futures here; clients that look for all markets see that.
            web.get("/fapi/v1/exchangeInfo", handlers.no_futures),
            web.get("/dapi/v1/exchangeInfo", handlers.no_futures),
            web.get("/data/spot/{path:.*}", handlers.file),
            web.get("/control/truth", handlers.truth),
            web.get("/control/faults", handlers.faults),
            web.post("/control/faults", handlers.inject_fault),
        ]
    )
    return app


async def _add_exchange(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[HEADER] = BINANCE_SIM


class _Handlers:
    """The handlers of one host."""

    def __init__(self, host: ExchangeHost, engine: ExchangeEngine) -> None:
        self._host = host
        self._engine = engine

    @web.middleware
    async def reject(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject requests that a fault refuses, and too many connection attempts."""
        kind = _kind(request)
        now = self._engine.now()
        rejection = self._rejection_by_fault(kind, now)
        if rejection is not None:
            return _rejected(rejection)
        if kind == "ws" and not self._host.attempts.allows(now):
            return _rejected(Rejection(429, int(self._host.limits.attempts_s)))
        return await handler(request)

    def _rejection_by_fault(self, kind: str, now: float) -> Rejection | None:
        fault = self._host.active_faults.find("refuse", now=now)
        if fault is None or not fault.options.get(kind):
            return None
        self._host.active_faults.use("refuse", now=now)
        retry_after_s = fault.options["retry_after_s"]
        if retry_after_s is None:
            retry_after_s = 1.0 if fault.ends_at is None else fault.ends_at - now
        return Rejection(fault.options["status"], max(1, round(retry_after_s)))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Open a stream connection and serve it until it ends."""
        symbols = frozenset(self._host.market.instruments)
        return await self._host.stream(
            request, symbols, limits=self._host.limits, clock=self._engine.now
        )

    async def rest(self, request: web.Request) -> web.Response:
        """Answer a REST request, unless its weight exceeds the limit."""
        name, now = request.match_info["name"], self._engine.now()
        weights = self._engine.weights
        rejection = weights.take(weight_of(name, request.query), now=now)
        response = _rejected(rejection) if rejection else await self._answer(name, request, now)
        response.headers[_WEIGHT] = str(weights.used)
        return response

    async def _answer(self, name: str, request: web.Request, now: float) -> web.Response:
        active_faults = self._host.active_faults
        missing = active_faults.find("rest_missing", now=now)
        rest_request = RestRequest(
            self._host.market,
            request.query,
            int(now * 1e6),
            micros=request.headers.get("X-MBX-TIME-UNIT", "").lower() == _MICROS,
            weight_per_minute=self._host.limits.weight_per_minute,
            summaries=self._engine.summaries,
            missing=None if missing is None else missing.options,
            market_data_only=active_faults.find("market_data_only", now=now) is not None,
        )
        try:
            if is_long(name):
                text = await asyncio.to_thread(rest_body, name, rest_request)
            else:
                text = rest_body(name, rest_request)
        except RestError as exc:
            if exc.status >= 500:
                active_faults.use("rest_missing", now=now)
            return web.json_response(exc.body, status=exc.status)
        return web.Response(text=text, content_type="application/json")

    async def no_futures(self, _request: web.Request) -> web.Response:
        """Return a list of futures without any."""
        return web.json_response({"timezone": "UTC", "rateLimits": [], "symbols": []})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return a file of the archive, damaged if a fault says so."""
        path, now = request.match_info["path"], self._engine.now()
        active_faults = self._host.active_faults
        found: Path | None = await asyncio.to_thread(self._engine.archive.file, path, now)
        if found is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        content = await asyncio.to_thread(found.read_bytes)
        if path.endswith(".CHECKSUM"):
            if active_faults.use("archive_checksum", now=now):
                content = b"0" * 64 + content[64:]
        elif active_faults.use("archive_truncated", now=now):
            content = content[: len(content) // 2]
        return web.Response(body=content, content_type="application/octet-stream")

    async def truth(self, _request: web.Request) -> web.Response:
        """Return the ids made so far."""
        return web.json_response(self._engine.truths())

    async def faults(self, _request: web.Request) -> web.Response:
        """Return the faults there are, and the active ones."""
        return web.json_response({"active": self._engine.active_faults(), "known": dict(FAULTS)})

    async def inject_fault(self, request: web.Request) -> web.Response:
        """Cause the fault that the body names."""
        if request.content_type != "application/json":
            return web.json_response({"error": "send application/json"}, status=415)
        try:
            name, host, options = _parse_fault(await request.text())
            self._engine.inject_fault(name, host, options)
        except ConfigError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        return web.json_response({"active": self._engine.active_faults()})


def _parse_fault(text: str) -> tuple[str, int | None, FaultOptions]:
    try:
        body = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"not JSON ({exc}): send an object such as {{'name': 'cut'}}") from exc
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise ConfigError("no fault named: send an object such as {'name': 'cut', 'host': 0}")
    return body.pop("name"), body.pop("host", None), body


def _kind(request: web.Request) -> str:
    top = request.path.split("/")[1]
    return {"ws": "ws", "stream": "ws", "api": "rest"}.get(top, "")


def _rejected(rejection: Rejection) -> web.Response:
    body = _BODIES.get(rejection.status)
    if body is None:
        response = web.Response(status=rejection.status, text="<html>no</html>")
    else:
        response = web.json_response(body, status=rejection.status)
    if rejection.status in (418, 429):
        response.headers["Retry-After"] = str(rejection.retry_after_s)
    return response
