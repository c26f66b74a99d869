"""The feed's sockets: the streams of all symbols, and a watch over each that it is not silent."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Final

from k2lib.errors import TransientError
from k2lib.events import Event, OnEvent
from k2lib.feed.options import FeedOptions
from k2lib.resilience.breaker import Circuit
from k2lib.resilience.clocks import steady_wall_clock
from k2lib.resilience.failover import Hosts
from k2lib.resilience.staleness import Watchdog
from k2lib.resilience.windows import Window
from k2lib.sources.binance.inbox import Inbox
from k2lib.sources.binance.stream import STREAMS_A_CONNECTION, Stream
from k2lib.sources.binance.venues import Venue
from k2lib.state import State

LOOK_S: Final = 0.05
BEHIND_S: Final = 1.0
STREAM_NAMES: Final = {"trade": "trade", "quote": "bookTicker"}


class Sockets:
    """Holds the connections of a feed, in one thread; frames go to the inbox."""

    def __init__(
        self,
        venue: Venue,
        symbols: Sequence[str],
        *,
        inbox: Inbox,
        state: State,
        options: FeedOptions,
        stop: threading.Event,
        on_event: OnEvent,
    ) -> None:
        self._venue = venue
        self._inbox = inbox
        self._state = state
        self._options = options
        self._stop = stop
        self._on_event = on_event
        self._connected = threading.Event()
        self._refusals: dict[str, str] = {}
        self._hosts = Hosts(
            venue.ws_urls,
            clock=steady_wall_clock(),
            memories=state.breakers(),
            rest_s=options.limits.breaker_rest_s,
            on_change=self._breaker_changed,
        )
        self._watchdog: Watchdog[tuple[str, str]] = Watchdog(
            options.limits.stale_s, clock=time.monotonic
        )
        self._keys = [(symbol, kind) for kind in options.kinds for symbol in symbols]
        self._streams = self._make_streams()

    def seen(self, symbol: str, kind: str) -> None:
        """Take note that data of a symbol came; called from the thread of rows."""
        self._watchdog.seen((symbol, kind))

    def run(self) -> None:
        """Stay connected until `stop` is set.

        Raises:
            TransientError: every host refuses for good.
        """
        asyncio.run(self._run())

    def wait_for_connection(self, ended: threading.Event) -> None:
        """Wait for the first connection, until every host has been tried in vain.

        Raises:
            TransientError: no host lets us in; each is named with its reason.
        """
        until = time.monotonic() + self._options.first_connection_s
        while not self._connected.wait(LOOK_S) and not ended.is_set():
            if self._refusals.keys() >= set(self._venue.ws_urls) or time.monotonic() > until:
                told = "; ".join(f"{host}: {reason}" for host, reason in self._refusals.items())
                raise TransientError(f"{self._venue.exchange} lets us in nowhere: {told}")

    async def _run(self) -> None:
        tasks = [asyncio.create_task(stream.run()) for stream in self._streams]
        for key in self._keys:
            self._watchdog.watch(key)
        try:
            while not self._stop.is_set():
                done, _ = await asyncio.wait(
                    tasks, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                self._watch()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self) -> None:
        for stream in self._streams:
            stream.look()
        if self._inbox.behind_s > min(BEHIND_S, self._options.limits.stale_s / 2):
            return  # what waits here is not silent
        for (symbol, kind), silent_s in self._watchdog.stale():
            self._tell("stream_stale", symbol=symbol, type=kind, silent_s=silent_s)
            place = self._keys.index((symbol, kind)) // STREAMS_A_CONNECTION
            self._streams[place].leave(f"{symbol} {kind} silent for {silent_s:.1f} s")
            self._give_time(place)
        for symbol, kind in self._watchdog.resumed():
            self._tell("stream_resumed", symbol=symbol, type=kind)

    def _give_time(self, place: int) -> None:
        """The next connection of a stream is not left because the last one was silent."""
        first = place * STREAMS_A_CONNECTION
        for key in self._keys[first : first + STREAMS_A_CONNECTION]:
            self._watchdog.prolong(key)

    def _make_streams(self) -> list[Stream]:
        limits = self._options.limits
        attempts = Window(limits.attempts, limits.attempts_span_s, clock=time.monotonic)
        names = [f"{symbol.lower()}@{STREAM_NAMES[kind]}" for symbol, kind in self._keys]
        return [
            Stream(
                names[start : start + STREAMS_A_CONNECTION],
                venue=self._venue,
                hosts=self._hosts,
                inbox=self._inbox,
                attempts=attempts,
                limits=limits,
                on_event=self._heard,
            )
            for start in range(0, len(names), STREAMS_A_CONNECTION)
        ]

    def _heard(self, event: Event) -> None:
        if event.name == "connection_opened":
            self._connected.set()
        if event.name == "connection_refused":
            self._refusals[str(event.fields["host"])] = str(event.fields["reason"])
        self._on_event(event)

    def _breaker_changed(self, host: str, circuit: Circuit) -> None:
        self._state.put_breaker(host, self._hosts.breakers[host].memory)
        self._tell("breaker_changed", host=host, state=str(circuit))

    def _tell(self, name: str, **fields: object) -> None:
        self._on_event(Event(name, fields))
