"""What a read is to return: the instrument, the span of time, and how many rows; all pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Any, Final, NamedTuple, Self
from zoneinfo import ZoneInfo

from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan

from k2lib.errors import NotFoundError, QueryError
from k2lib.iceberg.file_sql import text_sql
from k2lib.iceberg.manifests import compare
from k2lib.schema.calendar import parse_time, zone
from k2lib.schema.identity import split_instrument
from k2lib.schema.market import Market, check_market, market_sql
from k2lib.schema.order import INSTRUMENT_ORDER

BEFORE_ALL: Final = -(2**63)
LISTED_AT_MOST: Final = 10
# A moment with a time zone, or a date; or either as text, in a form of ISO 8601.
TimeBound = datetime | date | str
# The id of a snapshot, a tag, or a moment with a time zone, or a date, also as text.
AsOf = int | str | date


def sort_keys(columns: Sequence[str]) -> list[str]:
    """Return columns as SQL that compares as they are ordered: a null before every number."""
    return [
        f"coalesce({name}, {BEFORE_ALL})" if name.endswith("_sequence") else name
        for name in columns
    ]


class RowKey(NamedTuple):
    """The position of a row among those of its instrument; no two rows have the same."""

    timestamp: datetime
    source_sequence: int | None
    platform_sequence: int | None
    message_id: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the key of a row of trades or quotes."""
        return cls(*(row[name] for name in cls._fields))

    @property
    def behind_sql(self) -> str:
        """The later rows, as an SQL condition."""
        columns = ", ".join(sort_keys(INSTRUMENT_ORDER))
        values = ", ".join(
            str(BEFORE_ALL if number is None else int(number))
            for number in (self.source_sequence, self.platform_sequence)
        )
        return f"({columns}) > ({_time_sql(self.timestamp)}, {values}, {text_sql(self.message_id)})"


@dataclass(frozen=True)
class ReadRequest:
    """Rows of one instrument; every read of trades, quotes or bars takes one.

    Attributes:
        symbol: the venue's name of the instrument, also with its venue: `ASX:BHP`.
        exchange: the venue; needed where the symbol trades at several.
        start, end: `[start, end)`: moments with a time zone, or trading dates of the venue,
            from its midnight, also as text; None leaves that side open.
        as_of: snapshot id, tag, moment, or date, which is its first moment by UTC: the table as
            it was then, without rows of Kafka.
        first, last: return only so many of the oldest or of the newest rows; not both.
        after: return only rows behind this one in the order of events; not with `last`.
        tail: whether to add the rows that only Kafka has yet.
        market: of trades, which count: `all`, `on` without off-market prints, or `off`, these
            alone.
    """

    symbol: str
    exchange: str | None = None
    start: TimeBound | None = None
    end: TimeBound | None = None
    as_of: AsOf | None = None
    first: int | None = None
    last: int | None = None
    after: RowKey | None = None
    tail: bool = True
    market: Market = "all"

    def __post_init__(self) -> None:
        """Refuse values of the wrong type, and counts that exclude each other.

        Raises:
            QueryError: names the argument, its value and what to give.
        """
        check_text("symbol", self.symbol, example="'BHP'")
        if self.exchange is not None:
            check_text("exchange", self.exchange, example="'ASX'")
        exchange, symbol = instrument_of(self.symbol, self.exchange)
        object.__setattr__(self, "exchange", exchange)
        object.__setattr__(self, "symbol", symbol)
        check_span(self.start, self.end)
        check_as_of(self.as_of)
        check_flag("tail", self.tail)
        check_market(self.market)
        for name, count in (("first", self.first), ("last", self.last)):
            if count is not None and (type(count) is not int or count < 0):
                raise QueryError(f"{name}={count!r}: give the number of rows to keep, 0 or more")
        if self.last is not None and self.first is not None:
            raise QueryError(f"first={self.first} and last={self.last}: give one of them")
        if self.last is not None and self.after is not None:
            raise QueryError(f"last={self.last} and after={self.after}: give one of them")

    def at(self, exchange: str) -> "InstrumentFilter":
        """Return the rows of the instrument at a venue, with the span by that venue's clock.

        Raises:
            QueryError: a moment without a time zone, or an end before its start.
        """
        span = time_range(self.start, self.end, of_venue=zone(exchange))
        chosen = InstrumentFilter(self.symbol, exchange, span.start, span.end, market=self.market)
        return chosen.behind(self.after)


