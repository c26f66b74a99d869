"""The rows of a POST, as SQL conditions with bound values, and as filters of files."""

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

from k2lib.api.requests.cursor import RowPosition, from_micros
from k2lib.errors import NotFoundError
from k2lib.iceberg.manifests import compare
from k2lib.query.engine import Engine
from k2lib.query.request import (
    BEFORE_ALL,
    InstrumentFilter,
    ReadRequest,
    TimeBound,
    instrument_names,
    pick_exchange,
    sort_keys,
)
from k2lib.query.table_state import TableView
from k2lib.schema.order import EVENT_ORDER

SORT_KEYS: Final = sort_keys(EVENT_ORDER)


@dataclass(frozen=True)
class SqlCondition:
    """Terms that all hold, and the values of their `$names`."""

    terms: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """All of them as one condition."""
        return " AND ".join(f"({term})" for term in self.terms) or "true"

    def __and__(self, other: "SqlCondition") -> "SqlCondition":
        return SqlCondition(self.terms + other.terms, {**self.params, **other.params})


def names_condition(symbols: Sequence[str] | None, exchange: str | None) -> SqlCondition:
    """Return the condition for symbols at a venue; None is all symbols, or all venues."""
    where = SqlCondition()
    if symbols is not None:
        named = {f"symbol_{number}": symbol for number, symbol in enumerate(symbols)}
        where &= SqlCondition((_is_in("symbol", named),), named)
    if exchange is not None:
        where &= SqlCondition(("exchange = $exchange",), {"exchange": exchange})
    return where


def instruments_condition(instruments: Iterable[InstrumentFilter]) -> SqlCondition:
    """Return the condition for instruments in the spans of their venues.

    Args:
        instruments: at least one; those of one venue have one span.
    """
    by_venue: dict[str, list[InstrumentFilter]] = {}
    for instrument in instruments:
        by_venue.setdefault(instrument.exchange, []).append(instrument)
    parts = [_venue_condition(group, number) for number, group in enumerate(by_venue.values())]
    if len(parts) == 1:
        return parts[0]
    params = {name: value for part in parts for name, value in part.params.items()}
    return SqlCondition((" OR ".join(f"({part.sql})" for part in parts),), params)


def limits_condition(limits: Mapping[str, tuple[str, Any]]) -> SqlCondition:
    """Return the condition for columns within limits.

    Args:
        limits: by the name of the value: `price >=` and the value, None for no limit.
    """
    used = {name: limit for name, limit in limits.items() if limit[1] is not None}
    terms = tuple(f"{comparison} ${name}" for name, (comparison, _) in used.items())
    return SqlCondition(terms, {name: value for name, (_, value) in used.items()})


def after_condition(position: RowPosition | None, *, descending: bool) -> SqlCondition:
    """Return the condition for the rows after one, in the order of events or backwards."""
    if position is None:
        return SqlCondition()
    names = ("at", "at_exchange", "at_symbol", "at_source", "at_platform", "at_message")
    values = (
        from_micros(position.timestamp_us),
        position.exchange,
        position.symbol,
        BEFORE_ALL if position.source_sequence is None else position.source_sequence,
        BEFORE_ALL if position.platform_sequence is None else position.platform_sequence,
        position.message_id,
    )
    sign = "<" if descending else ">"
    row = ", ".join(f"${name}" for name in names)
    # The first term is the same for the time alone: by it whole files are skipped.
    terms = (f"timestamp {sign}= $at", f"({', '.join(SORT_KEYS)}) {sign} ({row})")
    return SqlCondition(terms, dict(zip(names, values, strict=True)))


def _venue_condition(instruments: Sequence[InstrumentFilter], number: int) -> SqlCondition:
    first = instruments[0]
    named = {f"symbol_{number}_{index}": one.symbol for index, one in enumerate(instruments)}
    venue = f"exchange_{number}"
    where = SqlCondition((f"exchange = ${venue}",), {venue: first.exchange})
    where &= SqlCondition((_is_in("symbol", named),), named)
    return where & limits_condition(
        {
            f"start_{number}": ("timestamp >=", first.start),
            f"end_{number}": ("timestamp <", first.end),
        }
    )


def _is_in(column: str, named: Mapping[str, Any]) -> str:
    if len(named) == 1:
        return f"{column} = ${next(iter(named))}"
    return f"{column} IN ({', '.join(f'${name}' for name in named)})"


def names_filter(symbols: Sequence[str] | None, exchange: str | None) -> BooleanExpression:
    """Return the filter of files for symbols at a venue; None is all."""
    row_filter: BooleanExpression = AlwaysTrue()
    if symbols is not None:
        row_filter = _any_of(
            [compare(EqualTo, "symbol", symbol) for symbol in sorted(set(symbols))]
        )
    if exchange is not None:
        row_filter = And(row_filter, compare(EqualTo, "exchange", exchange))
    return row_filter


def days_filter(start: datetime | None, end: datetime | None) -> BooleanExpression:
    """Return the filter of files for a span: whole days, as the files are partitioned.

    One file plan then serves all pages of a day.
    """
    row_filter: BooleanExpression = AlwaysTrue()
    if start is not None:
        first = datetime.combine(start.astimezone(UTC), time(), UTC)
        row_filter = And(row_filter, compare(GreaterThanOrEqual, "timestamp", first.isoformat()))
    if end is not None:
        last = datetime.combine(end.astimezone(UTC), time.max, UTC)
        row_filter = And(row_filter, compare(LessThanOrEqual, "timestamp", last.isoformat()))
    return row_filter


def spans_filter(instruments: Sequence[InstrumentFilter]) -> BooleanExpression:
    """Return the filter of files for the spans of instruments.

    Args:
        instruments: at least one.
    """
    starts = [one.start for one in instruments if one.start is not None]
    ends = [one.end for one in instruments if one.end is not None]
    start = min(starts) if len(starts) == len(instruments) else None
    end = max(ends) if len(ends) == len(instruments) else None
    return days_filter(start, end)


def _any_of(terms: Sequence[BooleanExpression]) -> BooleanExpression:
    return terms[0] if len(terms) == 1 else Or(*terms)


def resolve_instruments(
    engine: Engine,
    view: TableView,
    *,
    symbols: Sequence[str],
    exchange: str | None,
    start: TimeBound | None,
    end: TimeBound | None,
) -> list[InstrumentFilter]:
    """Return each instrument once, with the span by its venue's clock.

    Args:
        symbols: `BHP`, or with its venue `ASX:BHP`.
        exchange: the venue of those that do not name theirs.
    Raises:
        NotFoundError: the table does not have a symbol, or not at that venue.
        QueryError: a symbol is at several venues and none is named.
    """
    found = [
        ReadRequest(symbol, start=start, end=end).at(
            _exchange(engine, view, symbol, venue or exchange)
        )
        for venue, symbol in instrument_names(symbols)
    ]
    return list(dict.fromkeys(found))


def instruments_filter(instruments: Sequence[InstrumentFilter]) -> BooleanExpression:
    """Return the filter of files for instruments and their spans.

    Args:
        instruments: at least one.
    """
    venues = {one.exchange for one in instruments}
    exchange = venues.pop() if len(venues) == 1 else None
    names = names_filter([one.symbol for one in instruments], exchange)
    return And(names, spans_filter(instruments))


def _exchange(engine: Engine, view: TableView, symbol: str, exchange: str | None) -> str:
    venues = engine.venues(view, symbol)
    if not venues:
        table = view.complete_to.table
        raise NotFoundError(f"{symbol} is not in {table}: /v1/symbols lists what is")
    return pick_exchange(symbol, exchange, venues=venues)
