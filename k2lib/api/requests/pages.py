"""Pages of rows and bars: the query of one page, and the cursor of the next one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Final

from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression

from k2lib.api.context import AppContext
from k2lib.api.problems import WrongParameterError
from k2lib.api.requests.bodies import QuotesQuery, RowsQuery, TradesQuery
from k2lib.api.requests.cursor import (
    MICROSECOND,
    BarPosition,
    RowPosition,
    decode_bar_cursor,
    decode_row_cursor,
    encode_cursor,
    from_micros,
    last_row_position,
    to_micros,
)
from k2lib.api.requests.filters import (
    SORT_KEYS,
    SqlCondition,
    after_condition,
    days_filter,
    instruments_condition,
    instruments_filter,
    limits_condition,
    resolve_instruments,
)
from k2lib.api.requests.parameters import (
    BarsParameters,
    LatestParameters,
    RecentParameters,
    RowsParameters,
    SpanParameters,
    SummaryParameters,
    TradesParameters,
    cursor_scope,
)
from k2lib.api.responses.reply import ResultPage, check_symbol_count
from k2lib.errors import NotFoundError
from k2lib.query.answer import ReadResult
from k2lib.query.request import AsOf, ReadRequest
from k2lib.query.statistics import read_bars, read_summary
from k2lib.schema.market import Market, market_sql
from k2lib.schema.order import EVENT_ORDER

HasLimit = SpanParameters | RecentParameters | RowsQuery
TRADES: Final = "trades_v2"
QUOTES: Final = "quotes_v2"


def trades_page(context: AppContext, parameters: TradesParameters) -> ResultPage:
    """Return one page of trades in the order of events, or backwards."""
    if not parameters.is_plain:
        query = TradesQuery.model_construct(**_query_fields(parameters), market=parameters.market)
        return trades_query_page(context, query)
    page = _rows_page(context, TRADES, parameters, market=parameters.market)
    return replace(page, market=parameters.market)


def quotes_page(context: AppContext, parameters: RowsParameters) -> ResultPage:
    """Return one page of quotes in the order of events, or backwards."""
    if not parameters.is_plain:
        query = QuotesQuery.model_construct(**_query_fields(parameters))
        return quotes_query_page(context, query)
    return _rows_page(context, QUOTES, parameters)


def _query_fields(parameters: RowsParameters) -> dict[str, Any]:
    """Return the fields of the query that says the same."""
    symbols = parameters.symbol.split(",")
    names = RowsQuery.model_fields.keys() & parameters.model_fields_set
    return {"symbols": symbols, **{name: getattr(parameters, name) for name in names}}


def _rows_page(
    context: AppContext, table: str, parameters: RowsParameters, *, market: Market = "all"
) -> ResultPage:
    limit = _page_rows(context, parameters)
    scope = {"table": table, **cursor_scope(parameters)}
    last = None if parameters.cursor is None else decode_row_cursor(parameters.cursor, scope=scope)
    request = ReadRequest(
        parameters.symbol,
        parameters.exchange if last is None else last.exchange,
        parameters.start,
        parameters.end,
        as_of=_pinned(parameters.as_of, last),
        after=None if last is None else last.key,
        first=limit + 1,
        tail=parameters.tail,
        market=market,
    )
    result = context.engine.read(table, request)
    return _cut(result, limit, table=table, as_of=parameters.as_of, scope=scope)


def recent_page(context: AppContext, parameters: RecentParameters) -> ResultPage:
    """Return an instrument's newest trades in the order of events."""
    request = ReadRequest(
        parameters.symbol,
        parameters.exchange,
        as_of=parameters.as_of,
        last=_page_rows(context, parameters),
        tail=parameters.tail,
        market=parameters.market,
    )
    return ResultPage(context.engine.read(TRADES, request), market=parameters.market)


def latest_page(context: AppContext, parameters: LatestParameters) -> ResultPage:
    """Return an instrument's newest quote, or the newest at or before a moment, as one row.

    Raises:
        NotFoundError: there is none so old.
    """
    request = ReadRequest(
        parameters.symbol,
        parameters.exchange,
        end=None if parameters.at is None else parameters.at + MICROSECOND,
        as_of=parameters.as_of,
        last=1,
        tail=parameters.tail,
    )
    result = context.engine.read(QUOTES, request)
    if result.frame.is_empty():
        raise NotFoundError(
            f"{parameters.symbol} has no quote at or before at={parameters.at}: give a later moment"
        )
    return ResultPage(result)


def bars_page(context: AppContext, parameters: BarsParameters) -> ResultPage:
    """Return one page of an instrument's bars."""
    limit = _page_rows(context, parameters)
    scope = {"table": "bars", **cursor_scope(parameters)}
    first = None if parameters.cursor is None else decode_bar_cursor(parameters.cursor, scope=scope)
    request = ReadRequest(
        parameters.symbol,
        parameters.exchange if first is None else first.exchange,
        parameters.start if first is None else from_micros(first.start_us),
        parameters.end,
        as_of=_pinned(parameters.as_of, first),
        first=limit + 1,
        tail=parameters.tail,
        market=parameters.market,
    )
    result = read_bars(context.engine, request, every=parameters.every)
    if result.frame.height <= limit:
        return ResultPage(result, market=parameters.market)
    next_bar = result.frame.row(limit, named=True)
    snapshot_id = _pinned_snapshot(result, TRADES, parameters.as_of)
    position = BarPosition(snapshot_id, to_micros(next_bar["start"]), next_bar["exchange"])
    bars = ReadResult(result.frame.head(limit), result.complete_to)
    return ResultPage(bars, encode_cursor(position, scope=scope), market=parameters.market)


