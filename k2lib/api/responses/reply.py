"""Answers of queries: 304 where the client has the answer already, else a page in its format."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from werkzeug.datastructures import ETags
from werkzeug.http import parse_etags

from k2lib.api.context import AppContext
from k2lib.api.problems import WrongParameterError
from k2lib.api.responses.formats import (
    MEDIA_TYPES,
    Format,
    choose_format,
    complete_to_header,
    complete_to_json,
    encode,
)
from k2lib.errors import QueryError
from k2lib.query.answer import ReadResult
from k2lib.query.request import AsOf
from k2lib.schema.market import Market

HEADERS: Final = {"Cache-Control": "no-cache", "Vary": "Accept"}
COMPLETE_TO: Final = "X-K2-Complete-To"
NEXT: Final = "X-K2-Next"
MARKET: Final = "X-K2-Market"


@dataclass(frozen=True)
class ResultPage:
    """Rows, the cursor of the next page, if there is one, and which trades count."""

    result: ReadResult
    next_cursor: str | None = None
    market: Market | None = None


@dataclass(frozen=True)
class ReadSource:
    """The table of an answer: its state gives the ETag before the query runs."""

    table: str
    as_of: AsOf | None
    tail: bool


def reply(
    request: Request,
    context: AppContext,
    *,
    requested_format: Format | None,
    source: ReadSource | None,
    query: Callable[[], ResultPage],
) -> Response:
    """Answer a GET, with 304 where the client has the answer already.

    Args:
        requested_format: the value of `?format=`.
        source: the table; None where its state does not determine the whole answer.
        query: runs the query; not called where the client's ETag is that of the table's state.
    """
    form = choose_format(requested_format, request.headers.get("accept"))
    known = _known_tags(request)
    client_tags = known.as_set(include_weak=True)
    if client_tags and source is not None:
        view = context.engine.table_view(source.table, as_of=source.as_of, tail=source.tail)
        tag = _tag(request, form, complete_to_json({source.table: view.complete_to}))
        if tag in client_tags:
            return _not_modified(tag)
    page = query()
    response = page_response(page, form, _next_link(request, page.next_cursor))
    if source is None:
        tag = _tag(request, form, {"body": _digest(response.body)})
    else:
        tag = _tag(request, form, complete_to_json(page.result.complete_to))
    if known.contains_weak(tag):
        return _not_modified(tag)
    response.headers["ETag"] = _weak(tag)
    return response


def page_response(
    page: ResultPage, form: Format, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a page as an answer, with the cursor of the next page if there is one."""
    complete_to = complete_to_json(page.result.complete_to)
    market = {} if page.market is None else {"market": page.market}
    about = {"complete_to": complete_to, "next": page.next_cursor, **market}
    body = encode(page.result.frame, form, about=about)
    next_page = {} if page.next_cursor is None else {NEXT: page.next_cursor}
    counted = {} if page.market is None else {MARKET: page.market}
    return Response(
        body,
        media_type=MEDIA_TYPES[form],
        headers={
            **HEADERS,
            COMPLETE_TO: complete_to_header(complete_to),
            **next_page,
            **counted,
            **(headers or {}),
        },
    )


def check_symbol_count(context: AppContext, symbols: Sequence[str]) -> None:
    """Refuse a query of more symbols than the options allow.

    Raises:
        WrongParameterError: there are more.
    """
    most = context.options.max_symbols
    if len(symbols) > most:
        reason = f"{len(symbols)} symbols: give {most} at most"
        raise WrongParameterError("symbols", symbols, reason)


def check_row_count(context: AppContext, rows: int, *, remedy: str) -> None:
    """Refuse an answer with more rows than the options allow.

    Raises:
        QueryError: there are more.
    """
    max_rows = context.options.max_rows
    if rows > max_rows:
        raise QueryError(f"{rows} rows, of at most {max_rows} in an answer: {remedy}")


def _known_tags(request: Request) -> ETags:
    """The ETags of the answers that the client has; `*` is any answer that is one."""
    return parse_etags(",".join(request.headers.getlist("if-none-match")))


def _tag(request: Request, form: str, state: Mapping[str, Any]) -> str:
    """The ETag of an answer: of its URL, its format, and the state of the data in it."""
    return _digest(msgspec.json.encode((request.url.path, request.url.query, form, state)))


def _weak(tag: str) -> str:
    """Weak, because it is the same answer compressed or not."""
    return f'W/"{tag}"'


def _digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _not_modified(tag: str) -> Response:
    return Response(status_code=304, headers={**HEADERS, "ETag": _weak(tag)})


def _next_link(request: Request, cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    parameters = parse_qsl(request.url.query, keep_blank_values=True)
    others = [(name, value) for name, value in parameters if name != "cursor"]
    url = f"{request.url.path}?{urlencode([*others, ('cursor', cursor)])}"
    return {"Link": f'<{url}>; rel="next"'}
