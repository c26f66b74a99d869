"""Pages of rows of several instruments, filtered by columns."""

from collections.abc import Sequence
from typing import Any

from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression

from k2lib.api.context import Desk
from k2lib.api.requests.bodies import QuotesQuery, RowsQuery, TradesQuery
from k2lib.api.requests.cursor import RowPlace, from_micros, read_row_cursor
from k2lib.api.requests.filters import (
    SORT_KEYS,
    Where,
    behind,
    of_days,
    of_symbols,
    of_venues,
    of_wanted,
    within,
)
from k2lib.api.requests.instruments import wanted_of
from k2lib.api.requests.pages import checked_limit, cut, pinned
from k2lib.api.responses.reply import Page
from k2lib.query.answer import ReadResult
from k2lib.schema.records import EVENT_ORDER


def trade_filters(asked: TradesQuery) -> Where:
    """Return the condition that trades must meet."""
    return within(
        {
            "side": ("side =", asked.side),
            "min_price": ("price >=", asked.min_price),
            "max_price": ("price <=", asked.max_price),
            "min_quantity": ("quantity >=", asked.min_quantity),
            "max_quantity": ("quantity <=", asked.max_quantity),
        }
    )


def quote_filters(asked: QuotesQuery) -> Where:
    """Return the condition that quotes must meet."""
    return within(
        {
            "min_bid_price": ("bid_price >=", asked.min_bid_price),
            "max_bid_price": ("bid_price <=", asked.max_bid_price),
            "min_ask_price": ("ask_price >=", asked.min_ask_price),
            "max_ask_price": ("ask_price <=", asked.max_ask_price),
        }
    )


def found_page(
    desk: Desk,
    table: str,
    asked: RowsQuery,
    *,
    filters: Where,
    columns: Sequence[str] | None,
) -> Page:
    """Return one page of the rows that meet the filters."""
    limit = checked_limit(asked.limit, desk)
    question: dict[str, Any] = {"query": table, **asked.asked()}
    place = None if asked.cursor is None else read_row_cursor(asked.cursor, asked=question)
    as_of = pinned(asked.as_of, None if place is None else place.snapshot_id)
    seen = desk.engine.table_view(table, as_of=as_of, tail=asked.tail)
    named = of_symbols(asked.symbols, asked.exchange)
    wanted = wanted_of(
        desk.engine,
        seen,
        symbols=asked.symbols,
        exchange=asked.exchange,
        start=asked.start,
        end=asked.end,
    )
    down = asked.order == "desc"
    rows = desk.engine.rows(
        seen, row_filter=And(of_wanted(wanted, within=named), _left(place, down))
    )
    where = of_venues(wanted) & filters & behind(place, descending=down)
    sql = _sql(rows.sql, where, columns=columns, descending=down, count=limit + 1)
    answer = rows.answer(desk.engine.fetch(sql, rows, params=where.params))
    page = cut(answer, limit, table=table, as_of=asked.as_of, question=question)
    if columns is None:
        return page
    return Page(ReadResult(page.answer.frame.select(columns), answer.complete_to), page.cursor)


def _left(place: RowPlace | None, descending: bool) -> BooleanExpression:
    """Which rows can still come after one."""
    if place is None:
        return AlwaysTrue()
    moment = from_micros(place.timestamp_us)
    return of_days(None, moment) if descending else of_days(moment, None)


def _sql(
    rows: str, where: Where, *, columns: Sequence[str] | None, descending: bool, count: int
) -> str:
    # What the cursor needs is read too, and left out of the answer.
    names = "*" if columns is None else ", ".join(dict.fromkeys([*columns, *EVENT_ORDER]))
    order = ", ".join(f"{one} {'DESC' if descending else 'ASC'}" for one in SORT_KEYS)
    return f"SELECT {names} FROM ({rows}) WHERE {where.sql} ORDER BY {order} LIMIT {count}"
