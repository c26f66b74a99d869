"""What arrives in Kafka, read once for everybody who listens, in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from k2lib.api.live.clients import SCHEMAS, Frame, Wanted, frames_of
from k2lib.errors import K2Error, TransientError, reason_of
from k2lib.kafka.cluster import TIMEOUT_S
from k2lib.kafka.consumer import ConsumerRecords, TopicConsumer, TopicPartition
from k2lib.kafka.source import FindLog, KafkaSource, answers
from k2lib.kafka.topics import topic_kind
from k2lib.lifecycle import Closing
from k2lib.schema.codec import decode

KEPT: Final = 100_000


class Recent:
    """Remembers at least the last so many ids, and at most twice as many."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._new: set[str] = set()
        self._old: set[str] = set()

    def are_new(self, ids: Sequence[str]) -> list[bool]:
        """Say of each whether it came for the first time, and remember all of them."""
        return [self._is_new(one) for one in ids]

    def _is_new(self, one: str) -> bool:
        if one in self._new or one in self._old:
            return False
        if len(self._new) >= self._kept:
            self._new, self._old = set(), self._new
        self._new.add(one)
        return True


LOG: Final = logging.getLogger("k2lib.api")
POLL_S: Final = 0.1
LOOK_S: Final = 1.0
RETRY_S: Final = 1.0
READ_AT_ONCE: Final = 1000
UNHANDLED: Final = 4


@dataclass(frozen=True)
class State:
    """Whether Kafka is read.

    `version` is the newest that `Live.want` returned of which everything is read; `missed` is
    whether records may have passed by since it was last told that Kafka was read.
    """

    live: bool
    version: int = 0
    missed: bool = False
    reason: str | None = None


Told = list[Frame] | State
Venue = tuple[str, str]


