"""Each fault of the offline exchange, as a plain client suffers it."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from support.exchange_clients import (
    SetClock,
    consecutive,
    get,
    historical,
    pass_time,
    received,
    reply_to,
    rest_of_frames,
    stream,
    trade_ids,
)
from support.waiting import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from k2lib.errors import ConfigError
from k2lib.simulator import OfflineExchange
from k2lib.simulator.binance.faults import FAULTS

AGGREGATES = "/ws/btcusdt@aggTrade"


@pytest.fixture
def exchange() -> Iterator[OfflineExchange]:
    with OfflineExchange(["BTCUSDT"], rate=500.0) as opened:
        yield opened


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def still(clock: SetClock) -> Iterator[OfflineExchange]:
    """Open an exchange with two hosts whose time stands still until it is moved."""
    with OfflineExchange(["BTCUSDT"], rate=500.0, hosts=2, clock=clock) as opened:
        yield opened


def brought(
    exchange: OfflineExchange, clock: SetClock, ws: ClientConnection, seconds: float
) -> list[int]:
    """Let time pass, and return the ids that came over a raw stream meanwhile."""
    pass_time(exchange, clock, seconds)
    ws.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1}))
    ids: list[int] = []
    while "t" in (message := received(ws)[0]):
        ids.append(message["t"])
    return ids


def test_cut_ends_the_connection_without_a_close_frame(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        trade_ids(ws, 1)
        exchange.fault("cut")
        assert rest_of_frames(ws)[1].rcvd is None


def test_cut_is_a_reset(exchange: OfflineExchange) -> None:
    with stream(exchange, "/ws") as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        exchange.fault("cut")
        assert isinstance(rest_of_frames(ws)[1].__cause__, ConnectionResetError)


@pytest.mark.parametrize(("options", "code"), [({}, 1001), ({"code": 1011}, 1011)])
def test_close_sends_a_close_frame(
    exchange: OfflineExchange, options: dict[str, Any], code: int
) -> None:
    with stream(exchange) as ws:
        trade_ids(ws, 1)
        exchange.fault("close", **options)
        end = rest_of_frames(ws)[1]
    assert end.rcvd is not None
    assert end.rcvd.code == code


def test_expire_is_the_end_of_a_connections_life(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        trade_ids(ws, 1)
        exchange.fault("expire")
        end = rest_of_frames(ws)[1]
    assert end.rcvd is not None
    assert "longest life" in end.rcvd.reason


@pytest.mark.parametrize("combined", [False, True])
def test_shutdown_is_announced_and_then_happens(
    still: OfflineExchange, clock: SetClock, combined: bool
) -> None:
    with stream(still, "/stream" if combined else "/ws") as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        still.fault("shutdown", s=30)
        [notice] = received(ws)
        event = {"e": "serverShutdown", "E": int(clock.now * 1000)}
        assert notice == ({"stream": "!serverShutdown", "data": event} if combined else event)
        with stream(still) as other:
            clock.advance(30)
            end = rest_of_frames(ws)[1]
            assert len(trade_ids(other, 10)) == 10
    assert end.rcvd is not None
    assert end.rcvd.code == 1001


def test_stall_is_silent_and_keeps_the_socket(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        before = brought(still, clock, ws, 1)
        still.fault("stall", s=90, host=0)
        pass_time(still, clock, 80)
        assert not ws.ping().wait(timeout=0.1)
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.1)
        with stream(still) as other:
            assert brought(still, clock, other, 1)
        pass_time(still, clock, 10)
        after = brought(still, clock, ws, 1)
    assert after[0] > before[-1] + 80 * 400
    assert consecutive(after)


def test_stall_can_be_meant_for_new_connections_too(exchange: OfflineExchange) -> None:
    exchange.fault("stall", new=True)
    with stream(exchange) as ws, pytest.raises(TimeoutError):
        ws.recv(timeout=0.2)


def test_garbage_is_added_and_takes_no_trade_away(exchange: OfflineExchange) -> None:
    with stream(exchange) as ws:
        ids, broken = trade_ids(ws, 10), 0
        exchange.fault("garbage", n=7)
        while broken < 7:
            text = str(ws.recv(timeout=20))
            good = text.startswith('{"e":"trade","E":') and text.endswith('"M":true}')
            if good and '"p":"x"' not in text:
                ids.append(json.loads(text)["t"])
            else:
                broken += 1
        ids += trade_ids(ws, 10)
    assert consecutive(ids)


@pytest.mark.parametrize("path", ["/ws/btcusdt@trade", AGGREGATES])
def test_duplicate_sends_trades_twice(still: OfflineExchange, clock: SetClock, path: str) -> None:
    with stream(still, path) as ws:
        still.fault("duplicate", n=20)
        clock.advance(1)
        rows = received(ws, 100)
    ids = [row.get("t", row.get("a")) for row in rows]
    assert ids[:12:2] == ids[1:12:2]
    assert consecutive(sorted(set(ids)))
    assert path == AGGREGATES or len(ids) - len(set(ids)) == 20


@pytest.mark.parametrize("count", [2, 3, 25, 400])
def test_reorder_shuffles_and_loses_nothing(
    still: OfflineExchange, clock: SetClock, count: int
) -> None:
    with stream(still) as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        still.fault("reorder", n=count)
        ids: list[int] = []
        while len(ids) < 500:
            ids += brought(still, clock, ws, 0.3)
    shuffled, rest = ids[:count], ids[count:]
    assert shuffled != sorted(shuffled)
    assert consecutive([*sorted(shuffled), *rest])


def test_skip_keeps_ids_from_one_hosts_streams_only(
    still: OfflineExchange, clock: SetClock
) -> None:
    with stream(still, host=0) as one, stream(still, host=1) as two:
        reply_to(one, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        reply_to(two, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        still.fault("skip", n=10, host=0)
        some, all_ids = brought(still, clock, one, 1), brought(still, clock, two, 0)
    assert all_ids[10:] == some
    assert consecutive(all_ids)
    assert historical(still, all_ids[0])[: len(all_ids)] == all_ids
    assert not still.truth("BTCUSDT").void


def test_void_ids_are_nowhere_and_told_by_the_truth(
    still: OfflineExchange, clock: SetClock
) -> None:
    with stream(still) as ws:
        ids = brought(still, clock, ws, 1)
        still.fault("void", n=4)
        ids += brought(still, clock, ws, 2)
    void = still.truth("BTCUSDT").void
    assert len(void) == 4
    assert set(ids) | void == set(range(ids[0], ids[-1] + 1))
    assert not set(historical(still, ids[0])) & void
    rows = get(still, "aggTrades", symbol="BTCUSDT", limit=1000).json()
    assert not any(row["f"] <= number <= row["l"] for row in rows for number in void)
    ranges = get(still, "/control/truth").json()["BTCUSDT"]["void"]
    assert ranges == [[min(void), max(void)]]


def test_burst_withholds_and_then_sends_all(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        ids = brought(still, clock, ws, 1)
        still.fault("burst", s=5)
        clock.advance(4)
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.2)
        ids += brought(still, clock, ws, 2)
    assert consecutive(ids)
    assert len(ids) > 3000


def test_slow_dribbles_and_loses_nothing(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        still.fault("slow", s=15, bytes_per_s=1000)
        clock.advance(10)
        ids = trade_ids(ws, 60)
        with pytest.raises(TimeoutError):
            while len(ids) < 100:
                ids.append(json.loads(ws.recv(timeout=0.2))["t"])
        ids += brought(still, clock, ws, 5)
    assert consecutive(ids)
    assert len(ids) > 5_000


@pytest.mark.parametrize("status", [403, 418, 429, 451, 502])
def test_refuse_answers_the_upgrade_with_a_status(still: OfflineExchange, status: int) -> None:
    still.fault("refuse", status=status, s=17, host=0)
    with pytest.raises(InvalidStatus) as refused, stream(still):
        pass
    response = refused.value.response
    assert response.status_code == status
    assert response.headers.get("Retry-After") == ("17" if status in (418, 429) else None)
    with stream(still, host=1):
        assert get(still, "ping").status_code == 200


def test_refuse_ends_after_its_attempts(exchange: OfflineExchange) -> None:
    exchange.fault("refuse", status=503, n=2, rest=True)
    assert [get(exchange, "ping").status_code for _ in range(3)] == [503, 503, 200]


def test_refuse_ends_after_its_time(still: OfflineExchange, clock: SetClock) -> None:
    still.fault("refuse", status=451, s=10, rest=True, ws=False)
    assert get(still, "time").status_code == 451
    with stream(still):
        clock.advance(10)
    assert get(still, "time").status_code == 200


def test_refused_closes_the_port_for_a_while(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        still.fault("refused", s=5, host=0)
        wait_until(lambda: not listens(still))
        assert brought(still, clock, ws, 1)
        assert get(still, "ping", host=1).status_code == 200
        clock.advance(5)
        wait_until(lambda: listens(still))
        with stream(still) as again:
            assert brought(still, clock, again, 1)


def test_refused_can_end_the_connections_too(still: OfflineExchange) -> None:
    with stream(still) as ws:
        still.fault("refused", cut=True)
        assert rest_of_frames(ws)[1].rcvd is None
        assert not listens(still)


def listens(exchange: OfflineExchange) -> bool:
    """Tell whether the first host's port takes connections."""
    with socket.socket() as probe:
        port = int(exchange.rest_urls[0].rpartition(":")[2])
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_rest_missing_fails_for_the_ids_named(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        first = brought(still, clock, ws, 2)[0]
    still.fault("rest_missing", from_id=first + 10, to_id=first + 12, s=60)
    answers = {
        offset: get(
            still, "historicalTrades", symbol="BTCUSDT", fromId=first + offset, limit=5
        ).status_code
        for offset in (0, 4, 5, 6, 12, 13)
    }
    assert answers == {0: 200, 4: 200, 5: 200, 6: 503, 12: 503, 13: 200}
    clock.advance(60)
    assert consecutive(historical(still, first))


def test_rest_missing_can_leave_ids_out_in_silence(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        first = brought(still, clock, ws, 2)[0]
    still.fault("rest_missing", from_id=first + 1, to_id=first + 2, status=None)
    assert historical(still, first)[:3] == [first, first + 3, first + 4]


def test_rest_can_lag_behind(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        ids = brought(still, clock, ws, 10)
    still.fault("rest_missing", lag_s=4, s=100)
    newest = get(still, "trades", symbol="BTCUSDT", limit=1).json()[0]["id"]
    assert 1500 < ids[-1] - newest < 2500
    assert historical(still, newest) == [newest]
    pass_time(still, clock, 4)
    assert newest < ids[-1] - 50 < historical(still, ids[-1] - 50)[0] + 1


def test_a_host_can_have_market_data_only(still: OfflineExchange) -> None:
    still.fault("market_data_only", host=1)
    params = {"symbol": "BTCUSDT", "limit": 2}
    assert get(still, "historicalTrades", host=1, **params).status_code == 404
    assert len(get(still, "aggTrades", host=1, **params).json()) == 2
    assert get(still, "historicalTrades", host=0, **params).status_code == 200


def test_heal_ends_everything(still: OfflineExchange, clock: SetClock) -> None:
    with stream(still) as ws:
        ids = brought(still, clock, ws, 1)
        for name in ("refuse", "refused", "rest_missing", "burst", "slow", "market_data_only"):
            still.fault(name, **({"s": None} if name != "refuse" else {"rest": True}))
        still.fault("reorder", n=1000)
        still.fault("void", n=1000)
        still.fault("heal")
        wait_until(lambda: listens(still))
        ids += brought(still, clock, ws, 1)
    assert consecutive(ids)
    assert get(still, "/control/faults").json()["active"] == {"0": [], "1": []}
    assert consecutive(historical(still, ids[0]))


def test_a_script_brings_faults_at_their_times(clock: SetClock) -> None:
    script = [(20.0, "cut", {"host": 0}), (10.0, "skip", {"n": 5})]
    with (
        OfflineExchange(["BTCUSDT"], rate=100.0, clock=clock, script=script) as exchange,
        stream(exchange) as ws,
    ):
        first = brought(exchange, clock, ws, 10)
        second = brought(exchange, clock, ws, 1)
        assert consecutive(sorted({*first, *second, *range(second[0] - 5, second[0])}))
        assert second[0] - 5 > first[0] + 900
        clock.advance(10)
        assert rest_of_frames(ws)[1].rcvd is None


def test_faults_come_over_http(exchange: OfflineExchange) -> None:
    url = exchange.rest_urls[0] + "/control/faults"
    done = httpx2.post(url, json={"name": "refuse", "status": 451, "rest": True, "host": 0})
    assert done.json()["active"]["0"][0]["status"] == 451
    assert get(exchange, "ping").status_code == 451
    httpx2.post(url, json={"name": "heal"})
    assert get(exchange, "ping").status_code == 200
    assert get(exchange, "/control/faults").json()["known"].keys() == FAULTS.keys()


@pytest.mark.parametrize(
    "body", ["{", "[]", '{"host": 0}', '{"name": "x"}', '{"name": "skip", "m": 1}']
)
def test_what_is_no_fault_is_refused_over_http(exchange: OfflineExchange, body: str) -> None:
    url = exchange.rest_urls[0] + "/control/faults"
    headers = {"Content-Type": "application/json"}
    assert httpx2.post(url, content=body, headers=headers).status_code == 400


def test_control_takes_json_only(exchange: OfflineExchange) -> None:
    url = exchange.rest_urls[0] + "/control/faults"
    assert httpx2.post(url, content='{"name": "cut"}').status_code == 415


def test_an_exchange_at_another_address_answers_to_that_and_to_loopback_names() -> None:
    with OfflineExchange(address="127.0.0.2") as exchange:
        assert exchange.ws_urls[0].startswith("ws://127.0.0.2:")
        url = exchange.rest_urls[0] + "/api/v3/ping"
        assert httpx2.get(url).status_code == 200
        assert httpx2.get(url, headers={"Host": "localhost:9443"}).status_code == 200
        assert httpx2.get(url, headers={"Host": "example.com:9443"}).status_code == 403


@pytest.mark.parametrize("path", ["/control/truth", "/api/v3/ping", "/ws"])
def test_only_loopback_names_are_answered(exchange: OfflineExchange, path: str) -> None:
    url = exchange.rest_urls[0] + path
    assert httpx2.get(url, headers={"Host": "example.com:9443"}).status_code == 403
    assert httpx2.get(url, headers={"Host": "localhost:9443"}).status_code != 403


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nothing", {}, "there are cut, close"),
        ("skip", {"count": 3}, "it has n=10"),
        ("skip", {"n": "3"}, "n='3'"),
        ("skip", {"n": None}, "n=None"),
        ("stall", {"s": -1}, "s=-1"),
        ("stall", {"s": True}, "s=True"),
        ("shutdown", {"s": None}, "s=None"),
        ("refuse", {"status": 200}, "status=200"),
        ("refuse", {"ws": 1}, "ws=1"),
        ("skip", {"symbol": "XRPUSDT"}, "no symbol 'XRPUSDT'"),
        ("cut", {"host": 1}, "no host 1; there are 0 to 0"),
        ("cut", {"host": True}, "no host True"),
    ],
)
def test_a_fault_that_cannot_be_is_an_error(
    exchange: OfflineExchange, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        exchange.fault(name, **options)


@pytest.mark.parametrize(
    ("fault", "message"),
    [((1.0, "cut", {"host": 3}), "no host 3"), ((1.0, "cutt", {}), "no fault 'cutt'")],
)
def test_a_script_that_cannot_be_is_an_error_at_once(
    fault: tuple[float, str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        OfflineExchange(["BTCUSDT"], script=[fault])


def test_a_closed_exchange_takes_no_faults() -> None:
    exchange = OfflineExchange(["BTCUSDT"])
    exchange.close()
    exchange.close()
    with pytest.raises(ConfigError, match="closed"):
        exchange.fault("cut")


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            OfflineExchange(["BTCUSDT"], port=port)
