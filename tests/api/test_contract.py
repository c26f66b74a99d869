"""The OpenAPI document holds: for schemathesis, generated clients, Prometheus and browsers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from playwright.sync_api import sync_playwright
from pydantic import TypeAdapter
from support.api_client import LIMITLESS, api_of, problem_of
from support.api_edge import made_key
from support.lake_rows import append, at, gap, quote, trade
from support.paths import CACHE, CHROMIUM, CHROMIUM_ARGUMENTS, ROOT
from support.promtool import check_metrics

from k2lib import K2
from k2lib.api.app import create_app
from k2lib.api.options import ApiOptions
from k2lib.api.responses.examples import example_of
from k2lib.api.responses.formats import FORMATS
from k2lib.api.server import ServedApp, bind

if TYPE_CHECKING:
    from schemathesis.schemas import BaseSchema

# A question can be well formed and still have no single answer: a schema cannot say that a span
# ends before it begins, or that a cursor is of another question. The document says 400 for these.
SCHEMATHESIS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "304", "400", "404"]
"""
GENERATOR = ROOT / "build" / "generator" / "bin"
# NDJSON is text, which the generator has to be told.
GENERATOR_OPTIONS = """
content_type_overrides: {application/x-ndjson: text/plain}
post_hooks: []
"""
# Runs where the generator is: calls every operation with the examples of the document.
CALL_ALL = """
import datetime, importlib, json, sys, typing
from client import Client

url, document = sys.argv[1], json.load(open("openapi.json"))
client = Client(base_url=url, timeout=60.0)
answered = {}
for path, methods in document["paths"].items():
    for operation in methods.values():
        name, tag = operation["operationId"], operation["tags"][0].replace(" ", "_")
        call = importlib.import_module(f"client.api.{tag}.{name}").sync_detailed
        hints = typing.get_type_hints(call)
        parameters = operation.get("parameters", [])
        values = {one["name"]: one["example"] for one in parameters if one["required"]}
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            body = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            values["body"] = hints["body"].from_dict(body["examples"][0])
        values = {
            name: datetime.date.fromisoformat(value) if hints[name] is datetime.date else value
            for name, value in values.items()
        }
        response = call(client=client, **values)
        assert response.status_code == 200, (path, response.content)
        answered[name] = type(response.parsed).__name__
        assert answered[name] in str(hints["return"]), hints["return"]
print(json.dumps(answered))
"""
QUESTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/trades", "GET", {"query": {"symbol": "BHP", "limit": 2}}),
    ("/v1/trades", "GET", {"query": {"symbol": "BHP,ASX:BHP", "order": "desc"}}),
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
        trades = [trade(n, timestamp=at(n / 1000)) for n in range(5)]
        quotes = [quote(n, timestamp=at(n / 1000)) for n in range(3)]
        append(k2.catalog, [*trades, trade(9, symbol="MWR")])
        append(k2.catalog, [*quotes, quote(9, symbol="MWR")], "quotes_v2")
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
        "--checks": "all",
        "--max-examples": "5",
        "--seed": "1",
    }
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
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


@pytest.mark.slow
def test_a_generated_client_has_every_call_typed_and_each_is_answered(
    url: str, document: "BaseSchema", tmp_path: Path
) -> None:
    raw = document.raw_schema
    assert GENERATOR.exists(), "make test installs the generator"
    (tmp_path / "openapi.json").write_text(json.dumps(raw))
    (tmp_path / "options.yml").write_text(GENERATOR_OPTIONS)
    generate = [
        *(GENERATOR / "openapi-python-client", "generate", "--path", "openapi.json"),
        *("--config", "options.yml", "--meta", "none", "--output-path", "client"),
        "--fail-on-warning",
    ]
    _done(generate, tmp_path)
    python = GENERATOR / "python"
    check = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "client"]
    cache = ("--cache-dir", CACHE / "mypy-client", "--python-executable", python)
    _done([*check, *cache], tmp_path)
    answered = json.loads(_done([python, "-c", CALL_ALL, url], tmp_path))
    operations = [one for methods in raw["paths"].values() for one in methods.values()]
    assert answered.keys() == {one["operationId"] for one in operations}
    assert answered["aggregations"] == "Groups" and answered["replay"] == "str"
    assert "NoneType" not in answered.values()


