"""Figures of groups of rows."""

from datetime import datetime, timedelta
from typing import Final

from pyiceberg.expressions import BooleanExpression

from k2lib.api.context import Desk
from k2lib.api.requests.bodies import Aggregation
from k2lib.api.requests.filters import Where, of_names, of_symbols, of_venues, of_wanted, within
from k2lib.api.requests.instruments import wanted_of
from k2lib.api.responses.reply import Page, check_rows
from k2lib.errors import QueryError
from k2lib.query.request import TimeBound, instrument_filter
from k2lib.query.sql import BY_EVENT_TIME, VWAP, ZONE_OF_ROW
from k2lib.query.table_state import TableView
from k2lib.schema.calendar import DAY, MICROSECOND, bar_length

TRADING_DATE: Final = f"timezone({ZONE_OF_ROW}, timestamp)::DATE"
# Every figure that another is made of, by the column it has within the query.
FOLDED: Final = {
    "count": "count(*)",
    "sum_price": "sum(price)",
    "min_price": "min(price)",
    "max_price": "max(price)",
    "sum_quantity": "sum(quantity)",
    "min_quantity": "min(quantity)",
    "max_quantity": "max(quantity)",
    "volume": "sum(quantity)",
    "turnover": "sum(price::DECIMAL(38, 8) * quantity)",
    "open": f"first(price ORDER BY {BY_EVENT_TIME})",
    "close": f"last(price ORDER BY {BY_EVENT_TIME})",
    "first": "min(timestamp)",
    "last": "max(timestamp)",
}
NEEDS: Final = {
    "avg_price": ("sum_price", "count"),
    "avg_quantity": ("sum_quantity", "count"),
    "vwap": ("turnover", "volume"),
}
# Prices of two instruments, or currencies, are not to be mixed.
OF_ONE_INSTRUMENT: Final = frozenset(
    {"sum_price", "min_price", "max_price", "avg_price", "turnover", "vwap", "open", "close"}
)


def group_page(desk: Desk, asked: Aggregation) -> Page:
    """Return a row for each group, sorted by what it is grouped by.

    Raises:
        QueryError: prices would be mixed across instruments, or there are too many groups.
    """
    seen = desk.engine.table_view(asked.table, as_of=asked.as_of, tail=asked.tail)
    where, may_have = _where(desk, seen, asked)
    rows = desk.engine.rows(seen, row_filter=may_have)
    most = desk.options.max_rows
    sql = groups_sql(rows.sql, asked, where=where, count=most + 1)
    frame = desk.engine.fetch(sql, rows, params=where.params)
    check_rows(desk, frame.height, remedy="ask for fewer groups or a shorter span")
    return Page(rows.answer(frame))


def groups_sql(rows: str, asked: Aggregation, *, where: Where, count: int) -> str:
    """Return the SELECT of groups over a SELECT of rows."""
    keys = [f"{_dimension(name, asked.every)} AS {_quoted(name)}" for name in asked.group_by]
    metrics = list(dict.fromkeys(asked.metrics))
    parts = dict.fromkeys(part for metric in metrics for part in NEEDS.get(metric, (metric,)))
    folded = [f"{FOLDED[part]} AS {_quoted(part)}" for part in parts]
    shown = [
        *map(_quoted, asked.group_by),
        *(f"{_metric(one)} AS {_quoted(one)}" for one in metrics),
    ]
    groups = f"SELECT {', '.join([*keys, *folded])} FROM ({rows}) WHERE {where.sql} GROUP BY ALL"
    order = ", ".join(map(_quoted, asked.group_by)) or "ALL"
    return f"SELECT {', '.join(shown)} FROM ({groups}) ORDER BY {order} LIMIT {count}"


def _where(desk: Desk, seen: TableView, asked: Aggregation) -> tuple[Where, BooleanExpression]:
    """Which rows count, and which files can have some."""
    named = of_symbols(asked.symbols, asked.exchange)
    if asked.symbols is None:
        _check_apart(asked, "symbol" in asked.group_by and _one_venue(asked))
        return _of_all(asked, named)
    wanted = wanted_of(
        desk.engine,
        seen,
        symbols=asked.symbols,
        exchange=asked.exchange,
        start=asked.start,
        end=asked.end,
    )
    _check_apart(asked, "symbol" in asked.group_by or len(wanted) == 1)
    return of_venues(wanted), of_wanted(wanted, within=named)


def _of_all(asked: Aggregation, named: BooleanExpression) -> tuple[Where, BooleanExpression]:
    if asked.exchange is None:
        return _limit("start", asked.start, ">=") & _limit("end", asked.end, "<"), named
    span = instrument_filter("", asked.exchange, start=asked.start, end=asked.end)
    limits = {"start": ("timestamp >=", span.start), "end": ("timestamp <", span.end)}
    where = of_names(None, asked.exchange) & within(limits)
    return where, of_wanted([span], within=named)


def _limit(name: str, when: TimeBound | None, sign: str) -> Where:
    if when is None or isinstance(when, datetime):
        return within({name: (f"timestamp {sign}", when)})
    return within({name: (f"{TRADING_DATE} {sign}", when)})


def _one_venue(asked: Aggregation) -> bool:
    return asked.exchange is not None or "exchange" in asked.group_by


def _check_apart(asked: Aggregation, apart: bool) -> None:
    mixed = [metric for metric in asked.metrics if metric in OF_ONE_INSTRUMENT]
    if mixed and not apart:
        raise QueryError(
            f"metrics {', '.join(mixed)} are of one instrument: ask for one symbol, or put "
            "symbol and exchange in group_by"
        )


def _dimension(name: str, every: str | None) -> str:
    match name:
        case "trading_date":
            return TRADING_DATE
        case "interval":
            return _interval(bar_length(every or ""))
    return name


def _interval(every: timedelta) -> str:
    if every == DAY:
        return f"timezone({ZONE_OF_ROW}, {TRADING_DATE}::TIMESTAMP)"
    length = every // MICROSECOND
    since = f"(epoch_us(timestamp) % {length} + {length}) % {length}"
    return f"make_timestamptz(epoch_us(timestamp) - {since})"


def _metric(name: str) -> str:
    match name:
        case "vwap":
            return VWAP
        case "avg_price":
            return _average("sum_price")
        case "avg_quantity":
            return _average("sum_quantity")
    return _quoted(name)


def _average(total: str) -> str:
    units = f"replace({total}::VARCHAR, '.', '')::HUGEINT"
    halves_away = f'{units} + sign({units}) * (nullif("count", 0) // 2)'
    return f'(({halves_away}) // nullif("count", 0) * 0.00000001::DECIMAL(9, 8))::DECIMAL(18, 8)'


def _quoted(name: str) -> str:
    return f'"{name}"'
