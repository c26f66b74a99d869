"""Aggregations: groups of rows and their metrics, as SQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pyiceberg.expressions import And, BooleanExpression

from k2lib.api.context import AppContext
from k2lib.api.requests.bodies import Aggregation
from k2lib.api.requests.filters import (
    SqlCondition,
    instruments_condition,
    instruments_filter,
    limits_condition,
    names_condition,
    names_filter,
    resolve_instruments,
    spans_filter,
)
from k2lib.api.responses.reply import ResultPage, check_row_count, check_symbol_count
from k2lib.errors import QueryError
from k2lib.query.request import InstrumentFilter, TimeBound, time_range
from k2lib.query.sql import (
    BY_EVENT_TIME,
    TURNOVER,
    VWAP,
    ZONE_OF_ROW,
    interval_us_sql,
    quotient_sql,
    trading_date_sql,
    units_sql,
)
from k2lib.query.table_state import TableView
from k2lib.schema.calendar import DAY, bar_length, zone
from k2lib.schema.market import market_sql

TRADES: Final = "trades_v2"
TRADING_DATE: Final = trading_date_sql()
# The SQL of each metric that is not made of others, by its column within the query.
BASE_METRICS: Final = {
    "count": "count(*)",
    "sum_price": "sum(price)",
    "min_price": "min(price)",
    "max_price": "max(price)",
    "sum_quantity": "sum(quantity)",
    "min_quantity": "min(quantity)",
    "max_quantity": "max(quantity)",
    "volume": "sum(quantity)",
    "turnover": TURNOVER,
    "open": f"first(price ORDER BY {BY_EVENT_TIME})",
    "close": f"last(price ORDER BY {BY_EVENT_TIME})",
    "first": "min(timestamp)",
    "last": "max(timestamp)",
}
PARTS_OF_METRIC: Final = {
    "avg_price": ("sum_price", "count"),
    "avg_quantity": ("sum_quantity", "count"),
    "vwap": ("turnover", "volume"),
}
# Prices of two instruments, or currencies, must not be mixed.
METRICS_OF_ONE_INSTRUMENT: Final = frozenset(
    {"sum_price", "min_price", "max_price", "avg_price", "turnover", "vwap", "open", "close"}
)


def groups_page(context: AppContext, query: Aggregation) -> ResultPage:
    """Return a row for each group, sorted by the columns of `group_by`.

    Raises:
        QueryError: prices would be mixed across instruments, or there are too many groups.
    """
    view = context.engine.table_view(query.table, as_of=query.as_of, tail=query.tail)
    condition, row_filter = _rows_of(context, view, query)
    if query.table == TRADES:
        condition &= SqlCondition((market_sql(query.market),))
    rows = context.engine.rows(view, row_filter=row_filter)
    sql = groups_sql(rows.sql, query, condition=condition, count=context.options.max_rows + 1)
    frame = context.engine.fetch(sql, rows, params=condition.params)
    check_row_count(context, frame.height, remedy="ask for fewer groups or a shorter span")
    market = query.market if query.table == TRADES else None
    return ResultPage(rows.result(frame), market=market)


def groups_sql(rows: str, query: Aggregation, *, condition: SqlCondition, count: int) -> str:
    """Return the SELECT of groups over a SELECT of rows."""
    keys = [f"{_dimension(name, query.every)} AS {_quoted(name)}" for name in query.group_by]
    metrics = query.metrics
    names = dict.fromkeys(part for name in metrics for part in PARTS_OF_METRIC.get(name, (name,)))
    parts = [f"{BASE_METRICS[part]} AS {_quoted(part)}" for part in names]
    columns = [
        *map(_quoted, query.group_by),
        *(f"{_metric(name)} AS {_quoted(name)}" for name in metrics),
    ]
    inner = f"SELECT {', '.join([*keys, *parts])} FROM ({rows})"
    groups = f"{inner} WHERE {condition.sql} GROUP BY ALL"
    order = ", ".join(map(_quoted, query.group_by)) or "ALL"
    return f"SELECT {', '.join(columns)} FROM ({groups}) ORDER BY {order} LIMIT {count}"


def _rows_of(
    context: AppContext, view: TableView, query: Aggregation
) -> tuple[SqlCondition, BooleanExpression]:
    """The rows that count, and the filter of the files that can have some."""
    if query.symbols is None:
        _check_not_mixed(query, "symbol" in query.group_by and _has_one_venue(query))
        return _rows_of_all(query, names_filter(None, query.exchange))
    check_symbol_count(context, query.symbols)
    instruments = resolve_instruments(
        context.engine,
        view,
        symbols=query.symbols,
        exchange=query.exchange,
        start=query.start,
        end=query.end,
    )
    _check_not_mixed(query, len(instruments) == 1 or _are_apart(query, instruments))
    return instruments_condition(instruments), instruments_filter(instruments)


def _rows_of_all(
    query: Aggregation, row_filter: BooleanExpression
) -> tuple[SqlCondition, BooleanExpression]:
    if query.exchange is None:
        condition = _limit("start", query.start, ">=") & _limit("end", query.end, "<")
        return condition, row_filter
    span = time_range(query.start, query.end, of_venue=zone(query.exchange))
    limits = {"start": ("timestamp >=", span.start), "end": ("timestamp <", span.end)}
    condition = names_condition(None, query.exchange) & limits_condition(limits)
    return condition, And(
        row_filter, spans_filter([InstrumentFilter("", query.exchange, span.start, span.end)])
    )


def _limit(name: str, when: TimeBound | None, sign: str) -> SqlCondition:
    if when is None or isinstance(when, datetime):
        return limits_condition({name: (f"timestamp {sign}", when)})
    return limits_condition({name: (f"{TRADING_DATE} {sign}", when)})


def _are_apart(query: Aggregation, instruments: Sequence[InstrumentFilter]) -> bool:
    """Whether no group has rows of two of the instruments."""
    symbols = {one.symbol for one in instruments}
    venues = {one.exchange for one in instruments}
    by_symbol, by_venue = ("symbol" in query.group_by, "exchange" in query.group_by)
    return (by_symbol and (by_venue or len(symbols) == len(instruments))) or (
        by_venue and len(venues) == len(instruments)
    )


def _has_one_venue(query: Aggregation) -> bool:
    return query.exchange is not None or "exchange" in query.group_by


def _check_not_mixed(query: Aggregation, is_one_instrument: bool) -> None:
    mixed = [metric for metric in query.metrics if metric in METRICS_OF_ONE_INSTRUMENT]
    if mixed and not is_one_instrument:
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
    return f"make_timestamptz({interval_us_sql(every)})"


def _metric(name: str) -> str:
    match name:
        case "vwap":
            return VWAP
        case "avg_price":
            return quotient_sql(units_sql("sum_price"), '"count"')
        case "avg_quantity":
            return quotient_sql(units_sql("sum_quantity"), '"count"', digits=19)
    return _quoted(name)


def _quoted(name: str) -> str:
    return f'"{name}"'