class Live(Closing):
    """Reads the topics of what is wanted, from where they end when it is first wanted."""

    def __init__(self, find_log: FindLog, tell: "Callable[[Live, Told], None]") -> None:
        """Start reading.

        Args:
            find_log: returns where Kafka is now; a TransientError says why there is none.
            tell: is told in this thread; `handled` is to be called for each time.
        """
        self._find_log = find_log
        self._tell = tell
        self._stop = threading.Event()
        self._unhandled = threading.BoundedSemaphore(UNHANDLED)
        self._asked: tuple[int, frozenset[Wanted]] = (0, frozenset())
        self._source: KafkaSource | None = None
        self._reached: dict[TopicPartition, int] = {}
        self._followed: set[Venue] = set()
        self._waited: set[Venue] = set()
        self._recent = {kind: Recent() for kind in SCHEMAS}
        self._missed = False
        self._thread = threading.Thread(target=self._run, name="k2-api-live", daemon=True)
        self._thread.start()

    def want(self, wanted: frozenset[Wanted]) -> int:
        """Read this from now on; return the version that a `State` names once it is so."""
        version = self._asked[0] + 1
        self._asked = (version, wanted)
        return version

    @property
    def lives(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def handled(self) -> None:
        """Say that what was told is dealt with: a few may wait, then reading does."""
        self._unhandled.release()

    def stop(self) -> None:
        """Tell the thread to end."""
        self._stop.set()

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
                # Who listens must hear of whatever it is.
                LOG.exception("the live stream failed, and begins again")
                self._failed(f"{type(exc).__name__}: {exc}")

    def _failed(self, reason: str) -> None:
        version, wanted = self._asked
        self._waited = _venues(wanted)
        self._send(State(live=False, version=version, reason=reason))
        self._stop.wait(RETRY_S)
        # Those who came to ask meanwhile wait for what comes next, too.
        self._waited = _venues(self._asked[1])

    def _session(self) -> None:
        source = self._find_log()
        if not answers(source.cluster.bootstrap):
            raise TransientError(f"Kafka at {source.cluster.bootstrap} does not answer")
        if source != self._source:
            self._begin(source)
        with TopicConsumer(source.cluster, follows=True) as reader:
            self._resume(reader)
            self._read(reader, source)

    def _begin(self, source: KafkaSource) -> None:
        """Begin on another log; an embedded one has nothing that was there before its process."""
        waited = self._waited | self._followed
        self._followed = waited if source.cluster.embedded_log is not None else set()
        self._missed = self._source is not None
        self._source, self._reached, self._waited = source, {}, set()

    def _resume(self, reader: TopicConsumer) -> None:
        """Go on where the last session ended, as far as the log still has that."""
        for place, at in self._reached.items():
            low, high = reader.watermarks(place)
            if not low <= at <= high:
                self._reached[place], self._missed = high, True
        reader.assign(self._reached)

    def _read(self, reader: TopicConsumer, source: KafkaSource) -> None:
        admin = source.cluster.admin()
        looked, known = float("-inf"), -1
        while not self._stop.is_set():
            version, wanted = self._asked
            if version != known or time.monotonic() - looked > LOOK_S:
                if self._find_log() != source:
                    return
                self._follow(reader, admin, wanted)
                if version != known:
                    self._send(State(live=True, version=version, missed=self._missed))
                looked, known, self._missed = time.monotonic(), version, False
            self._pass_on(reader.gather(POLL_S, limit=READ_AT_ONCE), source, wanted)

    def _follow(self, reader: TopicConsumer, admin: AdminClient, wanted: frozenset[Wanted]) -> None:
        venues = _venues(wanted)
        reached: dict[TopicPartition, int] = {}
        for place in _places(admin, venues):
            at = self._reached.get(place)
            # A topic made after its venue was first asked for is read from its beginning.
            begun = _venue(place.topic) in self._followed
            reached[place] = reader.watermarks(place)[0 if begun else 1] if at is None else at
        if reached.keys() != self._reached.keys():
            reader.assign(reached)
        self._reached, self._followed = reached, venues

    def _pass_on(
        self, messages: ConsumerRecords, source: KafkaSource, wanted: frozenset[Wanted]
    ) -> None:
        self._reached.update(messages.ends)
        frames: list[Frame] = []
        for kind, values in _by_kind(messages, {one.symbol.encode() for one in wanted}).items():
            rows, _ = decode(values, SCHEMAS[kind], writer=source.schema_text)
            are_new = self._recent[kind].are_new(rows["message_id"].to_pylist())
            found = frames_of(kind, rows.filter(pa.array(are_new, pa.bool_())))
            frames += [one for one in found if one.of in wanted]
        if frames:
            self._send(frames)

    def _send(self, told: Told) -> None:
        while not self._stop.is_set():
            if self._unhandled.acquire(timeout=POLL_S):
                self._tell(self, told)
                return


def _by_kind(messages: ConsumerRecords, symbols: set[bytes]) -> dict[str, list[bytes | None]]:
    """Return the messages of some symbols, which are their keys, by kind of record."""
    found: dict[str, list[bytes | None]] = {}
    for message, value in zip(messages.raw, messages.values, strict=True):
        key = message.key()
        if key is None or key in symbols:
            found.setdefault(topic_kind(message.topic() or "") or "", []).append(value)
    return found


def _places(admin: AdminClient, venues: set[Venue]) -> list[TopicPartition]:
    topics = admin.list_topics(timeout=TIMEOUT_S).topics if venues else {}
    return [
        TopicPartition(topic, number)
        for topic, told in topics.items()
        if _venue(topic) in venues
        for number in sorted(told.partitions)
    ]


def _venues(wanted: frozenset[Wanted]) -> set[Venue]:
    return {(one.kind, one.exchange.lower()) for one in wanted}


def _venue(topic: str) -> Venue:
    """The kind of a topic's records, and the venue as topics spell it."""
    parts = topic.split(".")
    return (topic_kind(topic) or "", parts[3]) if len(parts) == 4 else ("", "")
