"""What a request means: nothing is left out in silence, and an instrument has two names."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.api_client import api_of, asked, posted, problem_of
from support.asx_csv import told
from support.lake_rows import append, at, gap, quote, trade

from k2lib import K2
from k2lib.errors import QueryError

BODY = {"symbols": ["BHP"], "exchange": "ASX"}
SUMMARY = "/v1/summary/ASX/BHP/2014-03-10"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2]:
    """Open a home with a symbol at two venues."""
    with K2.open(home=tmp_path_factory.mktemp("requests") / "home") as k2:
        append(k2.catalog, [trade(1), trade(2), trade(3, exchange="ASX_SIM", price=Decimal(40))])
        append(k2.catalog, [quote(n) for n in range(3)], "quotes_v2")
        append(k2.catalog, [quote(7, exchange="ASX_SIM")], "quotes_v2")
        append(k2.catalog, [gap("g", 0), gap("h", 0, exchange="BINANCEUS")], "gaps")
        yield k2


@pytest.fixture(scope="module")
def client(home: K2) -> Iterator[TestClient]:
    with api_of(home) as client:
        yield client


def numbers(page: dict[str, Any]) -> list[int]:
    return [int(row["message_id"][1:]) for row in page["data"]]


@pytest.mark.parametrize(
    ("path", "body", "name", "value"),
    [
        ("/v1/trades/query", {**BODY, "columns": ["price", "price"]}, "columns", "price"),
        ("/v1/quotes/query", {**BODY, "columns": ["symbol", "bid_price", "symbol"]}, "columns",
         "symbol"),
        ("/v1/aggregations", {"group_by": ["symbol", "symbol"], "metrics": ["count"]}, "group_by",
         "symbol"),
        ("/v1/aggregations", {"metrics": ["count", "first", "count"]}, "metrics", "count"),
    ],
)  # fmt: skip
def test_repeated_columns_groups_and_metrics_are_refused(
    client: TestClient, path: str, body: dict[str, Any], name: str, value: str
) -> None:
    [error] = problem_of(client.post(path, json=body), 400)["errors"]
    assert error["parameter"] == name
    assert error["reason"] == f"{value} is repeated: name each once"
    assert value in error["value"]


@pytest.mark.parametrize(
    ("path", "name", "first", "second"),
    [
        ("/v1/trades?symbol=BHP", "exchange", "ASX", "ASX_SIM"),
        ("/v1/trades", "symbol", "BHP", "MWR"),
        ("/v1/trades/recent?symbol=BHP", "limit", "1", "1"),
        ("/v1/quotes?symbol=BHP", "start", "2014-03-10", "2014-03-11"),
        ("/v1/quotes/latest?symbol=BHP", "tail", "true", "false"),
        ("/v1/bars?symbol=BHP", "market", "on", "all"),
        (SUMMARY, "format", "json", "csv"),
        ("/v1/symbols", "table", "trades_v2", "quotes_v2"),
        ("/v1/stats", "as_of", "a", "b"),
        ("/v1/snapshots", "table", "trades_v2", "gaps"),
        ("/v1/gaps", "state", "lost", "noticed"),
        ("/v1/gaps", "nothing", "1", "2"),
    ],
)
def test_a_repeated_parameter_is_refused(
    client: TestClient, path: str, name: str, first: str, second: str
) -> None:
    join = "&" if "?" in path else "?"
    told = problem_of(client.get(f"{path}{join}{name}={first}&{name}={second}"), 400)
    reason = "it is repeated: give it once"
    assert told["errors"] == [{"parameter": name, "value": f"{first}, {second}", "reason": reason}]


@pytest.mark.parametrize("path", ["trades/query", "quotes/query", "aggregations", "replay"])
def test_a_parameter_of_a_post_is_once_and_in_its_body(client: TestClient, path: str) -> None:
    [error] = problem_of(client.post(f"/v1/{path}?limit=3", json=BODIES[path]), 400)["errors"]
    assert (error["parameter"], error["value"]) == ("limit", "3")
    assert error["reason"] == "a POST takes its parameters in the body"
    text = '{"symbols": ["BHP"], "symbols": ["MWR"], "metrics": ["count"], ' + SPAN + "}"
    if path != "aggregations":
        text = text.replace('"metrics": ["count"], ', "")
    if path != "replay":
        text = text.replace(f", {SPAN}", "")
    response = client.post(
        f"/v1/{path}", content=text, headers={"Content-Type": "application/json"}
    )
    [error] = problem_of(response, 400)["errors"]
    assert (error["parameter"], error["value"]) == ("symbols", "['BHP'], ['MWR']")


SPAN = '"start": "2014-03-10", "end": "2014-03-11"'
BODIES = {
    "trades/query": BODY,
    "quotes/query": BODY,
    "aggregations": {"metrics": ["count"]},
    "replay": {**BODY, "start": "2014-03-10", "end": "2014-03-11"},
}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/trades", "symbol: Field required: give it"),
        ("/v1/trades?symbol=BHP&limit=0", "limit=0: Input should be greater than or equal to 1"),
        ("/v1/trades?symbol=BHP&x=1", "x=1: Extra inputs are not permitted: leave it out"),
        ("/v1/trades?symbol=BHP&market=dark", "market=dark: Input should be 'all', 'on' or 'off'"),
        ("/v1/trades?symbol=BHP&start=soon", "start=soon: give a date, 2014-03-10, or a moment"),
        ("/v1/trades?symbol=BHP&as_of=2014-02-30", "as_of='2014-02-30': day is out of range"),
        ("/v1/bars?symbol=BHP&every=1w", "every=1w: give a number and s, m, h or d"),
        ("/v1/quotes/latest?symbol=BHP&at=2014-03-10", "at=2014-03-10: give a moment with its"),
        ("/v1/trades?symbol=ASX:BHP&exchange=LSE", "symbol=ASX:BHP and exchange=LSE are two"),
        ("/v1/gaps?symbol=A:B&exchange=C", "symbol=A:B and exchange=C are two venues: leave one"),
        ("/v1/trades?symbol=BHP", "BHP is held at ASX, ASX_SIM: say which one with exchange="),
        ("/v1/trades?symbol=ASX:BHP&start=2014-03-10T01:00:00+11:00",
         "start=2014-03-10T01:00:00 11:00: give a date, 2014-03-10, or a moment with its zone, "
         "2014-03-10T01:00:00Z; in a URL `+` is written %2B"),
    ],
)  # fmt: skip
def test_a_refusal_names_parameter_value_and_remedy(
    client: TestClient, path: str, told: str
) -> None:
    assert problem_of(client.get(path), 400)["detail"].startswith(told)


def test_an_instrument_may_be_named_with_its_venue_in_every_path(client: TestClient) -> None:
    sim, asx = {"symbol": "ASX_SIM:BHP"}, {"symbol": "ASX:BHP"}
    assert numbers(asked(client, "/v1/trades", **sim)) == [3]
    assert numbers(asked(client, "/v1/trades/recent", **asx)) == [1, 2]
    assert numbers(asked(client, "/v1/trades", **asx, exchange="ASX")) == [1, 2]
    assert numbers(asked(client, "/v1/quotes", **sim)) == [7]
    assert asked(client, "/v1/bars", **sim, every="1d")["data"][0]["high"] == "40.00000000"
    by_path = [
        asked(client, path)["data"]
        for path in (
            SUMMARY,
            "/v1/summary/ASX/ASX:BHP/2014-03-10",
            "/v1/summary/ASX:BHP/2014-03-10",
        )
    ]
    assert by_path[0] == by_path[1] == by_path[2]
    assert by_path[0][0]["trades"] == 2
    assert [row["gap_id"] for row in asked(client, "/v1/gaps", symbol="BINANCE:BTCUSDT")["data"]] \
        == ["g"]  # fmt: skip
    page = asked(client, "/v1/trades", **asx, limit=1)
    assert numbers(asked(client, "/v1/trades", **asx, limit=1, cursor=page["next"])) == [2]


@pytest.mark.parametrize("path", ["/v1/trades", "/v1/quotes"])
def test_gets_of_rows_have_either_order_and_several_symbols(client: TestClient, path: str) -> None:
    both = {"symbol": "ASX:BHP,ASX_SIM:BHP"}
    wanted = [1, 2, 3] if path == "/v1/trades" else [0, 1, 2, 7]
    assert numbers(asked(client, path, **both)) == wanted
    backwards = asked(client, path, **both, order="desc")
    assert numbers(backwards) == wanted[::-1]
    found, cursor = [], {}
    while True:
        page = asked(client, path, **both, order="desc", limit=1, **cursor)
        found += numbers(page)
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert found == wanted[::-1]
    assert numbers(asked(client, path, symbol="ASX_SIM:BHP", order="desc")) == wanted[-1:]
    many = ",".join(f"S{number}" for number in range(101))
    told = problem_of(client.get(path, params={"symbol": many}), 400)
    assert "101 symbols: give 100 at most" in told["detail"]
    problem_of(client.get(f"{path}?symbol=ASX:BHP,"), 400)
    problem_of(client.get(f"{path}?symbol=ASX:BHP,XYZ"), 404)


def test_desc_is_of_the_market_and_span(client: TestClient) -> None:
    params = {"symbol": "ASX:BHP", "order": "desc", "start": told(at(2))}
    assert numbers(asked(client, "/v1/trades", **params)) == [2]
    page = asked(client, "/v1/trades", **params, market="off")
    assert (page["data"], page["market"]) == ([], "off")


def test_an_instrument_may_be_named_with_its_venue_in_every_body(client: TestClient) -> None:
    both = {"symbols": ["ASX:BHP", "ASX_SIM:BHP", "ASX:BHP"]}
    assert numbers(posted(client, "/v1/trades/query", both)) == [1, 2, 3]
    assert numbers(posted(client, "/v1/quotes/query", both)) == [0, 1, 2, 7]
    count = {"metrics": ["count"], "group_by": ["exchange"]}
    groups = posted(client, "/v1/aggregations", {**both, **count})["data"]
    assert groups == [{"exchange": "ASX", "count": 2}, {"exchange": "ASX_SIM", "count": 1}]
    rest = {"symbols": ["BHP", "ASX_SIM:BHP"], "exchange": "ASX"}
    assert numbers(posted(client, "/v1/trades/query", rest)) == [1, 2, 3]
    span = {"start": "2014-03-10", "end": "2014-03-11", "kinds": ["trades"]}
    lines = client.post("/v1/replay", json={"symbols": ["ASX_SIM:BHP"], **span}).text.splitlines()
    assert len(lines) == 2 and '"m000003"' in lines[0]


def test_prices_of_one_symbol_at_two_venues_are_not_mixed(client: TestClient) -> None:
    body = {"symbols": ["ASX:BHP", "ASX_SIM:BHP"], "metrics": ["max_price"]}
    for group_by in ([], ["symbol"]):
        response = client.post("/v1/aggregations", json={**body, "group_by": group_by})
        assert "are of one instrument" in problem_of(response, 400)["detail"]
    groups = posted(client, "/v1/aggregations", {**body, "group_by": ["exchange", "symbol"]})
    assert [row["max_price"] for row in groups["data"]] == ["36.67000000", "40.00000000"]


def test_an_instrument_may_be_named_with_its_venue_in_python(home: K2) -> None:
    assert home.trades("ASX_SIM:BHP").height == home.quotes("ASX_SIM:BHP").height == 1
    assert home.bars("ASX:BHP", every="1d")["trades"].item() == 2
    assert home.summary("ASX:BHP", "2014-03-10", exchange="ASX")["trades"].item() == 2
    with pytest.raises(QueryError, match="symbol=ASX:BHP and exchange=LSE are two venues"):
        home.trades("ASX:BHP", exchange="LSE")
    with pytest.raises(QueryError, match="asx:BHP is not in trades_v2, which holds ASX:BHP"):
        home.trades("asx:BHP")


def test_the_latest_quote_is_the_newest_or_the_one_in_force(client: TestClient) -> None:
    def latest(**params: str) -> list[int]:
        return numbers(asked(client, "/v1/quotes/latest", symbol="ASX:BHP", **params))

    assert latest() == [2]
    assert latest(at=told(at(1))) == [1]
    assert latest(at=told(at(1.999))) == [1]
    assert latest(at="2199-01-01T00Z") == [2]
    path = f"/v1/quotes/latest?symbol=ASX:BHP&at={told(at(-1))}"
    assert "ASX:BHP has no quote at or before" in problem_of(client.get(path), 404)["detail"]
    problem_of(client.get("/v1/quotes/latest?symbol=XYZ"), 404)
