"""The JSON documents of the API; the other formats have the same columns.

OpenAPI names a model without its suffix: `TradeRow` is `Trade`, `TradesResponse` is `Trades`.
"""

import re
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from k2lib.schema.market import Market

MONEY = r"^-?[0-9]+\.[0-9]{8}$"
TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"

Amount = Annotated[
    str, Field(pattern=MONEY, examples=["36.67000000"], description="Decimal of scale 8, as text.")
]
Turnover = Annotated[
    str,
    Field(
        pattern=r"^-?[0-9]+\.[0-9]{16}$",
        examples=["733400.0000000000000000"],
        description="Exact sum of price times quantity.",
    ),
]
Time = Annotated[
    str,
    Field(
        pattern=TIME,
        json_schema_extra={"format": "date-time"},
        examples=["2014-03-09T20:57:14.754000Z"],
        description="UTC, with microseconds.",
    ),
]
SnapshotId = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,19}$",
        examples=["5049341834522370177"],
        description="As text: it has more digits than a number of JavaScript.",
    ),
]
AssetClass = Literal["equities", "crypto", "futures", "options"]
Side = Literal["BUY", "SELL", "SELL_SHORT", "UNKNOWN"]
GapState = Literal["noticed", "filled", "covered", "none_at_venue", "lost"]
VendorData = Annotated[
    dict[str, str] | None,
    Field(examples=[{"buyer": "100", "qualifiers": "0"}], description="What only this venue has."),
]


class _Model(BaseModel):
    model_config = ConfigDict(
        model_title_generator=lambda model: re.sub("(Row|Response|Document)$", "", model.__name__)
    )


class TradeRow(_Model):
    """One execution."""

    message_id: str = Field(examples=["b59a418f-8cc6-5020-93a1-a5b1ac0169bc"])
    trade_id: str = Field(examples=["ASX-b59a418f-8cc6-5020-93a1-a5b1ac0169bc"])
    symbol: str = Field(examples=["BHP"])
    exchange: str = Field(examples=["ASX"])
    asset_class: AssetClass
    timestamp: Time
    price: Amount
    quantity: Amount
    currency: str = Field(examples=["AUD"])
    side: Side = Field(description="Who took liquidity.")
    trade_conditions: list[str] = Field(examples=[["0"]])
    source_sequence: int | None = Field(description="The venue's own counter.")
    ingestion_timestamp: Time
    platform_sequence: int | None = Field(description="Order where the venue gives none.")
    vendor_data: VendorData


class QuoteRow(_Model):
    """Best bid and ask; null where that side is empty."""

    message_id: str = Field(examples=["89da9b03-e5bf-5329-9be9-5e9c68ee2171"])
    quote_id: str = Field(examples=["ASX-Q-89da9b03-e5bf-5329-9be9-5e9c68ee2171"])
    symbol: str = Field(examples=["BHP"])
    exchange: str = Field(examples=["ASX"])
    asset_class: AssetClass
    timestamp: Time
    bid_price: Amount | None
    bid_quantity: Amount | None
    ask_price: Amount | None
    ask_quantity: Amount | None
    currency: str = Field(examples=["AUD"])
    source_sequence: int | None
    ingestion_timestamp: Time
    platform_sequence: int | None
    vendor_data: VendorData


class _TradedRow(_Model):
    open: Amount
    high: Amount
    low: Amount
    close: Amount
    volume: Amount
    trades: int = Field(description="How many.", examples=[20])
    vwap: Amount | None = Field(description="turnover / volume; null where the volume is 0.")
    turnover: Turnover


class BarRow(_TradedRow):
    """What was traded in `[start, start + every)`, by the trades of the answer's `market`."""

    exchange: str = Field(examples=["ASX"])
    symbol: str = Field(examples=["BHP"])
    start: Time
    trading_date: str | None = Field(
        default=None, description="Of daily bars only.", json_schema_extra={"format": "date"}
    )


class SummaryRow(_TradedRow):
    """What was traded on one trading date, by the trades of the answer's `market`."""

    exchange: str = Field(examples=["ASX"])
    symbol: str = Field(examples=["BHP"])
    trading_date: str = Field(json_schema_extra={"format": "date"}, examples=["2014-03-10"])
    first: Time = Field(description="The first trade's time, of all markets.")
    last: Time = Field(description="The last trade's time, of all markets.")


class InstrumentRow(_Model):
    """One instrument as a table holds it."""

    exchange: str = Field(examples=["ASX"])
    symbol: str = Field(examples=["BHP"])
    rows: int = Field(examples=[91631])
    first: Time
    last: Time


class VenueRow(_Model):
    """One venue as a table holds it."""

    exchange: str = Field(examples=["ASX"])
    symbols: int = Field(examples=[2])
    rows: int = Field(examples=[91642])
    first: Time
    last: Time


