"""The OpenAPI document holds: schemathesis finds nothing that it does not say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.api_client import LIMITLESS, api_of
from support.lake_rows import append, at, gap, quote, trade

from k2lib import K2
from k2lib.api.app import create_app
from k2lib.api.options import ApiOptions
from k2lib.api.responses.formats import FORMATS
from k2lib.api.server import ServedApp, bind

if TYPE_CHECKING:
    from schemathesis.schemas import BaseSchema

# A question can be well formed and still have no answer: that is no fault of the document. And
# what is not JSON is refused before it is known whether a path takes a POST at all.
NOT_CHECKED = "positive_data_acceptance,unsupported_method"
QUESTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/trades", "GET", {"query": {"symbol": "BHP", "limit": 2}}),
    ("/v1/trades/recent", "GET", {"query": {"symbol": "BHP"}}),
    ("/v1/quotes", "GET", {"query": {"symbol": "BHP"}}),
    ("/v1/quotes/latest", "GET", {"query": {"symbol": "ASX:BHP"}}),
    ("/v1/bars", "GET", {"query": {"symbol": "BHP", "every": "1d", "market": "on"}}),
    ("/v1/bars", "GET", {"query": {"symbol": "BHP", "every": "1s", "limit": 1}}),
    (
        "/v1/summary/{exchange}/{symbol}/{date}",
        "GET",
        {"path_parameters": {"exchange": "ASX", "symbol": "BHP", "date": "2014-03-10"}},
    ),
    (
        "/v1/summary/{instrument}/{date}",
        "GET",
        {"path_parameters": {"instrument": "ASX:BHP", "date": "2014-03-10"}},
    ),
    ("/v1/symbols", "GET", {}),
    ("/v1/stats", "GET", {}),
    ("/v1/snapshots", "GET", {}),
    ("/v1/gaps", "GET", {}),
    ("/v1/trades/query", "POST", {"body": {"symbols": ["BHP"], "limit": 2}}),
    ("/v1/trades/query", "POST", {"body": {"symbols": ["BHP"], "columns": ["price", "side"]}}),
    ("/v1/quotes/query", "POST", {"body": {"symbols": ["BHP"]}}),
    (
        "/v1/aggregations",
        "POST",
        {
            "body": {
                "group_by": ["exchange", "symbol", "side", "trading_date", "interval"],
                "every": "1h",
                "metrics": ["count", "vwap", "turnover", "avg_price", "first", "close"],
            }
        },
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the API over a few rows."""
    options = ApiOptions(**LIMITLESS)
    with K2.open(home=tmp_path_factory.mktemp("contract") / "home") as k2:
        # So close together that no pace makes a replay of them long.
        append(k2.catalog, [trade(n, timestamp=at(n / 1000)) for n in range(5)])
        append(k2.catalog, [quote(n, timestamp=at(n / 1000)) for n in range(3)], "quotes_v2")
        append(k2.catalog, [gap("g", 0)], "gaps")
        app = create_app(k2, options=options)
        with ServedApp(app, bind("127.0.0.1", 0, options=options)) as served:
            yield served.url


@pytest.fixture(scope="module")
def document(url: str) -> "BaseSchema":
    import schemathesis

    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("form", [None, *FORMATS])
@pytest.mark.parametrize(("path", "method", "question"), QUESTIONS)
def test_answers_with_rows_are_those_that_the_document_says(
    document: "BaseSchema", path: str, method: str, question: dict[str, Any], form: str | None
) -> None:
    chosen = {} if form is None else {"format": form}
    where = "body" if method == "POST" else "query"
    asked = {**question, where: {**question.get(where, {}), **chosen}}
    case = document[path][method].Case(media_type="application/json", **asked)
    response = case.call_and_validate()
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("form", [None, "ndjson", "arrow"])
def test_a_replay_is_the_stream_that_the_document_says(
    document: "BaseSchema", form: str | None
) -> None:
    span = {"start": "2014-03-10", "end": "2014-03-11", "kinds": ["trades"]}
    body = {"symbols": ["BHP"], **span, **({} if form is None else {"format": form})}
    case = document["/v1/replay"]["POST"].Case(media_type="application/json", body=body)
    assert case.call_and_validate().status_code == 200


@pytest.mark.slow
def test_whatever_schemathesis_sends_the_document_says_what_comes_back(
    url: str, tmp_path: Path
) -> None:
    options = {
        "--phases": "examples,coverage,fuzzing",
        "--exclude-checks": NOT_CHECKED,
        "--max-examples": "5",
        "--seed": "1",
    }
    told = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *(text for option in options.items() for text in option),
            *("--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_operation_parameter_and_model_is_described(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2, api_of(k2) as client:
        document = client.get("/openapi.json").json()
    read = {path: one for path, one in document["paths"].items() if path.startswith("/v1/")}
    for path, methods in read.items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), (path, parameter["name"])
    for name, model in document["components"]["schemas"].items():
        assert model.get("description"), name


def test_the_document_says_the_limit_of_this_server(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2, api_of(k2, max_rows=17) as client:
        document = client.get("/openapi.json").json()
    [limit] = [
        one
        for one in document["paths"]["/v1/trades"]["get"]["parameters"]
        if one["name"] == "limit"
    ]
    assert limit["schema"]["maximum"] == 17
    assert document["components"]["schemas"]["TradesQuery"]["properties"]["limit"]["maximum"] == 17
