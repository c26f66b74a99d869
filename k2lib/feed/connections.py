"""The connections of a feed: the streams of all symbols, and a watchdog for silent ones."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from k2lib.errors import TransientError
from k2lib.events import (
    BreakerChanged,
    ConnectionOpened,
    ConnectionRefused,
    Event,
    FeedLagMeasured,
    OnEvent,
    StreamResumed,
    StreamStale,
)
from k2lib.feed.options import FeedOptions
from k2lib.feed.state_store import StateStore
from k2lib.feed.stream import ReconnectingStream
from k2lib.resilience.breaker import Circuit, steady_wall_clock
from k2lib.resilience.failover import Hosts
from k2lib.resilience.rate_window import RateWindow
from k2lib.resilience.staleness import LagTracker, Watchdog
from k2lib.venues.base import LiveVenue, StreamSubscription

LOOK_AGAIN_S: Final = 0.002
FLOOD: Final = 5000
FLOOD_LINGERS: Final = 10


@dataclass(frozen=True)
class FrameBatch:
    """Frames in order of arrival, each with its receipt time in µs since the epoch and its host."""

    frames: list[bytes]
    received_us: list[int]
    hosts: list[str]


class Inbox:
    """Holds at most `limit` frames; a full one makes the socket wait, and counts how long."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waited_s = 0.0
        self._frames: deque[tuple[bytes, int, str]] = deque()
        self._taken_us: int | None = None
        self._some = threading.Event()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def behind_s(self) -> float:
        """How long ago the oldest frame came that is not dealt with: queued, or taken last."""
        try:
            oldest_us = self._taken_us or self._frames[0][1]
        except IndexError:
            return 0.0
        return max(0.0, _now_us() / 1e6 - oldest_us / 1e6)

    async def put(self, frame: bytes, host: str) -> None:
        """Add a frame, waiting while the queue is full."""
        if len(self._frames) >= self.limit:
            await self._room()
        self._frames.append((frame, _now_us(), host))
        if not self._some.is_set():
            self._some.set()

    def take(self, timeout_s: float, *, linger_s: float, enough: int) -> FrameBatch:
        """Return what has arrived: nothing after `timeout_s`; what was taken before is dealt with.

        Fewer than `enough` frames wait `linger_s` for others, so that small batches stay few; more
        of them are a flood, which waits the longer the more they are, as a frame of a large batch
        costs a fifth.
        """
        self._taken_us = None
        if self._some.wait(timeout_s):
            self._linger(linger_s, enough)
        self._some.clear()
        self._taken_us = self._frames[0][1] if self._frames else None
        taken = [self._frames.popleft() for _ in range(len(self._frames))]
        frames, received_us, hosts = map(list, zip(*taken, strict=True)) if taken else ([], [], [])
        return FrameBatch(frames, received_us, hosts)

    def _linger(self, linger_s: float, enough: int) -> None:
        if len(self._frames) < enough:
            time.sleep(linger_s)
            return
        lingers = min(FLOOD_LINGERS, 2 * len(self._frames) // enough)
        until = time.monotonic() + lingers * linger_s
        while len(self._frames) < min(FLOOD, self.limit // 2) and time.monotonic() < until:
            time.sleep(linger_s)

    async def _room(self) -> None:
        began = time.monotonic()
        while len(self._frames) >= self.limit:
            await asyncio.sleep(LOOK_AGAIN_S)
            now = time.monotonic()
            self.waited_s += now - began
            began = now


def _now_us() -> int:
    return time.time_ns() // 1000


LOOK_S: Final = 0.05
BEHIND_S: Final = 1.0
# Longer than a quiet host takes to answer the ping that it gets after `websocket.PROBE_S`.
QUIET_S: Final = 3.0
LAG_EVERY_S: Final = 1.0


class StreamConnections:
    """Holds the connections of a feed, in one thread; frames go to the inbox.

    Symbols that are `halted` are subscribed to, and watched once they have data.
    """

    def __init__(
        self,
        venue: LiveVenue,
        symbols: Sequence[str],
        *,
        halted: Collection[str] = (),
        inbox: Inbox,
        state: StateStore,
        options: FeedOptions,
        stop: threading.Event,
        on_event: OnEvent,
    ) -> None:
        self._venue = venue
        self._halted = set(halted)
        self._trading_again: deque[str] = deque()
        self._inbox = inbox
        self._state = state
        self._options = options
        self._stop = stop
        self._on_event = on_event
        self._connected = threading.Event()
        self._refusals: dict[str, str] = {}
        self._hosts = Hosts(
            venue.stream_hosts,
            clock=steady_wall_clock(),
            memories=state.breakers(),
            rest_s=options.limits.breaker_rest_s,
            on_change=self._breaker_changed,
        )
        self._watchdog: Watchdog[StreamSubscription] = Watchdog(
            options.limits.stale_s, clock=time.monotonic
        )
        self._subscriptions = [
            StreamSubscription(symbol, kind) for kind in options.kinds for symbol in symbols
        ]
        self._per_connection = venue.subscriptions_per_connection
        self._streams = self._make_streams()
        self._stream_of = {
            one: number // self._per_connection for number, one in enumerate(self._subscriptions)
        }
        self._lags = [
            LagTracker(
                [
                    symbol
                    for (symbol, kind), of in self._stream_of.items()
                    if of == number and kind == "trade"
                ],
                quiet_s=QUIET_S,
                clock=time.monotonic,
            )
            for number in range(len(self._streams))
        ]
        self._lags_due = time.monotonic() + LAG_EVERY_S

    def note_data(self, symbol: str, kind: str, lag_s: float) -> None:
        """Take note of data of a symbol, and how late they are; called from the thread of rows."""
        subscription = StreamSubscription(symbol, kind)
        lags = self._lags[self._stream_of[subscription]]
        if kind == "trade":
            lags.note_data(symbol, lag_s)
        else:
            lags.note_proof(time.monotonic())
        if symbol in self._halted:
            self._halted.discard(symbol)
            self._trading_again.append(symbol)
        self._watchdog.note_data(subscription)

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
            if self._refusals.keys() >= set(self._venue.stream_hosts) or time.monotonic() > until:
                silent = f"no answer within {self._options.first_connection_s:g} s"
                reasons = "; ".join(
                    f"{host}: {self._refusals.get(host, silent)}"
                    for host in self._venue.stream_hosts
                )
                raise TransientError(f"{self._venue.exchange} lets us in nowhere: {reasons}")

    async def _run(self) -> None:
        tasks = [asyncio.create_task(stream.run()) for stream in self._streams]
        for subscription in self._subscriptions:
            if subscription.symbol not in self._halted:
                self._watchdog.watch(subscription)
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
        for number, stream in enumerate(self._streams):
            stream.look()
            if stream.host is None:
                self._give_time(number)  # only a connection can be silent
        while self._trading_again:
            symbol = self._trading_again.popleft()
            for kind in self._options.kinds:
                self._watchdog.watch(StreamSubscription(symbol, kind))
        self._measure_lags()
        if self._inbox.behind_s > min(BEHIND_S, self._options.limits.stale_s / 2):
            return  # what waits here is not silent
        for (symbol, kind), silent_s in self._watchdog.stale():
            self._on_event(StreamStale(self._venue.exchange, symbol, kind, silent_s))
            number = self._stream_of[StreamSubscription(symbol, kind)]
            self._streams[number].leave(f"{symbol} {kind} silent for {silent_s:.1f} s")
            self._give_time(number)
        for symbol, kind in self._watchdog.resumed():
            self._on_event(StreamResumed(self._venue.exchange, symbol, kind))

    def _measure_lags(self) -> None:
        """While nothing arrives nobody else measures: the lag grows all the same."""
        if not self._inbox.behind_s:
            for stream, lags in zip(self._streams, self._lags, strict=True):
                lags.note_proof(stream.answered_at)
        if (now := time.monotonic()) < self._lags_due:
            return
        self._lags_due = now + LAG_EVERY_S
        for lags in self._lags:
            for symbol, lag_s in lags.grown():
                self._on_event(FeedLagMeasured(self._venue.exchange, symbol, lag_s))

    def _give_time(self, number: int) -> None:
        """The next connection of a stream is not left because the last one was silent."""
        first = number * self._per_connection
        for subscription in self._subscriptions[first : first + self._per_connection]:
            self._watchdog.prolong(subscription)

    def _make_streams(self) -> list[ReconnectingStream]:
        limits = self._options.limits
        attempts = RateWindow(limits.attempts, limits.attempts_span_s, clock=time.monotonic)
        return [
            ReconnectingStream(
                self._subscriptions[start : start + self._per_connection],
                venue=self._venue,
                hosts=self._hosts,
                inbox=self._inbox,
                attempts=attempts,
                limits=limits,
                on_event=self._follow_streams,
            )
            for start in range(0, len(self._subscriptions), self._per_connection)
        ]

    def _follow_streams(self, event: Event) -> None:
        match event:
            case ConnectionOpened():
                self._connected.set()
            case ConnectionRefused(host=host, reason=reason):
                self._refusals[host] = reason
        self._on_event(event)

    def _breaker_changed(self, host: str, circuit: Circuit) -> None:
        self._state.put_breaker(host, self._hosts.breakers[host].memory)
        self._on_event(BreakerChanged(self._venue.exchange, host, str(circuit)))
