"""What whole answers look like in JSON: pages of rows, and problems."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from k2lib.api.answers.models import (
    Bar,
    Gap,
    Group,
    Instrument,
    Quote,
    Snapshot,
    SnapshotId,
    Summary,
    Time,
    Trade,
    Venue,
)

Row = TypeVar("Row")


class CompleteTo(BaseModel):
    """Up to where an answer is complete in one table."""

    table: str = Field(examples=["trades_v2"])
    snapshot_id: SnapshotId | None = Field(description="Of the lake; null where it has none.")
    offsets: dict[str, dict[str, dict[str, int]]] = Field(
        description="By log, topic and partition: every record before it is in the answer."
    )
    time: Time | None = Field(description="The newest event time up to there.")
    log: bool = Field(description="Whether Kafka was read beyond the snapshot.")
    tail_rows: int = Field(description="How many rows Kafka had beyond the snapshot.")
    behind: int | None = Field(description="Offsets that Kafka had beyond; null if unknown.")
    reason: str | None = Field(description="Why it is less than was asked for; null if it is not.")


class Page(BaseModel, Generic[Row]):
    """Rows, and what is known about them."""

    data: list[Row]
    complete_to: dict[str, CompleteTo] = Field(description="By table.")
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class Trades(Page[Trade]):
    """A page of trades in the order of events."""


class Quotes(Page[Quote]):
    """A page of quotes in the order of events."""


class Bars(Page[Bar]):
    """A page of bars by time."""


class Summaries(Page[Summary]):
    """One row."""


class Symbols(Page[Instrument]):
    """Sorted by exchange and symbol."""


class Stats(Page[Venue]):
    """Sorted by exchange."""


class Snapshots(Page[Snapshot]):
    """The newest first."""


class Gaps(Page[Gap]):
    """Sorted by exchange, symbol and from_id."""


class FoundTrades(Page[dict[str, Any]]):
    """A page of trades, with the columns asked for."""


class FoundQuotes(Page[dict[str, Any]]):
    """A page of quotes, with the columns asked for."""


class Groups(Page[Group]):
    """A row for each group, sorted by what it was grouped by."""


class ParameterError(BaseModel):
    """What is wrong with one parameter."""

    parameter: str = Field(examples=["limit"])
    value: str | bool | None = Field(examples=["0"])
    reason: str = Field(examples=["Input should be greater than or equal to 1"])


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"], json_schema_extra={"format": "uri-reference"})
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404], ge=400, le=599)
    detail: str = Field(examples=["XYZ is not in trades_v2, which holds ASX:BHP"])
    instance: str | None = Field(default=None, description="The request's id.")
    errors: list[ParameterError] | None = Field(default=None, description="Wrong parameters.")
