"""Events of a replay as bytes of a stream: JSON a line, or an Arrow stream."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa

from k2lib.api.responses.formats import json_lines
from k2lib.replay import Batch
from k2lib.schema.records import QUOTE, TRADE

GAP: Final = "gap"
SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE}


class Events(ABC):
    """Turns batches into bytes, one after the other."""

    @abstractmethod
    def encode(self, batches: Sequence[Batch]) -> bytes:
        """Return the next events."""

    @abstractmethod
    def end(self) -> bytes:
        """Return what ends the stream."""


class JsonEvents(Events):
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


class ArrowEvents(Events):
    """An Arrow stream of one kind; a gap is a batch without rows, and its metadata."""

    def __init__(self, kind: str) -> None:
        schema: pa.Schema = SCHEMAS[kind].arrow
        self._none = pa.RecordBatch.from_pylist([], schema=schema)
        self._sink = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def encode(self, batches: Sequence[Batch]) -> bytes:
        """Return a batch for each of rows, and for each gap."""
        for one in batches:
            if one.kind != "gaps":
                self._writer.write_batch(one.rows)
                continue
            for line in _json_rows(one.rows):
                self._writer.write_batch(self._none, custom_metadata={GAP: line})
        return self._taken()

    def end(self) -> bytes:
        """Return the end of the stream, which is its beginning too where it has no events."""
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        taken = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return taken


def _lines(kind: str, batches: Sequence[Batch]) -> Iterator[str]:
    rows = pa.Table.from_batches([one.rows for one in batches if one.kind == kind])
    # A batch can be one row, and a frame of thousands of chunks is slow in everything.
    for line in _json_rows(rows.combine_chunks()):
        yield f'{{"kind":"{kind}",{line[1:]}'


def _json_rows(rows: pa.Table | pa.RecordBatch) -> list[str]:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return json_lines(frame)
