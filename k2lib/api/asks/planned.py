"""Which rows several instruments can have, for the plan of the files to read; pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, time

from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    LessThanOrEqual,
    Or,
)

from k2lib.lake.scan import compare
from k2lib.query.instruments import Wanted


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


def of_wanted(wanted: Sequence[Wanted], *, within: BooleanExpression) -> BooleanExpression:
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
