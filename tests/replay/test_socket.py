"""The WebSocket of a replay, as clients of Binance's streams see it."""

import asyncio
import socket as sockets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pyiceberg.catalog import Catalog
from support.exchange_clients import (
    PATIENCE_S,
    SetClock,
    mute_pongs,
    received,
    reply_to,
    rest_of_frames,
)
from support.lake_rows import append, at, catalog_in, quote, trade
from support.replaying import replay_of
from support.waiting import wait_until
from websockets.sync.client import ClientConnection, connect

from k2lib.errors import ConfigError, QueryError
from k2lib.query.engine import Engine
from k2lib.query.request import ReadRequest
from k2lib.replay import Replay
from k2lib.replay.socket import ReplaySocket

START, END = at(-10), at(100_000)
BOTH = "/stream?streams=btcusdt@trade/btcusdt@bookTicker"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def engine(catalog: Catalog) -> Iterator[Engine]:
    with Engine(catalog) as opened:
        yield opened


def bitcoin(number: int, **changed: Any) -> dict[str, Any]:
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT", "source_sequence": number}
    side = "SELL" if number % 3 else "BUY"
    return trade(number, **known | {"platform_sequence": None, "side": side} | changed)


def played(engine: Engine, *symbols: str, **options: Any) -> Replay:
    return replay_of(engine, symbols or ["BTCUSDT"], start=START, end=END, **options)


@contextmanager
def listening(socket: ReplaySocket, path: str = "/ws/btcusdt@trade") -> Iterator[ClientConnection]:
    """Open a stream connection that sends no pings of its own and holds little."""
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", int(socket.ws_url.rpartition(":")[2])))
    options = {"compression": None, "ping_interval": None, "close_timeout": 0.2}
    with connect(socket.ws_url + path, sock=narrow, **options) as ws:
        yield ws


def test_a_trade_is_told_as_binance_told_it(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(7, price=Decimal("65000.01"), quantity=Decimal("0.00123"))])
    with ReplaySocket(played(engine)) as socket, listening(socket) as ws:
        [told] = received(ws)
    at_ms = int(at(7).timestamp() * 1000)
    assert told == {
        "e": "trade",
        "E": at_ms,
        "s": "BTCUSDT",
        "t": 7,
        "p": "65000.01000000",
        "q": "0.00123000",
        "T": at_ms,
        "m": True,
        "M": True,
    }


def test_times_can_be_microseconds(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(0, timestamp=at(0.000007))])
    with (
        ReplaySocket(played(engine)) as socket,
        listening(socket, "/ws/btcusdt@trade?timeUnit=MICROSECOND") as ws,
    ):
        assert received(ws)[0]["T"] % 1000 == 7


def test_a_combined_stream_has_trades_and_quotes_in_their_order(
    catalog: Catalog, engine: Engine
) -> None:
    append(catalog, [bitcoin(number) for number in (1, 3)])
    known = {"exchange": "BINANCE", "symbol": "BTCUSDT"}
    append(catalog, [quote(2, source_sequence=90, **known)], "quotes_v2")
    with ReplaySocket(played(engine)) as socket, listening(socket, BOTH) as ws:
        first, second, third = received(ws, 3)
    assert [one["data"].get("t") for one in (first, second, third)] == [1, None, 3]
    assert second == {
        "stream": "btcusdt@bookTicker",
        "data": {
            "u": 90,
            "s": "BTCUSDT",
            "b": "36.66000000",
            "B": "300.00000000",
            "a": None,
            "A": None,
        },
    }


@pytest.mark.slow
def test_symbols_of_one_connection_are_told_in_the_order_of_events(
    catalog: Catalog, engine: Engine
) -> None:
    rows = [bitcoin(number, symbol=("BTCUSDT", "ETHUSDT")[number % 2]) for number in range(300)]
    append(catalog, rows)
    path = "/stream?streams=btcusdt@trade/ethusdt@trade"
    with (
        ReplaySocket(played(engine, "BTCUSDT", "ETHUSDT")) as socket,
        listening(socket, path) as ws,
    ):
        assert [one["data"]["t"] for one in received(ws, 300)] == list(range(300))


def test_it_begins_with_the_first_subscription(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(number) for number in range(5)])
    with ReplaySocket(played(engine)) as socket, listening(socket, "/ws") as ws:
        assert reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})["result"] == []
        assert socket.sent == 0
        subscribe = {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 2}
        assert reply_to(ws, subscribe) == {"result": None, "id": 2}
        assert [one["t"] for one in received(ws, 5)] == list(range(5))
        assert socket.wait(PATIENCE_S)
        assert socket.sent == 5


