"""Pages: so many rows or bars, and where the next ones begin."""

from typing import Any, Final

from k2lib.api.context import Desk
from k2lib.api.problems import WrongParameterError
from k2lib.api.requests.cursor import (
    BarPlace,
    from_micros,
    read_bar_cursor,
    read_row_cursor,
    row_place,
    to_micros,
    write_cursor,
)
from k2lib.api.requests.parameters import Bars, PageOfInstrument, Recent
from k2lib.api.responses.reply import Page
from k2lib.query.answer import ReadResult
from k2lib.query.statistics import ask_bars
from k2lib.query.time_travel import AsOf

TRADES: Final = "trades_v2"


def checked_limit(limit: int, desk: Desk) -> int:
    """Return how many rows a page has.

    Raises:
        WrongParameterError: more than one may have.
    """
    most = desk.options.max_rows
    if limit > most:
        raise WrongParameterError("limit", limit, f"a page has at most {most} rows")
    return limit


def row_page(desk: Desk, table: str, asked: PageOfInstrument) -> Page:
    """Return one page of an instrument's rows in the order of events."""
    limit = checked_limit(asked.limit, desk)
    question = {"table": table, **asked.asked()}
    place = None if asked.cursor is None else read_row_cursor(asked.cursor, asked=question)
    answer = desk.engine.ask(
        table,
        asked.symbol,
        exchange=asked.exchange if place is None else place.exchange,
        start=asked.start,
        end=asked.end,
        as_of=pinned(asked.as_of, None if place is None else place.snapshot_id),
        after=None if place is None else place.key,
        first=limit + 1,
        tail=asked.tail,
    )
    return cut(answer, limit, table=table, as_of=asked.as_of, question=question)


def cut(
    answer: ReadResult, limit: int, *, table: str, as_of: AsOf | None, question: dict[str, Any]
) -> Page:
    """Return the rows of one page, of an answer that has one row more if there is a next one."""
    if answer.frame.height <= limit:
        return Page(answer)
    rows = answer.frame.head(limit)
    place = row_place(rows, snapshot_id=_read_at(answer, table, as_of))
    return Page(ReadResult(rows, answer.complete_to), write_cursor(place, asked=question))


def recent_page(desk: Desk, table: str, asked: Recent) -> Page:
    """Return an instrument's newest rows in the order of events."""
    answer = desk.engine.ask(
        table,
        asked.symbol,
        exchange=asked.exchange,
        as_of=asked.as_of,
        last=checked_limit(asked.limit, desk),
        tail=asked.tail,
    )
    return Page(answer)


def bar_page(desk: Desk, asked: Bars) -> Page:
    """Return one page of an instrument's bars."""
    limit = checked_limit(asked.limit, desk)
    question = {"table": "bars", **asked.asked()}
    place = None if asked.cursor is None else read_bar_cursor(asked.cursor, asked=question)
    answer = ask_bars(
        desk.engine,
        asked.symbol,
        every=asked.every,
        exchange=asked.exchange if place is None else place.exchange,
        start=asked.start if place is None else from_micros(place.start_us),
        end=asked.end,
        as_of=pinned(asked.as_of, None if place is None else place.snapshot_id),
        market=asked.market,
        first=limit + 1,
        tail=asked.tail,
    )
    if answer.frame.height <= limit:
        return Page(answer)
    following = answer.frame.row(limit, named=True)
    snapshot_id = _read_at(answer, TRADES, asked.as_of)
    after = BarPlace(snapshot_id, to_micros(following["start"]), following["exchange"])
    bars = ReadResult(answer.frame.head(limit), answer.complete_to)
    return Page(bars, write_cursor(after, asked=question))


def pinned(as_of: AsOf | None, snapshot_id: int | None) -> AsOf | None:
    """Return the moment of a page: that of the first one, even where a tag has moved since."""
    return as_of if snapshot_id is None else snapshot_id


def _read_at(answer: ReadResult, table: str, as_of: AsOf | None) -> int | None:
    return None if as_of is None else answer.complete_to[table].snapshot_id
