"""Where the exchange happens: time passes, trades are made, faults befall the hosts."""

from collections.abc import Callable
from typing import Any

from k2lib.errors import ConfigError
from k2lib.simulator.binance.archive import Archive
from k2lib.simulator.binance.faults import FaultScript, Options, checked
from k2lib.simulator.binance.frames import Batch
from k2lib.simulator.binance.host import Host
from k2lib.simulator.binance.limits import ExchangeLimits, Weights
from k2lib.simulator.binance.market import QUOTES_PER_S, Market
from k2lib.simulator.binance.sequence import US


class Floor:
    """What all hosts share; everything here is done in the exchange's own thread."""

    def __init__(
        self,
        market: Market,
        hosts: list[Host],
        *,
        limits: ExchangeLimits,
        script: FaultScript,
        clock: Callable[[], float],
        started: float,
    ) -> None:
        self.market = market
        self.hosts = hosts
        self.weights = Weights(limits)
        self.archive = Archive(market)
        self.now = clock
        self._started = started
        self._script = sorted(script, key=lambda fault: fault[0])
        self._quote_slot = 0

    def befall(self, name: str, host: int | None, options: Options) -> None:
        """Let a fault happen at one host, or at all of them.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """
        complete = check(name, host, options, market=self.market, hosts=len(self.hosts))
        if name == "void":
            for book in self.market.chosen(complete["symbol"]):
                book.make_void(complete["n"])
            return
        for one in self.hosts if host is None else [self.hosts[host]]:
            one.fault(name, complete, now=self.now())
        if name == "heal" and host is None:
            for book in self.market.books.values():
                book.stop_void()

    def tick(self) -> None:
        """Do what is due: faults of the script, trades and quotes, and each host's upkeep."""
        now = self.now()
        while self._script and now - self._started >= self._script[0][0]:
            (_at_s, name, options), *self._script = self._script
            given = {option: value for option, value in options.items() if option != "host"}
            self.befall(name, options.get("host"), given)
        self._trade(now)
        for host in self.hosts:
            host.tick(now)

    def state(self) -> dict[str, Any]:
        """Return the faults that hold, by host, as JSON."""
        return {
            str(place): [
                {"name": held.name, "ends_at": held.ends_at, "left": held.left, **held.options}
                for held in host.conditions.active(self.now())
            ]
            for place, host in enumerate(self.hosts)
        }

    def truths(self) -> dict[str, Any]:
        """Return the ids made, by symbol, as JSON."""
        return {symbol: book.told() for symbol, book in self.market.books.items()}

    def _trade(self, now: float) -> None:
        slot, now_us = int(now * QUOTES_PER_S), int(now * US)
        quotes = slot > self._quote_slot
        self._quote_slot = max(slot, self._quote_slot)
        for book, trades in self.market.advance(now_us):
            if len(trades) or quotes:
                batch = Batch(book, trades, book.quote(now_us) if quotes else None)
                for host in self.hosts:
                    host.publish(batch)


def check(name: str, host: object, options: Options, *, market: Market, hosts: int) -> Options:
    """Return the fault's options, complete.

    Raises:
        ConfigError: no such fault, host, symbol or option.
    """
    complete = checked(name, options)
    market.chosen(complete.get("symbol"))
    if host is not None and (type(host) is not int or host not in range(hosts)):
        raise ConfigError(f"no host {host!r}; there are 0 to {hosts - 1}")
    return complete
