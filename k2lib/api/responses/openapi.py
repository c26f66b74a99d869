"""The OpenAPI document: formats, headers, problems and limits, which the types do not say."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from k2lib.api.options import ApiOptions
from k2lib.api.problems import MEDIA_TYPE
from k2lib.api.responses.examples import REFS, example_of
from k2lib.api.responses.formats import MEDIA_TYPES
from k2lib.api.responses.models import ProblemDocument, QuoteRow, TradeRow

DESCRIPTION: Final = """Market data of a K2 home: the lake, and what Kafka has beyond it.

Every answer says up to where it is complete (`complete_to`). Rows are in the order of events:
timestamp, exchange, symbol, source_sequence, platform_sequence, message_id, nulls first. A page
that is not the last has a cursor, `next`: pages skip and repeat nothing that was there when the
first one was read. Decimals are text with all their digits, times UTC with microseconds.
Errors are problem documents (RFC 9457). HEAD is answered wherever GET is."""
JSON: Final = "application/json"
# The errors that every request can end with, and their meaning here.
PROBLEMS: Final = {
    400: "A parameter is wrong, or the question has no single answer.",
    401: "No key, or one that is not known.",
    403: "This client, or the web page that sends the request, has no access.",
    404: "No such instrument, venue, day or snapshot.",
    406: "None of the formats, or of the encodings, is acceptable.",
    408: "The body took too long to arrive.",
    409: "Another engine left the table as it cannot be read; the detail names the remedy.",
    413: "The body is too long.",
    414: "The URL is too long.",
    415: "The body is not JSON.",
    421: "Without keys only loopback names are answered.",
    429: "Too many requests: wait as Retry-After says.",
    500: "The server failed.",
    503: "The query took more than it may, or part of the system is away.",
}
HEADERS: Final[dict[str, Any]] = {
    "X-K2-Complete-To": ("Up to where the answer is complete, by table, as JSON.", True),
    "X-K2-Next": ("Cursor of the next page; not on the last one.", False),
    "X-K2-Market": ("Which trades count: all, on or off market; of trades only.", False),
    "RateLimit": ("Requests left of the burst, and seconds until it is whole.", True),
    "RateLimit-Policy": ("The burst, and the seconds in which it comes back.", True),
}
RETRY_AFTER: Final = {"Retry-After": ("Seconds until a request may be sent.", True)}
GET_HEADERS: Final[dict[str, Any]] = {
    "ETag": ("Tag of the question, its format, and the table's state.", True),
    "Link": ('The next page\'s address, rel="next"; not on the last one.', False),
}
IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "Tags of answers that the client has.",
    "schema": {"type": "string"},
    "example": 'W/"0"',
}
# Pages whose rows have only the requested columns.
PARTIAL_ROWS: Final = {"FoundTrades": "Trade", "FoundQuotes": "Quote"}
QUERIES: Final = ("TradesQuery", "QuotesQuery", "Aggregation", "ReplayQuery")
SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer KEY"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key."},
}
WITHOUT_KEY: Final = "/health"
EXAMPLE_LINES: Final = (
    '{"kind":"trades","symbol":"BHP","exchange":"ASX","price":"36.67000000"}\n'
    '{"kind":"end","events":1}\n'
)


def describe(app: FastAPI, options: ApiOptions) -> None:
    """Make an application's OpenAPI document complete."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, options)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, options: ApiOptions) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _name_by_title(document)
    schemas = document["components"]["schemas"]
    for model in (ProblemDocument, TradeRow, QuoteRow):
        schemas |= _schemas_of(model)
    for page, row in PARTIAL_ROWS.items():
        schemas[page]["properties"]["data"]["items"] = _partial(schemas[row])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, method, operation in _operations(document):
        _with_responses(operation, read=method == "get", streamed=path == "/v1/replay")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _with_problems(operation)
            _with_examples(operation, schemas)
            if options.keys and path != WITHOUT_KEY:
                operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
    document["components"]["securitySchemes"] = deepcopy(SECURITY_SCHEMES)
    _limit_rows(document, options.max_rows)
    _limit_symbols(schemas, options.max_symbols)
    return document


