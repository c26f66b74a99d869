"""Errors as HTTP answers: RFC 9457 problem documents.

They are written here because the mapping of the package's errors is most of it; the document itself
is the few lines of `problem`.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from k2lib.errors import (
    K2Error,
    LimitError,
    NotFoundError,
    QueryError,
    TableError,
    TransientError,
    reason_of,
)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_S: Final = 1
MAX_SHOWN: Final = 200
# What to do where pydantic's reason does not say it.
REMEDIES: Final = {
    "missing": ": give it",
    "extra_forbidden": ": leave it out; /openapi.json lists what there is",
}
UNEXPECTED: Final = "the server failed; its log says more under this request's id"


class WrongParameterError(QueryError):
    """The value of one parameter is not allowed."""

    def __init__(self, parameter: str, value: object, reason: str) -> None:
        super().__init__(f"{parameter}={shown(value)}: {reason}")
        self.error = {"parameter": parameter, "value": shown(value), "reason": reason}


class ProblemResponse(Response):
    """A problem document; `instance` is the id of the request that it answers."""

    media_type = MEDIA_TYPE

    def __init__(self, document: Mapping[str, Any], *, headers: Mapping[str, str] | None) -> None:
        super().__init__(_json(document), status_code=document["status"], headers=headers)
        self.document = document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it with the id that the request's scope has, if any."""
        request_id = scope.get("state", {}).get("request_id")
        if request_id is not None:
            self.body = _json({**self.document, "instance": str(request_id)})
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def problem(
    status: int,
    detail: str,
    *,
    title: str | None = None,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, object]] = (),
) -> ProblemResponse:
    """Return the answer to a request that failed.

    Args:
        detail: what is wrong with this request, and the remedy.
        title: what is wrong in general; by default the status in words.
        errors: one for each wrong parameter: parameter, value, reason.
    """
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        document["errors"] = [dict(error) for error in errors]
    return ProblemResponse(document, headers=headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    app.add_exception_handler(K2Error, _k2_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected_error)


def shown(value: object) -> object:
    """Return a value as a problem names it: as text, cut where it is long."""
    if value is None or isinstance(value, bool):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


async def _k2_error(_request: Request, exc: Exception) -> Response:
    match exc:
        case NotFoundError():
            return problem(404, reason_of(exc))
        case WrongParameterError():
            return problem(400, reason_of(exc), errors=[exc.error])
        case LimitError():
            return problem(503, reason_of(exc), title="Query limit reached")
        case QueryError():
            return problem(400, reason_of(exc))
        case TableError():
            return problem(409, reason_of(exc))
        case TransientError():
            return problem(503, reason_of(exc), headers={"Retry-After": str(RETRY_S)})
    return problem(500, reason_of(exc))


async def _validation_error(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    errors = [_parameter_error(error) for error in exc.errors()]
    detail = "; ".join(map(_in_words, errors))
    return problem(400, detail, errors=errors)


def _parameter_error(error: Mapping[str, Any]) -> dict[str, object]:
    """FastAPI's `loc` begins with `query` or `body`; the rest is the path to the value."""
    if error["type"] == "json_invalid":
        return {"parameter": "body", "value": None, "reason": f"not JSON: {error['ctx']['error']}"}
    path = [str(part) for part in error["loc"]]
    name = ".".join(path[1:]) or path[0]
    remedy = REMEDIES.get(error["type"], "")
    reason = str(error["msg"]).removeprefix("Value error, ") + remedy
    value = None if error["type"] == "missing" else shown(error.get("input"))
    return {"parameter": shown(name), "value": value, "reason": reason}


def _in_words(error: Mapping[str, object]) -> str:
    value = "" if error["value"] is None else f"={error['value']}"
    return f"{error['parameter']}{value}: {error['reason']}"


async def _http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allow = _allow(exc)
        detail = f"{request.method} is not for {shown(request.url.path)}: use {allow}"
        return problem(exc.status_code, detail, headers={"Allow": allow})
    return problem(exc.status_code, _detail(request, exc), headers=exc.headers)


def _allow(exc: HTTPException) -> str:
    """The methods of a path: HEAD too where GET is; files, which name none, have both."""
    methods = (exc.headers or {}).get("Allow", "GET").split(", ")
    return ", ".join(sorted({*methods, "HEAD"}) if "GET" in methods else methods)


def _detail(request: Request, exc: HTTPException) -> str:
    if exc.detail != HTTPStatus(exc.status_code).phrase:
        return str(exc.detail)
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return f"no such path: {shown(request.url.path)}; /openapi.json lists what there is"
    return str(exc.detail)


async def _unexpected_error(_request: Request, _exc: Exception) -> Response:
    return problem(500, UNEXPECTED)


def _json(document: Mapping[str, Any]) -> bytes:
    # ASCII: a value can have half a surrogate pair, which UTF-8 cannot say.
    return json.dumps(document).encode("ascii")
