"""The live stream: trades and quotes over a WebSocket, as they arrive in Kafka."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, WebSocket
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from k2lib.api.limiters import RateLimiter, busy_error, share
from k2lib.api.live.clients import (
    GOING_AWAY,
    POLICY,
    UNCHANGED,
    UNKNOWN,
    Frame,
    StreamClient,
    Subscription,
    SubscriptionChange,
    SubscriptionError,
    by_kind,
    parse_address,
    parse_message,
)
from k2lib.api.live.reader import LiveReader, ReaderState, ReaderUpdate
from k2lib.api.metrics import ApiMetrics
from k2lib.api.options import ApiOptions
from k2lib.api.security import RequestRejectedError
from k2lib.errors import K2Error
from k2lib.kafka.cluster import FindLog
from k2lib.query.engine import Engine

GRACE_S: Final = 2.0
TABLES: Final = {"trades": "trades_v2", "quotes": "quotes_v2"}
Updates = asyncio.Queue[ReaderUpdate]


class LiveStream:
    """All connections of the live stream, and the one reader of Kafka behind them.

    The reader starts with the first connection and ends with the last. It lives in the event
    loop of the server.
    """

    def __init__(
        self,
        find_log: FindLog,
        *,
        engine: Engine,
        options: ApiOptions,
        metrics: ApiMetrics,
        rate_limiter: RateLimiter,
    ) -> None:
        self._find_log = find_log
        self._engine = engine
        # A client may name hundreds of instruments: they are looked for one client at a time.
        self._lookup = asyncio.Lock()
        self._options = options
        self._metrics = metrics
        self._rate_limiter = rate_limiter
        self._clients: set[StreamClient] = set()
        self._subscribers: dict[Subscription, set[StreamClient]] = {}
        self._unconfirmed: list[tuple[int, StreamClient]] = []
        self._reader: LiveReader | None = None
        self._readers: list[LiveReader] = []
        self._delivery: asyncio.Task[None] | None = None
        self._state: ReaderState | None = None
        self._is_ending = False
        self._all_left = asyncio.Event()

    def check_room(self, rate_client: str) -> None:
        """Refuse one more connection where there are as many as allowed, in all or of one client.

        Raises:
            RequestRejectedError: 503, there are as many as allowed.
        """
        limit = self._options.stream_clients
        if self._is_ending or len(self._clients) >= limit:
            raise busy_error(f"{limit} clients listen already, as many as may")
        if sum(one.rate_client == rate_client for one in self._clients) >= share(limit):
            raise busy_error(f"{share(limit)} of {limit} clients are yours already: end some")

    async def serve(self, websocket: WebSocket, first: SubscriptionChange) -> None:
        """Serve one connection until it ends."""
        rate_client = websocket.scope["state"]["rate_client"]
        self.check_room(rate_client)
        client = StreamClient(
            rate_client,
            queue_bytes=self._options.stream_queue_bytes,
            stall_s=self._options.stream_stall_s,
            wait_s=self._options.stream_wait_s,
        )
        self._join(client)
        try:
            with suppress(WebSocketDisconnect):
                await websocket.accept()
                self._change(client, first)
                await self._exchange(websocket, client)
        finally:
            self._leave(client)

    async def end(self) -> None:
        """Close all connections, wait until they are gone, and end the reader."""
        self._is_ending = True
        for client in self._clients:
            client.end(GOING_AWAY)
        if self._clients:
            self._all_left.clear()
            await self._all_left.wait()
        readers, self._readers = self._readers, []
        for reader in readers:
            await run_in_threadpool(reader.close)

    async def _exchange(self, websocket: WebSocket, client: StreamClient) -> None:
        sending = asyncio.create_task(self._send(websocket, client))
        receiving = asyncio.create_task(self._receive(websocket, client))
        checking = asyncio.create_task(self._name_unknown(client))
        ending = asyncio.create_task(client.closing.wait())
        tasks = (sending, receiving, checking, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if client.close is not None:
                await asyncio.wait([sending], timeout=GRACE_S)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            if client.close is not None and sending.cancelled():
                _abort(websocket)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                raise result

    async def _send(self, websocket: WebSocket, client: StreamClient) -> None:
        while True:
            try:
                async with asyncio.timeout(self._options.heartbeat_s):
                    text = await client.next()
            except TimeoutError:
                client.send_message(type="heartbeat", time=_now())
                continue
            if text is None:
                await websocket.close(*(client.close or GOING_AWAY))
                return
            await websocket.send_text(text)

    async def _receive(self, websocket: WebSocket, client: StreamClient) -> None:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if self._rate_limiter.take(client.rate_client) > 0:
                client.end(POLICY)
                return
            self._handle(client, message.get("text"))

    def _handle(self, client: StreamClient, text: str | None) -> None:
        try:
            self._change(client, parse_message(text or ""))
        except SubscriptionError as exc:
            client.send_message(type="error", detail=f"{exc}; {UNCHANGED}")

    async def _name_unknown(self, client: StreamClient) -> None:
        """Say of new subscriptions which instruments have no record."""
        while True:
            added = await client.added()
            async with self._lookup:
                unknown = await run_in_threadpool(self._without_records, added)
            if unknown:
                client.send_message(type="unknown", **by_kind(unknown), detail=UNKNOWN)

    def _without_records(self, added: Sequence[Subscription]) -> list[Subscription]:
        try:
            views = {kind: self._engine.table_view(TABLES[kind]) for kind, _, _ in added}
            return [
                one
                for one in added
                if one.exchange not in self._engine.venues(views[one.kind], one.symbol)
            ]
        except K2Error:  # what cannot be read is not said to be unknown
            return []

    def _change(self, client: StreamClient, change: SubscriptionChange) -> None:
        new = (client.subscriptions - change.removed) | change.added
        limit = self._options.stream_symbols
        if len(new) > limit:
            detail = f"{len(new)} subscriptions: {limit} at most on one connection; {UNCHANGED}"
            client.send_message(type="error", detail=detail)
            return
        self._subscribe(client, new)
        if self._reader is None:
            return
        version = self._reader.subscribe(frozenset(self._subscribers))
        if self._state is None or self._state.live:
            self._unconfirmed.append((version, client))
        else:
            client.send_message(**_subscribed(client, self._state))

    def _subscribe(self, client: StreamClient, new: frozenset[Subscription]) -> None:
        for removed in client.subscriptions - new:
            self._subscribers[removed].discard(client)
            if not self._subscribers[removed]:
                del self._subscribers[removed]
        for added in new - client.subscriptions:
            self._subscribers.setdefault(added, set()).add(client)
        client.subscribe(new)

    def _join(self, client: StreamClient) -> None:
        self._clients.add(client)
        self._metrics.stream_clients.inc()
        if self._reader is None:
            loop = asyncio.get_running_loop()
            updates: Updates = asyncio.Queue()
            self._reader = LiveReader(
                self._find_log, lambda reader, update: self._schedule(loop, updates, reader, update)
            )
            self._delivery = asyncio.create_task(self._deliver(self._reader, updates))
            self._readers = [one for one in self._readers if one.is_alive] + [self._reader]

    def _leave(self, client: StreamClient) -> None:
        self._subscribe(client, frozenset())
        self._unconfirmed = [one for one in self._unconfirmed if one[1] is not client]
        self._clients.discard(client)
        self._metrics.stream_clients.dec()
        if client.is_slow:
            self._metrics.stream_cut.inc()
        client.end(GOING_AWAY)  # nobody waits for it any more
        if not self._clients and self._reader is not None:
            self._reader.stop()
            if self._delivery is not None:
                self._delivery.cancel()
            self._reader = self._state = self._delivery = None
            self._all_left.set()

    def _schedule(
        self,
        loop: asyncio.AbstractEventLoop,
        updates: Updates,
        reader: LiveReader,
        update: ReaderUpdate,
    ) -> None:
        """Called in the reader's thread."""
        try:
            loop.call_soon_threadsafe(updates.put_nowait, update)
        except RuntimeError:  # the loop is closed: there are no clients any more
            reader.stop()

    async def _deliver(self, reader: LiveReader, updates: Updates) -> None:
        """Hand on what was read; while a client that reads has no room, no more is read."""
        while True:
            update = await updates.get()
            if isinstance(update, ReaderState):
                self._confirm(update)
                self._send_state(update)
            else:
                for frame in update:
                    await self._send_frame(frame)
            reader.mark_handled()

    async def _send_frame(self, frame: Frame) -> None:
        self._metrics.stream_records.inc(frame.rows)
        subscribers = self._subscribers.get(frame.subscription, set())
        full = [client for client in subscribers if not client.has_room(frame)]
        await asyncio.gather(*(client.wait_for_room(frame) for client in full))
        for client in subscribers:
            client.send_frame(frame)

    def _confirm(self, state: ReaderState) -> None:
        for version, client in self._unconfirmed:
            if version <= state.version:
                client.send_message(**_subscribed(client, state))
        self._unconfirmed = [one for one in self._unconfirmed if one[0] > state.version]

    def _send_state(self, state: ReaderState) -> None:
        before, self._state = self._state, state
        if before is None or (before.live == state.live and not state.missed):
            return
        for client in self._clients:
            client.send_message(**_status(state))


def stream_router(live_stream: LiveStream) -> APIRouter:
    """Return the route of the live stream."""
    router = APIRouter()

    @router.websocket("/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        try:
            first = parse_address(websocket.query_params.multi_items())
        except SubscriptionError as exc:
            raise RequestRejectedError(400, "asked", str(exc)) from None
        await live_stream.serve(websocket, first)

    return router


def _subscribed(client: StreamClient, state: ReaderState) -> dict[str, Any]:
    """Everything that reaches Kafka after this message is sent to the client."""
    named = by_kind(client.subscriptions)
    return {"type": "subscribed", **named, "live": state.live, **_reason(state)}


def _status(state: ReaderState) -> dict[str, Any]:
    message = {"type": "status", "live": state.live, **_reason(state)}
    return {**message, "missed": state.missed} if state.live else message


def _reason(state: ReaderState) -> dict[str, str]:
    return {} if state.reason is None else {"reason": state.reason}


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _abort(websocket: WebSocket) -> None:
    """Drop a connection whose client does not read, where the server can do that."""
    abort = websocket.scope["state"].get("abort")
    if abort is not None:
        abort()
