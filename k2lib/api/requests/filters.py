"""Which rows a POST asks for, as SQL conditions whose values are all bound; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Any, Final

from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    LessThanOrEqual,
    Or,
)

from k2lib.api.requests.cursor import RowPlace, from_micros
from k2lib.iceberg.manifests import compare
from k2lib.query.request import BEFORE_ALL, InstrumentFilter, sort_keys
from k2lib.schema.records import EVENT_ORDER

SORT_KEYS: Final = sort_keys(EVENT_ORDER)


@dataclass(frozen=True)
class Where:
    """Conditions that all hold, and the values of their `$names`."""

    terms: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """All of them as one condition."""
        return " AND ".join(f"({term})" for term in self.terms) or "true"

    def __and__(self, other: "Where") -> "Where":
        return Where(self.terms + other.terms, {**self.params, **other.params})


def of_names(symbols: Sequence[str] | None, exchange: str | None) -> Where:
    """Return the condition for some symbols, or all, at a venue, or at any."""
    where = Where()
    if symbols is not None:
        named = {f"symbol_{number}": symbol for number, symbol in enumerate(symbols)}
        where &= Where((_one_of("symbol", named),), named)
    if exchange is not None:
        where &= Where(("exchange = $exchange",), {"exchange": exchange})
    return where


def of_venues(wanted: Iterable[InstrumentFilter]) -> Where:
    """Return the condition for instruments in the spans of their venues.

    Args:
        wanted: at least one; those of one venue have one span.
    """
    by_venue: dict[str, list[InstrumentFilter]] = {}
    for one in wanted:
        by_venue.setdefault(one.exchange, []).append(one)
    parts = [_of_venue(some, number) for number, some in enumerate(by_venue.values())]
    if len(parts) == 1:
        return parts[0]
    params = {name: value for part in parts for name, value in part.params.items()}
    return Where((" OR ".join(f"({part.sql})" for part in parts),), params)


def within(limits: Mapping[str, tuple[str, Any]]) -> Where:
    """Return the condition for columns that are within limits.

    Args:
        limits: by the name of the value: `price >=` and the value, None for no limit.
    """
    given = {name: limit for name, limit in limits.items() if limit[1] is not None}
    terms = tuple(f"{compared} ${name}" for name, (compared, _) in given.items())
    return Where(terms, {name: value for name, (_, value) in given.items()})


def behind(place: RowPlace | None, *, descending: bool) -> Where:
    """Return the condition for the rows behind one, in the order of events or backwards."""
    if place is None:
        return Where()
    names = ("at", "at_exchange", "at_symbol", "at_source", "at_platform", "at_message")
    values = (
        from_micros(place.timestamp_us),
        place.exchange,
        place.symbol,
        BEFORE_ALL if place.source_sequence is None else place.source_sequence,
        BEFORE_ALL if place.platform_sequence is None else place.platform_sequence,
        place.message_id,
    )
    sign = "<" if descending else ">"
    row = ", ".join(f"${name}" for name in names)
    # The first term says the same of time alone: by it whole files are passed over.
    terms = (f"timestamp {sign}= $at", f"({', '.join(SORT_KEYS)}) {sign} ({row})")
    return Where(terms, dict(zip(names, values, strict=True)))


def _of_venue(wanted: Sequence[InstrumentFilter], number: int) -> Where:
    first = wanted[0]
    named = {f"symbol_{number}_{place}": one.symbol for place, one in enumerate(wanted)}
    venue = f"exchange_{number}"
    where = Where((f"exchange = ${venue}",), {venue: first.exchange})
    where &= Where((_one_of("symbol", named),), named)
    return where & within(
        {
            f"start_{number}": ("timestamp >=", first.start),
            f"end_{number}": ("timestamp <", first.end),
        }
    )


def _one_of(column: str, named: Mapping[str, Any]) -> str:
    if len(named) == 1:
        return f"{column} = ${next(iter(named))}"
    return f"{column} IN ({', '.join(f'${name}' for name in named)})"


def of_symbols(symbols: Sequence[str] | None, exchange: str | None) -> BooleanExpression:
    """Return which rows some symbols, or all, can have."""
    may_have: BooleanExpression = AlwaysTrue()
    if symbols is not None:
        may_have = _any_of([compare(EqualTo, "symbol", one) for one in sorted(set(symbols))])
    if exchange is not None:
        may_have = And(may_have, compare(EqualTo, "exchange", exchange))
    return may_have


def of_days(start: datetime | None, end: datetime | None) -> BooleanExpression:
    """Return which rows the days of a span can have: by whole days, as the files are parted.

    One plan then serves all pages of a day.
    """
    may_have: BooleanExpression = AlwaysTrue()
    if start is not None:
        first = datetime.combine(start.astimezone(UTC), time(), UTC)
        may_have = And(may_have, compare(GreaterThanOrEqual, "timestamp", first.isoformat()))
    if end is not None:
        last = datetime.combine(end.astimezone(UTC), time.max, UTC)
        may_have = And(may_have, compare(LessThanOrEqual, "timestamp", last.isoformat()))
    return may_have


def of_wanted(
    wanted: Sequence[InstrumentFilter], *, within: BooleanExpression
) -> BooleanExpression:
    """Return which of some rows the spans of instruments can have.

    Args:
        wanted: at least one.
    """
    starts = [one.start for one in wanted if one.start is not None]
    ends = [one.end for one in wanted if one.end is not None]
    start = min(starts) if len(starts) == len(wanted) else None
    end = max(ends) if len(ends) == len(wanted) else None
    return And(within, of_days(start, end))


def _any_of(terms: Sequence[BooleanExpression]) -> BooleanExpression:
    return terms[0] if len(terms) == 1 else Or(*terms)
