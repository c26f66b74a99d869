"""The feed: one venue's stream into the pipeline, every hole noticed, filled and accounted for.

Three threads: one holds the sockets, one turns what arrived into rows and produces them, one asks
REST for what is missing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Full, Queue
from typing import Final

from k2lib.errors import ConfigError, TransientError
from k2lib.events import (
    Event,
    FeedFailed,
    FeedStarted,
    FeedStopped,
    OnEvent,
    SymbolsAssumed,
    SymbolsHalted,
)
from k2lib.feed.connections import Inbox, StreamConnections
from k2lib.feed.gap_filler import GapFill, GapFiller
from k2lib.feed.options import FeedOptions
from k2lib.feed.state_store import StateStore
from k2lib.feed.status import FeedStatus, StatusBoard
from k2lib.feed.status_file import write_status
from k2lib.feed.worker import FeedWorker
from k2lib.kafka.topics import topic_name
from k2lib.lifecycle import Closing
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.identity import split_instrument, symbols_at
from k2lib.venues.base import Instrument, LiveVenue, VenueUnavailableError

FILLS_WAITING: Final = 16
HAND_OVER_S: Final = 0.05


class Feed(Closing):
    """Runs until closed; `wait` raises what ended it."""

    def __init__(
        self,
        venue: LiveVenue,
        symbols: Sequence[str],
        *,
        pipeline: Callable[[], Pipeline],
        engine: Engine,
        state: StateStore,
        status_path: Path,
        alerts: Callable[[], Sequence[str]] = tuple,
        options: FeedOptions | None = None,
        on_event: OnEvent,
    ) -> None:
        """Ask the venue for the symbols, read the state of their ids, connect.

        Args:
            pipeline: starts the write path, called once the symbols are found.
            status_path: file to which it writes its status once a second.
            alerts: returns what is wrong in this process, for the status.
        Raises:
            ConfigError: no such symbol, or none given.
            TransientError: the venue cannot be reached: every host is named with its reason.
        """
        options = options or FeedOptions()
        self._status_path = status_path
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._on_event = on_event
        self._fills: Queue[GapFill] = Queue(FILLS_WAITING)
        self._requests = venue.open_requests(
            on_event=on_event,
            stop=self._stop,
            breaker_rest_s=options.limits.breaker_rest_s,
            offer_again_s=options.upgrade_s,
        )
        try:
            self.venue, self.instruments = self._look_up(venue, symbols)
            self._board = StatusBoard(
                self.venue.exchange, list(self.instruments), venue.stream_hosts, alerts=alerts
            )
            self._start(self._parts(pipeline(), engine, state, options))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"feed of {', '.join(self.instruments)} from {self.venue.exchange}"

    def status(self) -> FeedStatus:
        """Return where the feed stands."""
        return self._board.look()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the feed ends, at most so long; return whether it did.

        Raises:
            K2Error: what ended it.
        """
        ended = self._ended.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return ended

    def close(self) -> None:
        """Leave the venue; what arrived by then is in Kafka, or `wait` raises why it is not."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._threads and self._failure is None:
            self._report(FeedStopped(self.venue.exchange, "closed"))
        if self._threads:
            write_status(self._status_path, self._board.look())
        self._threads = []
        self._requests.close()
        self._ended.set()

    def _look_up(
        self, venue: LiveVenue, symbols: Sequence[str]
    ) -> tuple[LiveVenue, dict[str, Instrument]]:
        """Ask the venue what the symbols are; its hosts also say what venue they are."""
        texts = [symbol.strip().upper() for symbol in symbols]
        names = list(dict.fromkeys(split_instrument(text)[1] for text in texts))
        try:
            instruments = self._requests.instruments(names)
        except VenueUnavailableError as exc:
            symbols_at(venue.exchange, texts)
            self._on_event(SymbolsAssumed(venue.exchange, tuple(names), str(exc)))
            return venue, _shipped(venue, names, exc)
        venue = venue.named(self._requests.exchange)
        symbols_at(venue.exchange, texts)
        halted = {name: one.halted for name, one in instruments.items() if one.halted}
        if halted:
            self._on_event(SymbolsHalted(venue.exchange, tuple(halted), _words(halted)))
        return venue, instruments

    def _parts(
        self, pipeline: Pipeline, engine: Engine, state: StateStore, options: FeedOptions
    ) -> tuple[StreamConnections, FeedWorker, GapFiller]:
        inbox = Inbox(options.queue_frames)
        sockets = StreamConnections(
            self.venue,
            list(self.instruments),
            halted=[name for name, one in self.instruments.items() if one.halted],
            inbox=inbox,
            state=state,
            options=options,
            stop=self._stop,
            on_event=self._report,
        )
        filler = GapFiller(
            self._requests.backfill,
            instruments=self.instruments,
            deliver=self._deliver,
            source=topic_name(self.venue.asset_class, "trades", self.venue.exchange),
            stop=self._stop,
            upgrade_s=options.upgrade_s,
            on_event=self._report,
        )
        rows = FeedWorker(
            self.venue,
            self.instruments,
            inbox=inbox,
            fills=self._fills,
            filler=filler,
            pipeline=pipeline,
            engine=engine,
            state=state,
            board=self._board,
            options=options,
            on_data=sockets.note_data,
            status_path=self._status_path,
            stop=self._stop,
            on_event=self._report,
        )
        return sockets, rows, filler

    def _start(self, parts: tuple[StreamConnections, FeedWorker, GapFiller]) -> None:
        sockets, rows, filler = parts
        jobs = {"sockets": sockets.run, "rows": rows.run, "gaps": filler.run}
        self._threads = [
            threading.Thread(target=self._guard, args=(job,), name=f"feed-{name}", daemon=True)
            for name, job in jobs.items()
        ]
        self._report(FeedStarted(self.venue.exchange, tuple(self.instruments)))
        for thread in self._threads:
            thread.start()
        sockets.wait_for_connection(self._ended)
        self.wait(0)

    def _guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as exc:  # noqa: BLE001 - a thread's end must reach those who wait for it
            self._failure = self._failure or exc
            self._stop.set()
            self._report(FeedFailed(self.venue.exchange, str(exc) or repr(exc)))
            self._ended.set()

    def _deliver(self, fill: GapFill) -> None:
        """Hand a fill to the thread of rows, which may be busy."""
        while not self._stop.is_set():
            try:
                return self._fills.put(fill, timeout=HAND_OVER_S)
            except Full:
                continue

    def _report(self, event: Event) -> None:
        self._board.on_event(event)
        self._on_event(event)


def _words(halted: Mapping[str, str]) -> str:
    names = ", ".join(f"{name} is {word}" for name, word in halted.items())
    return f"not trading now: {names}; trades follow once the venue has any"


def _shipped(
    venue: LiveVenue, names: Sequence[str], unreached: VenueUnavailableError
) -> dict[str, Instrument]:
    try:
        return venue.shipped_instruments(names)
    except ConfigError as exc:
        raise TransientError(f"{exc}; {unreached}") from exc
