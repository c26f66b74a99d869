"""An answer on its way out: not at all where the client has it, else in the format it wants."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from k2lib.api.context import Desk
from k2lib.api.responses.accept import MEDIA_TYPES, Format, choose_format
from k2lib.api.responses.formats import encode, in_header, told
from k2lib.errors import QueryError
from k2lib.query.answer import ReadResult
from k2lib.query.time_travel import AsOf

NAMED_AT_MOST: Final = 64


def etag(request: Request, form: str, told: Mapping[str, Any]) -> str:
    """Return the tag of an answer.

    Args:
        told: snapshot and offsets up to which it is complete: with another row there, another tag.
    """
    question = (request.url.path, request.url.query, form, told)
    # Weak: compressed or not, it is the same answer.
    return f'W/"{digest(msgspec.json.encode(question))}"'


def digest(data: bytes | memoryview) -> str:
    """Return what tells data apart, as text."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def known_tags(request: Request) -> frozenset[str]:
    """Return the tags of answers that the client has."""
    named = ",".join(request.headers.getlist("if-none-match")).split(",")
    return frozenset(tag.strip() for tag in named[:NAMED_AT_MOST]) - {""}


HEADERS: Final = {"Cache-Control": "no-cache", "Vary": "Accept"}
COMPLETE_TO: Final = "X-K2-Complete-To"
NEXT: Final = "X-K2-Next"


@dataclass(frozen=True)
class Page:
    """Rows, and the cursor of the page after them, if there is one."""

    answer: ReadResult
    cursor: str | None = None


@dataclass(frozen=True)
class Source:
    """The table that an answer is of, and at which moment: its tag can be told before it is."""

    table: str
    as_of: AsOf | None
    tail: bool


def reply(
    request: Request,
    desk: Desk,
    *,
    form: Format | None,
    source: Source | None,
    ask: Callable[[], Page],
) -> Response:
    """Answer a GET, or say that the client has the answer already.

    Args:
        form: what `?format=` says.
        source: the table; None where its snapshot does not tell the whole answer.
        ask: runs the query; not called where the client's tag is that of the table's state.
    """
    chosen = choose_format(form, request.headers.get("accept"))
    has = known_tags(request)
    if has and source is not None:
        seen = desk.engine.table_view(source.table, as_of=source.as_of, tail=source.tail)
        tag = etag(request, chosen, told({source.table: seen.complete_to}))
        if tag in has:
            return _unchanged(tag)
    page = ask()
    response = sent(page, chosen, _link(request, page.cursor))
    state = told(page.answer.complete_to) if source else {"body": digest(response.body)}
    tag = etag(request, chosen, state)
    if tag in has:
        return _unchanged(tag)
    response.headers["ETag"] = tag
    return response


def sent(page: Page, form: Format, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer; where it has more pages, with the cursor of the next one."""
    known: dict[str, Any] = told(page.answer.complete_to)
    body = encode(page.answer.frame, form, complete_to=known, cursor=page.cursor)
    after = {} if page.cursor is None else {NEXT: page.cursor}
    return Response(
        body,
        media_type=MEDIA_TYPES[form],
        headers={**HEADERS, COMPLETE_TO: in_header(known), **after, **(headers or {})},
    )


def check_rows(desk: Desk, rows: int, *, remedy: str) -> None:
    """Refuse an answer of more rows than one may have.

    Raises:
        QueryError: there are more.
    """
    if rows > desk.options.max_rows:
        raise QueryError(f"{rows} rows, of at most {desk.options.max_rows} in an answer: {remedy}")


def _unchanged(tag: str) -> Response:
    return Response(status_code=304, headers={**HEADERS, "ETag": tag})


def _link(request: Request, cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    asked = parse_qsl(request.url.query, keep_blank_values=True)
    kept = [(name, value) for name, value in asked if name != "cursor"]
    return {"Link": f'<{request.url.path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}
