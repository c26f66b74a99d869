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

from k2lib.closing import Closing
from k2lib.errors import ConfigError
from k2lib.exchange.app import application
from k2lib.exchange.archive import Archive
from k2lib.exchange.batch import Batch
from k2lib.exchange.faults import Options, checked
from k2lib.exchange.host import ADDRESS, Host
from k2lib.exchange.limits import Limits, Weights
from k2lib.exchange.market import QUOTES_PER_S, Book, Market, Truth
from k2lib.exchange.sequence import US

TICK_S = 0.005
_T = TypeVar("_T")
Script = Many[tuple[float, str, Options]]


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
        limits: what clients may do; `ping_s`, `pong_within_s` and `life_s` come on top.
        script: faults to come: (seconds from now, name, options).
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
        limits: Limits | None = None,
        script: Script = (),
    ) -> None:
        self._limits = dataclasses.replace(
            limits or Limits(), ping_s=ping_s, pong_within_s=pong_within_s, life_s=life_s
        )
        self._clock = clock
        self._started = clock()
        self._script = sorted(
            ((at_s, name, dict(options)) for at_s, name, options in script), key=lambda one: one[0]
        )
        for _at_s, name, options in self._script:
            self._check(name, options)
        self.market = Market(
            symbols, rate=rate, seed=seed, first_id=first_id, now_us=int(self._started * US)
        )
        self.weights = Weights(self._limits)
        self._hosts = self._bound(port, hosts, ssl_context)
        scheme = "" if ssl_context is None else "s"
        self.ws_urls = [f"ws{scheme}://{ADDRESS}:{host.port}" for host in self._hosts]
        self.rest_urls = [f"http{scheme}://{ADDRESS}:{host.port}" for host in self._hosts]
        self.archive = Archive(self.market)
        self._loop = asyncio.new_event_loop()
        self._ended = False
        self._quote_slot = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="k2-exchange", daemon=True)
        self._ready: threading.Event = threading.Event()
        self._error: BaseException | None = None
        self._start()

    def fault(self, name: str, *, host: int | None = None, **options: Any) -> None:
        """Let a fault happen at one host, or at all of them; see `faults.FAULTS`.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """
        self._in_thread(self._befall(name, host, options))

    def truth(self, symbol: str) -> Truth:
        """Return the ids made so far.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """
        return self._in_thread(self._truth(symbol))

    def book(self, symbol: str) -> Book:
        """Return a symbol's trades up to now, to look at in any thread.

        Raises:
            ConfigError: the exchange does not have the symbol.
        """
        return self._in_thread(self._copy(symbol))

    def close(self) -> None:
        """End all connections and stop listening; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._ended = True
        self._thread.join()
        self.archive.close()

    def now(self) -> float:
        """Return the exchange's time, in seconds since the epoch."""
        return self._clock()

    def befall(self, name: str, host: int | None, options: Options) -> None:
        """Let a fault happen; to be called in the exchange's own thread."""
        complete = self._check(name, options)
        chosen = self._chosen(host)
        now = self.now()
        if name == "void":
            for book in self.market.chosen(complete["symbol"]):
                book.make_void(complete["n"])
            return
        self.market.chosen(complete.get("symbol"))
        for one in chosen:
            one.fault(name, complete, now=now)
        if name == "heal" and host is None:
            for book in self.market.books.values():
                book.stop_void()

    def state(self) -> dict[str, Any]:
        """Return the faults that hold, by host."""
        return {
            str(place): [
                {"name": held.name, "ends_at": held.ends_at, "left": held.left, **held.options}
                for held in host.waiting(self.now())
            ]
            for place, host in enumerate(self._hosts)
        }

    def truths(self) -> dict[str, Any]:
        """Return the ids made, by symbol, as JSON."""
        return {symbol: _as_json(book) for symbol, book in self.market.books.items()}

    @staticmethod
    def _check(name: str, options: Options) -> Options:
        return checked(name, {key: value for key, value in options.items() if key != "host"})

    def _bound(self, port: int, count: int, ssl_context: ssl.SSLContext | None) -> list[Host]:
        hosts = [Host(self.market, self._limits, ssl_context=ssl_context) for _ in range(count)]
        with contextlib.ExitStack() as undo:
            for host in hosts:
                undo.callback(host.unbind)
            for place, host in enumerate(hosts):
                host.bind(port + place if port else 0)
            undo.pop_all()
        return hosts

    def _chosen(self, host: int | None) -> list[Host]:
        if host is None:
            return self._hosts
        if not isinstance(host, int) or not 0 <= host < len(self._hosts):
            raise ConfigError(f"no host {host!r}; there are 0 to {len(self._hosts) - 1}")
        return [self._hosts[host]]

    def _start(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._closed = True
            self._thread.join()
            self.archive.close()
            raise self._error

    def _in_thread(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            work.close()
            raise ConfigError("the exchange is closed: open another one")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _befall(self, name: str, host: int | None, options: Options) -> None:
        self.befall(name, host, options)

    async def _truth(self, symbol: str) -> Truth:
        return self.market.chosen(symbol)[0].truth()

    async def _copy(self, symbol: str) -> Book:
        book = self.market.chosen(symbol)[0]
        return dataclasses.replace(book, sequence=book.sequence.twin(), void=list(book.void))

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._live())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())

    async def _live(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                for host in self._hosts:
                    await self._open(host, stack)
            except ConfigError as exc:
                self._error = exc
                return
            finally:
                self._ready.set()
            await self._trade()

    async def _open(self, host: Host, stack: contextlib.AsyncExitStack) -> None:
        runner = web.AppRunner(application(host, self), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(host.end)
        await host.listen(runner.server)

    async def _trade(self) -> None:
        while not self._ended:
            self._tick()
            await asyncio.sleep(TICK_S)

    def _tick(self) -> None:
        now = self.now()
        while self._script and now - self._started >= self._script[0][0]:
            _, name, options = self._script.pop(0)
            host = options.pop("host", None)
            self.befall(name, host, options)
        quotes = self._quotes_due(now)
        for book, trades in self.market.advance(int(now * US)):
            if len(trades) or quotes:
                quote = book.quote(int(now * US)) if quotes else None
                self._publish(Batch(book, trades, quote))
        for one in self._hosts:
            one.tick(now)

    def _publish(self, batch: Batch) -> None:
        for host in self._hosts:
            host.publish(batch)

    def _quotes_due(self, now: float) -> bool:
        slot = int(now * QUOTES_PER_S)
        due, self._quote_slot = slot > self._quote_slot, max(slot, self._quote_slot)
        return due


def _as_json(book: Book) -> dict[str, Any]:
    truth = book.truth()
    void = [[ids.start, min(ids.stop - 1, truth.last_id)] for ids in book.void]
    return {
        "first_id": truth.first_id,
        "last_id": truth.last_id,
        "void": [pair for pair in void if pair[0] <= truth.last_id],
    }
