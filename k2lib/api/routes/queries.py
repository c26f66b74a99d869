"""The POSTs: several instruments, filters, and figures of groups."""

from fastapi import APIRouter, Request, Response

from k2lib.api.answers import documents
from k2lib.api.answers.accept import choose_format
from k2lib.api.answers.reply import sent
from k2lib.api.asks.aggregates import group_page
from k2lib.api.asks.bodies import Aggregation, QuotesQuery, TradesQuery
from k2lib.api.asks.pages import TRADES
from k2lib.api.asks.searches import found_page, quote_filters, trade_filters
from k2lib.api.desk import AtDesk
from k2lib.api.routes.reads import QUOTES

router = APIRouter(prefix="/v1", tags=["queries"])


@router.post("/trades/query", response_model=documents.FoundTrades)
def query_trades(asked: TradesQuery, request: Request, desk: AtDesk) -> Response:
    """Return trades of several instruments that meet the filters, page by page."""
    form = choose_format(asked.format, request.headers.get("accept"))
    page = found_page(desk, TRADES, asked, filters=trade_filters(asked), columns=asked.columns)
    return sent(page, form)


@router.post("/quotes/query", response_model=documents.FoundQuotes)
def query_quotes(asked: QuotesQuery, request: Request, desk: AtDesk) -> Response:
    """Return quotes of several instruments that meet the filters, page by page."""
    form = choose_format(asked.format, request.headers.get("accept"))
    page = found_page(desk, QUOTES, asked, filters=quote_filters(asked), columns=asked.columns)
    return sent(page, form)


@router.post("/aggregations", response_model=documents.Groups)
def aggregations(asked: Aggregation, request: Request, desk: AtDesk) -> Response:
    """Return figures of groups of trades, or how many quotes there are of each."""
    form = choose_format(asked.format, request.headers.get("accept"))
    return sent(group_page(desk, asked), form)
