"""The offline exchange: hosts in a thread of their own, all telling one sequence of trades."""

import asyncio
import contextlib
import dataclasses
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from collections.abc import Sequence as Many
from typing import Any, TypeVar

from aiohttp import web

from k2lib.errors import ConfigError
from k2lib.lifecycle import Closing
from k2lib.simulator.binance.app import application
from k2lib.simulator.binance.faults import FaultScript
from k2lib.simulator.binance.floor import Floor, check
from k2lib.simulator.binance.host import Host
from k2lib.simulator.binance.limits import ExchangeLimits
from k2lib.simulator.binance.listener import ADDRESS
from k2lib.simulator.binance.market import Book, GroundTruth, Market
from k2lib.simulator.binance.sequence import US

TICK_S = 0.005
_T = TypeVar("_T")


class OfflineExchange(Closing):
    """A Binance look-alike on 127.0.0.1, until closed.

    Args:
        rate: trades a second of each symbol.
        port: of the first host, the others follow; 0: free ones.
        hosts: how many addresses tell the same trades, each with faults of its own.
        first_id: id of the first trade; by default ids follow from the time and the rate, so
            that a later exchange of the same seed and rate goes on where this one is.
        ssl_context: a server's, for wss and https.
        clock: seconds since the epoch; trades, pings, lives and faults all go by it.
        limits: what else clients may do.
        script: faults to come: (seconds from now, name, options), where `host` is an option.
    Raises:
        ConfigError: a port is in use, or an argument is not possible.
    """

    def __init__(
        self,
        symbols: Many[str] = ("BTCUSDT", "ETHUSDT"),
        *,
        rate: float = 50.0,
        seed: int = 7,
        port: int = 0,
        hosts: int = 1,
        first_id: int | None = None,
        ping_s: float = 20.0,
        pong_within_s: float = 60.0,
        life_s: float = 24 * 3600.0,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        limits: ExchangeLimits | None = None,
        script: FaultScript = (),
    ) -> None:
        limits = dataclasses.replace(
            limits or ExchangeLimits(), ping_s=ping_s, pong_within_s=pong_within_s, life_s=life_s
        )
        started = clock()
        now_us = int(started * US)
        market = Market(symbols, rate=rate, seed=seed, first_id=first_id, now_us=now_us)
        for _at_s, name, options in script:
            given = {option: value for option, value in options.items() if option != "host"}
            check(name, options.get("host"), given, market=market, hosts=hosts)
        bound = _bound([Host(market, limits, ssl_context=ssl_context) for _ in range(hosts)], port)
        self._floor = Floor(
            market, bound, limits=limits, script=script, clock=clock, started=started
        )
        self.market = market
        tls = "" if ssl_context is None else "s"
        self.ws_urls = [f"ws{tls}://{ADDRESS}:{host.port}" for host in bound]
        self.rest_urls = [f"http{tls}://{ADDRESS}:{host.port}" for host in bound]
        self._closed = False
        self._error: ConfigError | None = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="k2-exchange", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self.close()
            raise self._error

    def fault(self, name: str, *, host: int | None = None, **options: Any) -> None:
        """Let a fault happen at one host, or at all of them; see `faults.FAULTS`.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """

        async def befall() -> None:
            self._floor.befall(name, host, options)

        self._in_thread(befall())

    def truth(self, symbol: str) -> GroundTruth:
        """Return the ids made so far.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """
        return self.book(symbol).truth()

    def book(self, symbol: str) -> Book:
        """Return a copy of a symbol's trades up to now, for use in any thread.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """

        async def copy() -> Book:
            return self.market.chosen(symbol)[0].copy()

        return self._in_thread(copy())

    def close(self) -> None:
        """End all connections and stop listening; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._thread.join()
        self._floor.archive.close()

    def _in_thread(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            work.close()
            raise ConfigError("the exchange is closed: open another one")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._live())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _live(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                for host in self._floor.hosts:
                    await self._open(host, stack)
            except ConfigError as exc:
                self._error = exc
                return
            finally:
                self._ready.set()
            while not self._closed:
                self._floor.tick()
                await asyncio.sleep(TICK_S)

    async def _open(self, host: Host, stack: contextlib.AsyncExitStack) -> None:
        app = application(host, self._floor)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(host.end)
        await host.listen(runner.server)


def _bound(hosts: list[Host], port: int) -> list[Host]:
    with contextlib.ExitStack() as undo:
        for host in hosts:
            undo.callback(host.unbind)
        for place, host in enumerate(hosts):
            host.bind(port + place if port else 0)
        undo.pop_all()
    return hosts
