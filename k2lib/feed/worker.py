"""Turns received frames into v2 rows, tracks their ids, and produces them to Kafka."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2lib.errors import DeliveryError, TransientError, reason_of
from k2lib.events import (
    ClockMeasured,
    FeedLagMeasured,
    FeedPaused,
    FeedResumed,
    FramesReceived,
    FramesRefused,
    FramesRepeated,
    GapClosed,
    GapFillFailed,
    GapNoticed,
    OnEvent,
    QueueMeasured,
    TradesBackfilled,
)
from k2lib.feed.connections import FrameBatch, Inbox
from k2lib.feed.gap_filler import GapFill, GapFiller
from k2lib.feed.gaps import Ids, SequenceGap, gap_rows
from k2lib.feed.options import FeedOptions
from k2lib.feed.recovery import recover_state
from k2lib.feed.sequence_tracker import SequenceTracker
from k2lib.feed.state_store import StateStore, latest_trade
from k2lib.feed.status import StatusBoard
from k2lib.feed.status_file import write_status
from k2lib.kafka.topics import DEAD_LETTERS, GAPS, topic_name
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.dead_letters import DeadLetter, dead_letter_rows
from k2lib.schema.records import DEAD_LETTER, GAP, QUOTE, TRADE
from k2lib.venues.base import AHEAD_US, IdArray, Instrument, LiveVenue

TAKE_S: Final = 0.05
BEAT_S: Final = 1.0
RETRY_S: Final = 1.0
CLOSE_S: Final = 30.0
# Kafka or the catalog is away: both come back, and what was missed meanwhile is filled.
PAUSED_BY: Final = (DeliveryError, TransientError)


class FeedWorker:
    """The one thread that touches the pipeline and the book of ids."""

    def __init__(
        self,
        venue: LiveVenue,
        instruments: Mapping[str, Instrument],
        *,
        inbox: Inbox,
        fills: Queue[GapFill],
        filler: GapFiller,
        pipeline: Pipeline,
        engine: Engine,
        state: StateStore,
        board: StatusBoard,
        options: FeedOptions,
        on_data: Callable[[str, str, float], None],
        status_path: Path,
        stop: threading.Event,
        on_event: OnEvent,
    ) -> None:
        self._venue = venue
        self._exchange = venue.exchange
        self._instruments = instruments
        self._inbox = inbox
        self._fills = fills
        self._filler = filler
        self._pipeline = pipeline
        self._engine = engine
        self._state = state
        self._board = board
        self._options = options
        self._on_data = on_data
        self._status_path = status_path
        self._stop = stop
        self._on_event = on_event
        self._behind_s: float | None = None
        self._pause: Exception | None = None
        # The first id of each symbol of which neither Kafka nor the lake had any.
        self._first_ids: dict[str, int] = {}
        self._trades = topic_name(venue.asset_class, "trades", venue.exchange)
        self._quotes = topic_name(venue.asset_class, "quotes", venue.exchange)
        # A stream that cannot be written does not begin, however quiet its market is.
        pipeline.check_topic(self._trades, TRADE)
        if options.quotes:
            pipeline.check_topic(self._quotes, QUOTE)
        self._book = self._read_book()

    def run(self) -> None:
        """Work until `stop` is set and nothing is left in the inbox.

        Raises:
            TransientError, DeliveryError: Kafka did not take what arrived last.
        """
        beat = time.monotonic()
        while not self._stop.is_set() or len(self._inbox):
            arrived = self._inbox.take(
                TAKE_S, linger_s=self._options.linger_s, enough=self._options.enough
            )
            try:
                self._take(arrived)
                self._take_fills()
                self._keep_book()
                if time.monotonic() - beat >= BEAT_S:
                    beat = time.monotonic()
                    self._beat()
            except PAUSED_BY as exc:
                self._begin_again(exc)
        self._pipeline.flush(CLOSE_S)
        if self._pause is not None:
            new = ", ".join(self._first_ids)
            unknown = f"; of {new} nothing was stored yet, that is missed" if new else ""
            raise TransientError(
                f"{reason_of(self._pause)}. What the stream received since is not in Kafka: "
                f"stream again, and its gap is filled{unknown}"
            ) from self._pause

    def _take(self, arrived: FrameBatch) -> None:
        if not arrived.frames:
            return
        parsed = self._venue.parse_frames(
            arrived.frames,
            arrived.received_us,
            instruments=self._instruments,
            latest_us=time.time_ns() // 1000 + AHEAD_US,
            source=self._trades,
        )
        if parsed.sent_us is not None:
            received_us = arrived.received_us[len(arrived.received_us) // 2]
            self._behind_s = (parsed.sent_us - received_us) / 1e6
        host = arrived.hosts[-1]
        if parsed.trades.num_rows:
            self._produce_trades(parsed.trades, host)
        if parsed.quotes.num_rows:
            self._pipeline.produce(self._quotes, parsed.quotes, QUOTE)
            for symbol, _, rows in _by_symbol(parsed.quotes):
                self._received(symbol, "quote", rows, host)
        self._refuse(parsed.refused)

    def _produce_trades(self, trades: pa.Table, host: str) -> None:
        new, shown = np.ones(trades.num_rows, bool), {}
        for symbol, positions, rows in _by_symbol(trades):
            if not self._book.has_begun(symbol):
                self._first_ids[symbol] = int(_ids(rows).min())
            fresh = self._book.add(symbol, _ids(rows), _times_us(rows))
            new[positions] = fresh
            shown[symbol] = rows if fresh.all() else rows.filter(pa.array(fresh))
            self._received(symbol, "trade", rows, host)
            if repeated := int(rows.num_rows - fresh.sum()):
                self._on_event(FramesRepeated(self._exchange, symbol, repeated))
        kept = trades if new.all() else trades.filter(pa.array(new))
        if kept.num_rows:
            self._pipeline.produce(self._trades, kept, TRADE)
            for symbol, rows in shown.items():
                self._board.show(symbol, rows)

    def _received(self, symbol: str, kind: str, rows: pa.Table, host: str) -> None:
        last_us = int(_times_us(rows).max())
        lag_s = time.time() - last_us / 1e6
        self._on_data(symbol, kind, lag_s)
        count = rows.num_rows
        self._on_event(FramesReceived(self._exchange, symbol, kind, host, count, last_us))
        if kind == "trade":
            self._on_event(FeedLagMeasured(self._exchange, symbol, lag_s))
            self._state.put_latest(self._exchange, symbol, latest_trade(rows))

    def _refuse(self, letters: list[DeadLetter]) -> None:
        if not letters:
            return
        rows = dead_letter_rows(letters, datetime.now(UTC))
        self._pipeline.produce(DEAD_LETTERS, rows, DEAD_LETTER, key="source")
        for reason in {letter.reason for letter in letters}:
            count = sum(letter.reason == reason for letter in letters)
            self._on_event(FramesRefused(self._exchange, reason, count))

    def _take_fills(self) -> None:
        while True:
            try:
                fill = self._fills.get_nowait()
            except Empty:
                return
            self._take_fill(fill)

    def _take_fill(self, fill: GapFill) -> None:
        gap = fill.gap
        new = self._book.add(gap.symbol, fill.ids, _times_us(fill.rows))
        rows = fill.rows.filter(pa.array(new))
        if rows.num_rows:
            self._pipeline.produce(self._trades, rows, TRADE)
            self._on_event(TradesBackfilled(self._exchange, gap.symbol, rows.num_rows))
        self._refuse(fill.refused)
        self._book.explain(
            gap.gap_id,
            absent=fill.absent,
            covered=fill.covered,
            dead=fill.dead,
            reasons=fill.reasons,
            note=fill.note,
        )
        if fill.lost and (last := self._book.lost(gap.gap_id, fill.note)):
            self._close_gaps([last])

    def _keep_book(self) -> None:
        noticed = self._book.noticed()
        if noticed:
            self._pipeline.produce(GAPS, gap_rows(noticed, datetime.now(UTC)), GAP)
        for gap in noticed:
            self._on_event(GapNoticed(*gap.key))
            self._ask_for(gap, self._book)
        self._close_gaps(self._book.closed())

    def _ask_for(self, gap: SequenceGap, book: SequenceTracker) -> None:
        holes = book.missing(gap)
        count = sum(high - low + 1 for low, high in holes)
        if count > self._options.most_ids:
            reason = f"{count:,} ids are left to the archive: `k2 load binance-archive`"
            self._on_event(GapFillFailed(*gap.key, reason))
        elif holes:
            self._filler.fill(gap, holes)

    def _close_gaps(self, closed: list[SequenceGap]) -> None:
        """The trades of a gap are in Kafka before the gap is said to be filled."""
        if not closed:
            return
        self._pipeline.flush()
        self._pipeline.produce(GAPS, gap_rows(closed, datetime.now(UTC)), GAP)
        for gap in closed:
            counts = gap.filled, gap.covered, gap.absent
            self._on_event(GapClosed(*gap.key, gap.state, *counts, ", ".join(gap.refused)))

    def _beat(self) -> None:
        """Once a second: learn whether Kafka refused anything, and tell where the feed stands."""
        self._pipeline.check()
        if self._behind_s is not None:
            self._on_event(ClockMeasured(self._exchange, self._behind_s))
        self._tell_status()

    def _tell_status(self) -> None:
        depth, waited_s = len(self._inbox), self._inbox.waited_s
        self._on_event(QueueMeasured(self._exchange, depth, self._inbox.limit, waited_s))
        write_status(self._status_path, self._board.look())

    def _begin_again(self, reason: Exception) -> None:
        """Read the state anew: what Kafka did not take is a hole in it, and is filled."""
        self._pause = reason
        self._on_event(FeedPaused(self._exchange, reason_of(reason)))
        while not self._stop.wait(RETRY_S):
            self._tell_status()
            try:
                self._pipeline.flush(RETRY_S)
                self._book = self._read_book()
                self._pause = None
                self._on_event(FeedResumed(self._exchange))
                return
            except PAUSED_BY as exc:
                self._on_event(FeedPaused(self._exchange, reason_of(exc)))

    def _read_book(self) -> SequenceTracker:
        recovered = recover_state(
            self._venue, list(self._instruments), pipeline=self._pipeline, engine=self._engine
        )
        for symbol, sequence in recovered.symbols.items():
            if sequence.ids.next_id is not None:
                self._first_ids.pop(symbol, None)
            elif symbol in self._first_ids:
                # It came, and Kafka did not take it: with the next id it is a hole.
                sequence.ids = Ids(self._first_ids[symbol])
        book = SequenceTracker(
            self._exchange,
            recovered.symbols,
            gaps=recovered.gaps,
            grace_s=self._options.grace_s,
            clock=time.monotonic,
        )
        for gap, covered in recovered.gaps:
            if covered:
                self._filler.fill(gap, covered, upgrade=True)
            elif gap.state == "noticed":
                self._on_event(GapNoticed(*gap.key))
                self._ask_for(gap, book)
        return book


def _by_symbol(rows: pa.Table) -> Iterator[tuple[str, np.ndarray | slice, pa.Table]]:
    """Yield each symbol, the positions of its rows, and the rows, in order."""
    names = pc.unique(rows["symbol"]).to_pylist()
    if len(names) == 1:
        yield names[0], slice(None), rows
        return
    for name in names:
        mine = pc.equal(rows["symbol"], name)
        yield name, mine.to_numpy(), rows.filter(mine)


def _ids(rows: pa.Table) -> IdArray:
    ids: IdArray = rows["source_sequence"].to_numpy()
    return ids


def _times_us(rows: pa.Table) -> IdArray:
    times: IdArray = rows["timestamp"].cast(pa.int64()).to_numpy()
    return times
