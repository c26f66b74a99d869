"""Paging cursors: the position where a page ended, as text bound to its query; all pure."""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
import polars as pl

from k2lib.api.problems import WrongParameterError
from k2lib.query.request import RowKey
from k2lib.schema.order import EVENT_ORDER

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
DIGEST_BYTES: Final = 8
WRONG_CURSOR: Final = (
    "it does not belong to this question; give `next` as it was answered, with the parameters "
    "it was answered for (limit and format may differ)"
)
_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Micros = Annotated[int, msgspec.Meta(ge=-(2**55), le=2**55)]


class RowPosition(NamedTuple):
    """A row of trades or quotes in the order of events, and the snapshot if one is pinned."""

    snapshot_id: _Long | None
    timestamp_us: _Micros
    exchange: str
    symbol: str
    source_sequence: _Long | None
    platform_sequence: _Long | None
    message_id: str

    @property
    def key(self) -> RowKey:
        """Its position within its instrument."""
        return RowKey(
            from_micros(self.timestamp_us),
            self.source_sequence,
            self.platform_sequence,
            self.message_id,
        )


class BarPosition(NamedTuple):
    """The first bar of a page, its venue, and the snapshot if one is pinned."""

    snapshot_id: _Long | None
    start_us: _Micros
    exchange: str


_Position = TypeVar("_Position", RowPosition, BarPosition)


def last_row_position(rows: pl.DataFrame, *, snapshot_id: int | None) -> RowPosition:
    """Return the position of the last row."""
    last = rows.tail(1).select(EVENT_ORDER).row(0, named=True)
    moment = last.pop("timestamp")
    return RowPosition(snapshot_id=snapshot_id, timestamp_us=to_micros(moment), **last)


def encode_cursor(position: Sequence[Any], *, scope: Mapping[str, Any]) -> str:
    """Return a position as text.

    Args:
        scope: the query that the cursor belongs to, as JSON values.
    """
    data = msgspec.json.encode(tuple(position))
    return base64.urlsafe_b64encode(_digest(data, scope) + data).rstrip(b"=").decode()


def decode_row_cursor(text: str, *, scope: Mapping[str, Any]) -> RowPosition:
    """Return the row before the first one of a page.

    Raises:
        WrongParameterError: not a cursor, or one of another query.
    """
    return _decoded(text, scope, RowPosition)


def decode_bar_cursor(text: str, *, scope: Mapping[str, Any]) -> BarPosition:
    """Return the first bar of a page.

    Raises:
        WrongParameterError: not a cursor, or one of another query.
    """
    return _decoded(text, scope, BarPosition)


def to_micros(moment: datetime) -> int:
    """Return a moment as microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def from_micros(count: int) -> datetime:
    """Return the moment of a number of microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=count)


def _decoded(text: str, scope: Mapping[str, Any], kind: type[_Position]) -> _Position:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise _wrong_cursor(text) from None
    digest, data = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
    if digest != _digest(data, scope):
        raise _wrong_cursor(text)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _wrong_cursor(text) from None


def _digest(data: bytes, scope: Mapping[str, Any]) -> bytes:
    query = msgspec.json.encode(dict(scope), order="sorted")
    return hashlib.blake2b(query + b"\0" + data, digest_size=DIGEST_BYTES).digest()


def _wrong_cursor(text: str) -> WrongParameterError:
    return WrongParameterError("cursor", text, WRONG_CURSOR)
