"""The parameters of the GETs: their types, checks and descriptions."""

import json
import re
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from starlette.requests import Request

from k2lib.api.problems import WrongParameterError
from k2lib.api.responses.formats import Format
from k2lib.errors import QueryError
from k2lib.query.request import AsOf, TimeBound
from k2lib.schema.calendar import A_TIME, bar_length, parse_time
from k2lib.schema.market import Market

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2199
REPEATED: Final = "it is repeated: give it once"
MAX_SNAPSHOT_ID: Final = 2**63 - 1
SYMBOL: Final = r"^([A-Z0-9_]{1,32}:)?[^\u0000-\u0020\u007f]{1,64}$"
SYMBOLS: Final = r"^[^\u0000-\u0020\u007f,]{1,97}(,[^\u0000-\u0020\u007f,]{1,97})*$"
INSTRUMENT: Final = r"^[A-Z0-9_]{1,32}:[^\u0000-\u0020\u007f]{1,64}$"
EXCHANGE: Final = r"^[A-Z0-9_]{1,32}$"
AS_OF: Final = r"^[A-Za-z0-9_.:,+ -]{1,64}$"
EVERY: Final = r"^[1-9][0-9]{0,5}[smhd]$"
CURSOR: Final = r"^[A-Za-z0-9_-]{1,1024}$"
DATE: Final = r"^(19[7-9][0-9]|2[01][0-9]{2})-[0-9]{2}-[0-9]{2}$"
AMOUNT: Final = r"^[0-9]{1,11}(\.[0-9]{1,8})?$"

_A_MOMENT: Final = re.compile(r"\d{4}[-\dWw]{3,6}[Tt ]\d", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]+")


def read_when(value: object) -> datetime | date:
    """Return a date, or an aware moment in UTC.

    Raises:
        ValueError: neither, or outside the years of the data.
    """
    if not isinstance(value, str):
        raise ValueError(A_TIME)
    try:
        when = parse_time(value)
    except ValueError as exc:
        # A `+` that is not written as %2B arrives as a blank.
        remedy = "; in a URL `+` is written %2B" if " " in value else ""
        raise ValueError(f"{exc}{remedy}") from None
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise ValueError(f"the years go from {FIRST_YEAR} to {LAST_YEAR}")
    return when


def read_day(value: object) -> date:
    """Return a date.

    Raises:
        ValueError: not a date, or outside the years of the data.
    """
    when = read_when(value)
    if isinstance(when, datetime):
        raise ValueError("give a date, 2014-03-10")
    return when


def read_instant(value: object) -> datetime:
    """Return an aware moment in UTC.

    Raises:
        ValueError: not a moment, or outside the years of the data.
    """
    when = read_when(value)
    if not isinstance(when, datetime):
        raise ValueError("give a moment with its zone, 2014-03-10T01:00:00Z")
    return when


def read_as_of(value: object) -> AsOf:
    """Return a snapshot's id, an aware moment, or a text that is a tag or a date.

    Raises:
        ValueError: none of these forms.
    """
    if not isinstance(value, str) or re.fullmatch(AS_OF, value) is None:
        raise ValueError(f"give a snapshot's id, or a tag; or {A_TIME}")
    if _DIGITS.fullmatch(value):
        if int(value) > MAX_SNAPSHOT_ID:
            raise ValueError("no snapshot has so high an id")
        return value if len(value) == len("20140310") else int(value)
    return read_when(value) if _A_MOMENT.match(value) else value


def read_every(value: object) -> str:
    """Return the length of a bar.

    Raises:
        ValueError: not a length.
    """
    if not isinstance(value, str):
        raise ValueError("give a number and s, m, h or d, for example 5m")
    try:
        bar_length(value)
    except QueryError as exc:
        raise ValueError(str(exc).partition(": ")[2]) from None
    return value


