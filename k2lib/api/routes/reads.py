"""The GETs: rows, bars, summaries, and what the tables hold."""

from typing import Annotated, Final

import polars as pl
from fastapi import APIRouter, Path, Query, Request, Response

from k2lib.api.context import AtDesk
from k2lib.api.requests.aggregates import group_page
from k2lib.api.requests.bodies import Aggregation, QuotesQuery, TradesQuery
from k2lib.api.requests.pages import TRADES, bar_page, recent_page, row_page
from k2lib.api.requests.parameters import (
    Bars,
    Day,
    Exchange,
    Instruments,
    PageOfInstrument,
    Read,
    Recent,
    Symbol,
)
from k2lib.api.requests.search import found_page, quote_filters, trade_filters
from k2lib.api.responses import models
from k2lib.api.responses.accept import choose_format
from k2lib.api.responses.reply import Page, Source, check_rows, reply, sent
from k2lib.query.answer import ReadResult
from k2lib.query.statistics import ask_summary, ask_symbols

QUOTES: Final = "quotes_v2"
router = APIRouter(prefix="/v1")


@router.get("/trades", response_model=models.Trades, tags=["rows"])
def trades(asked: Annotated[PageOfInstrument, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's trades in the order of events, page by page."""
    source = Source(TRADES, asked.as_of, asked.tail)
    return reply(
        request, desk, form=asked.format, source=source, ask=lambda: row_page(desk, TRADES, asked)
    )


@router.get("/trades/recent", response_model=models.Trades, tags=["rows"])
def recent_trades(asked: Annotated[Recent, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's newest trades in the order of events, those of this second too."""
    source = Source(TRADES, asked.as_of, asked.tail)
    return reply(
        request,
        desk,
        form=asked.format,
        source=source,
        ask=lambda: recent_page(desk, TRADES, asked),
    )


@router.get("/quotes", response_model=models.Quotes, tags=["rows"])
def quotes(asked: Annotated[PageOfInstrument, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's quotes in the order of events, page by page."""
    source = Source(QUOTES, asked.as_of, asked.tail)
    return reply(
        request, desk, form=asked.format, source=source, ask=lambda: row_page(desk, QUOTES, asked)
    )


@router.get("/bars", response_model=models.Bars, tags=["aggregates"])
def bars(asked: Annotated[Bars, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's open, high, low, close and volume by time."""
    source = Source(TRADES, asked.as_of, asked.tail)
    return reply(request, desk, form=asked.format, source=source, ask=lambda: bar_page(desk, asked))


@router.get(
    "/summary/{exchange}/{symbol}/{date}", response_model=models.Summaries, tags=["aggregates"]
)
def summary(
    exchange: Annotated[Exchange, Path(description="Venue.", examples=["ASX"])],
    symbol: Annotated[Symbol, Path(description="The venue's name.", examples=["BHP"])],
    date: Annotated[Day, Path(description="The venue's trading date.", examples=["2014-03-10"])],
    asked: Annotated[Read, Query()],
    request: Request,
    desk: AtDesk,
) -> Response:
    """Return what one instrument did on one trading date of its venue."""

    def ask() -> Page:
        return Page(
            ask_summary(
                desk.engine, symbol, date, exchange=exchange, as_of=asked.as_of, tail=asked.tail
            )
        )

    source = Source(TRADES, asked.as_of, asked.tail)
    return reply(request, desk, form=asked.format, source=source, ask=ask)


@router.get("/symbols", response_model=models.Symbols, tags=["about the data"])
def symbols(asked: Annotated[Instruments, Query()], request: Request, desk: AtDesk) -> Response:
    """Return the instruments that a table holds: how many rows, from when to when."""
    source = Source(asked.table, asked.as_of, asked.tail)

    def ask() -> Page:
        answer = _held(desk, asked)
        check_rows(desk, answer.frame.height, remedy="ask for one exchange")
        return Page(answer)

    return reply(request, desk, form=asked.format, source=source, ask=ask)


@router.get("/stats", response_model=models.Stats, tags=["about the data"])
def stats(asked: Annotated[Instruments, Query()], request: Request, desk: AtDesk) -> Response:
    """Return how much a table holds of each venue: symbols, rows, from when to when."""
    source = Source(asked.table, asked.as_of, asked.tail)

    def ask() -> Page:
        answer = _held(desk, asked)
        return Page(ReadResult(_by_venue(answer.frame), answer.complete_to))

    return reply(request, desk, form=asked.format, source=source, ask=ask)


def _held(desk: AtDesk, asked: Instruments) -> ReadResult:
    return ask_symbols(
        desk.engine,
        table=asked.table,
        exchange=asked.exchange,
        as_of=asked.as_of,
        tail=asked.tail,
    )


def _by_venue(held: pl.DataFrame) -> pl.DataFrame:
    counted = held.group_by("exchange").agg(
        pl.len().cast(pl.Int64).alias("symbols"),
        pl.col("rows").sum(),
        pl.col("first").min(),
        pl.col("last").max(),
    )
    return counted.sort("exchange")


queries = APIRouter(prefix="/v1", tags=["queries"])


@queries.post("/trades/query", response_model=models.FoundTrades)
def query_trades(asked: TradesQuery, request: Request, desk: AtDesk) -> Response:
    """Return trades of several instruments that meet the filters, page by page."""
    form = choose_format(asked.format, request.headers.get("accept"))
    page = found_page(desk, TRADES, asked, filters=trade_filters(asked), columns=asked.columns)
    return sent(page, form)


@queries.post("/quotes/query", response_model=models.FoundQuotes)
def query_quotes(asked: QuotesQuery, request: Request, desk: AtDesk) -> Response:
    """Return quotes of several instruments that meet the filters, page by page."""
    form = choose_format(asked.format, request.headers.get("accept"))
    page = found_page(desk, QUOTES, asked, filters=quote_filters(asked), columns=asked.columns)
    return sent(page, form)


@queries.post("/aggregations", response_model=models.Groups)
def aggregations(asked: Aggregation, request: Request, desk: AtDesk) -> Response:
    """Return figures of groups of trades, or how many quotes there are of each."""
    form = choose_format(asked.format, request.headers.get("accept"))
    return sent(group_page(desk, asked), form)
