"""The parameters of each GET, read and described in one place."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from k2lib.api.answers.accept import Format
from k2lib.api.asks.values import AsOfText, Cursor, Every, Exchange, Moment, Symbol
from k2lib.query.folding import Market

Held = Literal["trades_v2", "quotes_v2"]
AnyTable = Literal["trades_v2", "quotes_v2", "reference_v2", "dead_letters", "gaps"]
GapState = Literal["noticed", "filled", "covered", "none_at_venue", "lost"]
DEFAULT_LIMIT = 1000

ExchangeField = Annotated[
    Exchange | None,
    Field(description="Venue; needed where the symbol is held at more than one.", examples=["ASX"]),
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
    Field(description="`next` of the page before, asked for with the same parameters."),
]
AsOfField = Annotated[
    AsOfText | None,
    Field(
        description="The table as it was: a snapshot's id, a tag, or a moment with its zone; "
        "without what only Kafka has.",
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


class Parameters(BaseModel):
    """What every GET takes: anything else is refused."""

    model_config = ConfigDict(extra="forbid")

    format: FormatField = None

    def asked(self) -> dict[str, Any]:
        """Return what the rows depend on, in what JSON can say: not page size, cursor or format."""
        about_the_page = {"format", "limit", "cursor"}
        told = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: None if value is None else str(value)
            for name, value in told.items()
            if name not in about_the_page
        }


class Read(Parameters):
    """What every read of a table takes."""

    as_of: AsOfField = None
    tail: TailField = True


class OfInstrument(Read):
    """The rows of one instrument in a span."""

    symbol: Annotated[Symbol, Field(description="The venue's name of it.", examples=["BHP"])]
    exchange: ExchangeField = None
    start: StartField = None
    end: EndField = None


class PageOfInstrument(OfInstrument):
    """A page of them."""

    limit: LimitField = DEFAULT_LIMIT
    cursor: CursorField = None


class Recent(Read):
    """The newest rows of one instrument."""

    symbol: Annotated[Symbol, Field(description="The venue's name of it.", examples=["BHP"])]
    exchange: ExchangeField = None
    limit: LimitField = 100


class Bars(PageOfInstrument):
    """Bars of one instrument."""

    every: Annotated[
        Every,
        Field(
            description="Length of a bar: `30s`, `5m`, `2h`, or `1d`, the venue's trading date.",
            examples=["5m"],
        ),
    ] = "1m"
    market: Annotated[
        Market, Field(description="`on` leaves out off-market prints.", examples=["all"])
    ] = "all"


class Instruments(Read):
    """The instruments of a table."""

    table: Annotated[Held, Field(description="Where they are held.", examples=["trades_v2"])] = (
        "trades_v2"
    )
    exchange: Annotated[Exchange | None, Field(description="Only this venue's.")] = None


class Snapshots(Parameters):
    """The snapshots of a table."""

    table: Annotated[AnyTable, Field(description="Its name.", examples=["trades_v2"])] = "trades_v2"


class Gaps(Read):
    """The gaps in the venues' sequences."""

    exchange: Annotated[Exchange | None, Field(description="Only this venue's.")] = None
    symbol: Annotated[Symbol | None, Field(description="Only this instrument's.")] = None
    state: Annotated[GapState | None, Field(description="Only those that stand so.")] = None