@pytest.mark.slow
def test_prometheus_finds_nothing_in_the_metrics(url: str) -> None:
    check_metrics(httpx2.get(f"{url}/metrics", trust_env=False).content)


@pytest.mark.slow
def test_the_page_of_the_document_asks_this_server_alone_and_its_calls_are_answered(
    url: str,
) -> None:
    requests: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/docs")
        trades = page.locator("#operations-rows-trades")
        trades.locator(".opblock-summary-control").click()
        trades.locator(".try-out__btn").click()
        trades.locator(".execute").click()
        answer = trades.locator(".live-responses-table .response")
        assert answer.locator(".response-col_status").inner_text().split()[0] == "200"
        assert "36.67000000" in answer.inner_text()
        browser.close()
    assert not errors
    assert {one.partition("?")[0].removeprefix(url) for one in requests} == {
        "/docs",
        "/docs/assets/swagger-ui.css",
        "/docs/assets/swagger-ui-bundle.js",
        "/openapi.json",
        "/v1/trades",
    }


def test_every_operation_has_a_plain_name_and_examples(document: "BaseSchema") -> None:
    schemas = document.raw_schema["components"]["schemas"]
    for path, methods in document.raw_schema["paths"].items():
        for method, operation in methods.items():
            assert re.fullmatch("[a-z]+(_[a-z]+){0,2}", operation["operationId"]), operation
            for parameter in operation.get("parameters", []):
                example = parameter.get("example", example_of(parameter["schema"], schemas))
                assert example is not None or parameter["name"] == "cursor", parameter
            if method == "post":
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                assert schemas[body["$ref"].rpartition("/")[2]]["examples"], path
            contents = operation["responses"]["200"]["content"]
            assert any("example" in content for content in contents.values()), path


def test_the_examples_of_answers_are_what_their_models_say(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        app = create_app(k2)
        document = app.openapi()
    checked = 0
    for context in iter_route_contexts(app.routes):
        model = getattr(context, "response_model", None)
        if model is not None and context.path.startswith("/v1/"):
            (method,) = context.methods
            answer = document["paths"][context.path][method.lower()]["responses"]["200"]
            TypeAdapter(model).validate_python(answer["content"]["application/json"]["example"])
            checked += 1
    assert checked >= 12


def test_the_document_says_where_a_key_is_needed(tmp_path: Path) -> None:
    key, keys = made_key("alice")
    with K2.open(home=tmp_path / "home") as k2:
        with api_of(k2) as client:
            free = client.get("/openapi.json").json()
        with api_of(k2, keys=keys) as client:
            held = client.get("/openapi.json", headers={"X-API-Key": key}).json()
    assert {*held["components"]["securitySchemes"]} == {"bearer", "key"}
    for path, methods in held["paths"].items():
        for method, operation in methods.items():
            needed = None if path == "/health" else [{"bearer": []}, {"key": []}]
            assert operation.get("security") == needed, path
            assert "security" not in free["paths"][path][method]


def _done(command: Sequence[str | Path], folder: Path) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
    limits = {"max_rows": 17, "max_symbols": 2}
    with K2.open(home=tmp_path / "home") as k2, api_of(k2, **limits) as client:
        document = client.get("/openapi.json").json()
        for path in ("trades/query", "quotes/query", "aggregations", "replay"):
            body = document["paths"][f"/v1/{path}"]["post"]["requestBody"]["content"]
            schema = document["components"]["schemas"][
                body["application/json"]["schema"]["$ref"].rpartition("/")[2]
            ]
            symbols = schema["properties"]["symbols"]
            assert symbols.get("anyOf", [symbols])[0]["maxItems"] == 2
            asked = {**schema["examples"][0], "symbols": ["A", "B", "C"]}
            told = problem_of(client.post(f"/v1/{path}", json=asked), 400)
            assert "3 symbols: give 2 at most" in told["detail"]
    [limit] = [
        one
        for one in document["paths"]["/v1/trades"]["get"]["parameters"]
        if one["name"] == "limit"
    ]
    body = document["components"]["schemas"]["TradesQuery"]["properties"]["limit"]
    for schema in (limit["schema"], body):
        assert (schema["maximum"], schema["default"], schema["examples"]) == (17, 17, [17])