def test_an_asx_trade_has_the_count_of_its_symbol_as_id(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(number, symbol=("BHP", "CBA")[number % 2]) for number in range(6)])
    path = "/stream?streams=bhp@trade/cba@trade"
    with ReplaySocket(played(engine, "BHP", "CBA")) as socket, listening(socket, path) as ws:
        told = [(one["data"]["s"], one["data"]["t"]) for one in received(ws, 6)]
    assert told == [("BHP", 1), ("CBA", 1), ("BHP", 2), ("CBA", 2), ("BHP", 3), ("CBA", 3)]


@pytest.mark.slow
def test_the_replay_waits_for_a_slow_client_and_leaves_nothing_out(
    catalog: Catalog, engine: Engine
) -> None:
    count = 60_000
    append(catalog, [bitcoin(number, timestamp=at(number / 1000)) for number in range(count)])
    with ReplaySocket(played(engine)) as socket, listening(socket) as ws:
        wait_until(lambda: socket.sent > 0)
        # What no buffer holds is not told before the client reads.
        assert not socket.wait(0.5)
        assert [one["t"] for one in received(ws, count)] == list(range(count))
        assert socket.wait(PATIENCE_S)


def test_a_client_that_answers_no_ping_is_cut_off(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(number) for number in range(5)])
    clock = SetClock()
    with (
        ReplaySocket(played(engine, speed=1e-9), clock=clock) as socket,
        listening(socket) as ws,
    ):
        mute_pongs(ws)
        received(ws)
        clock.advance(20)
        reply_to(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        clock.advance(61)
        _, end = rest_of_frames(ws)
    assert end.rcvd is not None
    assert end.rcvd.reason == "Pong timeout"


def test_a_replay_that_cannot_go_on_ends_the_connections(
    catalog: Catalog, engine: Engine, tmp_path: Path
) -> None:
    append(catalog, [bitcoin(1)])
    replayed = played(engine)
    for file in tmp_path.glob("warehouse/**/*.parquet"):
        file.unlink()
    with ReplaySocket(replayed) as socket, listening(socket) as ws:
        _, end = rest_of_frames(ws)
        assert end.rcvd is not None
        assert end.rcvd.code == 1011
        with pytest.raises(QueryError, match="no longer kept"):
            socket.wait(PATIENCE_S)


def asked(socket: ReplaySocket, path: str, **headers: str) -> Any:
    return httpx2.get(f"{socket.rest_url}/api/v3/{path}", headers=headers, timeout=PATIENCE_S)


def test_the_symbols_of_a_replay_are_in_exchange_info(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(1, currency="USDT"), trade(2)])
    with ReplaySocket(played(engine, "BTCUSDT", "BHP")) as socket:
        whole = asked(socket, "exchangeInfo").json()
        one = asked(socket, "exchangeInfo?symbol=BTCUSDT").json()
        unknown = asked(socket, "exchangeInfo?symbol=ETHUSDT")
    assets = {item["symbol"]: (item["baseAsset"], item["quoteAsset"]) for item in whole["symbols"]}
    assert assets == {"BHP": ("BHP", "AUD"), "BTCUSDT": ("BTC", "USDT")}
    assert one["symbols"] == [item for item in whole["symbols"] if item["symbol"] == "BTCUSDT"]
    assert one["symbols"][0]["filters"][0]["tickSize"] == "0.00000001"
    assert (unknown.status_code, unknown.json()["code"]) == (400, -1121)


