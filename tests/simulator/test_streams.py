"""The streams of the offline exchange, as a plain WebSocket client sees them."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from support.exchange_clients import (
    PATIENCE_S,
    START,
    SetClock,
    consecutive,
    get,
    mute_pongs,
    pass_time,
    received,
    reply_to,
    rest_of_frames,
    stream,
    trade_ids,
)
from support.tls import Tls
from support.waiting import wait_until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from k2lib.simulator import OfflineExchange
from k2lib.simulator.binance.limits import ExchangeLimits

BOTH = "/stream?streams=btcusdt@trade/ethusdt@trade"
TRADE_FIELDS = ["e", "E", "s", "t", "p", "q", "T", "m", "M"]
FIVE = "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`"


@pytest.fixture(scope="module")
def exchange() -> Iterator[OfflineExchange]:
    with OfflineExchange(rate=500.0) as opened:
        yield opened


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def test_a_raw_trade_has_the_documented_fields(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        [trade] = received(ws)
    assert list(trade) == TRADE_FIELDS
    assert (trade["e"], trade["s"], trade["M"]) == ("trade", "BTCUSDT", True)
    assert len(trade["p"].partition(".")[2]) == len(trade["q"].partition(".")[2]) == 8
    assert isinstance(trade["m"], bool)
    assert trade["T"] <= trade["E"] <= time.time() * 1000


def test_the_ids_of_a_stream_have_no_hole(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        assert consecutive(trade_ids(ws, 300))


def test_a_combined_stream_wraps_each_event(clock: SetClock) -> None:
    with OfflineExchange(clock=clock) as exchange, stream(exchange, BOTH) as ws:
        # One message more than BTCUSDT has: all of a moment come a symbol after the other.
        messages = received(ws, pass_time(exchange, clock, 1) + 1)
    assert {message["stream"] for message in messages} == {"btcusdt@trade", "ethusdt@trade"}
    assert all(m["stream"] == f"{m['data']['s'].lower()}@trade" for m in messages)


@pytest.mark.parametrize("unit", ["MICROSECOND", "microsecond"])
@pytest.mark.parametrize("path", ["/ws/btcusdt@trade?", "/stream?streams=btcusdt@trade&"])
def test_times_come_in_microseconds_when_asked(
    exchange: OfflineExchange, path: str, unit: str
) -> None:
    with stream(exchange, f"{path}timeUnit={unit}") as ws:
        [message] = received(ws)
    trade = message.get("data", message)
    assert len(str(trade["T"])) == len(str(trade["E"])) == 16


def test_an_aggregate_spans_trades_without_a_hole(exchange: OfflineExchange) -> None:
    with stream(exchange, "/ws/btcusdt@aggTrade") as ws:
        rows = received(ws, 100)
    assert list(rows[0]) == ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]
    assert all(b["f"] == a["l"] + 1 and b["a"] == a["a"] + 1 for a, b in pairwise(rows))
    assert any(row["f"] < row["l"] for row in rows)


def test_a_quote_has_neither_name_nor_time(exchange: OfflineExchange) -> None:
    with stream(exchange, "/ws/btcusdt@bookTicker") as ws:
        first, second = received(ws, 2)
    assert list(first) == ["u", "s", "b", "B", "a", "A"]
    assert first["u"] < second["u"]
    assert float(first["b"]) < float(first["a"])


@pytest.mark.parametrize("path", ["/ws", "/stream", "/stream?timeUnit=MICROSECOND", "/ws/0"])
def test_a_bare_connection_is_silent_until_subscribed(exchange: OfflineExchange, path: str) -> None:
    with stream(exchange, path) as ws:
        assert reply_to(ws, _request("SUBSCRIBE", ["btcusdt@trade"], 7)) == {
            "result": None,
            "id": 7,
        }
        [message] = received(ws)
    assert message.get("data", message)["s"] == "BTCUSDT"


def test_unsubscribing_ends_the_stream_and_listing_tells_the_rest(
    exchange: OfflineExchange,
) -> None:
    with stream(exchange, BOTH) as ws:
        assert reply_to(ws, _request("UNSUBSCRIBE", ["btcusdt@trade"], 1))["result"] is None
        assert reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 2})["result"] == [
            "ethusdt@trade"
        ]
        assert {m["stream"] for m in received(ws, 20)} == {"ethusdt@trade"}


def test_an_unknown_stream_is_accepted_and_never_sends(exchange: OfflineExchange) -> None:
    with stream(exchange, "/ws/nonexist@trade") as ws:
        assert (
            reply_to(ws, _request("SUBSCRIBE", ["BTCUSDT@trade", "btcusdt@x"], 1))["result"] is None
        )
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.2)


def test_subscribing_twice_sends_once(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        reply_to(ws, _request("SUBSCRIBE", ["btcusdt@trade"], 1))
        ids = trade_ids(ws, 50)
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("name", [0, 1, 1_767_225_600_000, -5, "a" * 36, "3f2c-b1", None])
def test_ids_are_echoed_as_they_came(exchange: OfflineExchange, name: object) -> None:
    with stream(exchange, "/ws") as ws:
        reply = reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": name})
    assert reply == {"result": [], "id": name}


def test_the_combined_property_can_be_read_and_set(exchange: OfflineExchange) -> None:
    with stream(exchange, "/ws") as ws:
        assert reply_to(ws, _request("GET_PROPERTY", ["combined"], 1))["result"] is False
        assert reply_to(ws, _request("SET_PROPERTY", ["combined", True], 2))["result"] is None
        reply_to(ws, _request("SUBSCRIBE", ["btcusdt@trade"], 3))
        assert received(ws)[0]["stream"] == "btcusdt@trade"
    with stream(exchange, "/stream") as ws:
        assert reply_to(ws, _request("GET_PROPERTY", ["combined"], 1))["result"] is True


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [
        ("{oops", 3, "Invalid JSON: expected value at line 1 column 2"),
        ("[]", 2, "Invalid request: invalid type"),
        ({"id": 1}, 2, "Invalid request: missing field `method` at line 1 column 9"),
        ({"method": "X", "id": 1}, 2, f"unknown variant `X`, expected one of {FIVE} at line 1"),
        ({"method": "SUBSCRIBE", "id": 1}, 2, "missing field `params`"),
        ({"method": "SUBSCRIBE", "params": [1], "id": 1}, 2, "expected a string"),
        ({"method": "SUBSCRIBE", "params": "x", "id": 1}, 2, "expected a sequence"),
        ({"method": "SUBSCRIBE", "params": [], "id": 1.5}, 2, "request ID must be an unsigned"),
        ({"method": "SUBSCRIBE", "params": [], "id": "a" * 37}, 2, "request ID must be an"),
        ({"method": "GET_PROPERTY", "params": ["x"], "id": 1}, 0, "Unknown property"),
        ({"method": "GET_PROPERTY", "params": [1], "id": 1}, 2, "property name must be a string"),
        ({"method": "GET_PROPERTY", "params": ["a", 1], "id": 1}, 2, "too many parameters"),
        ({"method": "SET_PROPERTY", "params": ["combined", 1]}, 1, "expected Boolean"),
    ],
)
def test_a_wrong_request_is_answered_by_its_error(
    exchange: OfflineExchange, sent: object, code: int, message: str
) -> None:
    with stream(exchange, "/ws") as ws:
        reply = reply_to(ws, sent)
    assert reply["code"] == code
    assert message in reply["msg"]
    assert ("id" in reply) == (code == 0)


def test_more_streams_than_allowed_are_an_error(exchange: OfflineExchange) -> None:
    names = [f"s{number}usdt@trade" for number in range(1025)]
    with stream(exchange, "/ws") as ws:
        assert reply_to(ws, _request("SUBSCRIBE", names[:1024], 1))["result"] is None
        assert reply_to(ws, _request("SUBSCRIBE", names[1024:], 2))["code"] == 2
        assert len(reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 3})["result"]) == 1024


def test_six_messages_in_a_second_end_the_connection(clock: SetClock) -> None:
    with OfflineExchange(clock=clock, rate=1.0) as exchange, stream(exchange, "/ws") as ws:
        for number in range(6):
            ws.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        frames, end = rest_of_frames(ws)
    assert len(frames) == 5
    assert end.rcvd is not None
    assert end.rcvd.code == 1008


def test_a_client_that_pings_gets_its_payload_back(exchange: OfflineExchange) -> None:
    with stream(exchange, "/ws") as ws:
        assert ws.ping("payload").wait(timeout=20)


def test_a_ping_comes_in_time_and_a_pong_keeps_the_connection(clock: SetClock) -> None:
    with OfflineExchange(clock=clock, rate=1.0) as exchange, stream(exchange, "/ws") as ws:
        for _ in range(8):
            clock.advance(20)
            reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
            ws.pong()
    assert clock.now == START + 160


def test_a_client_without_pongs_is_cut_off(clock: SetClock) -> None:
    with OfflineExchange(clock=clock, rate=1.0) as exchange, stream(exchange, "/ws") as ws:
        mute_pongs(ws)
        clock.advance(20)
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        clock.advance(61)
        _, end = rest_of_frames(ws)
    assert end.rcvd is not None
    assert end.rcvd.reason == "Pong timeout"


def test_a_connection_ends_after_its_life(clock: SetClock) -> None:
    with (
        OfflineExchange(clock=clock, rate=1.0, life_s=3600) as exchange,
        stream(exchange, "/ws") as ws,
    ):
        clock.advance(3600)
        _, end = rest_of_frames(ws)
    assert end.rcvd is not None
    assert end.rcvd.code == 1001


def test_too_many_attempts_are_refused_for_a_while(clock: SetClock) -> None:
    limits = ExchangeLimits(attempts=2)
    with OfflineExchange(clock=clock, rate=1.0, limits=limits) as exchange:
        for _ in range(2):
            with stream(exchange, "/ws"):
                pass
        with pytest.raises(InvalidStatus) as refused, stream(exchange, "/ws"):
            pass
        assert refused.value.response.status_code == 429
        clock.advance(300)
        with stream(exchange, "/ws"):
            pass


@pytest.mark.slow
def test_a_slow_reader_is_cut_off_and_hurts_no_other(clock: SetClock) -> None:
    limits = ExchangeLimits(buffer_bytes=1_000_000)
    with (
        OfflineExchange(["BTCUSDT"], rate=20_000.0, limits=limits, clock=clock) as exchange,
        stream(exchange, max_queue=1, sock=narrow(exchange)) as slow,
        stream(exchange) as quick,
    ):
        ids: list[int] = []
        for _ in range(40):
            ids += trade_ids(quick, pass_time(exchange, clock, 0.05))
        assert len(ids) > 30_000
        assert consecutive(ids)
        frames, end = rest_of_frames(slow)
    assert end.rcvd is None
    assert len(frames) < len(ids)


def narrow(exchange: OfflineExchange) -> socket.socket:
    """Return a connected socket that holds little."""
    address = urlsplit(exchange.ws_urls[0])
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect((address.hostname, address.port))
    return narrow


def test_hosts_tell_one_sequence(clock: SetClock) -> None:
    with (
        OfflineExchange(rate=200.0, hosts=2, clock=clock) as exchange,
        stream(exchange, host=0) as one,
        stream(exchange, host=1) as two,
    ):
        count = pass_time(exchange, clock, 1)
        trades = [received(ws, count) for ws in (one, two)]
    assert count > 100
    assert trades[0] == trades[1]


def test_streams_and_rest_run_over_tls() -> None:
    tls = Tls()
    with OfflineExchange(rate=200.0, ssl_context=tls.server()) as exchange:
        assert exchange.ws_urls[0].startswith("wss://127.0.0.1:")
        ids, end = asyncio.run(_ids_until_a_cut(exchange, tls.client()))
        url = f"{exchange.rest_urls[0]}/api/v3/ping"
        assert httpx2.get(url, verify=tls.client(), timeout=PATIENCE_S).status_code == 200
    assert len(ids) >= 20 and consecutive(ids)
    assert end.rcvd is None


async def _ids_until_a_cut(
    exchange: OfflineExchange, tls: ssl.SSLContext
) -> tuple[list[int], ConnectionClosed]:
    url, ids = f"{exchange.ws_urls[0]}/ws/btcusdt@trade", list[int]()
    async with asyncio.timeout(PATIENCE_S), connect(url, ssl=tls, close_timeout=0.2) as ws:
        try:
            while True:
                ids.append(json.loads(await ws.recv())["t"])
                if len(ids) == 20:
                    exchange.fault("cut")
        except ConnectionClosed as end:
            return ids, end


def test_the_upgrade_says_which_exchange_it_is(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        assert ws.response is not None
        assert ws.response.headers["X-K2-Exchange"] == "BINANCE_SIM"
    assert get(exchange, "ping").headers["X-K2-Exchange"] == "BINANCE_SIM"


def test_compression_is_declined(exchange: OfflineExchange) -> None:
    with stream(exchange, compression="deflate") as ws:
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        assert len(trade_ids(ws, 5)) == 5


def test_the_truth_covers_what_was_streamed(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        ids = trade_ids(ws, 30)
    truth = exchange.truth("BTCUSDT")
    assert truth.first_id <= ids[0] < ids[-1] <= truth.last_id
    wait_until(lambda: exchange.truth("BTCUSDT").last_id > truth.last_id)


def _request(method: str, params: list[Any], name: object) -> dict[str, Any]:
    return {"method": method, "params": params, "id": name}
