"""Clients that others wrote for Binance, with nothing but the address of the offline exchange."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from k2lib.simulator import OfflineExchange

PATIENCE_S = 60
# So many trades may wait at a client: the machine may pause, and then they come all at once.
WAITING = 100_000
_T = TypeVar("_T")


@cache
def clients() -> tuple[ModuleType, ModuleType]:
    """Import python-binance and ccxt.pro here: at the top it would cost each worker two seconds."""
    with warnings.catch_warnings():
        # What these packages do while they are imported is not ours to mend.
        warnings.simplefilter("ignore")
        import binance
        import ccxt.pro
    return binance, ccxt.pro


def run(work: Awaitable[_T]) -> _T:
    """Run to the end, or fail when it takes too long."""

    async def limited() -> _T:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return asyncio.run(limited())


@asynccontextmanager
async def python_binance(exchange: OfflineExchange) -> AsyncIterator[Any]:
    """Open a python-binance client of the exchange."""

    binance, _ = clients()

    class Client(binance.AsyncClient):
        API_URL = exchange.rest_urls[0] + "/api"

    client = await Client.create(requests_params={"timeout": PATIENCE_S})
    try:
        yield client
    finally:
        await client.close_connection()


@asynccontextmanager
async def ccxt_pro(exchange: OfflineExchange) -> AsyncIterator[Any]:
    """Open a ccxt.pro client of the exchange."""
    rest, ws = exchange.rest_urls[0], exchange.ws_urls[0] + "/ws"
    futures = {"fapiPublic": f"{rest}/fapi/v1", "dapiPublic": f"{rest}/dapi/v1"}
    client = clients()[1].binance(
        {
            "urls": {"api": {"public": f"{rest}/api/v3", **futures, "ws": {"spot": ws}}},
            "options": {"tradesLimit": WAITING},
            "newUpdates": True,
            "timeout": PATIENCE_S * 1000,
        }
    )
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def binance_sdk(exchange: OfflineExchange) -> AsyncIterator[Any]:
    """Open a client of Binance's own SDK of the exchange."""
    import binance_sdk_spot as sdk
    from binance_common import configuration

    rest, ws = exchange.rest_urls[0], exchange.ws_urls[0]
    client = sdk.Spot(
        configuration.ConfigurationRestAPI(base_path=rest, timeout=PATIENCE_S * 1000),
        config_ws_streams=configuration.ConfigurationWebSocketStreams(stream_url=ws),
    )
    try:
        yield client
    finally:
        await client.websocket_streams.close_connection(close_session=True)
