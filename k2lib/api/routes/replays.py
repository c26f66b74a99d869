"""POST /v1/replay: what happened, told again as a stream, as fast as it is read or paced."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing, suppress
from threading import BoundedSemaphore
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from k2lib.api.context import AtDesk
from k2lib.api.problems import RETRY_S, WrongParameterError, problem
from k2lib.api.requests.bodies import ONE_KIND, ReplayFormat, ReplayQuery
from k2lib.api.responses.accept import MEDIA_TYPES, choose
from k2lib.api.responses.formats import in_header, told
from k2lib.api.responses.replay_stream import ArrowEvents, Events, JsonEvents
from k2lib.api.responses.reply import COMPLETE_TO, HEADERS
from k2lib.replay import Batch, Replay, replay

NDJSON: Final = "application/x-ndjson"
REPLAY_TYPES: Final[dict[ReplayFormat, str]] = {"ndjson": NDJSON, "arrow": MEDIA_TYPES["arrow"]}
ROWS: Final = 4096
NO_SLOT: Final = "as many replays run as may at a time: try again when one has ended"
router = APIRouter(prefix="/v1", tags=["queries"])


@router.post("/replay", response_class=StreamingResponse)
def replays(asked: ReplayQuery, request: Request, desk: AtDesk) -> Response:
    """Stream trades, quotes and gaps of several instruments in the order of events.

    As NDJSON each line has its `kind`: trades, quotes, gaps, and at last `end` with the number
    of events; without an `end` the stream was cut. In an Arrow stream a gap is a batch without
    rows whose metadata has it, `gap`, as JSON.
    """
    form = choose(asked.format, request.headers.get("accept"), among=REPLAY_TYPES)
    if form == "arrow" and len(set(asked.kinds)) > 1:
        raise WrongParameterError("kinds", asked.kinds, ONE_KIND)
    found = replay(
        desk.engine,
        asked.symbols,
        start=asked.start,
        end=asked.end,
        exchange=asked.exchange,
        kinds=asked.kinds,
        speed=asked.speed,
        as_of=asked.as_of,
        tail=asked.tail,
    )
    events = JsonEvents() if form == "ndjson" else ArrowEvents(asked.kinds[0])
    return _Stream(
        _told(found, events),
        slots=desk.replays,
        media_type=REPLAY_TYPES[form],
        headers={**HEADERS, COMPLETE_TO: in_header(told(found.complete_to))},
    )


class _Stream(StreamingResponse):
    """A stream that takes a slot while it runs, and ends when its client leaves."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        *,
        slots: BoundedSemaphore,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._content = content
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or say that there is no slot."""
        if not self._slots.acquire(blocking=False):
            refusal = problem(503, NO_SLOT, headers={"Retry-After": str(RETRY_S)})
            await refusal(scope, receive, send)
            return
        try:
            async with aclosing(self._content):
                await self._send(receive, send)
        finally:
            self._slots.release()

    async def _send(self, receive: Receive, send: Send) -> None:
        # A paced stream may have nothing to send for hours: only listening tells that nobody is
        # there any more.
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (sending, leaving):
                one.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            with suppress(OSError):  # the client left
                sending.result()


async def _told(found: Replay, events: Events) -> AsyncGenerator[bytes, None]:
    parts = _paced(found, events) if found.speed is not None else _unpaced(found, events)
    async with aclosing(parts):
        async for part in parts:
            yield part
    yield events.end()


async def _paced(found: Replay, events: Events) -> AsyncGenerator[bytes, None]:
    async with aclosing(found.abatches(ROWS)) as batches:
        async for batch in batches:
            yield await run_in_threadpool(events.encode, [batch])


async def _unpaced(found: Replay, events: Events) -> AsyncGenerator[bytes, None]:
    parts = _parts(found, events)
    try:
        while (part := await run_in_threadpool(next, parts, None)) is not None:
            yield part
    finally:
        parts.close()


def _parts(found: Replay, events: Events) -> Generator[bytes, None, None]:
    """Encode many events at once: where trades and quotes alternate, a batch is one row."""
    with closing(found.batches(ROWS)) as batches:
        waiting: list[Batch] = []
        rows = 0
        for batch in batches:
            waiting.append(batch)
            rows += batch.rows.num_rows
            if rows >= ROWS:
                yield events.encode(waiting)
                waiting, rows = [], 0
        if waiting:
            yield events.encode(waiting)
