"""The live stream: trades and quotes over a WebSocket, as they arrive in Kafka."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from k2lib.api.health import ApiMetrics
from k2lib.api.limits import Rates, busy
from k2lib.api.live.clients import (
    GOING_AWAY,
    POLICY,
    SCHEMAS,
    Asked,
    AskedError,
    Client,
    Wanted,
    asked,
    wanted,
)
from k2lib.api.live.reader import Live, State, Told
from k2lib.api.options import Options
from k2lib.api.security import Refused
from k2lib.kafka.source import FindLog

GRACE_S: Final = 2.0


class Streams:
    """All connections of the live stream, and the one reader of Kafka behind them.

    The reader starts with the first connection and ends with the last. All in one event loop.
    """

    def __init__(
        self, find_log: FindLog, *, options: Options, metrics: ApiMetrics, rates: Rates
    ) -> None:
        self._find_log = find_log
        self._options = options
        self._metrics = metrics
        self._rates = rates
        self._clients: set[Client] = set()
        self._listeners: dict[Wanted, set[Client]] = {}
        self._waiting: list[tuple[int, Client]] = []
        self._live: Live | None = None
        self._lives: list[Live] = []
        self._state: State | None = None
        self._is_over = False
        self._empty = asyncio.Event()

    def check_room(self) -> None:
        """Refuse one more connection where there are enough.

        Raises:
            Refused: there are.
        """
        if self._is_over or len(self._clients) >= self._options.stream_clients:
            raise busy(f"{self._options.stream_clients} clients listen already, as many as may")

    async def serve(self, websocket: WebSocket, begin: Asked) -> None:
        """Serve one connection until it ends."""
        self.check_room()
        client = Client(queue_bytes=self._options.stream_queue_bytes)
        self._join(client)
        try:
            with suppress(WebSocketDisconnect):
                await websocket.accept()
                self._change(client, begin)
                await self._talk(websocket, client)
        finally:
            self._leave(client)

    async def end(self) -> None:
        """Tell all that the server ends, wait until they are gone, and end the reader."""
        self._is_over = True
        for client in self._clients:
            client.end(GOING_AWAY)
        if self._clients:
            self._empty.clear()
            await self._empty.wait()
        lives, self._lives = self._lives, []
        for live in lives:
            await run_in_threadpool(live.close)

    async def _talk(self, websocket: WebSocket, client: Client) -> None:
        sending = asyncio.create_task(self._send(websocket, client))
        receiving = asyncio.create_task(self._receive(websocket, client))
        ending = asyncio.create_task(client.ended.wait())
        tasks = (sending, receiving, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if client.close is not None:
                await asyncio.wait([sending], timeout=GRACE_S)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            if client.close is not None and sending.cancelled():
                _abort(websocket)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect):
                raise end

    async def _send(self, websocket: WebSocket, client: Client) -> None:
        while True:
            try:
                async with asyncio.timeout(self._options.heartbeat_s):
                    text = await client.next()
            except TimeoutError:
                client.tell(type="heartbeat", time=_now())
                continue
            if text is None:
                await websocket.close(*(client.close or GOING_AWAY))
                return
            await websocket.send_text(text)

    async def _receive(self, websocket: WebSocket, client: Client) -> None:
        name = websocket.scope["state"]["rated"]
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if self._rates.take(name) > 0:
                client.end(POLICY)
                return
            self._take(client, message.get("text"))

    def _take(self, client: Client, text: str | None) -> None:
        try:
            self._change(client, asked(text or ""))
        except AskedError as exc:
            client.tell(type="error", detail=str(exc))

    def _change(self, client: Client, asked: Asked) -> None:
        new = (client.wanted - asked.less) | asked.more
        most = self._options.stream_symbols
        if len(new) > most:
            detail = f"{len(new)} subscriptions: {most} at most on one connection"
            client.tell(type="error", detail=detail)
            return
        self._listen(client, new)
        if self._live is None:
            return
        version = self._live.want(frozenset(self._listeners))
        if self._state is None or self._state.live:
            self._waiting.append((version, client))
        else:
            client.tell(**_subscribed(client, self._state))

    def _listen(self, client: Client, new: frozenset[Wanted]) -> None:
        for one in client.wanted - new:
            self._listeners[one].discard(client)
            if not self._listeners[one]:
                del self._listeners[one]
        for one in new - client.wanted:
            self._listeners.setdefault(one, set()).add(client)
        client.wanted = new

    def _join(self, client: Client) -> None:
        self._clients.add(client)
        self._metrics.stream_clients.inc()
        if self._live is None:
            loop = asyncio.get_running_loop()
            self._live = Live(self._find_log, lambda live, told: self._tell(loop, live, told))
            self._lives = [one for one in self._lives if one.lives] + [self._live]

    def _leave(self, client: Client) -> None:
        self._listen(client, frozenset())
        self._waiting = [one for one in self._waiting if one[1] is not client]
        self._clients.discard(client)
        self._metrics.stream_clients.dec()
        if client.is_slow:
            self._metrics.stream_cut.inc()
        if not self._clients and self._live is not None:
            self._live.stop()
            self._live = self._state = None
            self._empty.set()

    def _tell(self, loop: asyncio.AbstractEventLoop, live: Live, told: Told) -> None:
        """In the reader's thread."""
        try:
            loop.call_soon_threadsafe(self._heard, live, told)
        except RuntimeError:  # the loop is closed: nobody listens any more
            live.stop()

    def _heard(self, live: Live, told: Told) -> None:
        live.handled()
        if live is not self._live:
            return
        if isinstance(told, State):
            self._answer(told)
            self._tell_state(told)
            return
        for frame in told:
            self._metrics.stream_records.inc(frame.rows)
            for client in self._listeners.get(frame.of, ()):
                client.give(frame)

    def _answer(self, state: State) -> None:
        for version, client in self._waiting:
            if version <= state.version:
                client.tell(**_subscribed(client, state))
        self._waiting = [one for one in self._waiting if one[0] > state.version]

    def _tell_state(self, state: State) -> None:
        before, self._state = self._state, state
        if before is None or (before.live == state.live and not state.missed):
            return
        for client in self._clients:
            client.tell(**_status(state))


def stream_router(streams: Streams) -> APIRouter:
    """Return the path of the live stream."""
    router = APIRouter()

    @router.websocket("/v1/stream")
    async def stream(
        websocket: WebSocket,
        symbols: Annotated[str, Query()] = "",
        kinds: Annotated[str, Query()] = "trades",
    ) -> None:
        try:
            begin = Asked(more=wanted(_split(symbols), _split(kinds)))
        except AskedError as exc:
            raise Refused(400, "asked", str(exc)) from None
        await streams.serve(websocket, begin)

    return router


def _subscribed(client: Client, state: State) -> dict[str, Any]:
    """Everything that reaches Kafka after this message is sent to the client."""
    of: dict[str, list[str]] = {kind: [] for kind in SCHEMAS}
    for one in sorted(client.wanted):
        of[one.kind].append(f"{one.exchange}:{one.symbol}")
    return {"type": "subscribed", **of, "live": state.live, **_reason(state)}


def _status(state: State) -> dict[str, Any]:
    told = {"type": "status", "live": state.live, **_reason(state)}
    return {**told, "missed": state.missed} if state.live else told


def _reason(state: State) -> dict[str, str]:
    return {} if state.reason is None else {"reason": state.reason}


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _abort(websocket: WebSocket) -> None:
    """Let go of a connection whose client takes nothing, where the server can do that."""
    abort = websocket.scope["state"].get("abort")
    if abort is not None:
        abort()