@dataclass(frozen=True)
class TimeRange:
    """All rows in `[start, end)`; None leaves that side open."""

    start: datetime | None = None
    end: datetime | None = None

    @property
    def is_all(self) -> bool:
        """Whether no row lies outside."""
        return self.start is None and self.end is None

    @property
    def where_sql(self) -> str:
        """The rows in it, as an SQL condition."""
        return " AND ".join(["true", *_span_terms(self.start, self.end)])


def time_range(
    start: TimeBound | None, end: TimeBound | None, *, of_venue: ZoneInfo | None = None
) -> TimeRange:
    """Return a span, a date meaning midnight at the venue, or midnight UTC without one.

    Raises:
        QueryError: a moment without a time zone, or an end before its start.
    """
    where = of_venue or zone("")
    first = None if start is None else _instant(start, where, name="start")
    last = None if end is None else _instant(end, where, name="end")
    if first is not None and last is not None and last < first:
        raise QueryError(f"end={end} is before start={start}: a span is [start, end)")
    return TimeRange(first, last)


@dataclass(frozen=True)
class InstrumentFilter:
    """One instrument's rows in `[start, end)` behind a key; None leaves that side open.

    Of trades only those of `market`.
    """

    symbol: str
    exchange: str
    start: datetime | None = None
    end: datetime | None = None
    after: RowKey | None = None
    market: Market = "all"

    def behind(self, after: RowKey | None) -> "InstrumentFilter":
        """Return those of the rows that come after one."""
        if after is None:
            return self
        start = after.timestamp if self.start is None else max(self.start, after.timestamp)
        return replace(self, start=start, after=after)

    @property
    def row_filter(self) -> BooleanExpression:
        """The rows, for the file plan."""
        rows = And(
            compare(EqualTo, "symbol", self.symbol), compare(EqualTo, "exchange", self.exchange)
        )
        if self.start is not None:
            since = compare(GreaterThanOrEqual, "timestamp", self.start.isoformat())
            rows = And(rows, since)
        if self.end is not None:
            rows = And(rows, compare(LessThan, "timestamp", self.end.isoformat()))
        return rows

    @property
    def where_sql(self) -> str:
        """The rows, as an SQL condition."""
        terms = [f"symbol = {text_sql(self.symbol)}", f"exchange = {text_sql(self.exchange)}"]
        terms += _span_terms(self.start, self.end)
        if self.after is not None:
            terms.append(self.after.behind_sql)
        if self.market != "all":
            terms.append(market_sql(self.market))
        return " AND ".join(terms)


def instrument_names(symbols: str | Sequence[str]) -> list[tuple[str | None, str]]:
    """Return venue and symbol of each text: `ASX:BHP` has both, `BHP` has no venue.

    Raises:
        QueryError: there is none, or one that is no text.
    """
    texts = [symbols] if isinstance(symbols, str) else symbols
    if not isinstance(texts, Sequence) or not texts:
        raise QueryError(f"symbols={symbols!r}: name at least one, for example BHP or ASX:BHP")
    for text in texts:
        check_text("symbols", text, example="['BHP']")
    return [split_instrument(text) for text in texts]


def instrument_of(symbol: str, exchange: str | None) -> tuple[str | None, str]:
    """Return the venue, if there is one, and the symbol of an instrument.

    Args:
        symbol: `BHP`, or with its venue `ASX:BHP`.
    Raises:
        QueryError: two venues are named.
    """
    venue, name = split_instrument(symbol)
    if venue is not None and exchange not in (None, venue):
        raise QueryError(f"symbol={symbol} and exchange={exchange} are two venues: leave one out")
    return venue or exchange, name