class SnapshotRow(_Model):
    """One snapshot that is kept."""

    snapshot_id: SnapshotId
    parent_id: SnapshotId | None
    committed: Time
    operation: str | None = Field(examples=["append"])
    cause: str = Field(examples=["append"], description="`append`, or what maintenance did.")
    rows_added: int | None
    rows_total: int | None
    bytes_total: int | None
    files_total: int | None
    tags: list[str] = Field(examples=[["day-2026-03-14"]])
    offsets: str | None = Field(description="JSON of the Kafka offsets up to which it goes.")


class GapRow(_Model):
    """The newest revision of a hole in a venue's sequence."""

    message_id: str = Field(examples=["5b5c4c02-97a7-5c3b-8a0b-8f6b3c3f0e51"])
    gap_id: str = Field(examples=["0d5a7f7e-2c50-5f0c-9a39-9d0a4f7c0b6d"])
    revision: int = Field(examples=[1])
    noticed: Time
    exchange: str = Field(examples=["BINANCE"])
    symbol: str = Field(examples=["BTCUSDT"])
    from_id: int = Field(examples=[4000000001])
    to_id: int = Field(examples=[4000000003])
    state: GapState
    filled: int = Field(examples=[0])
    covered: int = Field(examples=[0])
    absent: int = Field(examples=[0])
    note: str = Field(examples=["a reconnect"])


class GroupRow(_Model):
    """The columns of `group_by`, then the requested metrics: a row has only those."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("required"))

    symbol: str = Field(examples=["BHP"])
    exchange: str = Field(examples=["ASX"])
    side: Side
    trading_date: str = Field(json_schema_extra={"format": "date"}, examples=["2014-03-10"])
    interval: Time
    count: int = Field(examples=[20])
    sum_price: Amount | None
    min_price: Amount | None
    max_price: Amount | None
    avg_price: Amount | None
    sum_quantity: Amount | None
    min_quantity: Amount | None
    max_quantity: Amount | None
    avg_quantity: Amount | None
    turnover: Turnover | None
    vwap: Amount | None
    open: Amount | None
    close: Amount | None
    first: Time | None
    last: Time | None


Row = TypeVar("Row")


class OpenGapDocument(_Model):
    """Trades that are missing and not explained yet."""

    exchange: str
    symbol: str
    from_id: int
    to_id: int
    after: Time | None = Field(description="Event time of the trade before them, if there is one.")
    before: Time | None = Field(description="Event time of the trade behind them.")


COMPLETE_TO = {
    "trades_v2": {
        "table": "trades_v2",
        "snapshot_id": "5049341834522370177",
        "offsets": {},
        "time": "2014-03-10T05:12:00.000000Z",
        "log": True,
        "tail_rows": 20,
        "behind": 12,
        "reason": "not read within 5 s",
        "gaps": [],
    }
}


class CompleteToDocument(_Model):
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
    reason: str | None = Field(description="Why it is less than requested; null if it is not.")
    gaps: list[OpenGapDocument] = Field(
        description="Gaps that are open and may have trades among those of the answer."
    )


class PageResponse(_Model, Generic[Row]):
    """Rows, and what is known about them."""

    data: list[Row]
    complete_to: dict[str, CompleteToDocument] = Field(
        description="By table.", examples=[COMPLETE_TO]
    )
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class OfMarketResponse(PageResponse[Row], Generic[Row]):
    """Rows of trades, and which trades count."""

    market: Market | None = Field(
        default=None,
        description="Which trades count: `all`, `on` without off-market prints, or `off`, these "
        "alone; of quotes there is none.",
        examples=["all"],
    )


class TradesResponse(OfMarketResponse[TradeRow]):
    """A page of trades in the order of events."""


class QuotesResponse(PageResponse[QuoteRow]):
    """A page of quotes in the order of events."""


class BarsResponse(OfMarketResponse[BarRow]):
    """A page of bars by time."""


class SummariesResponse(OfMarketResponse[SummaryRow]):
    """One row."""


class SymbolsResponse(PageResponse[InstrumentRow]):
    """Sorted by exchange and symbol."""


class StatsResponse(PageResponse[VenueRow]):
    """Sorted by exchange."""


class SnapshotsResponse(PageResponse[SnapshotRow]):
    """The newest first."""


class GapsResponse(PageResponse[GapRow]):
    """Sorted by exchange, symbol and from_id."""


class FoundTradesResponse(OfMarketResponse[dict[str, Any]]):
    """A page of trades, with the requested columns."""


class FoundQuotesResponse(PageResponse[dict[str, Any]]):
    """A page of quotes, with the requested columns."""


class GroupsResponse(OfMarketResponse[GroupRow]):
    """A row for each group, sorted by what it was grouped by."""


class ParameterError(_Model):
    """What is wrong with one parameter."""

    parameter: str = Field(examples=["limit"])
    value: str | bool | None = Field(examples=["0"])
    reason: str = Field(examples=["Input should be greater than or equal to 1"])


class ProblemDocument(_Model):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"], json_schema_extra={"format": "uri-reference"})
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404], ge=400, le=599)
    detail: str = Field(examples=["XYZ is not in trades_v2, which holds ASX:BHP"])
    instance: str | None = Field(default=None, description="The request's id.")
    errors: list[ParameterError] | None = Field(default=None, description="Wrong parameters.")
