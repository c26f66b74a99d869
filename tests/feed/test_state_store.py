"""The state is told from memory, is kept in Redis, and outlives the loss of it."""

import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import repeat
from pathlib import Path

import pytest
from support.lake_rows import at, rows_table, trade
from support.redis_server import RedisServer, free_port
from support.waiting import wait_until

from k2lib.errors import ConfigError
from k2lib.events import Event, StateLost, StateRestored
from k2lib.feed.state_store import StateStore, latest_trade, open_state
from k2lib.resilience.breaker import Circuit, Memory

SMALL = {"price": Decimal("0.00000012"), "quantity": Decimal("92233720368.54775807")}
OPEN = Memory(Circuit.OPEN, failures=3, successes=0, retry_at=1030.5)
TRADE = {"price": "65000.10", "quantity": "0.5", "trade_id": "BINANCE-7"}
LATER = TRADE | {"price": "65001.20", "trade_id": "BINANCE-8"}
PUT_LATEST = """
import sys
from k2lib.feed.state_store import open_state
with open_state(sys.argv[1]) as state:
    state.put_latest("BINANCE", "ETHUSDT", {"price": "3000"})
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


class Interrupted(str):
    """A value during whose way to Redis something else happens."""

    meanwhile: Callable[[], None]

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.meanwhile()
        return super().encode(encoding, errors)


def opened(url: str, told: list[Event] | None = None) -> StateStore:
    events: list[Event] = [] if told is None else told
    return open_state(
        url,
        on_event=events.append,
        waits=lambda: repeat(0.02),
        write_every_s=0.001,
        check_every_s=0.05,
    )


def kinds(told: list[Event]) -> list[type[Event]]:
    return [type(event) for event in told]


def put_both(state: StateStore) -> None:
    state.put_breaker("wss://a:9443", OPEN)
    state.put_latest("BINANCE", "BTCUSDT", TRADE)


def knows_both(state: StateStore) -> bool:
    return state.breakers() == {"wss://a:9443": OPEN} and state.latest("BINANCE") == {
        "BTCUSDT": TRADE
    }


def kept(server: RedisServer, symbol: str) -> dict[str, str]:
    with server.client() as client:
        return client.hgetall(f"k2:latest:BINANCE:{symbol}")


def test_the_latest_trade_has_all_digits_and_no_exponent() -> None:
    assert latest_trade(rows_table([trade(1), trade(2, **SMALL)])) == {
        "price": "0.00000012",
        "quantity": "92233720368.54775807",
        "side": "UNKNOWN",
        "trade_id": "ASX-m000002",
        "timestamp": str(at(2)),
    }


def test_without_redis_the_state_is_in_memory() -> None:
    with open_state(None) as state:
        put_both(state)
        state.put_latest("BINANCE_SIM", "BTCUSDT", LATER)
        assert knows_both(state)
        assert state.latest("BINANCEUS") == {}


def test_the_newest_put_counts() -> None:
    with open_state(None) as state:
        values = dict(TRADE)
        state.put_latest("BINANCE", "BTCUSDT", values)
        state.put_latest("BINANCE", "BTCUSDT", LATER)
        values.clear()
        assert state.latest("BINANCE") == {"BTCUSDT": LATER}


@pytest.mark.stack
def test_what_was_put_is_in_redis_for_the_next_process(server: RedisServer) -> None:
    told: list[Event] = []
    with opened(server.url, told) as state:
        put_both(state)
    assert knows_both(state)
    with opened(server.url, told) as again:
        assert knows_both(again)
        assert again.latest("BINANCE_SIM") == {}
    assert told == []


@pytest.mark.stack
def test_redis_has_one_key_a_host_and_a_hash_a_symbol(server: RedisServer) -> None:
    with opened(server.url) as state:
        put_both(state)
    with server.client() as client:
        assert sorted(client.keys()) == ["k2:breaker:wss://a:9443", "k2:latest:BINANCE:BTCUSDT"]
        assert Memory.from_json(client.get("k2:breaker:wss://a:9443")) == OPEN
        assert client.hgetall("k2:latest:BINANCE:BTCUSDT") == TRADE


@pytest.mark.stack
def test_a_field_that_a_later_trade_lacks_is_gone(server: RedisServer) -> None:
    with opened(server.url) as state:
        state.put_latest("BINANCE", "BTCUSDT", TRADE)
        wait_until(lambda: kept(server, "BTCUSDT"))
        state.put_latest("BINANCE", "BTCUSDT", {"price": "1"})
    assert kept(server, "BTCUSDT") == {"price": "1"}


@pytest.mark.stack
def test_a_put_is_known_at_once_while_redis_has_an_older_one(server: RedisServer) -> None:
    with opened(server.url) as state:
        for number in range(1000):
            values = {"price": str(number)}
            state.put_latest("BINANCE", "BTCUSDT", values)
            assert state.latest("BINANCE")["BTCUSDT"] == values


@pytest.mark.stack
def test_what_is_put_while_an_older_one_is_written_is_written_too(server: RedisServer) -> None:
    price = Interrupted("65000.10")
    with opened(server.url) as state:
        price.meanwhile = lambda: state.put_latest("BINANCE", "BTCUSDT", LATER)
        state.put_latest("BINANCE", "BTCUSDT", {"price": price})
        wait_until(lambda: kept(server, "BTCUSDT") == LATER, 10)


@pytest.mark.stack
def test_closing_writes_what_still_waits(tmp_path: Path) -> None:
    told: list[Event] = []
    server = RedisServer(tmp_path)
    with open_state(
        server.url, on_event=told.append, waits=lambda: repeat(0.02), write_every_s=600
    ) as state:
        wait_until(lambda: told)
        with server:
            wait_until(lambda: len(told) == 2)
            state.put_latest("BINANCE", "BTCUSDT", TRADE)
            state.close()
            assert kept(server, "BTCUSDT") == TRADE


@pytest.mark.stack
def test_two_processes_share_the_latest(server: RedisServer) -> None:
    with opened(server.url) as state:
        state.put_latest("BINANCE", "BTCUSDT", TRADE)
        subprocess.run([sys.executable, "-c", PUT_LATEST, server.url], check=True)
        assert state.latest("BINANCE") == {"BTCUSDT": TRADE, "ETHUSDT": {"price": "3000"}}


@pytest.mark.stack
def test_redis_killed_and_back_is_told_once_each_and_has_everything(server: RedisServer) -> None:
    told: list[Event] = []
    with opened(server.url, told) as state:
        put_both(state)
        wait_until(lambda: kept(server, "BTCUSDT") == TRADE)
        server.kill()
        wait_until(lambda: told)
        state.put_latest("BINANCE", "ETHUSDT", LATER)
        assert state.latest("BINANCE") == {"BTCUSDT": TRADE, "ETHUSDT": LATER}
        server.start()
        wait_until(lambda: len(told) == 2)
        assert kept(server, "BTCUSDT") == TRADE and kept(server, "ETHUSDT") == LATER
    assert kinds(told) == [StateLost, StateRestored]
    assert "127.0.0.1" in str(told[0])


@pytest.mark.stack
def test_a_redis_that_began_anew_unnoticed_has_everything_again(server: RedisServer) -> None:
    told: list[Event] = []
    with open_state(server.url, on_event=told.append, check_every_s=600) as state:
        put_both(state)
        wait_until(lambda: kept(server, "BTCUSDT") == TRADE)
        server.kill()
        server.start()
        state.put_latest("BINANCE", "ETHUSDT", LATER)
        wait_until(lambda: kept(server, "ETHUSDT") == LATER)
        assert kept(server, "BTCUSDT") == TRADE
    assert told == []


@pytest.mark.stack
def test_a_redis_that_comes_up_later_has_everything(tmp_path: Path) -> None:
    told: list[Event] = []
    server = RedisServer(tmp_path)
    with opened(server.url, told) as state:
        put_both(state)
        wait_until(lambda: told)
        with server:
            wait_until(lambda: len(told) == 2)
            assert knows_both(state) and kept(server, "BTCUSDT") == TRADE
            state.close()
    assert kinds(told) == [StateLost, StateRestored]


def test_a_redis_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    told: list[Event] = []
    attempts = []
    waits = (attempts.append(wait) or wait for wait in repeat(0.01))
    with open_state(
        f"redis://127.0.0.1:{free_port()}", on_event=told.append, waits=lambda: waits
    ) as state:
        put_both(state)
        wait_until(lambda: len(attempts) > 5)
        assert knows_both(state)
    assert kinds(told) == [StateLost]


def test_a_redis_that_never_answers_holds_nothing_up() -> None:
    told: list[Event] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with opened(f"redis://127.0.0.1:{port}", told) as state:
            put_both(state)
            wait_until(lambda: told)
            assert knows_both(state)
    assert "imeout" in str(told[0])


@pytest.mark.stack
def test_a_wrong_password_is_a_loss_that_does_not_tell_it(tmp_path: Path) -> None:
    told: list[Event] = []
    with RedisServer(tmp_path, password="right") as server:
        wrong = server.url.replace("right", "s3cret")
        with opened(wrong, told) as state:
            wait_until(lambda: told)
            put_both(state)
            assert knows_both(state)
    assert kinds(told) == [StateLost] and "s3cret" not in str(told)


@pytest.mark.stack
def test_what_is_no_memory_in_redis_is_left_out(server: RedisServer) -> None:
    with server.client() as client, opened(server.url) as state:
        client.set("k2:breaker:wss://b", "rubbish")
        state.put_breaker("wss://a", OPEN)
        wait_until(lambda: client.exists("k2:breaker:wss://a"))
        assert state.breakers() == {"wss://a": OPEN}


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6379",
        "http://:s3cret@host",
        "redis://:s3cret/s@host:6379",
        "redis://:s3cret@host:port",
        "redis://:s3cret@host:6379?no_such_option=1",
    ],
)
def test_a_url_that_is_none_is_an_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"K2_REDIS_URL is no address.*redis://") as caught:
        open_state(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.stack
def test_closing_twice_is_closing_once(server: RedisServer) -> None:
    state = opened(server.url)
    put_both(state)
    state.close()
    state.close()
    assert knows_both(state)
