"""cryptofeed 2 with its Kafka back end, where there is no Python for cryptofeed 3.

Its queue has no limit, and it waits for Kafka after every trade.
Run: python -m bench.live_cryptofeed2 WS REST FRAMES, with BOOTSTRAP where Kafka listens.
"""

import asyncio
import os
import sys
from importlib.metadata import version

from bench.live_cryptofeed import LOOK_S, SYMBOLS, defines, feedhandler, kafka, single_trades
from bench.measure import Figure, measured, print_figures, wait_for_go


class CountedTrades(kafka.TradeKafka):  # type: ignore[misc,name-defined]
    """Its Kafka back end, which counts what it sends: all but the last is acknowledged."""

    sent = 0

    def _default_serializer(self, to_bytes: dict[str, object] | str) -> bytes:
        self.sent += isinstance(to_bytes, dict)
        written: bytes = super()._default_serializer(to_bytes)
        return written

    async def reach(self, count: int) -> None:
        """Wait until so many were sent."""
        while self.sent < count:
            await asyncio.sleep(LOOK_S)


async def stream(ws: str, rest: str, frames: int) -> Figure:
    """Stream at least so many trades into Kafka."""
    trades = CountedTrades(bootstrap_servers=os.environ["BOOTSTRAP"])
    handler = feedhandler.FeedHandler(config={"log": {"disabled": True}})
    binance = single_trades(ws, rest)
    handler.add_feed(
        binance(symbols=SYMBOLS, channels=[defines.TRADES], callbacks={defines.TRADES: trades})
    )
    handler.run(start_loop=False, install_signal_handlers=False)
    await trades.reach(1)
    await asyncio.to_thread(wait_for_go)
    before = trades.sent
    with measured(f"cryptofeed {version('cryptofeed')}: JSON, acknowledged") as figure:
        await trades.reach(before + frames)
        figure.rows = trades.sent - before
    return figure


if __name__ == "__main__":
    print_figures(asyncio.run(stream(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    sys.stdout.flush()
    # It has no way to leave a queue behind that is not empty.
    os._exit(0)
