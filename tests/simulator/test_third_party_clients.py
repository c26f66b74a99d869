"""Clients that others wrote for Binance, unchanged but for the address, on the offline exchange."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from support.exchange_clients import consecutive
from support.third_party import WAITING, ccxt_pro, clients, python_binance, run

from k2lib.simulator import OfflineExchange

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exchange() -> Iterator[OfflineExchange]:
    with OfflineExchange(rate=200.0) as opened:
        yield opened


async def collected(
    count: int, more: Callable[[], Awaitable[list[Any]]], *, name: str
) -> list[int]:
    """Call for more until so many rows are there, and return their ids."""
    ids: list[int] = []
    while len(ids) < count:
        ids += [int(row[name]) for row in await more()]
    return ids


def test_python_binance_reads_the_markets(exchange: OfflineExchange) -> None:
    async def symbols() -> list[str]:
        async with python_binance(exchange) as client:
            assert (await client.get_symbol_info("ETHUSDT"))["baseAsset"] == "ETH"
            return [one["symbol"] for one in (await client.get_exchange_info())["symbols"]]

    found = run(symbols())
    assert found[:2] == ["BTCUSDT", "ETHUSDT"]
    assert len(found) > 700


def test_python_binance_reads_trades(exchange: OfflineExchange) -> None:
    async def ids() -> list[int]:
        async with python_binance(exchange) as client:
            recent = await client.get_recent_trades(symbol="BTCUSDT", limit=1)
            first = recent[0]["id"] - 500
            pages = [
                await client.get_historical_trades(symbol="BTCUSDT", fromId=start, limit=200)
                for start in (first, first + 200)
            ]
            return [row["id"] for page in pages for row in page]

    found = run(ids())
    assert len(found) == 400
    assert consecutive(found)


def test_python_binance_reads_aggregates_between_times(exchange: OfflineExchange) -> None:
    async def rows() -> list[Any]:
        async with python_binance(exchange) as client:
            now = (await client.get_server_time())["serverTime"]
            times = {"startTime": now - 20_000, "endTime": now - 10_000}
            found = await client.get_aggregate_trades(symbol="BTCUSDT", limit=1000, **times)
            assert all(times["startTime"] <= row["T"] <= times["endTime"] for row in found)
            return list(found)

    found = run(rows())
    assert len(found) > 100
    assert consecutive([number for row in found for number in range(row["f"], row["l"] + 1)])


def test_python_binance_streams_trades(exchange: OfflineExchange) -> None:
    async def ids() -> list[int]:
        async with python_binance(exchange) as client:
            manager = clients()[0].BinanceSocketManager(client, max_queue_size=WAITING)
            manager.STREAM_URL = exchange.ws_urls[0] + "/"
            async with manager.trade_socket("BTCUSDT") as stream:
                return [(await stream.recv())["t"] for _ in range(200)]

    assert consecutive(run(ids()))


def test_python_binance_streams_several_at_once(exchange: OfflineExchange) -> None:
    async def names() -> set[str]:
        async with python_binance(exchange) as client:
            manager = clients()[0].BinanceSocketManager(client, max_queue_size=WAITING)
            manager.STREAM_URL = exchange.ws_urls[0] + "/"
            expected, received = {"btcusdt@trade", "ethusdt@aggTrade"}, set[str]()
            async with manager.multiplex_socket(sorted(expected)) as stream:
                while not received >= expected:
                    received.add((await stream.recv())["stream"])
            return received

    assert run(names()) == {"btcusdt@trade", "ethusdt@aggTrade"}


def test_ccxt_reads_the_markets(exchange: OfflineExchange) -> None:
    async def markets() -> Any:
        async with ccxt_pro(exchange) as client:
            return await client.load_markets()

    found = run(markets())
    assert {"BTC/USDT", "ETH/USDT", "ETH/BTC", "1000SATS/USDT"} < set(found)
    assert {one["type"] for one in found.values()} == {"spot"}
    assert found["BTC/USDT"]["precision"]["price"] == 0.01
    assert found["BTC/USDT"]["precision"]["amount"] == 1e-5


def test_ccxt_reads_trades(exchange: OfflineExchange) -> None:
    async def rows() -> list[Any]:
        async with ccxt_pro(exchange) as client:
            return list(await client.fetch_trades("BTC/USDT", limit=50))

    found = run(rows())
    assert consecutive([int(row["id"]) for row in found])
    assert {row["side"] for row in found} <= {"buy", "sell"}


def test_ccxt_streams_trades(exchange: OfflineExchange) -> None:
    async def ids() -> list[int]:
        async with ccxt_pro(exchange) as client:
            return await collected(200, lambda: client.watch_trades("BTC/USDT"), name="id")

    assert consecutive(run(ids()))


def test_ccxt_streams_two_symbols_over_one_connection(exchange: OfflineExchange) -> None:
    async def symbols() -> set[str]:
        pairs, received = ["BTC/USDT", "ETH/USDT"], set[str]()
        async with ccxt_pro(exchange) as client:
            while not received >= set(pairs):
                received |= {row["symbol"] for row in await client.watch_trades_for_symbols(pairs)}
        return received

    assert run(symbols()) == {"BTC/USDT", "ETH/USDT"}
