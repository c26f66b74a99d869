"""What a read asks for: one instrument, and a span of time by its venue's clock; all pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Any, Final, NamedTuple, Self
from zoneinfo import ZoneInfo

from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, LessThan

from k2lib.errors import NotFoundError, QueryError
from k2lib.iceberg.manifests import compare, text_sql
from k2lib.schema.calendar import zone
from k2lib.schema.records import INSTRUMENT_ORDER

BEFORE_ALL: Final = -(2**63)


def sort_keys(columns: Sequence[str]) -> list[str]:
    """Return columns as SQL that compares as they are ordered: a null before every number."""
    return [
        f"coalesce({name}, {BEFORE_ALL})" if name.endswith("_sequence") else name
        for name in columns
    ]


class RowKey(NamedTuple):
    """What orders the rows of one instrument; no two have the same."""

    timestamp: datetime
    source_sequence: int | None
    platform_sequence: int | None
    message_id: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the place of a row of trades or quotes."""
        return cls(*(row[name] for name in cls._fields))

    @property
    def behind_sql(self) -> str:
        """The rows behind this one, as an SQL condition."""
        time = f"TIMESTAMPTZ {text_sql(self.timestamp.isoformat())}"
        columns = ", ".join(sort_keys(INSTRUMENT_ORDER))
        values = ", ".join(
            str(BEFORE_ALL if number is None else int(number))
            for number in (self.source_sequence, self.platform_sequence)
        )
        return f"({columns}) > ({time}, {values}, {text_sql(self.message_id)})"


TimeBound = datetime | date
NAMED_AT_MOST: Final = 10


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
        terms = ["true"]
        if self.start is not None:
            terms.append(f"timestamp >= TIMESTAMPTZ {text_sql(self.start.isoformat())}")
        if self.end is not None:
            terms.append(f"timestamp < TIMESTAMPTZ {text_sql(self.end.isoformat())}")
        return " AND ".join(terms)


def time_range(start: TimeBound | None, end: TimeBound | None) -> TimeRange:
    """Return a span of whatever venue, a date meaning midnight UTC.

    Raises:
        QueryError: a moment without a time zone, or an end before its start.
    """
    all_of_it = instrument_filter("", "", start=start, end=end)
    return TimeRange(all_of_it.start, all_of_it.end)


@dataclass(frozen=True)
class InstrumentFilter:
    """One instrument's rows in `[start, end)` behind a key; None leaves that side open."""

    symbol: str
    exchange: str
    start: datetime | None = None
    end: datetime | None = None
    after: RowKey | None = None

    def behind(self, after: RowKey | None) -> "InstrumentFilter":
        """Return those of them that come after a row."""
        if after is None:
            return self
        start = after.timestamp if self.start is None else max(self.start, after.timestamp)
        return replace(self, start=start, after=after)

    @property
    def row_filter(self) -> BooleanExpression:
        """The rows wanted, for the file plan."""
        wanted = And(
            compare(EqualTo, "symbol", self.symbol), compare(EqualTo, "exchange", self.exchange)
        )
        if self.start is not None:
            since = compare(GreaterThanOrEqual, "timestamp", self.start.isoformat())
            wanted = And(wanted, since)
        if self.end is not None:
            wanted = And(wanted, compare(LessThan, "timestamp", self.end.isoformat()))
        return wanted

    @property
    def where_sql(self) -> str:
        """The rows wanted, as an SQL condition."""
        terms = [f"symbol = {text_sql(self.symbol)}", f"exchange = {text_sql(self.exchange)}"]
        if self.start is not None:
            terms.append(f"timestamp >= TIMESTAMPTZ {text_sql(self.start.isoformat())}")
        if self.end is not None:
            terms.append(f"timestamp < TIMESTAMPTZ {text_sql(self.end.isoformat())}")
        if self.after is not None:
            terms.append(self.after.behind_sql)
        return " AND ".join(terms)


def instrument_filter(
    symbol: str, exchange: str, *, start: TimeBound | None, end: TimeBound | None
) -> InstrumentFilter:
    """Say what is wanted, a date meaning midnight at the venue.

    Raises:
        QueryError: a moment without a time zone, or an end before its start.
    """
    of_venue = zone(exchange)
    first = None if start is None else _instant(start, of_venue, name="start")
    last = None if end is None else _instant(end, of_venue, name="end")
    if first is not None and last is not None and last < first:
        raise QueryError(f"end={end} is before start={start}: a span is [start, end)")
    return InstrumentFilter(symbol, exchange, first, last)


def pick_exchange(symbol: str, exchange: str | None, *, venues: Sequence[str]) -> str:
    """Return the one venue that is meant.

    Args:
        venues: the venues where the symbol is held, at least one.
    Raises:
        QueryError: there are several.
        NotFoundError: the one asked for is not among them.
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
    """Return the error for a symbol that a table does not hold, naming those it does.

    Args:
        instruments: as `exchange:symbol`, sorted, all or at least the first 11.
    """
    if not instruments:
        return NotFoundError(
            f"{symbol} is not in {table}, which holds nothing: load something first"
        )
    more = ", …" if len(instruments) > NAMED_AT_MOST else ""
    return NotFoundError(
        f"{symbol} is not in {table}, which holds {', '.join(instruments[:NAMED_AT_MOST])}{more}"
    )


def _instant(when: TimeBound, of_venue: ZoneInfo, *, name: str) -> datetime:
    if not isinstance(when, date):
        raise QueryError(f"{name}={when!r}: give a datetime with a time zone, or a date")
    if not isinstance(when, datetime):
        when = datetime.combine(when, time(), of_venue)
    if when.tzinfo is None:
        raise QueryError(
            f"{name}={when.isoformat()} has no time zone: give one, for example tzinfo=UTC, "
            "or a date, which means the venue's trading date"
        )
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise QueryError(f"{name}={when.isoformat()} is out of the range of times") from None
