"""What a host answers over HTTP: stream connections, REST, archive and control."""

import asyncio
import json
from pathlib import Path

from aiohttp import web

from k2lib.errors import ConfigError
from k2lib.simulator.binance.faults import FAULTS, Options
from k2lib.simulator.binance.floor import Floor
from k2lib.simulator.binance.host import Host
from k2lib.simulator.binance.limits import Refusal
from k2lib.simulator.binance.rest import Request, weight_of
from k2lib.simulator.binance.rest import answer as rest_answer
from k2lib.simulator.binance.rest_parameters import RestError
from k2lib.simulator.binance.streams import Handler, accept, loopback_only, routes, serve

BINANCE_SIM = "BINANCE_SIM"
HEADER = "X-K2-Exchange"
_MICROS = "microsecond"
_WEIGHT = "X-MBX-USED-WEIGHT-1M"
_BODIES = {
    418: {"code": -1003, "msg": "Way too many requests; IP banned."},
    429: {"code": -1003, "msg": "Too many requests; wait before the next one."},
    451: {"code": 0, "msg": "Service unavailable from a restricted location."},
}


def application(host: Host, floor: Floor) -> web.Application:
    """Return the application of one host."""
    desk = _Desk(host, floor)
    app = web.Application(middlewares=[loopback_only, desk.refuse])
    app.on_response_prepare.append(_sign)
    app.add_routes(
        [
            *routes(desk.stream),
            web.get("/api/v3/{name:.*}", desk.rest),
            web.get("/data/spot/{path:.*}", desk.file),
            web.get("/control/truth", desk.truth),
            web.get("/control/faults", desk.faults),
            web.post("/control/faults", desk.befall),
        ]
    )
    return app


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[HEADER] = BINANCE_SIM


class _Desk:
    """The handlers of one host."""

    def __init__(self, host: Host, floor: Floor) -> None:
        self._host = host
        self._floor = floor

    @web.middleware
    async def refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what a fault refuses, and who tries too often."""
        kind = _kind(request)
        now = self._floor.now()
        refusal = self._refusal(kind, now)
        if refusal is not None:
            return _refused(refusal)
        if kind == "ws" and not self._host.attempts.allows(now):
            return _refused(Refusal(429, int(self._host.limits.attempts_s)))
        return await handler(request)

    def _refusal(self, kind: str, now: float) -> Refusal | None:
        held = self._host.conditions.find("refuse", now=now)
        if held is None or not held.options.get(kind):
            return None
        self._host.conditions.use("refuse", now=now)
        told = held.options["retry_after_s"]
        left = 1.0 if held.ends_at is None else held.ends_at - now
        return Refusal(held.options["status"], max(1, round(left if told is None else told)))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Open a stream connection and serve it until it ends."""
        opened_at = self._floor.now()
        symbols = frozenset(self._host.market.books)
        ws, connection = await accept(request, symbols, limits=self._host.limits, now=opened_at)
        self._host.admit(connection, now=opened_at)
        try:
            await serve(ws, connection, clock=self._floor.now)
        finally:
            self._host.connections.discard(connection)
        return ws

    async def rest(self, request: web.Request) -> web.Response:
        """Answer a REST request, unless it is one too many."""
        name, now = request.match_info["name"], self._floor.now()
        weights = self._floor.weights
        refusal = weights.take(weight_of(name, request.query), now=now)
        response = _refused(refusal) if refusal else self._answer(name, request, now)
        response.headers[_WEIGHT] = str(weights.used)
        return response

    def _answer(self, name: str, request: web.Request, now: float) -> web.Response:
        conditions = self._host.conditions
        missing = conditions.find("rest_missing", now=now)
        asked = Request(
            self._host.market,
            request.query,
            int(now * 1e6),
            micros=request.headers.get("X-MBX-TIME-UNIT", "").lower() == _MICROS,
            weight_per_minute=self._host.limits.weight_per_minute,
            missing=None if missing is None else missing.options,
            market_data_only=conditions.find("market_data_only", now=now) is not None,
        )
        try:
            text = rest_answer(name, asked)
        except RestError as exc:
            if exc.status >= 500:
                conditions.use("rest_missing", now=now)
            return web.json_response(exc.body, status=exc.status)
        return web.Response(text=text, content_type="application/json")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Give out a file of the archive, whole or damaged as the faults have it."""
        path, now = request.match_info["path"], self._floor.now()
        conditions = self._host.conditions
        found: Path | None = await asyncio.to_thread(self._floor.archive.file, path, now)
        if found is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        content = await asyncio.to_thread(found.read_bytes)
        if path.endswith(".CHECKSUM"):
            if conditions.use("archive_checksum", now=now):
                content = b"0" * 64 + content[64:]
        elif conditions.use("archive_truncated", now=now):
            content = content[: len(content) // 2]
        return web.Response(body=content, content_type="application/octet-stream")

    async def truth(self, _request: web.Request) -> web.Response:
        """Tell which ids were made."""
        return web.json_response(self._floor.truths())

    async def faults(self, _request: web.Request) -> web.Response:
        """Tell which faults there are, and which hold."""
        return web.json_response({"active": self._floor.state(), "known": dict(FAULTS)})

    async def befall(self, request: web.Request) -> web.Response:
        """Let the fault happen that the body names."""
        if request.content_type != "application/json":
            return web.json_response({"error": "send application/json"}, status=415)
        try:
            name, host, options = _asked(await request.text())
            self._floor.befall(name, host, options)
        except ConfigError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        return web.json_response({"active": self._floor.state()})


def _asked(text: str) -> tuple[str, int | None, Options]:
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


def _refused(refusal: Refusal) -> web.Response:
    body = _BODIES.get(refusal.status)
    if body is None:
        response = web.Response(status=refusal.status, text="<html>no</html>")
    else:
        response = web.json_response(body, status=refusal.status)
    if refusal.status in (418, 429):
        response.headers["Retry-After"] = str(refusal.retry_after_s)
    return response