def _name_by_title(document: dict[str, Any]) -> None:
    """Name the schemas by their titles, not by the classes that they are made from."""
    schemas = document["components"]["schemas"]
    titles = {name: schema["title"] for name, schema in schemas.items()}
    text = json.dumps(document)
    for name, title in titles.items():
        text = text.replace(f'"{REFS}{name}"', f'"{REFS}{title}"')
    document.update(json.loads(text))
    schemas = document["components"]["schemas"]
    document["components"]["schemas"] = {
        title: schemas[name] for name, title in sorted(titles.items(), key=lambda one: one[1])
    }


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        if path.startswith("/v1/"):
            for method, operation in methods.items():
                yield path, method, operation


def _with_responses(operation: dict[str, Any], *, read: bool, streamed: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses |= {str(status): {"description": meaning} for status, meaning in PROBLEMS.items()}
    responses["429"]["headers"] = _headers(RETRY_AFTER)
    if streamed:
        responses["200"] |= _stream()
        return
    answer = responses["200"]
    answer["description"] = "Rows, in the requested format."
    answer["headers"] = _headers(HEADERS | (GET_HEADERS if read else {}))
    answer["content"] |= _other_formats()
    if read:
        unchanged = {"description": "The client has the answer already (If-None-Match)."}
        responses["304"] = {**unchanged, "headers": _headers({"ETag": GET_HEADERS["ETag"]})}
        # Only a body can have the wrong type.
        del responses["415"]
        operation["parameters"] = [*operation.get("parameters", []), deepcopy(IF_NONE_MATCH)]


def _other_formats() -> dict[str, Any]:
    text = {"schema": {"type": "string", "description": "A header, then a line a row."}}
    lines = {"schema": {"type": "string", "description": "A row as JSON, a line each."}}
    data = {"schema": {"type": "string", "format": "binary"}}
    return {
        MEDIA_TYPES["csv"]: text,
        MEDIA_TYPES["ndjson"]: lines,
        MEDIA_TYPES["parquet"]: data,
        MEDIA_TYPES["arrow"]: deepcopy(data),
    }


def _stream() -> dict[str, Any]:
    lines = "One event a line: a trade, quote or gap with its `kind`; the last line is the `end`."
    return {
        "description": "Events in their order.",
        "headers": _headers({"X-K2-Complete-To": HEADERS["X-K2-Complete-To"]}),
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "description": lines},
                "example": EXAMPLE_LINES,
            },
            MEDIA_TYPES["arrow"]: {"schema": {"type": "string", "format": "binary"}},
        },
    }


def _with_problems(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if status >= "400":
            response["content"] = {MEDIA_TYPE: {"schema": {"$ref": f"{REFS}Problem"}}}


def _with_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["required"]:
            # Pages that show the document fill it in.
            parameter["example"] = example_of(parameter["schema"], schemas)
    answer = operation["responses"]["200"].get("content", {}).get(JSON)
    if answer is not None:
        answer["example"] = example_of(answer["schema"], schemas)


def _headers(headers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"description": meaning, "required": always, "schema": {"type": "string"}}
        for name, (meaning, always) in headers.items()
    }


def _schemas_of(model: type[Any]) -> dict[str, Any]:
    adapter = TypeAdapter(model)
    schema = adapter.json_schema(mode="serialization", ref_template=f"{REFS}{{model}}")
    return {**schema.pop("$defs", {}), schema["title"]: schema}


def _partial(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("required", "title")}


def _limit_symbols(schemas: dict[str, Any], max_symbols: int) -> None:
    for name in QUERIES:
        symbols = schemas[name]["properties"]["symbols"]
        symbols.get("anyOf", [symbols])[0]["maxItems"] = max_symbols


def _limit_rows(document: dict[str, Any], max_rows: int) -> None:
    for _, _, operation in _operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["name"] == "limit":
                _limit_count(parameter["schema"], max_rows)
    for schema in document["components"]["schemas"].values():
        limit = schema.get("properties", {}).get("limit")
        if limit is not None:
            _limit_count(limit, max_rows)


def _limit_count(limit: dict[str, Any], max_rows: int) -> None:
    limit["maximum"] = max_rows
    limit["default"] = min(limit["default"], max_rows)
    limit["examples"] = [min(example, max_rows) for example in limit["examples"]]
