"""What is known about the tables themselves: snapshots, and gaps in the venues' sequences."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from k2lib.api.context import AtDesk, Desk
from k2lib.api.requests.filters import Where, within
from k2lib.api.requests.parameters import Gaps, Snapshots
from k2lib.api.responses import models
from k2lib.api.responses.reply import Page, Source, check_rows, reply
from k2lib.errors import NotFoundError
from k2lib.iceberg.tables import load_table
from k2lib.query.answer import ReadResult
from k2lib.query.sql import newest_revisions_sql
from k2lib.query.time_travel import snapshots as kept_snapshots

GAPS: Final = "gaps"
router = APIRouter(prefix="/v1", tags=["about the data"])


@router.get("/snapshots", response_model=models.Snapshots)
def snapshots(asked: Annotated[Snapshots, Query()], request: Request, desk: AtDesk) -> Response:
    """Return the snapshots that are kept of a table, the newest first: any can be an `as_of`."""
    return reply(
        request, desk, form=asked.format, source=None, ask=lambda: _snapshot_page(desk, asked)
    )


@router.get("/gaps", response_model=models.Gaps)
def gaps(asked: Annotated[Gaps, Query()], request: Request, desk: AtDesk) -> Response:
    """Return the holes in the venues' sequences, as they stand now."""
    source = Source(GAPS, asked.as_of, asked.tail)
    return reply(request, desk, form=asked.format, source=source, ask=lambda: _gaps(desk, asked))


def _snapshot_page(desk: Desk, asked: Snapshots) -> Page:
    table = load_table(desk.k2.catalog, asked.table)
    seen = desk.engine.table_view(asked.table, tail=False)
    if table is None:
        raise NotFoundError(f"{asked.table} is empty: nothing was written to it yet")
    return Page(ReadResult(kept_snapshots(table), {asked.table: seen.complete_to}))


def _gaps(desk: Desk, asked: Gaps) -> Page:
    rows = desk.engine.rows(desk.engine.table_view(GAPS, as_of=asked.as_of, tail=asked.tail))
    where = _where(asked)
    most = desk.options.max_rows
    newest = newest_revisions_sql(rows.sql)
    order = "exchange, symbol, from_id, gap_id"
    sql = f"SELECT * FROM ({newest}) WHERE {where.sql} ORDER BY {order} LIMIT {most + 1}"
    frame = desk.engine.fetch(sql, rows, params=where.params)
    check_rows(desk, frame.height, remedy="ask for one exchange, symbol or state")
    return Page(rows.answer(frame))


def _where(asked: Gaps) -> Where:
    return within(
        {
            "exchange": ("exchange =", asked.exchange),
            "symbol": ("symbol =", asked.symbol),
            "state": ("state =", asked.state),
        }
    )
