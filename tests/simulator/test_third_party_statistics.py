"""Klines and tickers as clients that others wrote read them, from the offline exchange."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from support.third_party import binance_sdk, ccxt_pro, clients, python_binance, run

from k2lib.simulator import OfflineExchange

pytestmark = pytest.mark.slow
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def exchange() -> Iterator[OfflineExchange]:
    with OfflineExchange(rate=5.0) as opened:
        yield opened


def plain(exchange: OfflineExchange, path: str) -> Any:
    """Return what the exchange itself answers."""
    return httpx2.get(f"{exchange.rest_urls[0]}/api/v3/{path}", timeout=60).json()


def closed_minutes(exchange: OfflineExchange, symbol: str) -> list[Any]:
    """Return three klines that no longer change."""
    now = plain(exchange, "time")["serverTime"]
    end = now - 5 * MINUTE_MS
    return list(plain(exchange, f"klines?symbol={symbol}&interval=1m&limit=3&endTime={end}"))


def test_python_binance_reads_klines_and_tickers(exchange: OfflineExchange) -> None:
    rows = closed_minutes(exchange, "BTCUSDT")

    async def read() -> None:
        async with python_binance(exchange) as client:
            ask = {"symbol": "BTCUSDT", "interval": client.KLINE_INTERVAL_1MINUTE}
            times = {"startTime": rows[0][0], "endTime": rows[-1][0]}
            assert await client.get_klines(**ask, **times) == rows
            pages = await client.get_historical_klines(
                "BTCUSDT", ask["interval"], rows[0][0], rows[-1][0]
            )
            assert pages == rows
            assert (await client.get_ticker(symbol="XRPUSDT"))["symbol"] == "XRPUSDT"
            assert float((await client.get_symbol_ticker(symbol="XRPUSDT"))["price"]) > 0
            book = await client.get_orderbook_ticker(symbol="XRPUSDT")
            assert float(book["bidPrice"]) < float(book["askPrice"])
            assert (await client.get_avg_price(symbol="XRPUSDT"))["mins"] == 5

    run(read())


def test_python_binance_is_told_of_an_unknown_symbol(exchange: OfflineExchange) -> None:
    async def read() -> None:
        async with python_binance(exchange) as client:
            with pytest.raises(clients()[0].exceptions.BinanceAPIException) as refused:
                await client.get_klines(symbol="NOPEUSDT", interval="1m")
            assert refused.value.code == -1121

    run(read())


def test_python_binance_streams_klines_and_tickers(exchange: OfflineExchange) -> None:
    async def kinds() -> set[str]:
        async with python_binance(exchange) as client:
            manager = clients()[0].BinanceSocketManager(client)
            manager.STREAM_URL = exchange.ws_urls[0] + "/"
            found = set()
            for socket in (
                manager.kline_socket("BTCUSDT", interval="1m"),
                manager.symbol_ticker_socket("BTCUSDT"),
                manager.symbol_miniticker_socket("BTCUSDT"),
                manager.symbol_book_ticker_socket("BTCUSDT"),
            ):
                async with socket as stream:
                    event = await stream.recv()
                    assert event["s"] == "BTCUSDT"
                    found.add(event.get("e", "bookTicker"))
            return found

    assert run(kinds()) == {"kline", "24hrTicker", "24hrMiniTicker", "bookTicker"}


def test_ccxt_reads_klines_and_tickers(exchange: OfflineExchange) -> None:
    rows = closed_minutes(exchange, "BTCUSDT")

    async def read() -> None:
        async with ccxt_pro(exchange) as client:
            bars = await client.fetch_ohlcv("BTC/USDT", "1m", since=rows[0][0], limit=3)
            assert bars == [[row[0], *map(float, row[1:6])] for row in rows]
            ticker = await client.fetch_ticker("XRP/USDT")
            assert ticker["bid"] < ticker["ask"]
            assert ticker["low"] <= ticker["last"] <= ticker["high"]
            several = await client.fetch_tickers(["BTC/USDT", "DOGE/USDT"])
            assert sorted(several) == ["BTC/USDT", "DOGE/USDT"]
            best = await client.fetch_bids_asks(["BTC/USDT"])
            assert best["BTC/USDT"]["bid"] < best["BTC/USDT"]["ask"]
            with pytest.raises(clients()[1].BadSymbol):
                await client.fetch_ticker("NOPE/USDT")

    run(read())


def test_ccxt_streams_klines_and_tickers(exchange: OfflineExchange) -> None:
    async def read() -> None:
        async with ccxt_pro(exchange) as client:
            [bar, *_] = await client.watch_ohlcv("BTC/USDT", "1m")
            assert bar[0] % MINUTE_MS == 0
            assert bar[3] <= bar[4] <= bar[2]
            ticker = await client.watch_ticker("BTC/USDT")
            assert ticker["low"] <= ticker["last"] <= ticker["high"]
            best = (await client.watch_bids_asks(["BTC/USDT"]))["BTC/USDT"]
            assert best["bid"] < best["ask"]

    run(read())


def test_the_sdk_of_binance_reads_klines_and_tickers(exchange: OfflineExchange) -> None:
    rows = closed_minutes(exchange, "BTCUSDT")

    async def read() -> None:
        async with binance_sdk(exchange) as client:
            rest = client.rest_api
            times = {"start_time": rows[0][0], "end_time": rows[-1][0]}
            reply = await asyncio.to_thread(rest.klines, "BTCUSDT", "1m", **times)
            assert [list(row) for row in reply.data()] == rows
            day = await asyncio.to_thread(rest.ticker24hr, "XRPUSDT")
            assert day.data().actual_instance.symbol == "XRPUSDT"
            price = await asyncio.to_thread(rest.ticker_price, symbols=["BTCUSDT", "XRPUSDT"])
            names = [one.symbol for one in price.data().actual_instance]
            assert names == ["BTCUSDT", "XRPUSDT"]
            average = await asyncio.to_thread(rest.avg_price, "XRPUSDT")
            assert float(average.data().price) > 0
            info = await asyncio.to_thread(rest.exchange_info, symbol="XRPUSDT")
            assert info.data().symbols[0].base_asset == "XRP"

    run(read())


def test_the_sdk_of_binance_streams_klines_and_tickers(exchange: OfflineExchange) -> None:
    async def read() -> None:
        async with binance_sdk(exchange) as client:
            connection = await client.websocket_streams.create_connection()
            received: asyncio.Queue[Any] = asyncio.Queue()
            for handle in (
                await connection.kline(symbol="btcusdt", interval="1m"),
                await connection.ticker(symbol="btcusdt"),
                await connection.mini_ticker(symbol="btcusdt"),
            ):
                handle.on("message", received.put_nowait)
            kinds = set()
            while len(kinds) < 3:
                kinds.add((await received.get()).e)
            assert kinds == {"kline", "24hrTicker", "24hrMiniTicker"}

    run(read())
