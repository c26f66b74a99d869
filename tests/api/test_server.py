"""The server as notebooks start it: its address, its port, its end, and a live trade's way."""

import json
import os
import socket
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.api_edge import made_key
from support.lake_rows import append, rows_table, trade
from support.live import SOON, venue_of
from support.million_trades import add_million_times
from support.waiting import wait_until
from websockets.sync.client import connect

from k2lib import K2
from k2lib.api.options import ApiOptions
from k2lib.api.server import ApiServer
from k2lib.errors import ConfigError
from k2lib.schema.records import TRADE
from k2lib.settings import Settings
from k2lib.simulator import OfflineExchange


@pytest.fixture
def home(tmp_path: Path) -> Any:
    with K2(Settings(home=tmp_path / "home")) as opened:
        yield opened


def get(url: str, **headers: str) -> httpx2.Response:
    return httpx2.get(url, headers=headers, timeout=30, trust_env=False)


def test_a_free_port_is_taken_and_told(home: K2) -> None:
    with ApiServer(home) as server, ApiServer(home) as other:
        assert server.url != other.url
        assert get(f"{server.url}/health").json() == {"status": "alive"}
        assert get(f"{other.url}/openapi.json").json()["info"]["title"] == "K2"


def test_a_port_in_use_is_named_in_one_line(home: K2) -> None:
    with ApiServer(home) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"K2_API_PORT={port}: cannot listen") as refused:
            ApiServer(home, port=port)
    assert "\n" not in str(refused.value)


def test_others_are_not_served_without_keys(home: K2) -> None:
    with pytest.raises(ConfigError, match=r"K2_API_HOST=0\.0\.0\.0 is reached from other machines"):
        ApiServer(home, host="0.0.0.0")


def test_with_keys_others_are_served(home: K2) -> None:
    key, keys = made_key("alice")
    with ApiServer(home, host="0.0.0.0", options=ApiOptions(keys=keys)) as server:
        port = server.url.rpartition(":")[2]
        assert get(f"http://127.0.0.1:{port}/v1/stats").status_code == 401
        assert get(f"http://127.0.0.1:{port}/v1/stats", **{"X-API-Key": key}).status_code == 200


def test_another_loopback_address_serves_under_its_own_name(home: K2) -> None:
    with ApiServer(home, host="127.0.0.2") as server:
        assert server.url.startswith("http://127.0.0.2:")
        assert get(f"{server.url}/v1/stats").status_code == 200


def test_an_address_of_another_machine_is_named_in_one_line(home: K2) -> None:
    _, keys = made_key("alice")
    with pytest.raises(
        ConfigError, match=r"^K2_API_HOST=192\.0\.2\.1 is no address of this machine$"
    ):
        ApiServer(home, host="192.0.2.1", options=ApiOptions(keys=keys))


def test_a_host_that_is_none_is_named(home: K2) -> None:
    with pytest.raises(ConfigError, match=r"K2_API_HOST=no\.such\.host\.invalid"):
        ApiServer(home, host="no.such.host.invalid")


def test_at_the_end_the_port_is_free_and_no_thread_is_left(home: K2) -> None:
    before = set(threading.enumerate())
    server = ApiServer(home)
    get(f"{server.url}/v1/stats")
    server.close()
    server.close()
    assert not server.wait(0)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(server.url.rpartition(":")[2])))
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_an_idle_connection_does_not_hold_up_the_end(home: K2) -> None:
    server = ApiServer(home)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))):
        server.close()
    assert not server.wait(0)


def test_a_streamed_record_is_as_a_read_one(home: K2) -> None:
    topic, rows = "market.equities.trades.asx", rows_table([trade(1, vendor_data=None), trade(2)])
    home.pipeline.produce(topic, rows, TRADE)
    with ApiServer(home) as server:
        url = f"{server.url.replace('http', 'ws')}/v1/stream?symbols=ASX:BHP"
        with connect(url, proxy=None) as ws:
            assert json.loads(ws.recv(timeout=20))["type"] == "subscribed"
            more = rows_table([trade(3, vendor_data=None), trade(4)])
            home.pipeline.produce(topic, more, TRADE)
            home.pipeline.settle()
            streamed: list[dict[str, Any]] = []
            while len(streamed) < 2:
                streamed += json.loads(ws.recv(timeout=20)).get("data", [])
        read = get(f"{server.url}/v1/trades/recent?exchange=ASX&symbol=BHP&limit=2").json()
    assert streamed == read["data"]


@pytest.mark.slow
def test_a_live_trade_is_read_within_a_second(home: K2) -> None:
    with OfflineExchange(rate=20) as exchange, ApiServer(home) as server:
        home.feed(["BTCUSDT"], venue=venue_of(exchange), options=SOON)
        recent = f"{server.url}/v1/trades/recent?exchange=BINANCE_SIM&symbol=BTCUSDT"
        wait_until(lambda: get(recent).status_code == 200)
        # The machine may pause during some answers, not during all.
        wait_until(lambda: statistics.median(age_s(recent) for _ in range(40)) < 1)
        of_lake = f"{recent}&tail=false"
        wait_until(lambda: get(of_lake).status_code == 200)
        wait_until(lambda: statistics.median(age_s(of_lake) for _ in range(20)) < 5)


@pytest.mark.slow
def test_heavy_queries_are_cut_and_light_ones_are_answered_meanwhile(
    home: K2, tmp_path: Path
) -> None:
    append(home.catalog, [trade(1)])
    add_million_times(home, 8, folder=tmp_path / "home" / "warehouse")
    # Together the heavy ones take several times the processor time that there is for them.
    options = ApiOptions(timeout_s=min(2.0, 4.0 / (os.cpu_count() or 2)))
    with ApiServer(home, options=options) as server, ThreadPoolExecutor(8) as pool:
        few = f"{server.url}/v1/trades/recent?exchange=ASX&symbol=BHP&tail=false"
        wait_until(lambda: get(few).status_code == 200)
        heavy = [pool.submit(aggregated, server.url) for _ in range(8)]
        light = [get(few) for _ in range(10)]
        answers = [one.result() for one in heavy]
    # Where the machine pauses, a light one has used up its time too: one or two, never most.
    unanswered = [one.json()["title"] for one in light if one.status_code != 200]
    assert set(unanswered) <= {"Query limit reached"} and len(unanswered) < 5
    refused = [one.json() for one in answers if one.status_code == 503]
    cut = [one["detail"] for one in refused if one["title"] == "Query limit reached"]
    assert cut and all("ask for a shorter span" in one for one in cut)


def aggregated(url: str) -> httpx2.Response:
    """Ask for figures of every second of every symbol."""
    asked = {
        "table": "trades_v2",
        "group_by": ["symbol", "exchange", "interval"],
        "every": "1s",
        "metrics": ["open", "close", "vwap", "first", "last"],
    }
    return httpx2.post(f"{url}/v1/aggregations", json=asked, timeout=60, trust_env=False)


def age_s(url: str) -> float:
    """Return how old the newest trade of an answer is when it is asked for."""
    asked = datetime.now(UTC)
    newest = get(url).json()["data"][-1]["ingestion_timestamp"]
    return (asked - datetime.fromisoformat(newest)).total_seconds()
