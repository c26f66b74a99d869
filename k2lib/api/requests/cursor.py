"""Where a page ended, as text that only the same question can go on from; all pure."""

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
from k2lib.schema.records import EVENT_ORDER

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
DIGEST_BYTES: Final = 8
OTHER_QUESTION: Final = (
    "it does not belong to this question; give `next` as it was answered, with the parameters "
    "it was answered for (limit and format may differ)"
)
_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Micros = Annotated[int, msgspec.Meta(ge=-(2**55), le=2**55)]


class RowPlace(NamedTuple):
    """A row of trades or quotes in the order of events, and the snapshot read, where one was."""

    snapshot_id: _Long | None
    timestamp_us: _Micros
    exchange: str
    symbol: str
    source_sequence: _Long | None
    platform_sequence: _Long | None
    message_id: str

    @property
    def key(self) -> RowKey:
        """Its place within its instrument."""
        return RowKey(
            from_micros(self.timestamp_us),
            self.source_sequence,
            self.platform_sequence,
            self.message_id,
        )


class BarPlace(NamedTuple):
    """The bar to begin with, its venue, and the snapshot read, where one was."""

    snapshot_id: _Long | None
    start_us: _Micros
    exchange: str


_Place = TypeVar("_Place", RowPlace, BarPlace)


def row_place(rows: pl.DataFrame, *, snapshot_id: int | None) -> RowPlace:
    """Return the place of the last of some rows."""
    last = rows.tail(1).select(EVENT_ORDER).row(0, named=True)
    moment = last.pop("timestamp")
    return RowPlace(snapshot_id=snapshot_id, timestamp_us=to_micros(moment), **last)


def write_cursor(place: Sequence[Any], *, asked: Mapping[str, Any]) -> str:
    """Return a place as text.

    Args:
        asked: what the rows depend on, in what JSON can say.
    """
    told = msgspec.json.encode(tuple(place))
    return base64.urlsafe_b64encode(_digest(told, asked) + told).rstrip(b"=").decode()


def read_row_cursor(text: str, *, asked: Mapping[str, Any]) -> RowPlace:
    """Return the row after which a page begins.

    Raises:
        WrongParameterError: no cursor, or one of another question.
    """
    return _decoded(text, asked, RowPlace)


def read_bar_cursor(text: str, *, asked: Mapping[str, Any]) -> BarPlace:
    """Return the bar with which a page begins.

    Raises:
        WrongParameterError: no cursor, or one of another question.
    """
    return _decoded(text, asked, BarPlace)


def to_micros(moment: datetime) -> int:
    """Return a moment as microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def from_micros(count: int) -> datetime:
    """Return the moment so many microseconds after the epoch."""
    return EPOCH + timedelta(microseconds=count)


def _decoded(text: str, asked: Mapping[str, Any], kind: type[_Place]) -> _Place:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise _garbled(text) from None
    digest, told = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
    if digest != _digest(told, asked):
        raise _garbled(text)
    try:
        return msgspec.json.decode(told, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _garbled(text) from None


def _digest(told: bytes, asked: Mapping[str, Any]) -> bytes:
    question = msgspec.json.encode(dict(asked), order="sorted")
    return hashlib.blake2b(question + b"\0" + told, digest_size=DIGEST_BYTES).digest()


def _garbled(text: str) -> WrongParameterError:
    return WrongParameterError("cursor", text, OTHER_QUESTION)
