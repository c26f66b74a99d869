"""The bodies of the POSTs: their types, checks and descriptions."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from k2lib.api.requests.parameters import (
    DEFAULT_LIMIT,
    Amount,
    AsOfField,
    CursorField,
    EndField,
    Every,
    Exchange,
    FormatField,
    LimitField,
    MarketField,
    Moment,
    OrderField,
    RowTable,
    StartField,
    Symbol,
    TailField,
)
from k2lib.api.responses.models import Side

TradeColumn = Literal[
    "message_id", "trade_id", "symbol", "exchange", "asset_class", "timestamp", "price",
    "quantity", "currency", "side", "trade_conditions", "source_sequence", "ingestion_timestamp",
    "platform_sequence", "vendor_data",
]  # fmt: skip
QuoteColumn = Literal[
    "message_id", "quote_id", "symbol", "exchange", "asset_class", "timestamp", "bid_price",
    "bid_quantity", "ask_price", "ask_quantity", "currency", "source_sequence",
    "ingestion_timestamp", "platform_sequence", "vendor_data",
]  # fmt: skip
Kind = Literal["trades", "quotes"]
ReplayFormat = Literal["ndjson", "arrow"]
Dimension = Literal["symbol", "exchange", "side", "trading_date", "interval"]
Metric = Literal[
    "count", "sum_price", "min_price", "max_price", "avg_price", "sum_quantity", "min_quantity",
    "max_quantity", "avg_quantity", "turnover", "vwap", "open", "close", "first", "last",
]  # fmt: skip
METRICS_OF_QUOTES: frozenset[str] = frozenset({"count", "first", "last"})
DIMENSIONS_OF_TRADES: frozenset[str] = frozenset({"side"})
ONE_KIND = "an Arrow stream has columns of one kind: give kinds trades or quotes"


def _unrepeated(names: Sequence[str] | None) -> Sequence[str] | None:
    repeated = [name for number, name in enumerate(names or ()) if name in (names or ())[:number]]
    if repeated:
        raise ValueError(f"{repeated[0]} is repeated: name each once")
    return names


UNREPEATED: Final = (AfterValidator(_unrepeated), Field(json_schema_extra={"uniqueItems": True}))
SymbolsField = Annotated[
    list[Symbol],
    Field(
        min_length=1,
        description="The venues' names of the instruments, or with their venues, `ASX:BHP`.",
        examples=[["BHP", "MWR"]],
    ),
]
ExchangeField = Annotated[
    Exchange | None,
    Field(description="Venue; needed where several venues have a symbol.", examples=["ASX"]),
]


class QueryBody(BaseModel):
    """The fields of every query; others are refused."""

    model_config = ConfigDict(extra="forbid")

    start: StartField = None
    end: EndField = None
    as_of: AsOfField = None
    tail: TailField = True
    format: FormatField = None


class RowsQuery(QueryBody):
    """Rows of several instruments."""

    symbols: SymbolsField
    exchange: ExchangeField = None
    order: OrderField = "asc"
    limit: LimitField = DEFAULT_LIMIT
    cursor: CursorField = None


class TradesQuery(RowsQuery):
    """Trades of several instruments."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"symbols": ["BHP", "MWR"], "start": "2014-03-10", "min_quantity": "1000"}]
        }
    )

    market: MarketField = "all"
    side: Annotated[Side | None, Field(description="Only of this aggressor side.")] = None
    min_price: Annotated[Amount | None, Field(examples=["36.5"])] = None
    max_price: Annotated[Amount | None, Field(examples=["36.75"])] = None
    min_quantity: Annotated[Amount | None, Field(examples=["1000"])] = None
    max_quantity: Annotated[Amount | None, Field(examples=["100000"])] = None
    columns: Annotated[
        list[TradeColumn] | None,
        Field(min_length=1, max_length=15, description="Only these, in this order."),
        *UNREPEATED,
    ] = None


