"""cryptofeed with its Kafka back end, as a process in a venv of its own.

Its TRADES are Binance's aggTrade; here they are `@trade`, so that all read the same stream. Where
its queue is full it waits, instead of dropping trades as it does untold. The rest is as it comes.
Run: python -m bench.live_cryptofeed WS REST FRAMES, with BOOTSTRAP where Kafka listens.
"""

import asyncio
import os
import sys
from decimal import Decimal
from importlib import import_module
from importlib.metadata import version
from typing import Any

from bench.measure import Figure, measured, print_figures, wait_for_go

# By name, because this process alone has them.
connection, defines, exchanges, feedhandler, kafka = (
    import_module(f"cryptofeed.{name}")
    for name in ("connection", "defines", "exchanges", "feedhandler", "backends.kafka")
)
SYMBOLS = ["BTC-USDT", "ETH-USDT"]
LOOK_S = 0.01


def single_trades(ws: str, rest: str) -> type[Any]:
    """Return its Binance on single trades, whose id is `t` where an aggregate's is `a`."""

    async def message_handler(self: Any, text: str, conn: object, timestamp: float) -> None:
        trade = loads(text, parse_float=Decimal)["data"]
        trade["a"] = trade["t"]
        await self._trade(trade, timestamp)

    usual = exchanges.EXCHANGE_MAP["BINANCE"]
    loads = import_module(usual.__module__).json.loads
    routes = connection.Routes("/api/v3/exchangeInfo")
    changes = {
        "websocket_channels": {**usual.websocket_channels, defines.TRADES: "trade"},
        "websocket_endpoints": [connection.WebsocketEndpoint(ws)],
        "rest_endpoints": [connection.RestEndpoint(rest, routes=routes)],
        "message_handler": message_handler,
    }
    return type("SingleTrades", (usual,), changes)


async def stream(ws: str, rest: str, frames: int) -> Figure:
    """Stream at least so many trades into Kafka."""
    trades = kafka.TradeKafka(bootstrap_servers=os.environ["BOOTSTRAP"], overflow="block")
    handler = feedhandler.FeedHandler(config={"log": {"filename": "", "level": "WARNING"}})
    binance = single_trades(ws, rest)
    handler.add_feed(
        binance(symbols=SYMBOLS, channels=[defines.TRADES], callbacks={defines.TRADES: trades})
    )
    running = asyncio.create_task(handler.run_async(install_signal_handlers=False))
    await written(trades, 1, running)
    await asyncio.to_thread(wait_for_go)
    before = trades.stats.written
    with measured(f"cryptofeed {version('cryptofeed')}: JSON, acknowledged") as figure:
        figure.rows = await written(trades, before + frames, running) - before
    handler.request_stop()
    dropped = trades.stats.dropped_overflow + trades.stats.dropped_failed
    await running
    figure.name += f", {dropped} dropped"
    return figure


async def written(trades: Any, count: int, running: "asyncio.Task[None]") -> int:
    """Wait until Kafka has so many trades; return how many it has."""
    while trades.stats.written < count:
        if running.done():
            raise RuntimeError("cryptofeed ended") from running.exception()
        await asyncio.sleep(LOOK_S)
    return int(trades.stats.written)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop) as runner:
        print_figures(runner.run(stream(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