def summary_page(
    context: AppContext,
    symbol: str,
    day: date,
    parameters: SummaryParameters,
    *,
    exchange: str | None = None,
) -> ResultPage:
    """Return what an instrument did on one trading date."""
    market = parameters.market
    request = ReadRequest(
        symbol, exchange, as_of=parameters.as_of, tail=parameters.tail, market=market
    )
    return ResultPage(read_summary(context.engine, request, day), market=market)


def trades_query_page(context: AppContext, query: TradesQuery) -> ResultPage:
    """Return one page of the trades of several instruments that meet the filters."""
    filters = limits_condition(
        {
            "side": ("side =", query.side),
            "min_price": ("price >=", query.min_price),
            "max_price": ("price <=", query.max_price),
            "min_quantity": ("quantity >=", query.min_quantity),
            "max_quantity": ("quantity <=", query.max_quantity),
        }
    )
    filters &= SqlCondition((market_sql(query.market),))
    page = _query_page(context, TRADES, query, filters=filters, columns=query.columns)
    return replace(page, market=query.market)


def quotes_query_page(context: AppContext, query: QuotesQuery) -> ResultPage:
    """Return one page of the quotes of several instruments that meet the filters."""
    filters = limits_condition(
        {
            "min_bid_price": ("bid_price >=", query.min_bid_price),
            "max_bid_price": ("bid_price <=", query.max_bid_price),
            "min_ask_price": ("ask_price >=", query.min_ask_price),
            "max_ask_price": ("ask_price <=", query.max_ask_price),
        }
    )
    return _query_page(context, QUOTES, query, filters=filters, columns=query.columns)


def _query_page(
    context: AppContext,
    table: str,
    query: RowsQuery,
    *,
    filters: SqlCondition,
    columns: Sequence[str] | None,
) -> ResultPage:
    check_symbol_count(context, query.symbols)
    limit = _page_rows(context, query)
    scope = {"query": table, **cursor_scope(query)}
    last = None if query.cursor is None else decode_row_cursor(query.cursor, scope=scope)
    view = context.engine.table_view(table, as_of=_pinned(query.as_of, last), tail=query.tail)
    instruments = resolve_instruments(
        context.engine,
        view,
        symbols=query.symbols,
        exchange=query.exchange,
        start=query.start,
        end=query.end,
    )
    is_descending = query.order == "desc"
    row_filter = And(instruments_filter(instruments), _remaining_days(last, is_descending))
    rows = context.engine.rows(view, row_filter=row_filter)
    condition = (
        instruments_condition(instruments)
        & filters
        & after_condition(last, descending=is_descending)
    )
    sql = _rows_sql(rows.sql, condition, columns=columns, descending=is_descending, count=limit + 1)
    result = rows.result(context.engine.fetch(sql, rows, params=condition.params))
    page = _cut(result, limit, table=table, as_of=query.as_of, scope=scope)
    if columns is None:
        return page
    return ResultPage(
        ReadResult(page.result.frame.select(columns), result.complete_to), page.next_cursor
    )


def _remaining_days(last: RowPosition | None, descending: bool) -> BooleanExpression:
    if last is None:
        return AlwaysTrue()
    moment = from_micros(last.timestamp_us)
    return days_filter(None, moment) if descending else days_filter(moment, None)


def _rows_sql(
    rows: str,
    condition: SqlCondition,
    *,
    columns: Sequence[str] | None,
    descending: bool,
    count: int,
) -> str:
    # The columns of the cursor are read too, and left out of the answer.
    names = "*" if columns is None else ", ".join(dict.fromkeys([*columns, *EVENT_ORDER]))
    order = ", ".join(f"{key} {'DESC' if descending else 'ASC'}" for key in SORT_KEYS)
    return f"SELECT {names} FROM ({rows}) WHERE {condition.sql} ORDER BY {order} LIMIT {count}"


def _page_rows(context: AppContext, request: HasLimit) -> int:
    """The rows of a page: at most those that the options allow, also by default."""
    max_rows = context.options.max_rows
    if "limit" not in request.model_fields_set:
        return min(request.limit, max_rows)
    if request.limit > max_rows:
        raise WrongParameterError("limit", request.limit, f"a page has at most {max_rows} rows")
    return request.limit


def _cut(
    result: ReadResult, limit: int, *, table: str, as_of: AsOf | None, scope: Mapping[str, Any]
) -> ResultPage:
    """Cut off the row beyond the limit, which is read to see whether there is a next page."""
    if result.frame.height <= limit:
        return ResultPage(result)
    rows = result.frame.head(limit)
    position = last_row_position(rows, snapshot_id=_pinned_snapshot(result, table, as_of))
    return ResultPage(ReadResult(rows, result.complete_to), encode_cursor(position, scope=scope))


def _pinned(as_of: AsOf | None, position: RowPosition | BarPosition | None) -> AsOf | None:
    """The snapshot of the first page, for all pages, even where a tag has moved since."""
    if position is None or position.snapshot_id is None:
        return as_of
    return position.snapshot_id


def _pinned_snapshot(result: ReadResult, table: str, as_of: AsOf | None) -> int | None:
    return None if as_of is None else result.complete_to[table].snapshot_id