class QuotesQuery(RowsQuery):
    """Quotes of several instruments."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"symbols": ["BHP", "MWR"], "min_bid_price": "36.5"}]}
    )

    min_bid_price: Annotated[Amount | None, Field(examples=["36.5"])] = None
    max_bid_price: Annotated[Amount | None, Field(examples=["36.75"])] = None
    min_ask_price: Annotated[Amount | None, Field(examples=["36.5"])] = None
    max_ask_price: Annotated[Amount | None, Field(examples=["36.75"])] = None
    columns: Annotated[
        list[QuoteColumn] | None,
        Field(min_length=1, max_length=15, description="Only these, in this order."),
        *UNREPEATED,
    ] = None


class ReplayQuery(BaseModel):
    """A span of several instruments to replay, in the order of events."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"symbols": ["BHP"], "start": "2014-03-10", "end": "2014-03-11"}]
        },
    )

    symbols: SymbolsField
    exchange: ExchangeField = None
    start: Annotated[
        Moment,
        Field(
            description="First moment: with its zone, or a date, which is the venue's.",
            examples=["2014-03-10"],
        ),
    ]
    end: Annotated[
        Moment, Field(description="End, not included; as `start`.", examples=["2014-03-11"])
    ]
    kinds: Annotated[
        tuple[Kind, ...],
        Field(min_length=1, max_length=2, description="Of an Arrow stream only one."),
    ] = ("trades", "quotes")
    speed: Annotated[
        float | None,
        Field(
            ge=0.1,
            le=1e9,
            allow_inf_nan=False,
            description="1 for real time, 600 for ten minutes a second; as fast as it is read "
            "without it.",
            examples=[600],
        ),
    ] = None
    as_of: AsOfField = None
    tail: TailField = False
    format: Annotated[ReplayFormat | None, Field(description="Goes before the Accept header.")] = (
        None
    )

    @model_validator(mode="after")
    def _check(self) -> "ReplayQuery":
        if self.format == "arrow" and len(set(self.kinds)) > 1:
            raise ValueError(ONE_KIND)
        return self


class Aggregation(QueryBody):
    """Figures of groups of rows; metrics of prices never cross instruments."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "symbols": ["BHP"],
                    "group_by": ["exchange", "symbol", "trading_date"],
                    "metrics": ["count", "sum_quantity", "vwap"],
                }
            ]
        }
    )

    table: Annotated[RowTable, Field(description="Of quotes: count, first and last only.")] = (
        "trades_v2"
    )
    symbols: Annotated[
        list[Symbol] | None,
        Field(min_length=1, description="All without it."),
    ] = None
    exchange: ExchangeField = None
    market: MarketField = "all"
    group_by: Annotated[
        tuple[Dimension, ...],
        Field(max_length=5, description="One group without any.", examples=[["symbol"]]),
        *UNREPEATED,
    ] = ()
    every: Annotated[
        Every | None, Field(description="Length of an `interval`.", examples=["5m"])
    ] = None
    metrics: Annotated[
        list[Metric],
        Field(
            min_length=1,
            max_length=15,
            description="open and close are prices of the first and last trade, first and last "
            "their times; an average is rounded half away from 0 to 8 decimals.",
            examples=[["count", "vwap"]],
        ),
        *UNREPEATED,
    ]

    @model_validator(mode="after")
    def _check(self) -> "Aggregation":
        if (self.every is not None) != ("interval" in self.group_by):
            raise ValueError("give every with interval in group_by, and not without")
        if self.table == "quotes_v2":
            self._check_quotes()
        return self

    def _check_quotes(self) -> None:
        wrong: list[str] = [name for name in self.metrics if name not in METRICS_OF_QUOTES]
        wrong += [name for name in self.group_by if name in DIMENSIONS_OF_TRADES]
        wrong += ["market"] if self.market != "all" else []
        if wrong:
            raise ValueError(f"quotes have no {', '.join(wrong)}")
