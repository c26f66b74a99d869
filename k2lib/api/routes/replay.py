"""POST /v1/replay: history streamed in the order of events, at full speed or paced."""

import asyncio
import io
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from threading import BoundedSemaphore
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa
from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from k2lib.api.context import Context
from k2lib.api.problems import RETRY_S, WrongParameterError, problem
from k2lib.api.requests.bodies import ONE_KIND, ReplayFormat, ReplayQuery
from k2lib.api.requests.parameters import check_parameters
from k2lib.api.responses.formats import (
    MEDIA_TYPES,
    choose,
    complete_to_header,
    complete_to_json,
)
from k2lib.api.responses.reply import COMPLETE_TO, HEADERS, check_symbol_count
from k2lib.api.security import JsonRoute
from k2lib.query.export import json_rows
from k2lib.query.request import ReadRequest, instrument_names
from k2lib.replay import Batch, Replay, replay
from k2lib.schema.records import QUOTE, TRADE

NDJSON: Final = MEDIA_TYPES["ndjson"]
REPLAY_TYPES: Final[dict[ReplayFormat, str]] = {"ndjson": NDJSON, "arrow": MEDIA_TYPES["arrow"]}
BATCH_ROWS: Final = 4096
GAP: Final = "gap"
SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE}
NO_SLOT: Final = "as many replays run as may at a time: try again when one has ended"
router = APIRouter(
    prefix="/v1", tags=["queries"], route_class=JsonRoute, dependencies=[Depends(check_parameters)]
)


@router.post("/replay", name="replay", response_class=StreamingResponse)
def replays(query: ReplayQuery, request: Request, context: Context) -> Response:
    """Stream trades, quotes and gaps of several instruments in the order of events.

    As NDJSON each line has its `kind`: trades, quotes, gaps, and at last `end` with the number
    of events; without an `end` the stream was cut. In an Arrow stream a gap is a batch without
    rows whose metadata has it, `gap`, as JSON.
    """
    form = choose(query.format, request.headers.get("accept"), among=REPLAY_TYPES)
    if form == "arrow" and len(set(query.kinds)) > 1:
        raise WrongParameterError("kinds", query.kinds, ONE_KIND)
    check_symbol_count(context, query.symbols)
    history = replay(
        context.engine,
        _requests(query),
        kinds=query.kinds,
        speed=query.speed,
    )
    encoder = JsonEncoder() if form == "ndjson" else ArrowEncoder(query.kinds[0])
    complete_to = complete_to_header(complete_to_json(history.complete_to))
    return _ReplayResponse(
        _encoded(history, encoder),
        slots=context.replay_slots,
        media_type=REPLAY_TYPES[form],
        headers={**HEADERS, COMPLETE_TO: complete_to},
    )


def _requests(query: ReplayQuery) -> list[ReadRequest]:
    return [
        ReadRequest(
            symbol,
            venue or query.exchange,
            query.start,
            query.end,
            as_of=query.as_of,
            tail=query.tail,
        )
        for venue, symbol in instrument_names(query.symbols)
    ]


class _ReplayResponse(StreamingResponse):
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
        """Send the stream, or a 503 where no slot is free."""
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
        # A paced stream may have nothing to send for hours: only listening for the disconnect
        # shows that the client has left.
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            with suppress(OSError):  # the client left
                sending.result()


async def _encoded(history: Replay, encoder: "EventEncoder") -> AsyncGenerator[bytes, None]:
    is_paced = history.speed is not None
    parts = _paced(history, encoder) if is_paced else _unpaced(history, encoder)
    async with aclosing(parts):
        async for part in parts:
            yield part
    yield encoder.end()


async def _paced(history: Replay, encoder: "EventEncoder") -> AsyncGenerator[bytes, None]:
    async with aclosing(history.abatches(BATCH_ROWS)) as batches:
        async for batch in batches:
            yield await run_in_threadpool(encoder.encode, [batch])


async def _unpaced(history: Replay, encoder: "EventEncoder") -> AsyncGenerator[bytes, None]:
    parts = _parts(history, encoder)
    try:
        while (part := await run_in_threadpool(next, parts, None)) is not None:
            yield part
    finally:
        parts.close()


def _parts(history: Replay, encoder: "EventEncoder") -> Generator[bytes, None, None]:
    """Encode many events at once: where trades and quotes alternate, a batch is one row."""
    with closing(history.batches(BATCH_ROWS)) as batches:
        pending: list[Batch] = []
        rows = 0
        for batch in batches:
            pending.append(batch)
            rows += batch.rows.num_rows
            if rows >= BATCH_ROWS:
                yield encoder.encode(pending)
                pending, rows = [], 0
        if pending:
            yield encoder.encode(pending)


class EventEncoder(ABC):
    """Encodes the batches of one replay, in their order."""

    @abstractmethod
    def encode(self, batches: Sequence[Batch]) -> bytes:
        """Return the next events."""

    @abstractmethod
    def end(self) -> bytes:
        """Return the end of the stream."""


class JsonEncoder(EventEncoder):
    """One JSON object a line, with its kind."""

    def __init__(self) -> None:
        self._events = 0

    def encode(self, batches: Sequence[Batch]) -> bytes:
        """Return a line for each event, in their order."""
        lines = {kind: iter(_lines(kind, batches)) for kind in {one.kind for one in batches}}
        ordered = [next(lines[one.kind]) for one in batches for _ in range(one.rows.num_rows)]
        self._events += len(ordered)
        return "".join(f"{line}\n" for line in ordered).encode()

    def end(self) -> bytes:
        """Return a line that counts the events."""
        return msgspec.json.encode({"kind": "end", "events": self._events}) + b"\n"


class ArrowEncoder(EventEncoder):
    """An Arrow stream of one kind; a gap is a batch without rows, with metadata."""

    def __init__(self, kind: str) -> None:
        schema: pa.Schema = SCHEMAS[kind].arrow
        self._empty = pa.RecordBatch.from_pylist([], schema=schema)
        self._sink = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def encode(self, batches: Sequence[Batch]) -> bytes:
        """Return the batches, and an empty one for each gap."""
        for one in batches:
            if one.kind != "gaps":
                self._writer.write_batch(one.rows)
                continue
            for line in _json_rows(one.rows):
                self._writer.write_batch(self._empty, custom_metadata={GAP: line})
        return self._take()

    def end(self) -> bytes:
        """Return the end of the stream; without events that is the whole stream."""
        self._writer.close()
        return self._take()

    def _take(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


def _lines(kind: str, batches: Sequence[Batch]) -> Iterator[str]:
    rows = pa.Table.from_batches([one.rows for one in batches if one.kind == kind])
    # A batch can be one row, and a frame of thousands of chunks is slow.
    for line in _json_rows(rows.combine_chunks()):
        yield f'{{"kind":"{kind}",{line[1:]}'


def _json_rows(rows: pa.Table | pa.RecordBatch) -> list[str]:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return json_rows(frame)
