"""The stream client: one subscription kept alive over connections, hosts and faults."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from k2lib.errors import TransientError
from k2lib.events import (
    ConnectionLost,
    ConnectionOpened,
    ConnectionOpening,
    ConnectionRefused,
    ConnectionRotated,
    HostBanned,
    OnEvent,
    ReconnectWaiting,
)
from k2lib.feed.options import StreamLimits
from k2lib.resilience.backoff import delays
from k2lib.resilience.failover import Hosts
from k2lib.resilience.rate_window import RateWindow
from k2lib.venues.base import (
    FrameSink,
    HostRefusedError,
    LiveConnection,
    LiveVenue,
    StreamSubscription,
)

LOOK_S: Final = 0.25
TRIAL_S: Final = 1.0


class ReconnectingStream:
    """Keeps one connection open with all of its subscriptions, over any of the venue's hosts.

    A planned end (`serverShutdown`, the age of the connection, a silent stream) opens the next
    connection before the old one is closed. Trades that both bring are told apart by their ids.
    """

    def __init__(
        self,
        subscriptions: Sequence[StreamSubscription],
        *,
        venue: LiveVenue,
        hosts: Hosts,
        inbox: FrameSink,
        attempts: RateWindow,
        limits: StreamLimits,
        on_event: OnEvent,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        most = venue.subscriptions_per_connection
        if len(subscriptions) > most:
            raise ValueError(f"{len(subscriptions)} streams: a connection takes {most}")
        self._subscriptions = subscriptions
        self._venue = venue
        self._hosts = hosts
        self._inbox = inbox
        self._attempts = attempts
        self._limits = limits
        self._on_event = on_event
        self._draw = draw
        self._sleep = sleep
        self._life_s = limits.life_s * (1 - 0.02 * draw())
        self._current: LiveConnection | None = None
        self._frames_counted = 0
        self._open_connections: set[LiveConnection] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._delays = self._fresh_delays()

    @property
    def host(self) -> str | None:
        """The host of the open connection."""
        return None if self._current is None else self._current.host

    @property
    def answered_at(self) -> float:
        """The time of the newest ping that the open connection answered, by `time.monotonic`."""
        return float("-inf") if self._current is None else self._current.answered_at

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            TransientError: every host refuses for good; the message says why each does.
        """
        try:
            current = await self._open()
            while True:
                reason = await self._over(current)
                if current.ended:
                    self._lost(current, reason)
                    if not current.frames:
                        await self._back_off()
                    current = await self._open()
                else:
                    current = await self._hand_over(current, reason)
        finally:
            await self._close_all()

    def leave(self, reason: str) -> None:
        """Move to another host, as this one is silent: that counts as its failure."""
        if self._current is not None and not self._current.over.done():
            self._hosts.failed(self._current.host)
            self._current.leave(reason)

    def look(self) -> None:
        """Count data that go on as another success, and leave a host that never gives any."""
        current = self._current
        if current is None:
            return
        if current.frames > self._frames_counted:
            self._frames_counted = current.frames
            self._hosts.succeeded(current.host)
        elif not current.frames and time.monotonic() - current.opened > self._limits.stale_s:
            self.leave(f"no data within {self._limits.stale_s:g} s")

    async def _over(self, current: LiveConnection) -> str:
        left_s = self._life_s - (time.monotonic() - current.opened)
        try:
            return await asyncio.wait_for(asyncio.shield(current.over), max(left_s, 0))
        except TimeoutError:
            current.leave("24 hours are nearly over")
            return await current.over

    async def _open(self) -> LiveConnection:
        """Open and subscribe at the first host that lets us, however long that takes."""
        while True:
            host = await self._pick()
            # Other streams share the limit: ask again after each wait.
            while wait_s := self._attempts.wait_s():
                await self._pause(wait_s, "connection attempts are limited")
            self._attempts.take()
            try:
                return await self._try(host)
            except HostRefusedError as exc:
                self._refused(host, exc)
            await self._back_off()

    async def _pick(self) -> str:
        is_reported = False
        while (host := self._hosts.pick()) is None:
            wait_s = self._hosts.opens_in_s()
            if wait_s is None:
                reasons = "; ".join(f"{url}: {why}" for url, why in self._hosts.banned.items())
                raise TransientError(f"{self._venue.exchange} lets us in nowhere: {reasons}")
            if not is_reported:
                self._on_event(ReconnectWaiting(self._venue.exchange, wait_s, "every host rests"))
                is_reported = True
            # The trial of another stream may end the rest of its host before its time.
            await self._sleep(min(max(wait_s, LOOK_S), TRIAL_S))
        return host

    async def _back_off(self) -> None:
        """Wait, unless a host may be tried that did not fail since the last wait."""
        if self._hosts.all_tried() and self._hosts.opens_in_s() is not None:
            await self._pause(next(self._delays), "every host failed")
            self._hosts.begin_round()

    async def _try(self, host: str) -> LiveConnection:
        self._on_event(ConnectionOpening(self._venue.exchange, host))
        connection = await self._venue.connect(
            host, inbox=self._inbox, on_data=lambda: self._succeeded(host)
        )
        self._open_connections.add(connection)
        try:
            await connection.subscribe(self._subscriptions)
        except BaseException:
            self._dismiss(connection)
            raise
        self._current, self._frames_counted = connection, 0
        self._on_event(ConnectionOpened(self._venue.exchange, host))
        return connection

    async def _hand_over(self, old: LiveConnection, reason: str) -> LiveConnection:
        """Let the next connection bring data before the old one goes."""
        opening = asyncio.create_task(self._open())
        try:
            await asyncio.wait({opening, old.reader}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                self._gone(old, reason)
                return await opening
            new = opening.result()
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(new.has_data.wait(), self._limits.hand_over_s)
        self._dismiss(old)
        self._on_event(ConnectionRotated(self._venue.exchange, old.host, new.host, reason))
        return new

    def _lost(self, connection: LiveConnection, reason: str) -> None:
        self._hosts.failed(connection.host)
        self._gone(connection, reason)

    def _gone(self, connection: LiveConnection, reason: str) -> None:
        self._current = None
        self._dismiss(connection)
        self._on_event(ConnectionLost(self._venue.exchange, connection.host, reason))

    def _refused(self, host: str, exc: HostRefusedError) -> None:
        exchange = self._venue.exchange
        self._on_event(ConnectionRefused(exchange, host, str(exc), exc.status))
        if exc.lasting:
            self._hosts.ban(host, str(exc))
            self._on_event(HostBanned(exchange, host, str(exc)))
        else:
            self._hosts.failed(host)
        if exc.pause_s is not None:
            self._hosts.pause(host, exc.pause_s)

    def _succeeded(self, host: str) -> None:
        """Only data are a success: a host may take connections and give nothing."""
        self._hosts.succeeded(host)
        self._delays = self._fresh_delays()

    async def _pause(self, delay_s: float, reason: str) -> None:
        if delay_s > 0:
            self._on_event(ReconnectWaiting(self._venue.exchange, delay_s, reason))
            await self._sleep(delay_s)

    def _fresh_delays(self) -> Iterator[float]:
        limits = self._limits
        return delays(limits.first_delay_s, limits.longest_delay_s, draw=self._draw)

    def _dismiss(self, connection: LiveConnection) -> None:
        self._open_connections.discard(connection)
        task = asyncio.create_task(connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_all(self) -> None:
        self._current = None
        for connection in list(self._open_connections):
            self._dismiss(connection)
        await asyncio.gather(*self._closing, return_exceptions=True)