def test_historical_trades_are_those_told_so_far(catalog: Catalog, engine: Engine) -> None:
    price, quantity = Decimal("65000.01"), Decimal("0.00123")
    append(catalog, [bitcoin(n, price=price, quantity=quantity) for n in range(100, 110)])
    path = "historicalTrades?symbol=BTCUSDT"
    with ReplaySocket(played(engine)) as socket:
        assert asked(socket, path).json() == []
        with listening(socket) as ws:
            received(ws, 10)
        assert socket.wait(PATIENCE_S)
        [row, *_] = rows = asked(socket, path).json()
        newest = asked(socket, f"{path}&limit=3").json()
        page = asked(socket, f"{path}&fromId=104&limit=3").json()
        later = asked(socket, f"{path}&fromId=110").json()
        [micros, *_] = asked(socket, path, **{"X-MBX-TIME-UNIT": "MICROSECOND"}).json()
    assert row == {
        "id": 100,
        "price": "65000.01000000",
        "qty": "0.00123000",
        "quoteQty": "79.95001230",
        "time": int(at(100).timestamp() * 1000),
        "isBuyerMaker": True,
        "isBestMatch": True,
    }
    assert [one["id"] for one in rows] == list(range(100, 110))
    assert [one["id"] for one in newest] == [107, 108, 109]
    assert [one["id"] for one in page] == [104, 105, 106]
    assert later == []
    assert micros["time"] == row["time"] * 1000


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", -1102),
        ("symbol=ETHUSDT", -1121),
        ("symbol=BTCUSDT&limit=0", -1130),
        ("symbol=BTCUSDT&fromId=x", -1100),
        ("symbol=BTCUSDT&startTime=1", -1104),
    ],
)
def test_a_wrong_request_has_the_code_of_binance(
    catalog: Catalog, engine: Engine, query: str, code: int
) -> None:
    append(catalog, [bitcoin(1)])
    with ReplaySocket(played(engine)) as socket:
        answer = asked(socket, f"historicalTrades?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_historical_trades_are_not_ahead_of_the_stream(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(number) for number in range(1, 6)])
    with ReplaySocket(played(engine, speed=1e-9)) as socket, listening(socket) as ws:
        [told] = received(ws)
        found = asked(socket, "historicalTrades?symbol=BTCUSDT").json()
    assert [one["id"] for one in found] == [told["t"]] == [1]


def test_historical_trades_without_a_venue_count_have_the_ids_of_the_stream(
    catalog: Catalog, engine: Engine
) -> None:
    append(catalog, [trade(number, symbol=("BHP", "CBA")[number % 2]) for number in range(6)])
    path = "/stream?streams=bhp@trade/cba@trade"
    with ReplaySocket(played(engine, "BHP", "CBA")) as socket:
        with listening(socket, path) as ws:
            told = [one["data"] for one in received(ws, 6)]
        found = asked(socket, "historicalTrades?symbol=CBA&fromId=2").json()
    mine = [(one["t"], one["p"], one["q"], one["T"]) for one in told if one["s"] == "CBA"]
    assert [(one["id"], one["price"], one["qty"], one["time"]) for one in found] == mine[1:]


def test_a_symbol_of_two_exchanges_is_refused(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [trade(1), trade(2, exchange="ASX_SIM")])
    with pytest.raises(QueryError, match="BHP is replayed of several exchanges"):
        ReplaySocket(played(engine, "ASX:BHP", "ASX_SIM:BHP"))


def test_a_port_in_use_is_named(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(1)])
    with ReplaySocket(played(engine)) as socket:
        port = int(socket.ws_url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            ReplaySocket(played(engine), port=port)


def test_closing_ends_a_replay_that_waits(catalog: Catalog, engine: Engine) -> None:
    append(catalog, [bitcoin(number) for number in range(5)])
    with ReplaySocket(played(engine, speed=1e-9)) as socket, listening(socket) as ws:
        received(ws)
    assert not socket.wait(0)


@pytest.mark.slow
def test_a_python_binance_client_gets_exactly_the_trades_of_the_lake(
    catalog: Catalog, engine: Engine
) -> None:
    append(catalog, [bitcoin(number, timestamp=at(number / 100)) for number in range(2_000)])
    with ReplaySocket(played(engine)) as socket:
        told = asyncio.run(heard(socket, 2_000))
    stored = (
        engine.read("trades_v2", ReadRequest("BTCUSDT"))
        .frame.select("source_sequence", "price", "quantity")
        .rows()
    )
    assert [(one["t"], Decimal(one["p"]), Decimal(one["q"])) for one in told] == stored


async def heard(socket: ReplaySocket, count: int) -> list[dict[str, Any]]:
    """Return what a python-binance client hears of a symbol's trades."""
    with warnings.catch_warnings():
        # What this package does while it is imported is not ours to mend.
        warnings.simplefilter("ignore")
        import binance

    class Client(binance.AsyncClient):
        API_URL = socket.rest_url + "/api"

    client = await Client.create()
    # A client of its own takes a hundred messages at once, whoever is slow then.
    manager = binance.BinanceSocketManager(client, max_queue_size=count)
    manager.STREAM_URL = socket.ws_url + "/"
    try:
        async with asyncio.timeout(60), manager.trade_socket("BTCUSDT") as trades:
            return [await trades.recv() for _ in range(count)]
    finally:
        await client.close_connection()
