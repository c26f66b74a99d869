"""The GETs of data, and the POSTs that query and aggregate it."""

from collections.abc import Callable
from typing import Annotated, Final

import polars as pl
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from k2lib.api.context import AppContext, Context
from k2lib.api.requests.aggregations import groups_page
from k2lib.api.requests.bodies import Aggregation, QuotesQuery, TradesQuery
from k2lib.api.requests.filters import limits_condition
from k2lib.api.requests.pages import (
    QUOTES,
    TRADES,
    bars_page,
    latest_page,
    quotes_page,
    quotes_query_page,
    recent_page,
    summary_page,
    trades_page,
    trades_query_page,
)
from k2lib.api.requests.parameters import (
    BarsParameters,
    Day,
    Exchange,
    GapsParameters,
    Instrument,
    InstrumentsParameters,
    LatestParameters,
    RecentParameters,
    RowsParameters,
    SnapshotsParameters,
    SummaryParameters,
    Symbol,
    TableParameters,
    TradesParameters,
    check_parameters,
)
from k2lib.api.responses import models
from k2lib.api.responses.formats import choose_format
from k2lib.api.responses.reply import (
    ReadSource,
    ResultPage,
    check_row_count,
    page_response,
    reply,
)
from k2lib.api.security import JsonRoute
from k2lib.errors import NotFoundError
from k2lib.iceberg.tables import load_table
from k2lib.query.answer import ReadResult
from k2lib.query.request import instrument_of
from k2lib.query.sql import newest_revisions_sql
from k2lib.query.statistics import read_symbols
from k2lib.query.time_travel import snapshots as kept_snapshots

GAPS: Final = "gaps"
router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=[Depends(check_parameters)])


@router.get("/trades", response_model=models.TradesResponse, tags=["rows"])
def trades(
    parameters: Annotated[TradesParameters, Query()], request: Request, context: Context
) -> Response:
    """Return trades of one instrument, or of several, in either order, page by page."""
    return _reply(request, context, parameters, TRADES, lambda: trades_page(context, parameters))


@router.get("/trades/recent", response_model=models.TradesResponse, tags=["rows"])
def recent_trades(
    parameters: Annotated[RecentParameters, Query()], request: Request, context: Context
) -> Response:
    """Return one instrument's newest trades in the order of events, those of this second too."""
    return _reply(request, context, parameters, TRADES, lambda: recent_page(context, parameters))


@router.get("/quotes", response_model=models.QuotesResponse, tags=["rows"])
def quotes(
    parameters: Annotated[RowsParameters, Query()], request: Request, context: Context
) -> Response:
    """Return quotes of one instrument, or of several, in either order, page by page."""
    return _reply(request, context, parameters, QUOTES, lambda: quotes_page(context, parameters))


@router.get("/quotes/latest", response_model=models.QuotesResponse, tags=["rows"])
def latest_quote(
    parameters: Annotated[LatestParameters, Query()], request: Request, context: Context
) -> Response:
    """Return one instrument's best bid and ask: the newest, or those in force at a moment."""
    return _reply(request, context, parameters, QUOTES, lambda: latest_page(context, parameters))


@router.get("/bars", response_model=models.BarsResponse, tags=["aggregates"])
def bars(
    parameters: Annotated[BarsParameters, Query()], request: Request, context: Context
) -> Response:
    """Return one instrument's open, high, low, close and volume by time, of the market's trades."""
    return _reply(request, context, parameters, TRADES, lambda: bars_page(context, parameters))


@router.get(
    "/summary/{exchange}/{symbol}/{date}",
    response_model=models.SummariesResponse,
    tags=["aggregates"],
)
def summary(
    exchange: Annotated[Exchange, Path(description="Venue.", examples=["ASX"])],
    symbol: Annotated[Symbol, Path(description="The venue's name.", examples=["BHP"])],
    date: Annotated[Day, Path(description="The venue's trading date.", examples=["2014-03-10"])],
    parameters: Annotated[SummaryParameters, Query()],
    request: Request,
    context: Context,
) -> Response:
    """Return what one instrument did on one trading date of its venue, by the market's trades."""
    return _reply(
        request,
        context,
        parameters,
        TRADES,
        lambda: summary_page(context, symbol, date, parameters, exchange=exchange),
    )


@router.get(
    "/summary/{instrument}/{date}",
    response_model=models.SummariesResponse,
    tags=["aggregates"],
)
def summary_of_instrument(
    instrument: Annotated[Instrument, Path(description="Venue and symbol.", examples=["ASX:BHP"])],
    date: Annotated[Day, Path(description="The venue's trading date.", examples=["2014-03-10"])],
    parameters: Annotated[SummaryParameters, Query()],
    request: Request,
    context: Context,
) -> Response:
    """Return the same of an instrument that is named with its venue."""
    return _reply(
        request,
        context,
        parameters,
        TRADES,
        lambda: summary_page(context, instrument, date, parameters),
    )


