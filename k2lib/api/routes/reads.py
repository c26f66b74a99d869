"""The GETs: rows, bars, summaries, and what the tables hold."""

from typing import Annotated, Final

import polars as pl
from fastapi import APIRouter, Path, Query, Request, Response

from k2lib.api.answers import documents
from k2lib.api.answers.reply import Page, Source, check_rows, reply
from k2lib.api.asks.pages import TRADES, bar_page, recent_page, row_page
from k2lib.api.asks.parameters import (
    Bars,
    Instruments,
    PageOfInstrument,
    Read,
    Recent,
)
from k2lib.api.asks.values import Day, Exchange, Symbol
from k2lib.api.desk import AtDesk
from k2lib.query.complete import Answer
from k2lib.query.stats import ask_symbols
from k2lib.query.summary import ask_summary

QUOTES: Final = "quotes_v2"
router = APIRouter(prefix="/v1")


@router.get("/trades", response_model=documents.Trades, tags=["rows"])
def trades(asked: Annotated[PageOfInstrument, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's trades in the order of events, page by page."""
    source = Source(TRADES, asked.as_of, asked.tail)
    return reply(
        request, desk, form=asked.format, source=source, ask=lambda: row_page(desk, TRADES, asked)
    )


@router.get("/trades/recent", response_model=documents.Trades, tags=["rows"])
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


@router.get("/quotes", response_model=documents.Quotes, tags=["rows"])
def quotes(asked: Annotated[PageOfInstrument, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's quotes in the order of events, page by page."""
    source = Source(QUOTES, asked.as_of, asked.tail)
    return reply(
        request, desk, form=asked.format, source=source, ask=lambda: row_page(desk, QUOTES, asked)
    )


@router.get("/bars", response_model=documents.Bars, tags=["aggregates"])
def bars(asked: Annotated[Bars, Query()], request: Request, desk: AtDesk) -> Response:
    """Return one instrument's open, high, low, close and volume by time."""
    source = Source(TRADES, asked.as_of, asked.tail)
    return reply(request, desk, form=asked.format, source=source, ask=lambda: bar_page(desk, asked))


@router.get(
    "/summary/{exchange}/{symbol}/{date}", response_model=documents.Summaries, tags=["aggregates"]
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


@router.get("/symbols", response_model=documents.Symbols, tags=["about the data"])
def symbols(asked: Annotated[Instruments, Query()], request: Request, desk: AtDesk) -> Response:
    """Return the instruments that a table holds: how many rows, from when to when."""
    source = Source(asked.table, asked.as_of, asked.tail)

    def ask() -> Page:
        answer = _held(desk, asked)
        check_rows(desk, answer.frame.height, remedy="ask for one exchange")
        return Page(answer)

    return reply(request, desk, form=asked.format, source=source, ask=ask)


@router.get("/stats", response_model=documents.Stats, tags=["about the data"])
def stats(asked: Annotated[Instruments, Query()], request: Request, desk: AtDesk) -> Response:
    """Return how much a table holds of each venue: symbols, rows, from when to when."""
    source = Source(asked.table, asked.as_of, asked.tail)

    def ask() -> Page:
        answer = _held(desk, asked)
        return Page(Answer(_by_venue(answer.frame), answer.complete_to))

    return reply(request, desk, form=asked.format, source=source, ask=ask)


def _held(desk: AtDesk, asked: Instruments) -> Answer:
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
