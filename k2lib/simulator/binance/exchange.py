"""The offline exchange: hosts that publish the same trades, in a thread of their own."""

import asyncio
import contextlib
import dataclasses
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from k2lib.errors import ConfigError
from k2lib.lifecycle import Closing
from k2lib.simulator.binance.app import application
from k2lib.simulator.binance.engine import ExchangeEngine, ExchangeHost, check_fault, split_host
from k2lib.simulator.binance.faults import FaultScript
from k2lib.simulator.binance.limits import ExchangeLimits
from k2lib.simulator.binance.market import GroundTruth, Market, TradeTape
from k2lib.simulator.binance.stream_server import LOOPBACK
from k2lib.simulator.binance.trade_generator import US

TICK_S = 0.005
_T = TypeVar("_T")


class OfflineExchange(Closing):
    """A Binance look-alike, by default on 127.0.0.1, until closed.

    Args:
        rate: trades a second of each symbol.
        port: of the first host, the others follow; 0: free ones.
        hosts: addresses that publish the same trades, each with faults of its own.
        address: an address of this machine, or its name; it answers to that and loopback names.
        first_id: id of the first trade; by default ids follow from the time and the rate, so
            that a later exchange of the same seed and rate goes on where this one is.
        ssl_context: a server's, for wss and https.
        clock: seconds since the epoch, for trades, pings, connection ages and faults.
        limits: further limits on clients.
        script: faults to come: (seconds from now, name, options); `host` is an option.
    Raises:
        ConfigError: a port is in use, or an argument is invalid.
    """

    def __init__(
        self,
        symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT"),
        *,
        rate: float = 50.0,
        seed: int = 7,
        port: int = 0,
        hosts: int = 1,
        address: str = LOOPBACK,
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
            check_fault(name, *split_host(options), market=market, hosts=hosts)
        bound = _bind(
            [
                ExchangeHost(market, limits, ssl_context=ssl_context, address=address)
                for _ in range(hosts)
            ],
            port,
        )
        self._engine = ExchangeEngine(
            market, bound, limits=limits, script=script, clock=clock, started=started
        )
        self.market = market
        tls = "" if ssl_context is None else "s"
        self.ws_urls = [f"ws{tls}://{host.address}" for host in bound]
        self.rest_urls = [f"http{tls}://{host.address}" for host in bound]
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
        """Cause a fault at one host, or at all of them; see `faults.FAULTS`.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """

        async def inject_fault() -> None:
            self._engine.inject_fault(name, host, options)

        self._in_thread(inject_fault())

    def truth(self, symbol: str) -> GroundTruth:
        """Return the ids made so far.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """
        return self.tape(symbol).truth()

    def tape(self, symbol: str) -> TradeTape:
        """Return a copy of a symbol's trades up to now, for use in any thread.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """

        async def copy() -> TradeTape:
            return self.market.tapes_of(symbol)[0].copy()

        return self._in_thread(copy())

    def close(self) -> None:
        """End all connections and stop listening; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._thread.join()
        self._engine.archive.close()

    def _in_thread(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            work.close()
            raise ConfigError("the exchange is closed: open another one")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                for host in self._engine.hosts:
                    await host.serve(application(host, self._engine), stack)
            except ConfigError as exc:
                self._error = exc
                return
            finally:
                self._ready.set()
            while not self._closed:
                self._engine.tick()
                await asyncio.sleep(TICK_S)
            await self._engine.settle()


def _bind(hosts: list[ExchangeHost], port: int) -> list[ExchangeHost]:
    with contextlib.ExitStack() as undo:
        for host in hosts:
            undo.callback(host.unbind)
        for number, host in enumerate(hosts):
            host.bind(port + number if port else 0)
        undo.pop_all()
    return hosts
