"""The reader of Kafka behind the live stream: one thread for all its clients."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from confluent_kafka import KafkaException

from k2lib.api.live.clients import SCHEMAS, Frame, Subscription, frames_of
from k2lib.errors import K2Error, TransientError, reason_of
from k2lib.kafka.cluster import FindLog, KafkaSource, is_reachable
from k2lib.kafka.consumer import ConsumerRecords, TopicConsumer, TopicPartition
from k2lib.kafka.topics import topic_kind
from k2lib.lifecycle import Closing
from k2lib.schema.codec import decode

RECENT_IDS: Final = 100_000


class RecentIds:
    """Remembers at least the last `size` ids, and at most twice as many."""

    def __init__(self, size: int = RECENT_IDS) -> None:
        self._size = size
        self._new: set[str] = set()
        self._old: set[str] = set()

    def are_new(self, ids: Sequence[str]) -> list[bool]:
        """Return for each whether it is new, and remember all of them."""
        return [self._add(record_id) for record_id in ids]

    def _add(self, record_id: str) -> bool:
        if record_id in self._new or record_id in self._old:
            return False
        if len(self._new) >= self._size:
            self._new, self._old = set(), self._new
        self._new.add(record_id)
        return True


LOG: Final = logging.getLogger("k2lib.api")
POLL_S: Final = 0.1
REFRESH_S: Final = 1.0
RETRY_S: Final = 1.0
MAX_BATCH: Final = 1000
MAX_UNHANDLED: Final = 4


@dataclass(frozen=True)
class ReaderState:
    """Whether Kafka is read.

    `version` is the newest one returned by `LiveReader.subscribe` whose subscriptions are all
    read; `missed` is whether records may have been missed since the last state with `live`.
    """

    live: bool
    version: int = 0
    missed: bool = False
    reason: str | None = None


ReaderUpdate = list[Frame] | ReaderState
KindAndVenue = tuple[str, str]


class LiveReader(Closing):
    """Reads the topics of all subscriptions, each from its end at the first subscription."""

    def __init__(
        self, find_log: FindLog, on_update: "Callable[[LiveReader, ReaderUpdate], None]"
    ) -> None:
        """Start reading.

        Args:
            find_log: returns where Kafka is now; a TransientError says why there is none.
            on_update: is called in this thread; call `mark_handled` once for each call.
        """
        self._find_log = find_log
        self._on_update = on_update
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._unhandled = threading.BoundedSemaphore(MAX_UNHANDLED)
        self._requested: tuple[int, frozenset[Subscription]] = (0, frozenset())
        self._source: KafkaSource | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._followed: set[KindAndVenue] = set()
        self._pending: set[KindAndVenue] = set()
        self._recent_ids = {kind: RecentIds() for kind in SCHEMAS}
        self._missed = False
        self._thread = threading.Thread(target=self._run, name="k2-api-live", daemon=True)
        self._thread.start()

    def subscribe(self, subscriptions: frozenset[Subscription]) -> int:
        """Read these from now on; return the version that a later `ReaderState` has."""
        version = self._requested[0] + 1
        self._requested = (version, subscriptions)
        self._changed.set()
        return version

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def mark_handled(self) -> None:
        """Report one update as handled; reading pauses while a few are not."""
        self._unhandled.release()

    def stop(self) -> None:
        """Let the thread end."""
        self._stop.set()
        self._changed.set()

    def close(self) -> None:
        """End the thread."""
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._session()
            except (K2Error, KafkaException) as exc:
                self._failed(reason_of(exc))
            except Exception as exc:
                # The clients must be told, whatever it is.
                LOG.exception("the live stream failed, and begins again")
                self._failed(f"{type(exc).__name__}: {exc}")

    def _failed(self, reason: str) -> None:
        self._changed.clear()
        version, subscriptions = self._requested
        self._pending = _kinds_and_venues(subscriptions)
        self._send(ReaderState(live=False, version=version, reason=reason))
        # Who subscribes meanwhile waits for an answer.
        self._changed.wait(0.0 if self._stop.is_set() else RETRY_S)
        # Subscriptions added meanwhile wait for the next session, too.
        self._pending = _kinds_and_venues(self._requested[1])

    def _session(self) -> None:
        source = self._find_log()
        if not is_reachable(source.cluster.bootstrap):
            raise TransientError(f"Kafka at {source.cluster.bootstrap} does not answer")
        if source != self._source:
            self._begin(source)
        with TopicConsumer(source.cluster, low_latency=True) as consumer:
            consumer.follow(self._positions, self._resume_at, position_of=self._positions.get)
            try:
                self._read(consumer, source)
            finally:
                self._positions = dict(consumer.positions)

    def _begin(self, source: KafkaSource) -> None:
        """Start on another log; an embedded one has no records from before its process."""
        pending = self._pending | self._followed
        self._followed = pending if source.cluster.embedded_log is not None else set()
        self._missed = self._source is not None
        self._source, self._positions, self._pending = source, {}, set()

    def _resume_at(self, tp: TopicPartition, low: int, high: int) -> int:
        """Continue where the last session ended, as far as the log still has those records."""
        position = self._positions[tp]
        if low <= position <= high:
            return position
        self._missed = True
        return high

    def _read(self, consumer: TopicConsumer, source: KafkaSource) -> None:
        followed_version = -1
        while not self._stop.is_set():
            version, subscriptions = self._requested
            is_new = version != followed_version
            if is_new or not consumer.found_within(REFRESH_S):
                if self._find_log() != source:
                    return
                self._follow(consumer, subscriptions)
                if is_new:
                    self._send(ReaderState(live=True, version=version, missed=self._missed))
                followed_version, self._missed = version, False
            self._publish(consumer.gather(POLL_S, limit=MAX_BATCH), source, subscriptions)

    def _follow(self, consumer: TopicConsumer, subscriptions: frozenset[Subscription]) -> None:
        followed = _kinds_and_venues(subscriptions)
        partitions = consumer.find_partitions(lambda topic: _kind_and_venue(topic) in followed)
        consumer.unfollow(consumer.positions.keys() - set(partitions))

        def start_at(tp: TopicPartition, low: int, high: int) -> int:
            # A topic made after the first subscription to its venue is read from its beginning.
            return low if _kind_and_venue(tp.topic) in self._followed else high

        consumer.follow(partitions, start_at)
        self._followed = followed

    def _publish(
        self, records: ConsumerRecords, source: KafkaSource, subscriptions: frozenset[Subscription]
    ) -> None:
        frames: list[Frame] = []
        symbols = {one.symbol.encode() for one in subscriptions}
        for kind, values in _by_kind(records, symbols).items():
            rows, _ = decode(values, SCHEMAS[kind], writer=source.schema_text)
            are_new = self._recent_ids[kind].are_new(rows["message_id"].to_pylist())
            new_frames = frames_of(kind, rows.filter(pa.array(are_new, pa.bool_())))
            frames += [frame for frame in new_frames if frame.subscription in subscriptions]
        if frames:
            self._send(frames)

    def _send(self, update: ReaderUpdate) -> None:
        while not self._stop.is_set():
            if self._unhandled.acquire(timeout=POLL_S):
                self._on_update(self, update)
                return


def _by_kind(records: ConsumerRecords, symbols: set[bytes]) -> dict[str, list[bytes | None]]:
    """Return the messages of some symbols, which are the message keys, by kind of record."""
    by_kind: dict[str, list[bytes | None]] = {}
    for message, value in zip(records.raw, records.values, strict=True):
        key = message.key()
        if key is None or key in symbols:
            by_kind.setdefault(topic_kind(message.topic() or "") or "", []).append(value)
    return by_kind


def _kinds_and_venues(subscriptions: frozenset[Subscription]) -> set[KindAndVenue]:
    return {(one.kind, one.exchange.lower()) for one in subscriptions}


def _kind_and_venue(topic: str) -> KindAndVenue:
    """The kind of a topic's records, and the venue as topics spell it."""
    parts = topic.split(".")
    return (topic_kind(topic) or "", parts[3]) if len(parts) == 4 else ("", "")