@router.get("/symbols", response_model=models.SymbolsResponse, tags=["about the data"])
def symbols(
    parameters: Annotated[InstrumentsParameters, Query()], request: Request, context: Context
) -> Response:
    """Return the instruments that a table holds: how many rows, from when to when."""

    def query() -> ResultPage:
        result = _instruments(context, parameters)
        check_row_count(context, result.frame.height, remedy="ask for one exchange")
        return ResultPage(result)

    return _reply(request, context, parameters, parameters.table, query)


@router.get("/stats", response_model=models.StatsResponse, tags=["about the data"])
def stats(
    parameters: Annotated[InstrumentsParameters, Query()], request: Request, context: Context
) -> Response:
    """Return how much a table holds of each venue: symbols, rows, from when to when."""

    def query() -> ResultPage:
        result = _instruments(context, parameters)
        return ResultPage(ReadResult(_by_venue(result.frame), result.complete_to))

    return _reply(request, context, parameters, parameters.table, query)


@router.get("/snapshots", response_model=models.SnapshotsResponse, tags=["about the data"])
def snapshots(
    parameters: Annotated[SnapshotsParameters, Query()], request: Request, context: Context
) -> Response:
    """Return the snapshots that are kept of a table, the newest first: any can be an `as_of`."""
    return reply(
        request,
        context,
        requested_format=parameters.format,
        source=None,
        query=lambda: _snapshots_page(context, parameters.table),
    )


@router.get("/gaps", response_model=models.GapsResponse, tags=["about the data"])
def gaps(
    parameters: Annotated[GapsParameters, Query()], request: Request, context: Context
) -> Response:
    """Return the gaps in the venues' sequences, each at its newest revision."""
    return _reply(request, context, parameters, GAPS, lambda: _gaps_page(context, parameters))


@router.post("/trades/query", response_model=models.FoundTradesResponse, tags=["queries"])
def query_trades(query: TradesQuery, request: Request, context: Context) -> Response:
    """Return trades of several instruments that meet the filters, page by page."""
    form = choose_format(query.format, request.headers.get("accept"))
    return page_response(trades_query_page(context, query), form)


@router.post("/quotes/query", response_model=models.FoundQuotesResponse, tags=["queries"])
def query_quotes(query: QuotesQuery, request: Request, context: Context) -> Response:
    """Return quotes of several instruments that meet the filters, page by page."""
    form = choose_format(query.format, request.headers.get("accept"))
    return page_response(quotes_query_page(context, query), form)


@router.post("/aggregations", response_model=models.GroupsResponse, tags=["queries"])
def aggregations(query: Aggregation, request: Request, context: Context) -> Response:
    """Return figures of groups of trades, or how many quotes there are of each."""
    form = choose_format(query.format, request.headers.get("accept"))
    return page_response(groups_page(context, query), form)


def _reply(
    request: Request,
    context: AppContext,
    parameters: TableParameters,
    table: str,
    query: Callable[[], ResultPage],
) -> Response:
    return reply(
        request,
        context,
        requested_format=parameters.format,
        source=ReadSource(table, parameters.as_of, parameters.tail),
        query=query,
    )


def _instruments(context: AppContext, parameters: InstrumentsParameters) -> ReadResult:
    return read_symbols(
        context.engine,
        table=parameters.table,
        exchange=parameters.exchange,
        as_of=parameters.as_of,
        tail=parameters.tail,
    )


def _by_venue(instruments: pl.DataFrame) -> pl.DataFrame:
    venues = instruments.group_by("exchange").agg(
        pl.len().cast(pl.Int64).alias("symbols"),
        pl.col("rows").sum(),
        pl.col("first").min(),
        pl.col("last").max(),
    )
    return venues.sort("exchange")


def _snapshots_page(context: AppContext, name: str) -> ResultPage:
    table = load_table(context.k2.catalog, name)
    view = context.engine.table_view(name, tail=False)
    if table is None:
        raise NotFoundError(f"{name} is empty: nothing was written to it yet")
    return ResultPage(ReadResult(kept_snapshots(table), {name: view.complete_to}))


def _gaps_page(context: AppContext, parameters: GapsParameters) -> ResultPage:
    view = context.engine.table_view(GAPS, as_of=parameters.as_of, tail=parameters.tail)
    rows = context.engine.rows(view)
    exchange, symbol = parameters.exchange, parameters.symbol
    if symbol is not None:
        exchange, symbol = instrument_of(symbol, exchange)
    condition = limits_condition(
        {
            "exchange": ("exchange =", exchange),
            "symbol": ("symbol =", symbol),
            "state": ("state =", parameters.state),
        }
    )
    sql = (
        f"SELECT * FROM ({newest_revisions_sql(rows.sql)}) WHERE {condition.sql} "
        f"ORDER BY exchange, symbol, from_id, gap_id LIMIT {context.options.max_rows + 1}"
    )
    frame = context.engine.fetch(sql, rows, params=condition.params)
    check_row_count(context, frame.height, remedy="ask for one exchange, symbol or state")
    return ResultPage(rows.result(frame))