def read_amount(value: object) -> Decimal:
    """Return an amount of 8 decimals at most, as text as in every answer.

    Raises:
        ValueError: not an amount.
    """
    if not isinstance(value, str) or re.fullmatch(AMOUNT, value) is None:
        raise ValueError('give text with at most 11 digits and 8 decimals, for example "36.67"')
    return Decimal(value)


def _schema(**keywords: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **keywords})


Symbol = Annotated[
    str, StringConstraints(pattern=SYMBOL), _schema(pattern=SYMBOL, examples=["BHP"])
]
Symbols = Annotated[
    str, StringConstraints(pattern=SYMBOLS), _schema(pattern=SYMBOLS, examples=["BHP"])
]
Instrument = Annotated[
    str, StringConstraints(pattern=INSTRUMENT), _schema(pattern=INSTRUMENT, examples=["ASX:BHP"])
]
Exchange = Annotated[
    str, StringConstraints(pattern=EXCHANGE), _schema(pattern=EXCHANGE, examples=["ASX"])
]
Cursor = Annotated[str, StringConstraints(pattern=CURSOR), _schema(pattern=CURSOR)]
Moment = Annotated[
    TimeBound,
    PlainValidator(read_when),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date", "pattern": DATE},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]
Instant = Annotated[datetime, PlainValidator(read_instant), _schema(format="date-time")]
Day = Annotated[
    date,
    PlainValidator(read_day),
    _schema(format="date", pattern=DATE, examples=["2014-03-10"]),
]
AsOfText = Annotated[AsOf, PlainValidator(read_as_of), _schema(pattern=AS_OF)]
Every = Annotated[str, BeforeValidator(read_every), _schema(pattern=EVERY, examples=["5m"])]
Amount = Annotated[Decimal, PlainValidator(read_amount), _schema(pattern=AMOUNT)]


Order = Literal["asc", "desc"]
RowTable = Literal["trades_v2", "quotes_v2"]
AnyTable = Literal["trades_v2", "quotes_v2", "reference_v2", "dead_letters", "gaps"]
GapState = Literal["noticed", "filled", "covered", "none_at_venue", "lost"]
DEFAULT_LIMIT = 1000

SymbolField = Annotated[
    Symbol,
    Field(description="The venue's name of it, or with its venue, `ASX:BHP`.", examples=["BHP"]),
]
ExchangeField = Annotated[
    Exchange | None,
    Field(description="Venue; needed where several venues have the symbol.", examples=["ASX"]),
]
StartField = Annotated[
    Moment | None,
    Field(
        description="First moment: with its zone, or a date, which is the venue's trading date.",
        examples=["2014-03-10"],
    ),
]
EndField = Annotated[
    Moment | None,
    Field(description="End, not included; as `start`.", examples=["2014-03-10T01:00:00Z"]),
]
LimitField = Annotated[
    int, Field(ge=1, description="Rows of one page, at most.", examples=[DEFAULT_LIMIT])
]
CursorField = Annotated[
    Cursor | None,
    Field(description="`next` of the page before, with the same parameters."),
]
OrderField = Annotated[
    Order, Field(description="By time, with ties by the design's order.", examples=["asc"])
]
AsOfField = Annotated[
    AsOfText | None,
    Field(
        description="The table as it was: a snapshot's id, a tag, a moment with its zone, or a "
        "date, which is 00:00 UTC of it; without what only Kafka has.",
        examples=["2026-03-14T12:00:00Z"],
    ),
]
TailField = Annotated[
    bool,
    Field(description="With what Kafka has and the lake has not yet.", examples=[True]),
]
FormatField = Annotated[
    Format | None,
    Field(description="Format of the answer; goes before the Accept header.", examples=["json"]),
]


async def check_parameters(request: Request) -> None:
    """Refuse what would be left out in silence: of a repeated parameter all but the last value.

    Raises:
        WrongParameterError: names it.
    """
    values: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if request.method == "POST":
            raise WrongParameterError(name, value, "a POST takes its parameters in the body")
        values.setdefault(name, []).append(value)
    for name, several in values.items():
        if len(several) > 1:
            raise WrongParameterError(name, ", ".join(several), REPEATED)
    with suppress(ValueError, RecursionError):  # what is not JSON is refused elsewhere
        json.loads(await request.body() or "null", object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise WrongParameterError(name, f"{found[name]!r}, {value!r}", REPEATED)
        found[name] = value
    return found


class CommonParameters(BaseModel):
    """The parameters of every GET; others are refused."""

    model_config = ConfigDict(extra="forbid")

    format: FormatField = None


def cursor_scope(request: BaseModel) -> dict[str, str | None]:
    """Return what the rows of a request depend on: not page size, cursor or format."""
    values = {name: getattr(request, name) for name in type(request).model_fields}
    return {
        name: None if value is None else str(value)
        for name, value in values.items()
        if name not in ("format", "limit", "cursor")
    }


class TableParameters(CommonParameters):
    """The parameters of every read of a table."""

    as_of: AsOfField = None
    tail: TailField = True


MarketField = Annotated[
    Market,
    Field(
        description="Which trades count: all, on without off-market prints, or off, these alone.",
        examples=["all"],
    ),
]


class SpanParameters(TableParameters):
    """A page of what one instrument has in a span."""

    symbol: SymbolField
    exchange: ExchangeField = None
    start: StartField = None
    end: EndField = None
    limit: LimitField = DEFAULT_LIMIT
    cursor: CursorField = None


class RowsParameters(SpanParameters):
    """A page of the rows of one instrument, or of several, in a span."""

    symbol: Annotated[
        Symbols,
        Field(
            description="The venue's name of it, or with its venue, `ASX:BHP`; several are joined "
            "by commas.",
            examples=["BHP"],
        ),
    ]
    order: OrderField = "asc"

    @property
    def is_plain(self) -> bool:
        """Whether it is of one instrument, the oldest first."""
        return self.order == "asc" and "," not in self.symbol


class TradesParameters(RowsParameters):
    """A page of trades in a span."""

    market: MarketField = "all"


class RecentParameters(TableParameters):
    """The newest trades of one instrument."""

    symbol: SymbolField
    exchange: ExchangeField = None
    limit: LimitField = 100
    market: MarketField = "all"


class LatestParameters(TableParameters):
    """The newest quote of one instrument, or the one in force at a moment."""

    symbol: SymbolField
    exchange: ExchangeField = None
    at: Annotated[
        Instant | None,
        Field(description="The newest quote at or before it.", examples=["2014-03-10T01:00:00Z"]),
    ] = None


class BarsParameters(SpanParameters):
    """Bars of one instrument."""

    market: MarketField = "all"
    every: Annotated[
        Every,
        Field(
            description="Length of a bar: `30s`, `5m`, `2h`, or `1d`, the venue's trading date.",
            examples=["5m"],
        ),
    ] = "1m"


class SummaryParameters(TableParameters):
    """One trading date of one instrument."""

    market: MarketField = "all"


class InstrumentsParameters(TableParameters):
    """The instruments of a table."""

    table: Annotated[
        RowTable, Field(description="The table that has them.", examples=["trades_v2"])
    ] = "trades_v2"
    exchange: Annotated[Exchange | None, Field(description="Only this venue's.")] = None


class SnapshotsParameters(CommonParameters):
    """The snapshots of a table."""

    table: Annotated[AnyTable, Field(description="Its name.", examples=["trades_v2"])] = "trades_v2"


class GapsParameters(TableParameters):
    """The gaps in the venues' sequences."""

    exchange: Annotated[Exchange | None, Field(description="Only this venue's.")] = None
    symbol: Annotated[Symbol | None, Field(description="Only this instrument's.")] = None
    state: Annotated[GapState | None, Field(description="Only those in this state.")] = None
