"""Live trades over a WebSocket: all of them, once, in time, and no client hurts another."""

import asyncio
import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.api_edge import Edge, served
from support.lake_rows import quote, rows_table, trade
from support.live import SOON, venue_of
from support.log_rows import many_trades
from support.waiting import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from k2lib import K2
from k2lib.api.live.clients import (
    Frame,
    StreamClient,
    Subscription,
    SubscriptionChange,
    SubscriptionError,
    frames_of,
    parse_message,
    subscriptions,
)
from k2lib.api.live.reader import RecentIds
from k2lib.schema.records import QUOTE, TRADE
from k2lib.simulator import OfflineExchange

TRADES = "market.equities.trades.asx"
QUOTES = "market.equities.quotes.asx"
BHP = "ASX:BHP"
NOTHING = [
    *("", "[]", "{}", "7", '{"a": 1}', '{"subscribe": "ASX:BHP"}', "[" * 9999),
    *('{"kinds": ["trades"]}', '{"subscribe": []}', '{"subscribe": ["ASX:BHP"], "kinds": []}'),
    '{"subscribe": ["ASX:BHP"], "subscribe": ["ASX:MWR"]}',
]


class Listener:
    """A client of the stream that reads when it is told to."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.passed: dict[str, list[dict[str, Any]]] = {}

    def next(self, kind: str, seconds: float = 20.0) -> dict[str, Any]:
        """Return the next message of a kind; others wait for who asks for theirs."""
        deadline = time.monotonic() + seconds
        while not self.passed.get(kind):
            told = json.loads(self.ws.recv(timeout=deadline - time.monotonic()))
            self.passed.setdefault(told["type"], []).append(told)
        return self.passed[kind].pop(0)

    def rows(self, count: int, kind: str = "trades") -> list[dict[str, Any]]:
        """Return the next so many records."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += self.next(kind)["data"]
        return found

    def ask(self, **message: object) -> None:
        self.ws.send(json.dumps(message))

    def close_code(self, seconds: float = 20.0) -> int | None:
        """Read to the end, and return the code that it ended with."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                self.ws.recv(timeout=deadline - time.monotonic())
        except ConnectionClosed:
            return self.ws.close_code


@contextmanager
def listening(edge: Edge, *symbols: str, kinds: str = "trades") -> Iterator[Listener]:
    """Listen to instruments; each is read once this begins."""
    url = f"{edge.ws_url}?symbols={','.join(symbols)}&kinds={kinds}"
    with connect(url, proxy=None, max_size=None, close_timeout=1) as ws:
        listener = Listener(ws)
        listener.next("subscribed")
        yield listener


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[K2]:
    """Open a home that nobody writes."""
    with K2.open(home=tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def lone(quiet: K2) -> Iterator[Edge]:
    with served(quiet) as opened:
        yield opened


@pytest.fixture
def edge(k2: K2) -> Iterator[Edge]:
    with served(k2) as opened:
        yield opened


def send(k2: K2, *numbers: int, **changed: object) -> None:
    rows = rows_table([trade(number, **changed) for number in numbers])
    k2.pipeline.produce(TRADES, rows, TRADE)
    k2.pipeline.flush()


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["message_id"][1:]) for row in rows]


def test_what_arrives_after_the_acknowledgement_is_sent(k2: K2, edge: Edge) -> None:
    send(k2, 1)
    with listening(edge, BHP) as listener:
        send(k2, 2, 3)
        assert ids(listener.rows(2)) == [2, 3]


def test_decimals_are_text_and_times_iso_in_utc(k2: K2, edge: Edge) -> None:
    send(k2, 1)
    with listening(edge, BHP) as listener:
        send(k2, 2)
        (row,) = listener.rows(1)
    assert list(row) == TRADE.arrow.names
    assert row["price"] == f"{trade(2)['price']:.8f}"
    assert row["timestamp"] == f"{trade(2)['timestamp']:%Y-%m-%dT%H:%M:%S.%f}Z"


def test_each_message_id_is_sent_once(k2: K2, edge: Edge) -> None:
    send(k2, 1)
    with listening(edge, BHP) as listener:
        send(k2, 2, 3)
        send(k2, 3, 2, 4)
        assert ids(listener.rows(3)) == [2, 3, 4]


def test_each_client_gets_its_instruments_and_kinds(k2: K2, edge: Edge) -> None:
    send(k2, 1)
    k2.pipeline.produce(QUOTES, rows_table([quote(1)], "quotes_v2"), QUOTE)
    with listening(edge, BHP) as one, listening(edge, "ASX:MWR", kinds="quotes,trades") as other:
        send(k2, 2)
        send(k2, 3, symbol="MWR")
        k2.pipeline.produce(QUOTES, rows_table([quote(2, symbol="MWR")], "quotes_v2"), QUOTE)
        k2.pipeline.flush()
        assert ids(one.rows(1)) == [2]
        assert ids(other.rows(1)) == [3]
        assert other.rows(1, "quotes")[0]["symbol"] == "MWR"


def test_subscriptions_change_while_connected(k2: K2, edge: Edge) -> None:
    send(k2, 1)
    with listening(edge, BHP) as listener:
        listener.ask(subscribe=["ASX:MWR"], unsubscribe=[BHP])
        told = listener.next("subscribed")
        assert (told["trades"], told["quotes"], told["live"]) == (["ASX:MWR"], [], True)
        send(k2, 2)
        send(k2, 3, symbol="MWR")
        assert ids(listener.rows(1)) == [3]


def test_a_topic_made_later_is_read_from_its_first_record(k2: K2, edge: Edge) -> None:
    assert k2.pipeline.log
    with listening(edge, BHP) as listener:
        send(k2, 1, 2)
        assert ids(listener.rows(2)) == [1, 2]


@pytest.mark.slow
def test_without_kafka_it_is_said_and_tried_again(tmp_path: Path) -> None:
    with K2.open(home=tmp_path / "home") as k2, served(k2) as edge:
        url = f"{edge.ws_url}?symbols={BHP}"
        with connect(url, proxy=None) as ws:
            listener = Listener(ws)
            told = listener.next("subscribed")
            assert told["live"] is False
            assert "no process writes this home" in told["reason"]
            send(k2, 1)
            assert listener.next("status")["live"] is True
            assert ids(listener.rows(1)) == [1]


@pytest.mark.slow
def test_when_kafka_goes_it_is_said(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with K2.open(home=home) as reader, served(reader) as edge, K2.open(home=home) as writer:
        send(writer, 1)
        with listening(edge, BHP) as listener:
            send(writer, 2)
            assert ids(listener.rows(1)) == [2]
            ws = listener.ws
            writer.close()
            assert listener.next("status")["live"] is False
            with K2.open(home=home) as other:
                send(other, 3)
                told = listener.next("status")
                assert (told["live"], told["missed"]) == (True, True)
                assert ids(listener.rows(1)) == [3]
                assert ws.close_code is None


def test_an_instrument_without_records_is_named_and_sent_once_there_are_some(
    k2: K2, edge: Edge
) -> None:
    send(k2, 1)
    with listening(edge, BHP, "ASX:XYZ", kinds="trades,quotes") as listener:
        told = listener.next("unknown")
        assert (told["trades"], told["quotes"]) == (["ASX:XYZ"], [BHP, "ASX:XYZ"])
        assert (
            "the subscriptions stay, and their records are sent once there are some"
            in (told["detail"])
        )
        send(k2, 2, symbol="XYZ")
        assert ids(listener.rows(1)) == [2]
        listener.ask(subscribe=["ASX:ZYX", "ASX:XYZ"])
        assert listener.next("unknown")["trades"] == ["ASX:ZYX"]


def test_a_message_that_asks_for_nothing_is_answered(lone: Edge) -> None:
    with listening(lone) as listener:
        for text in NOTHING:
            listener.ws.send(text)
            told = listener.next("error")["detail"]
            assert "subscribe" in told and told.endswith("; the subscriptions stay as they are")
        listener.ask(subscribe=[BHP])
        assert listener.next("subscribed")["trades"] == [BHP]


def test_what_is_no_text_is_answered_too(lone: Edge) -> None:
    with listening(lone) as listener:
        listener.ws.send(b"\xff\x00")
        assert "not JSON" in listener.next("error")["detail"]


@pytest.mark.parametrize(
    "query",
    [
        *("symbols=BHP", "symbols=asx:BHP", "symbols=ASX:BHP&kinds=bars", "symbol=ASX:BHP"),
        *("symbols=ASX:BHP&symbols=ASX:MWR", "symbols=ASX:BHP&kinds=", "kinds=trades&kinds=quotes"),
    ],
)
def test_an_address_that_asks_for_nothing_is_refused(lone: Edge, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"{lone.ws_url}?{query}", proxy=None):
        pass
    assert refused.value.response.status_code == 400


def test_clients_and_subscriptions_are_limited(quiet: K2) -> None:
    with served(quiet, stream_clients=1, stream_symbols=2) as edge, listening(edge) as listener:
        listener.ask(subscribe=["ASX:A", "ASX:B", "ASX:C"])
        assert "2 at most" in listener.next("error")["detail"]
        with pytest.raises(InvalidStatus) as refused, connect(edge.ws_url, proxy=None):
            pass
        assert refused.value.response.status_code == 503
        listener.ask(subscribe=["ASX:A", "ASX:B"])
        assert listener.next("subscribed")["trades"] == ["ASX:A", "ASX:B"]


def test_who_sends_too_many_messages_is_ended(quiet: K2) -> None:
    with served(quiet, rate_per_s=1, burst=5) as edge, listening(edge) as listener:
        with suppress(ConnectionClosed):  # it may be over before all are sent
            for _ in range(10):
                listener.ask(subscribe=[BHP])
        assert listener.close_code() == 1008


def test_who_leaves_is_let_go_politely(lone: Edge) -> None:
    headers = {"X-Request-Id": "who-leaves"}
    with connect(lone.ws_url, proxy=None, additional_headers=headers) as ws:
        assert ws.response is not None
        assert ws.response.headers["X-Request-Id"] == "who-leaves"
    assert (ws.close_code, ws.protocol.close_rcvd_then_sent) == (1000, False)
    told = lone.told("who-leaves")
    assert (told["method"], told["path"], told["status"]) == ("WEBSOCKET", "/v1/stream", 101)


def test_a_sign_of_life_comes_when_nothing_else_does(quiet: K2) -> None:
    with served(quiet, heartbeat_s=0.1) as edge, listening(edge) as listener:
        assert listener.next("heartbeat")["time"].endswith("Z")


def test_a_connection_outlives_the_time_that_a_request_may_take(quiet: K2) -> None:
    limits = {"head_s": 0.3, "body_s": 0.3, "idle_s": 1}
    with served(quiet, heartbeat_s=0.1, **limits) as edge, listening(edge) as listener:
        for _ in range(20):
            listener.next("heartbeat")


def test_the_end_of_the_server_is_said_and_ends_its_reader(quiet: K2) -> None:
    with served(quiet) as edge, listening(edge, BHP) as listener:
        closing = threading.Thread(target=edge.app.close)
        closing.start()
        assert listener.close_code() == 1001
        closing.join()
    assert not [one for one in threading.enumerate() if one.name.startswith("k2-api")]


def test_the_reader_ends_with_the_last_client(lone: Edge) -> None:
    def readers() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "k2-api-live"]

    with listening(lone, BHP):
        with listening(lone, BHP):
            assert len(readers()) == 1
        assert len(readers()) == 1
    wait_until(lambda: not readers())
    wait_until(lambda: lone.metric("k2_api_stream_clients") == 0)


@pytest.mark.slow
def test_a_client_that_never_reads_is_cut_and_another_gets_everything(k2: K2) -> None:
    topic, count, step = "market.equities.trades.asx_sim", 60_001, 5000
    rows = many_trades(count, symbols=("AAA",))
    k2.pipeline.produce(topic, rows.slice(0, 1), TRADE)
    seen: list[str] = []
    with (
        served(k2, stream_queue_bytes=5_000_000) as edge,
        listening(edge, "ASX_SIM:AAA") as reader,
        never_reading(edge, "ASX_SIM:AAA") as stuck,
    ):
        for first in range(1, count, step):
            k2.pipeline.produce(topic, rows.slice(first, step), TRADE)
            seen += [row["message_id"] for row in reader.rows(step)]
        assert seen == rows["message_id"].to_pylist()[1:]
        wait_until(lambda: edge.metric("k2_api_stream_cut_total") == 1)
        assert edge.metric("k2_api_stream_clients") == 1
        assert ends(stuck)


@pytest.mark.slow
def test_a_client_that_reads_is_not_cut_while_a_gap_is_filled(tmp_path: Path) -> None:
    topic, count = "market.equities.trades.asx_sim", 40_001
    rows = many_trades(count, symbols=("AAA",))
    with (
        K2.open(home=tmp_path / "home", commit_interval_s=0.5) as k2,
        served(k2, stream_queue_bytes=300_000) as edge,
    ):
        k2.pipeline.produce(topic, rows.slice(0, 1), TRADE)
        with (
            listening(edge, "ASX_SIM:AAA") as one,
            listening(edge, "ASX_SIM:AAA") as other,
            ThreadPoolExecutor(2) as readers,
        ):
            # All at once, as what was missed arrives: forty times what is queued for a client.
            k2.pipeline.produce(topic, rows.slice(1), TRADE)
            for found in readers.map(lambda listener: listener.rows(count - 1), (one, other)):
                wanted = rows["message_id"].to_pylist()[1:]
                assert [row["message_id"] for row in found] == wanted
        wait_until(lambda: edge.metric("k2_api_stream_clients") == 0)
        assert edge.metric("k2_api_stream_cut_total") == 0


FRAME = Frame(Subscription("trades", "ASX", "BHP"), "x" * 80, 7)


@pytest.mark.parametrize(("stall_s", "wait_s"), [(0.05, 30.0), (30.0, 0.05)])
def test_a_client_is_waited_for_so_long(stall_s: float, wait_s: float) -> None:
    async def told() -> str | None:
        client = StreamClient("127.0.0.1", queue_bytes=100, stall_s=stall_s, wait_s=wait_s)
        client.send_frame(FRAME)
        await client.wait_for_room(FRAME)
        client.send_frame(FRAME)
        return await client.next()

    assert json.loads(asyncio.run(told()) or "")["missed"] == 14


def test_a_client_that_reads_is_waited_for() -> None:
    async def told() -> list[str | None]:
        client = StreamClient("127.0.0.1", queue_bytes=100, stall_s=30, wait_s=30)
        client.send_frame(FRAME)
        waiting = asyncio.create_task(client.wait_for_room(FRAME))
        await asyncio.sleep(0)
        read = [await client.next()]
        await waiting
        client.send_frame(FRAME)
        return [*read, await client.next()]

    assert asyncio.run(told()) == [FRAME.text, FRAME.text]


def test_who_reads_too_slowly_is_told_and_cut(k2: K2) -> None:
    send(k2, 1)
    with served(k2, stream_queue_bytes=100) as edge, listening(edge, BHP) as listener:
        send(k2, 2)
        assert listener.next("slow")["missed"] == 1
        assert listener.close_code() == 1013


def test_what_waits_for_a_client_is_bounded() -> None:
    frame = Frame(Subscription("trades", "ASX", "BHP"), "x" * 40, 7)

    async def told() -> list[str | None]:
        client = StreamClient("127.0.0.1", queue_bytes=100, stall_s=5, wait_s=30)
        for _ in range(4):
            client.send_frame(frame)
        client.send_message(type="heartbeat")
        return [await client.next(), await client.next()]

    first, then = asyncio.run(told())
    assert json.loads(first or "")["missed"] == 21
    assert then is None


@pytest.mark.slow
def test_a_live_trade_is_streamed_within_a_second(k2: K2) -> None:
    with OfflineExchange(rate=20) as exchange, served(k2) as edge:
        k2.feed(["BTCUSDT"], venue=venue_of(exchange), options=SOON)
        with listening(edge, "BINANCE_SIM:BTCUSDT") as listener:
            listener.rows(20)
            # The machine may pause during some of them, not during all.
            wait_until(lambda: statistics.median(ages_s(listener, 40)) < 1)


def test_frames_keep_the_order_of_each_instrument_and_stay_small() -> None:
    rows = many_trades(3000, symbols=("AAA", "BBB"))
    frames = list(frames_of("trades", rows))
    assert max(frame.rows for frame in frames) == 500
    of_aaa = [frame.text for frame in frames if frame.subscription == ("trades", "ASX_SIM", "AAA")]
    found = [row["message_id"] for text in of_aaa for row in json.loads(text)["data"]]
    assert found == rows["message_id"].to_pylist()[::2]


def test_ids_are_remembered_for_a_while_and_in_bounds() -> None:
    recent = RecentIds(size=2)
    assert recent.are_new(["a", "a", "b", "c", "a"]) == [True, False, True, True, False]
    assert recent.are_new(["d", "e", "a"]) == [True, True, True]


def test_a_message_asks_for_kinds_of_instruments() -> None:
    text = '{"subscribe": ["ASX:BHP"], "unsubscribe": ["BINANCE:BTCUSDT"], "kinds": ["quotes"]}'
    assert parse_message(text) == SubscriptionChange(
        frozenset({Subscription("quotes", "ASX", "BHP")}),
        frozenset({Subscription("quotes", "BINANCE", "BTCUSDT")}),
    )


@pytest.mark.parametrize("symbol", ["BHP", ":BHP", "ASX:", "ASX:a b", "ASX:a,b", "A" * 33 + ":B"])
def test_what_is_no_instrument_is_refused(symbol: str) -> None:
    with pytest.raises(SubscriptionError, match="EXCHANGE:SYMBOL"):
        subscriptions([symbol], ["trades"])


def ages_s(listener: Listener, messages: int) -> list[float]:
    """Return how old the trades of the next messages are when each is there."""
    return [age_s(row) for _ in range(messages) for row in listener.rows(1)]


def age_s(row: dict[str, Any]) -> float:
    received = datetime.fromisoformat(row["ingestion_timestamp"])
    return (datetime.now(UTC) - received).total_seconds()


@contextmanager
def never_reading(edge: Edge, symbol: str) -> Iterator[socket.socket]:
    """Listen, and read nothing after the handshake."""
    host, port = edge.app.url.removeprefix("http://").split(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        sock.sendall(
            f"GET /v1/stream?symbols={symbol} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert sock.recv(12) == b"HTTP/1.1 101"
        yield sock


def ends(sock: socket.socket) -> bool:
    """Read what is left, and say whether the other side has let go."""
    sock.settimeout(20)
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    return True


def test_a_message_of_many_names_kinds_or_instruments_is_parsed_at_once() -> None:
    names = ", ".join(f'"{number}": 1' for number in range(6000))
    instruments = [f"A:{number}" for number in range(4000)]
    many = json.dumps({"subscribe": instruments, "kinds": ["trades"] * 2000})
    began = time.process_time()
    with pytest.raises(SubscriptionError, match="not an object of"):
        parse_message(f"{{{names}}}")
    assert len(parse_message(many).added) == len(instruments)
    assert time.process_time() - began < 0.5
