"""The one consumer: reads topics from offsets it is given, and never jumps silently."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import confluent_kafka
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message
from confluent_kafka.admin._listoffsets import OffsetSpec

from k2lib.errors import TransientError
from k2lib.kafka.cluster import TIMEOUT_S, Cluster
from k2lib.lifecycle import Closing

OPTIONS: Final = {
    "group.id": "k2",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": 64 * 1024,
}
NO_LEADER_YET: Final = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
ASK_AGAIN_S: Final = 0.05
MESSAGES: Final = 5_000
GATHER_S: Final = 0.005
# The embedded broker lets a fetch that finds nothing wait to its end, whatever arrives meanwhile.
EMBEDDED_WAIT_MS: Final = 10


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True)
class ConsumerRecords:
    """ConsumerRecords as read: their values in order, and the offsets to read next."""

    values: list[bytes | None]
    ends: dict[TopicPartition, int]
    raw: list[Message]

    def positions(self) -> list[tuple[TopicPartition, int]]:
        """Return where each message stood."""
        places = {tuple(place): place for place in self.ends}
        return [(places[m.topic(), m.partition()], m.offset() or 0) for m in self.raw]

    def position(self, index: int) -> tuple[TopicPartition, int]:
        """Return where a message stood."""
        message = self.raw[index]
        return TopicPartition(
            message.topic() or "", message.partition() or 0
        ), message.offset() or 0


class TopicConsumer(Closing):
    """Reads the partitions assigned to it, each from its own offset."""

    def __init__(self, cluster: Cluster, *, follows: bool = False) -> None:
        """Connect.

        Args:
            follows: for who waits at the end of a log: records come as soon as they can, and
                `read` also tells where a partition ends for now, beyond its last record where
                offsets follow that are none, as transactions leave them.
        """
        options: dict[str, Any] = {"enable.partition.eof": True} if follows else {}
        if follows and cluster.embedded_log is not None:
            options["fetch.wait.max.ms"] = EMBEDDED_WAIT_MS
        self._client = Consumer(cluster.client() | OPTIONS | options)

    def watermarks(self, place: TopicPartition) -> tuple[int, int]:
        """Return the first offset kept and the offset the next record will get.

        A topic just made has partitions that nobody leads for a moment: that is waited for.

        Raises:
            TransientError: Kafka does not tell them.
        """
        asked = confluent_kafka.TopicPartition(place.topic, place.partition)
        until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                low, high = self._client.get_watermark_offsets(asked, timeout=TIMEOUT_S)
                return low, high
            except KafkaException as exc:
                error = exc.args[0]
                if error.code() not in NO_LEADER_YET or time.monotonic() > until:
                    raise TransientError(f"{place.topic}: no watermarks: {error.str()}") from exc
            time.sleep(ASK_AGAIN_S)

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return the partitions of a topic."""
        try:
            found = self._client.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        except KafkaException as exc:
            raise TransientError(f"{topic}: no partitions: {exc.args[0].str()}") from exc
        if found.error is not None:
            raise TransientError(f"{topic}: no partitions: {found.error.str()}")
        return [TopicPartition(topic, number) for number in sorted(found.partitions)]

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, and nothing else."""
        self._client.assign(
            [confluent_kafka.TopicPartition(*place, offset) for place, offset in starts.items()]
        )

    def read(self, timeout_s: float, *, limit: int = MESSAGES) -> ConsumerRecords:
        """Return what has arrived, at most `limit` messages, waiting `timeout_s` for the first.

        Raises:
            TransientError: Kafka does not answer, or an offset to be read is not in the log.
        """
        messages = self._client.consume(min(limit, MESSAGES), timeout_s)
        told = [message for message in messages if message.error() is not None]
        ends = dict(map(_end, told))
        if told:
            messages = [message for message in messages if message.error() is None]
        last: dict[Any, Any] = {(m.topic(), m.partition()): m.offset() for m in messages}
        ends |= {
            TopicPartition(*place): max(offset + 1, ends.get(TopicPartition(*place), 0))
            for place, offset in last.items()
        }
        return ConsumerRecords([message.value() for message in messages], ends, messages)

    def gather(self, timeout_s: float, *, limit: int = MESSAGES) -> ConsumerRecords:
        """Return what has arrived, a few milliseconds of it, so that it is decoded together.

        Raises:
            TransientError: as `read`.
        """
        first = self.read(timeout_s, limit=1)
        if not first.ends:
            return first
        more = self.read(GATHER_S, limit=limit)
        return ConsumerRecords(
            first.values + more.values, first.ends | more.ends, first.raw + more.raw
        )

    def lag(self, ends: Mapping[TopicPartition, int]) -> int:
        """Return how many records lie beyond these offsets, as the last answers of Kafka told."""
        marks = {
            place: self._client.get_watermark_offsets(
                confluent_kafka.TopicPartition(*place), cached=True
            )
            for place in ends
        }
        return sum(max(0, marks[place][1] - end) for place, end in ends.items())

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


def _end(told: Message) -> tuple[TopicPartition, int]:
    place = TopicPartition(told.topic() or "", told.partition() or 0)
    error = told.error()
    if error is None or error.code() != KafkaError._PARTITION_EOF:
        reason = "" if error is None else error.str()
        raise TransientError(f"{place.topic} partition {place.partition}: {reason}")
    return place, told.offset() or 0


ANSWER_S: Final = 1.0


class HighWatermarks:
    """Asks a cluster for high watermarks: two short requests, however many partitions."""

    def __init__(self, cluster: Cluster, *, timeout_s: float = ANSWER_S) -> None:
        self._admin = cluster.admin()
        self._timeout_s = timeout_s

    def ends(self, wanted: Callable[[str], bool]) -> dict[TopicPartition, int]:
        """Return the offset that the next record of each partition of the wanted topics will get.

        Raises:
            TransientError: the cluster does not answer.
        """
        try:
            topics = self._admin.list_topics(timeout=self._timeout_s).topics
            places = [
                confluent_kafka.TopicPartition(name, number)
                for name, told in topics.items()
                if wanted(name)
                for number in told.partitions
            ]
            return self._ends(places) if places else {}
        except KafkaException as exc:
            raise TransientError(f"Kafka does not answer: {exc.args[0].str()}") from exc

    def _ends(self, places: list[confluent_kafka.TopicPartition]) -> dict[TopicPartition, int]:
        told = self._admin.list_offsets(
            {place: OffsetSpec.latest() for place in places},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=self._timeout_s,
        )
        return {
            TopicPartition(one.topic, one.partition): end.result().offset
            for one, end in told.items()
        }
