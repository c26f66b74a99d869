"""A replay over HTTP tells what happened in order, gaps too, and ends when its client leaves."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.ipc
import pytest
from starlette.testclient import TestClient
from support.api_client import LIMITLESS, api_of, problem_of
from support.asx_csv import told, trades_of
from support.asx_facts import quote_counts, symbols
from support.lake_rows import append, at, quote, trade
from support.waiting import wait_until

from k2lib import K2
from k2lib.api.app import create_app
from k2lib.api.options import ApiOptions
from k2lib.api.server import ServedApp, bind

SPAN = {"start": "2014-03-10", "end": "2014-03-15"}
BITS = {"symbol": "BTCUSDT", "exchange": "BINANCE", "vendor_data": None}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2]:
    with K2.open(home=tmp_path_factory.mktemp("replay") / "home") as k2:
        counted = [trade(n, source_sequence=n, **BITS) for n in (1, 2, 5)]
        # At the slowest pace there is, from one to the other it takes days.
        apart = [trade(7, symbol="MWR"), trade(8, symbol="MWR", timestamp=at(100_000))]
        append(k2.catalog, [*map(trade, range(3)), *counted, *apart])
        append(k2.catalog, [quote(n, timestamp=at(n + 0.5)) for n in range(3)], "quotes_v2")
        yield k2


@pytest.fixture(scope="module")
def client(home: K2) -> Iterator[TestClient]:
    with api_of(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(home: K2) -> Iterator[str]:
    options = ApiOptions(**LIMITLESS)
    with ServedApp(create_app(home, options=options), bind("127.0.0.1", 0, options=options)) as app:
        yield app.url


def lines(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/replay", json={**SPAN, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_events_of_all_kinds_come_in_order_and_are_counted(client: TestClient) -> None:
    found = lines(client, symbols=["BHP"])
    assert [line["kind"] for line in found[:-1]] == ["trades", "quotes"] * 3
    assert found[-1] == {"kind": "end", "events": 6}
    times = [line["timestamp"] for line in found[:-1]]
    assert times == sorted(times)


def test_a_line_has_every_field_as_a_page_has(client: TestClient) -> None:
    [page] = client.get("/v1/trades", params={"symbol": "BHP", "limit": 1}).json()["data"]
    assert lines(client, symbols=["BHP"])[0] == {"kind": "trades", **page}


def test_a_gap_is_an_element_before_the_trade_after_it(client: TestClient) -> None:
    found = lines(client, symbols=["BTCUSDT"], kinds=["trades"])
    assert [line["kind"] for line in found] == ["trades", "trades", "gaps", "trades", "end"]
    assert found[2] == {
        "kind": "gaps",
        "exchange": "BINANCE",
        "symbol": "BTCUSDT",
        "from_id": 3,
        "to_id": 4,
        "timestamp": told(at(5)),
        "state": "unrecorded",
        "note": found[2]["note"],
    }


def test_an_arrow_stream_has_the_rows_and_the_gaps_between_them(client: TestClient) -> None:
    body = {**SPAN, "symbols": ["BTCUSDT"], "kinds": ["trades"], "format": "arrow"}
    response = client.post("/v1/replay", json=body)
    assert response.headers["content-type"] == "application/vnd.apache.arrow.stream"
    reader = pa.ipc.open_stream(response.content)
    found: list[Any] = []
    for batch, metadata in reader.iter_batches_with_custom_metadata():
        found += batch["source_sequence"].to_pylist()
        found += [] if metadata is None else [json.loads(metadata["gap"])["from_id"]]
    assert found == [1, 2, 3, 5]


def test_a_span_without_events_ends_at_once(client: TestClient) -> None:
    span = {"start": "2014-03-01", "end": "2014-03-02", "symbols": ["BHP"]}
    assert lines(client, **span) == [{"kind": "end", "events": 0}]
    body = {**span, "kinds": ["quotes"], "format": "arrow"}
    stream = client.post("/v1/replay", json=body).content
    assert pa.ipc.open_stream(stream).read_all().num_rows == 0


def test_a_paced_replay_takes_its_time(client: TestClient) -> None:
    began = time.monotonic()
    assert len(lines(client, symbols=["BHP"], speed=10)) == 7
    assert time.monotonic() - began >= 2.5 / 10


def test_what_cannot_be_replayed_is_a_problem(client: TestClient) -> None:
    body = {**SPAN, "symbols": ["BHP"]}
    for wrong in (
        {"speed": 0},
        {"kinds": []},
        {"kinds": ["gaps"]},
        {"format": "arrow"},
        {"end": "2014-03-01"},
        {"as_of": "2014-03-10T00:00:00Z"},
    ):
        response = client.post("/v1/replay", json={**body, **wrong})
        assert response.status_code in (400, 404)
        problem_of(response, response.status_code)
    problem_of(client.post("/v1/replay", json={**body, "symbols": ["XYZ"]}), 404)
    accept = {"Accept": "text/csv"}
    problem_of(client.post("/v1/replay", json=body, headers=accept), 406)


@pytest.mark.slow
def test_the_sample_is_replayed_whole(asx_sample: Path, tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home", commit_interval_s=0.5) as k2:
        k2.load_asx(asx_sample)
        names = sorted({symbols(asx_sample)[one.stem] for one in asx_sample.glob("trades/*.csv")})
        with api_of(k2) as client:
            found = lines(client, symbols=names)
    expected = [row["message_id"] for name in names for row in trades_of(asx_sample, name)]
    replayed = [line["message_id"] for line in found if line["kind"] == "trades"]
    assert sorted(replayed) == sorted(expected)
    assert found[-1]["events"] == len(expected) + sum(quote_counts(asx_sample).values())


def test_so_many_replays_run_at_a_time_and_a_client_that_leaves_makes_room(url: str) -> None:
    body = {**SPAN, "symbols": ["MWR"], "speed": 0.1}
    with httpx2.Client(base_url=url, trust_env=False, timeout=30) as client:
        held = [
            client.send(client.build_request("POST", "/v1/replay", json=body), stream=True)
            for _ in range(ApiOptions().replays)
        ]
        refused = client.post("/v1/replay", json=body)
        problem_of(refused, 503)
        assert refused.headers["retry-after"] == "1"
        held.pop().close()
        quick = {**body, "speed": None}
        wait_until(lambda: client.post("/v1/replay", json=quick).status_code == 200)
        for one in held:
            one.close()