def pick_exchange(symbol: str, exchange: str | None, *, venues: Sequence[str]) -> str:
    """Return the one venue that a request means.

    Args:
        venues: those that have the symbol, at least one.
    Raises:
        QueryError: there are several, and the request names none.
        NotFoundError: the venue of the request is not among them.
    """
    names = ", ".join(sorted(venues))
    if exchange is None:
        if len(venues) > 1:
            raise QueryError(f"{symbol} is held at {names}: say which one with exchange=")
        return venues[0]
    if exchange not in venues:
        raise NotFoundError(f"{symbol} is not held at {exchange}, but at {names}")
    return exchange


def no_such_symbol(symbol: str, *, table: str, instruments: Sequence[str]) -> NotFoundError:
    """Return the error for a symbol that a table does not have, naming those it has.

    Args:
        instruments: as `exchange:symbol`, sorted, all or at least the first 11.
    """
    if not instruments:
        return NotFoundError(
            f"{symbol} is not in {table}, which holds nothing: load something first"
        )
    more = ", …" if len(instruments) > LISTED_AT_MOST else ""
    return NotFoundError(
        f"{symbol} is not in {table}, which holds {', '.join(instruments[:LISTED_AT_MOST])}{more}"
    )


def check_text(name: str, value: object, *, example: str) -> None:
    """Refuse an argument that is no text, or an empty one.

    Raises:
        QueryError: names it.
    """
    if not isinstance(value, str) or not value:
        raise QueryError(f"{name}={value!r}: give a text, for example {name}={example}")


def check_flag(name: str, value: object) -> None:
    """Refuse an argument that is neither True nor False.

    Raises:
        QueryError: names it.
    """
    if not isinstance(value, bool):
        raise QueryError(f"{name}={value!r}: give True or False")


def check_span(start: object, end: object) -> None:
    """Refuse bounds that are neither a moment, nor a date, nor None.

    Raises:
        QueryError: names the bound.
    """
    for name, bound in (("start", start), ("end", end)):
        if isinstance(bound, str):
            time_of(name, bound)
        elif bound is not None and not isinstance(bound, date):
            raise QueryError(f"{name}={bound!r}: give a datetime with a time zone, or a date")


def time_of(name: str, text: str) -> datetime | date:
    """Return the date or the moment of the text of an argument.

    Raises:
        QueryError: names it, its value and what to give.
    """
    try:
        return parse_time(text)
    except ValueError as exc:
        raise QueryError(f"{name}={text!r}: {exc}") from None


def check_as_of(as_of: object) -> None:
    """Refuse what names no state of a table.

    Raises:
        QueryError: it is neither an id, nor a tag, nor a moment.
    """
    if as_of is None or (isinstance(as_of, int | str | date) and not isinstance(as_of, bool)):
        return
    raise QueryError(
        f"as_of={as_of!r}: give a snapshot id, a tag, a datetime with a time zone, or a date"
    )


def _instant(bound: TimeBound, of_venue: ZoneInfo, *, name: str) -> datetime:
    if isinstance(bound, str):
        bound = time_of(name, bound)
    if not isinstance(bound, datetime):
        bound = datetime.combine(bound, time(), of_venue)
    if bound.tzinfo is None:
        raise QueryError(
            f"{name}={bound.isoformat()} has no time zone: give one, for example tzinfo=UTC, "
            "or a date, which means the venue's trading date"
        )
    try:
        return bound.astimezone(UTC)
    except OverflowError:
        raise QueryError(f"{name}={bound.isoformat()} is out of the range of times") from None


def _span_terms(start: datetime | None, end: datetime | None) -> list[str]:
    terms = []
    if start is not None:
        terms.append(f"timestamp >= {_time_sql(start)}")
    if end is not None:
        terms.append(f"timestamp < {_time_sql(end)}")
    return terms


def _time_sql(moment: datetime) -> str:
    return f"TIMESTAMPTZ {text_sql(moment.isoformat())}"
