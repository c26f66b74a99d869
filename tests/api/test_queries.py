"""POSTs: filters and groups equal a plain computation; whatever is sent, the answer is told."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote as in_url

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.api_client import api_of, asked, posted, problem_of
from support.asx_csv import figures, told, trades_of
from support.lake_rows import append, at, quote, trade
from support.million_trades import add_million_times

from k2lib import K2

METRICS = {
    "count": "trades",
    "vwap": "vwap",
    "turnover": "turnover",
    "open": "open",
    "close": "close",
    "min_price": "low",
    "max_price": "high",
    "avg_price": "average",
    "sum_quantity": "volume",
    "first": "first",
    "last": "last",
}


@pytest.fixture(scope="module")
def sample(asx_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Open the API over a home that has the ASX files."""
    home = tmp_path_factory.mktemp("queries") / "home"
    with K2.open(home=home, commit_interval_s=0.5) as k2:
        k2.load_asx(asx_sample)
        with api_of(k2) as client:
            yield client


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Open the API over a few rows of two venues."""
    with K2.open(home=tmp_path_factory.mktemp("small") / "home") as k2:
        append(k2.catalog, [*map(trade, range(4)), *SIM, *BITS])
        append(k2.catalog, [*map(quote, range(2)), quote(2, symbol="MWR")], "quotes_v2")
        with api_of(k2) as client:
            yield client


SIM = [trade(4, symbol="MWR", exchange="ASX_SIM"), trade(5, symbol="BHP", exchange="ASX_SIM")]
BITS = [
    trade(6, symbol="BTCUSDT", exchange="BINANCE", side="BUY", price=Decimal("0.00000001")),
    trade(7, symbol="BTCUSDT", exchange="BINANCE", side="SELL", price=Decimal("0.00000002")),
    trade(8, symbol="BTCUSDT", exchange="BINANCE", side="SELL", quantity=Decimal("0.5")),
]


def ids(page: dict[str, Any]) -> list[int]:
    return [int(row["message_id"][1:]) for row in page["data"]]


def queried(client: TestClient, **body: Any) -> list[int]:
    return ids(posted(client, "/v1/trades/query", body))


def grouped(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = posted(client, "/v1/aggregations", body)["data"]
    return rows


def as_metrics(row: dict[str, Any]) -> dict[str, Any]:
    return {metric: row[name] for metric, name in METRICS.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group_by", "by", "every"),
    [
        (["exchange", "symbol"], "exchange, symbol", None),
        (["exchange", "symbol", "trading_date"], "exchange, symbol, trading_date", None),
        (["symbol", "side", "exchange"], "symbol, 'UNKNOWN' AS side, exchange", None),
        (
            ["exchange", "symbol", "interval"],
            "exchange, symbol, time_bucket(INTERVAL '30 minutes', timestamp) AS interval",
            "30m",
        ),
        (
            ["exchange", "symbol", "interval"],
            "exchange, symbol, timezone('Australia/Sydney', trading_date::TIMESTAMP) AS interval",
            "1d",
        ),
    ],
)
def test_groups_are_those_of_plain_duckdb(
    sample: TestClient, asx_sample: Path, group_by: list[str], by: str, every: str | None
) -> None:
    found = grouped(sample, group_by=group_by, metrics=list(METRICS), every=every)
    wanted = [
        {name: row[name] for name in group_by} | as_metrics(row)
        for row in figures(asx_sample, by=by)
    ]
    assert found == wanted


@pytest.mark.slow
def test_figures_of_a_span_are_those_of_its_trading_dates(
    sample: TestClient, asx_sample: Path
) -> None:
    days = sorted({row["trading_date"] for row in figures(asx_sample, by="trading_date")})
    for symbol in figures(asx_sample, by="symbol"):
        body = {"symbols": [symbol["symbol"]], "start": days[0], "end": days[1]}
        where = f"symbol = '{symbol['symbol']}' AND trading_date = '{days[0]}'"
        [wanted] = figures(asx_sample, by="symbol", where=where)
        assert grouped(sample, **body, metrics=list(METRICS)) == [as_metrics(wanted)]


@pytest.mark.slow
def test_averages_of_quantity_are_exact(sample: TestClient, asx_sample: Path) -> None:
    for row in grouped(
        sample,
        group_by=["exchange", "symbol"],
        metrics=["avg_quantity", "min_quantity", "max_quantity", "sum_price", "count"],
    ):
        trades = trades_of(asx_sample, row["symbol"])
        quantities = [Decimal(one["quantity"]) for one in trades]
        exact = sum(quantities) / len(quantities)
        assert abs(Decimal(row["avg_quantity"]) - exact) <= Decimal("0.5e-8")
        assert Decimal(row["min_quantity"]) == min(quantities)
        assert Decimal(row["max_quantity"]) == max(quantities)
        assert Decimal(row["sum_price"]) == sum(Decimal(one["price"]) for one in trades)


@pytest.mark.slow
def test_a_query_finds_what_meets_all_filters(sample: TestClient, asx_sample: Path) -> None:
    names = sorted({row["symbol"] for row in figures(asx_sample, by="symbol")})
    rows = [row for name in names for row in trades_of(asx_sample, name)]
    rows.sort(key=lambda row: (row["timestamp"], row["symbol"], row["platform_sequence"]))
    middle = sorted(Decimal(row["price"]) for row in rows)[len(rows) // 2]
    body = {
        "symbols": names,
        "side": "UNKNOWN",
        "min_price": f"{middle:f}",
        "max_price": f"{middle + 1:f}",
        "min_quantity": "10",
        "max_quantity": "1000.5",
        "columns": ["symbol", "price", "message_id"],
        "limit": 100_000,
    }
    wanted = [
        {name: row[name] for name in ("symbol", "price", "message_id")}
        for row in rows
        if middle <= Decimal(row["price"]) <= middle + 1
        and 10 <= Decimal(row["quantity"]) <= Decimal("1000.5")
    ]
    assert wanted
    assert posted(sample, "/v1/trades/query", body)["data"] == wanted


def test_the_greatest_quantities_are_filtered_and_averaged_exactly(tmp_path: Path) -> None:
    most = Decimal("92233720368.54775807")
    rows = [trade(n, quantity=most - n, price=Decimal("0.00000001")) for n in range(3)]
    with K2.open(home=tmp_path / "home") as k2:
        append(k2.catalog, rows)
        with api_of(k2) as client:
            found = queried(client, symbols=["BHP"], min_quantity=f"{most - 1}")
            metrics = ["avg_quantity", "sum_quantity", "turnover", "vwap"]
            [group] = grouped(client, group_by=["exchange", "symbol"], metrics=metrics)
    assert found == [0, 1]
    assert Decimal(group["avg_quantity"]) == most - 1
    assert Decimal(group["sum_quantity"]) == 3 * most - 3
    assert Decimal(group["turnover"]) == (3 * most - 3).scaleb(-8)
    assert Decimal(group["vwap"]) == Decimal("0.00000001")


def test_quotes_are_queried_by_their_sides(small: TestClient) -> None:
    def found(**body: Any) -> list[int]:
        return ids(posted(small, "/v1/quotes/query", {"symbols": ["BHP", "MWR"], **body}))

    assert found() == [0, 1, 2]
    assert found(order="desc") == [2, 1, 0]
    assert found(min_bid_price="36.66", max_bid_price="36.66") == [0, 1, 2]
    assert found(min_bid_price="36.67") == []
    assert found(min_ask_price="0") == []


def test_a_symbol_at_several_venues_needs_one(small: TestClient) -> None:
    body = {"symbols": ["MWR", "BHP"]}
    told = problem_of(small.post("/v1/trades/query", json=body), 400)
    assert told["detail"].startswith("BHP is held at ASX, ASX_SIM")
    assert queried(small, **body, exchange="ASX_SIM") == [4, 5]


def test_symbols_of_several_venues_have_the_dates_of_each(small: TestClient) -> None:
    body = {"symbols": ["MWR", "BTCUSDT"]}
    assert queried(small, **body) == [4, 6, 7, 8]
    assert queried(small, **body, start="2014-03-10", end="2014-03-11") == [4, 6, 7, 8]
    assert queried(small, **body, start=told(at(5)), end="2014-03-11") == [6, 7, 8]


def test_what_is_not_held_is_not_found(small: TestClient) -> None:
    for path in ("/v1/trades/query", "/v1/quotes/query", "/v1/aggregations"):
        body = {"symbols": ["XYZ"]} | ({"metrics": ["count"]} if "agg" in path else {})
        problem_of(small.post(path, json=body), 404)


def test_sides_are_groups_and_filters(small: TestClient) -> None:
    body = {"symbols": ["BTCUSDT"], "metrics": ["count", "avg_price"], "group_by": ["side"]}
    assert grouped(small, **body) == [
        {"side": "BUY", "count": 1, "avg_price": "0.00000001"},
        {"side": "SELL", "count": 2, "avg_price": "18.33500001"},
    ]
    assert queried(small, symbols=["BTCUSDT"], side="SELL") == [7, 8]


def test_prices_of_two_instruments_are_not_mixed(small: TestClient) -> None:
    for body in (
        {"metrics": ["vwap"]},
        {"metrics": ["vwap"], "group_by": ["symbol"]},
        {"metrics": ["count", "turnover"], "symbols": ["BTCUSDT", "MWR"]},
    ):
        detail = problem_of(small.post("/v1/aggregations", json=body), 400)["detail"]
        assert "are of one instrument" in detail
    assert len(grouped(small, metrics=["vwap"], group_by=["exchange", "symbol"])) == 4


def test_no_groups_asked_for_is_one_group(small: TestClient) -> None:
    assert grouped(small, metrics=["count", "sum_quantity"]) == [
        {"count": 9, "sum_quantity": "800.50000000"}
    ]
    empty = {"symbols": ["BTCUSDT"], "end": "2014-03-01", "metrics": ["count", "vwap", "first"]}
    assert grouped(small, **empty) == [{"count": 0, "vwap": None, "first": None}]


def test_quotes_are_only_counted(small: TestClient) -> None:
    body = {"table": "quotes_v2", "group_by": ["symbol"], "metrics": ["count", "last"]}
    assert grouped(small, **body) == [
        {"symbol": "BHP", "count": 2, "last": told(at(1))},
        {"symbol": "MWR", "count": 1, "last": told(at(2))},
    ]
    wrong = small.post("/v1/aggregations", json={**body, "metrics": ["vwap"]})
    assert "quotes have no vwap" in problem_of(wrong, 400)["detail"]


def test_an_interval_needs_its_length_and_a_length_its_interval(small: TestClient) -> None:
    for body in ({"group_by": ["interval"]}, {"every": "5m"}):
        response = small.post("/v1/aggregations", json={"metrics": ["count"], **body})
        assert "give every with interval" in problem_of(response, 400)["detail"]


def test_a_query_of_the_past_is_of_that_snapshot(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2, api_of(k2) as client:
        append(k2.catalog, [trade(1)])
        [first] = asked(client, "/v1/snapshots")["data"]
        append(k2.catalog, [trade(2)])
        then = {"symbols": ["BHP"], "as_of": first["snapshot_id"]}
        assert queried(client, **then) == [1]
        assert grouped(client, **then, metrics=["count"]) == [{"count": 1}]


@pytest.mark.slow
def test_a_query_that_takes_too_long_is_cut_and_said_so(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2:
        append(k2.catalog, [trade(1)])
        add_million_times(k2, 8, folder=tmp_path / "home" / "warehouse")
        with api_of(k2, timeout_s=0.05) as client:
            body = {"group_by": ["exchange", "symbol"], "metrics": ["open", "close"]}
            told = problem_of(client.post("/v1/aggregations", json=body), 503)
            assert told["title"] == "Query limit reached"
            assert "cut after 0.05 s" in told["detail"]


# What is not text of the right form, by where it stands in the address or the body.
NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "BHP'; DROP TABLE trades_v2; --",
            "' OR 1=1 --",
            "x') UNION SELECT * FROM read_csv('/etc/passwd') --",
            "$symbol_0",
            "\x00",
            "BHP\x00",
            "\ud800",
            "NaN",
            "inf",
            "-1",
            "0",
            "1e400",
            "9" * 400,
            "1" * 5000,
            "0001-01-01",
            "1969-12-31",
            "9999-12-31T23:59:59.999999Z",
            "9999-12-31T23:59:59.999999-14:00",
            "2014-03-10T01:00:00",
            "2014-02-30",
            "2014-W10-1",
            "true",
            "[]",
            "../../../etc/passwd",
            "%00",
        ]
    ),
)
GETS = {
    "/v1/trades": ("symbol", "exchange", "start", "end", "limit", "cursor", "as_of", "tail"),
    "/v1/trades/recent": ("symbol", "exchange", "limit", "as_of", "tail", "format"),
    "/v1/quotes": ("symbol", "exchange", "start", "end", "limit", "cursor", "format"),
    "/v1/bars": ("symbol", "every", "market", "start", "end", "limit", "cursor", "as_of"),
    "/v1/symbols": ("table", "exchange", "as_of", "tail"),
    "/v1/stats": ("table", "exchange", "as_of", "tail"),
    "/v1/snapshots": ("table", "format"),
    "/v1/gaps": ("exchange", "symbol", "state", "as_of"),
}
POSTS = {
    "/v1/trades/query": ("symbols", "side", "min_price", "columns", "order", "cursor", "as_of"),
    "/v1/quotes/query": ("symbols", "max_ask_price", "start", "limit", "tail", "format"),
    "/v1/aggregations": ("symbols", "group_by", "metrics", "every", "exchange", "end", "table"),
}
BODIES = {
    "/v1/trades/query": {"symbols": ["BTCUSDT"]},
    "/v1/quotes/query": {"symbols": ["MWR"]},
    "/v1/aggregations": {"metrics": ["count"]},
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NASTY,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def in_query(params: dict[str, str]) -> str:
    """Return a query string that can have anything in it, half a surrogate pair too."""
    return "&".join(
        f"{name}={in_url(value.encode('utf-8', 'surrogatepass'))}" for name, value in params.items()
    )


def assert_answered(response: Any) -> None:
    """Fail unless it is an answer, or a problem that the client can do something about."""
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        problem_of(response, response.status_code)


@settings(max_examples=150)
@given(st.sampled_from(sorted(GETS)), st.data())
def test_whatever_is_in_an_address_it_is_answered(
    small: TestClient, path: str, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(GETS[path]), unique=True, min_size=1, max_size=3))
    good = {"symbol": "BTCUSDT"} if "symbol" in GETS[path] else {}
    params = good | {name: data.draw(NASTY) for name in names}
    assert_answered(small.get(f"{path}?{in_query(params)}"))


@settings(max_examples=100)
@given(NASTY, NASTY, NASTY)
def test_whatever_is_in_a_path_it_is_answered(
    small: TestClient, exchange: str, symbol: str, date: str
) -> None:
    parts = [
        in_url(one.encode("utf-8", "surrogatepass"), safe="") for one in (exchange, symbol, date)
    ]
    response = small.get(f"/v1/summary/{'/'.join(parts)}")
    assert response.status_code in (400, 404, 414)
    problem_of(response, response.status_code)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(sorted(POSTS)), st.data())
def test_whatever_is_in_a_body_it_is_answered(
    small: TestClient, path: str, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(POSTS[path]), unique=True, min_size=1, max_size=3))
    body = json.dumps(BODIES[path] | {name: data.draw(ANY_JSON) for name in names})
    headers = {"Content-Type": "application/json"}
    assert_answered(small.post(path, content=body, headers=headers))


@pytest.mark.parametrize(
    "body", ["[" * 30_000, '{"symbols": ["BHP"', "\ufeff{}", '{"symbols": ["BHP"], "limit": 1e999}']
)
def test_a_body_that_is_broken_is_refused(small: TestClient, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    told = problem_of(small.post("/v1/trades/query", content=body, headers=headers), 400)
    assert {one["parameter"] for one in told.get("errors", [])} <= {"body", "symbols", "limit"}


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(POSTS)),
    st.binary(max_size=60) | ANY_JSON.map(lambda one: json.dumps(one).encode()),
)
def test_a_body_that_is_none_is_refused(small: TestClient, path: str, body: bytes) -> None:
    response = small.post(path, content=body, headers={"Content-Type": "application/json"})
    problem_of(response, 400)


@settings(max_examples=60)
@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60))
def test_whatever_the_accept_header_is_it_is_answered(small: TestClient, accept: str) -> None:
    response = small.get("/v1/stats", headers={"Accept": accept.encode("latin-1")})
    assert response.status_code in (200, 406)
    assert_answered(response)


@pytest.mark.parametrize(
    "query",
    [
        "symbol=BHP%27%3B%20DROP%20TABLE%20trades_v2",
        "symbol=BTCUSDT&limit=9999999999999999999999",
        "symbol=BTCUSDT&limit=NaN",
        "symbol=BTCUSDT&start=1969-12-31",
        "symbol=BTCUSDT&start=1969-12-31T23:59:59Z",
        "symbol=BTCUSDT&end=0001-01-01T00:00:00%2B14:00",
        "symbol=BTCUSDT&start=2014-03-10T01:00:00",
        "symbol=BTCUSDT&tail=perhaps",
        "symbol=BTC%00USDT",
        "symbol=%ED%A0%80",
        "symbol=BTCUSDT&symbol=",
        "symbol=BTCUSDT&sql=select",
    ],
)
def test_what_cannot_be_meant_is_a_problem(small: TestClient, query: str) -> None:
    response = small.get(f"/v1/trades?{query}")
    assert problem_of(response, response.status_code)["status"] in (400, 404)


def test_sql_in_a_symbol_is_a_symbol_that_is_not_there(small: TestClient) -> None:
    for symbol in ("BHP';--", "')OR(1=1", "$symbol_0", '"'):
        problem_of(small.get("/v1/trades", params={"symbol": symbol}), 404)
        body = {"symbols": [symbol]}
        problem_of(small.post("/v1/trades/query", json=body), 404)
    assert queried(small, symbols=["BTCUSDT"]) == [6, 7, 8]
