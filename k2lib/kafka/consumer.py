"""The consumer: finds topics, reads their partitions from explicit offsets, and skips no record."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import confluent_kafka
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message

# Documented names of confluent_kafka.admin, which its stubs do not re-export.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ClusterMetadata,
    OffsetSpec,
)

from k2lib.errors import TransientError
from k2lib.kafka.cluster import Cluster, log_ids
from k2lib.lifecycle import Closing
from k2lib.schema.codec import SCHEMA_ID_HEADER, framed

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
RETRY_S: Final = 0.05
MAX_RECORDS: Final = 5_000
GATHER_S: Final = 0.005
# The embedded broker lets a fetch that finds nothing wait to its end, whatever arrives meanwhile.
EMBEDDED_WAIT_MS: Final = 10


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


# The first offset kept, and the offset of the next record.
Watermarks = tuple[int, int]
# Takes a partition and its watermarks; returns where to start.
StartAt = Callable[[TopicPartition, int, int], int]
# Returns the offset to read on from, None where a partition was never read.
PositionOf = Callable[[TopicPartition], int | None]

ASK_AGAIN_S: Final = 0.5
DOUBTS: Final = 4


def believed_watermarks(
    positions: Mapping[TopicPartition, int | None],
    ask: Callable[[TopicPartition], Watermarks],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> dict[TopicPartition, Watermarks]:
    """Ask for watermarks, and several times before one is believed by which records are lost.

    A broker that has just started can say that a log begins at its end.

    Args:
        positions: the offset to read on from; None where the first one is to be read.
        ask: returns the watermarks of a partition, as the broker says now.
    """
    watermarks = {tp: ask(tp) for tp in positions}
    for _ in range(DOUBTS):
        doubtful = [tp for tp, some in watermarks.items() if _would_lose(positions[tp], *some)]
        if not doubtful:
            break
        wait(ASK_AGAIN_S)
        watermarks |= {tp: ask(tp) for tp in doubtful}
    return watermarks


def _would_lose(position: int | None, low: int, high: int) -> bool:
    return not low <= (position or 0) <= high


@dataclass(frozen=True)
class ConsumerRecords:
    """Records of one poll: their values in order, and the next offset of each partition.

    A value is framed with its schema id, whether that came before it or in a record header; the
    bytes as they came are those of `raw`. `ends` has more partitions than `raw` where Kafka
    reported the end of one without a record.
    """

    values: list[bytes | None]
    ends: dict[TopicPartition, int]
    raw: list[Message]

    def positions(self) -> list[tuple[TopicPartition, int]]:
        """Return partition and offset of each record."""
        partitions = {tuple(tp): tp for tp in self.ends}
        return [(partitions[m.topic(), m.partition()], m.offset() or 0) for m in self.raw]

    def position(self, index: int) -> tuple[TopicPartition, int]:
        """Return partition and offset of one record."""
        message = self.raw[index]
        tp = TopicPartition(message.topic() or "", message.partition() or 0)
        return tp, message.offset() or 0


class TopicConsumer(Closing):
    """Follows topics: finds their partitions and reads each on from its own offset.

    Sink, tail, live stream and pipeline all read by it. Each decides where a
    partition starts and what follows an error; this class only knows offsets.
    """

    def __init__(self, cluster: Cluster, *, low_latency: bool = False) -> None:
        """Connect.

        Args:
            low_latency: for readers that wait at the end of a log: records arrive as soon as
                possible, and `read` also reports the end of a partition, which lies beyond its
                last record where control records of transactions follow it.
        """
        options: dict[str, Any] = {"enable.partition.eof": True} if low_latency else {}
        if low_latency and cluster.embedded_log is not None:
            options["fetch.wait.max.ms"] = EMBEDDED_WAIT_MS
        self._cluster = cluster
        self._client = cluster.open(lambda theirs: Consumer(theirs | OPTIONS | options))
        self._admin: AdminClient | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._found_at = float("-inf")

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset to read of each partition."""
        return self._positions

    def found_within(self, seconds: float) -> bool:
        """Say whether `find_partitions` ran during the last so many seconds."""
        return time.monotonic() - self._found_at <= seconds

    def find_partitions(self, matches: Callable[[str], bool]) -> list[TopicPartition]:
        """Return the partitions of all topics whose names match, in one request.

        Raises:
            TransientError: the cluster does not answer, or reports an error of such a topic.
        """
        metadata = self._cluster.metadata(self._client)
        self._found_at = time.monotonic()
        return _partitions(metadata, matches)

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return the partitions of a topic.

        Raises:
            TransientError: there is no such topic, or the cluster does not answer.
        """
        try:
            metadata = self._client.list_topics(topic, timeout=self._cluster.timeout_s)
        except KafkaException as exc:
            raise TransientError(f"{topic}: no partitions: {exc.args[0].str()}") from exc
        return _partitions(metadata, {topic}.__contains__)

    def log_ids(self, partitions: Iterable[TopicPartition]) -> dict[str, str]:
        """Return the log id of each topic of these partitions, as `cluster.log_ids` does."""
        if self._admin is None:
            self._admin = self._cluster.admin()
        return log_ids(self._cluster, self._admin, sorted({tp.topic for tp in partitions}))

    def watermarks(self, tp: TopicPartition) -> tuple[int, int]:
        """Return the first offset kept and the offset the next record will get.

        The partitions of a new topic have no leader for a moment: this waits for it.

        Raises:
            TransientError: Kafka does not answer.
        """
        theirs = confluent_kafka.TopicPartition(tp.topic, tp.partition)
        until = time.monotonic() + self._cluster.timeout_s
        while True:
            try:
                low, high = self._client.get_watermark_offsets(
                    theirs, timeout=self._cluster.timeout_s
                )
                return low, high
            except KafkaException as exc:
                error = exc.args[0]
                if error.code() not in NO_LEADER_YET or time.monotonic() > until:
                    raise TransientError(f"{tp.topic}: no watermarks: {error.str()}") from exc
            time.sleep(RETRY_S)

    def follow(
        self,
        partitions: Collection[TopicPartition],
        start_at: StartAt,
        *,
        position_of: PositionOf | None = None,
    ) -> None:
        """Read these partitions too; each one that is new from the offset `start_at` returns.

        Args:
            position_of: where to read on, for readers that may skip nothing: watermarks that do
                not allow it are asked for again before `start_at` gets them.
        Raises:
            TransientError: Kafka does not answer, and nothing has changed.
        """
        new = [tp for tp in partitions if tp not in self._positions]
        if position_of is None:
            watermarks = {tp: self.watermarks(tp) for tp in new}
        else:
            watermarks = believed_watermarks({tp: position_of(tp) for tp in new}, self.watermarks)
        starts = {tp: start_at(tp, low, high) for tp, (low, high) in watermarks.items()}
        if starts:
            self.assign({**self._positions, **starts})

    def unfollow(self, partitions: Collection[TopicPartition]) -> None:
        """Read these partitions no longer."""
        left = {tp: end for tp, end in self._positions.items() if tp not in partitions}
        if left.keys() != self._positions.keys():
            self.assign(left)

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, and nothing else."""
        self._positions = dict(starts)
        self._client.assign(
            [confluent_kafka.TopicPartition(*tp, offset) for tp, offset in starts.items()]
        )

    def read(self, timeout_s: float, *, limit: int = MAX_RECORDS) -> ConsumerRecords:
        """Return what has arrived, at most `limit` records, waiting `timeout_s` for the first.

        Raises:
            TransientError: Kafka does not answer, or an offset to be read is not in the log.
        """
        records = self._poll(timeout_s, limit=limit)
        self._positions |= records.ends
        return records

    def gather(self, timeout_s: float, *, limit: int = MAX_RECORDS) -> ConsumerRecords:
        """Return the records of a few milliseconds, so that they are decoded together.

        Raises:
            TransientError: as `read`.
        """
        first = self._poll(timeout_s, limit=1)
        if not first.ends:
            return first
        more = self._poll(GATHER_S, limit=limit)
        ends = first.ends | more.ends
        self._positions |= ends
        return ConsumerRecords(first.values + more.values, ends, first.raw + more.raw)

    def _poll(self, timeout_s: float, *, limit: int) -> ConsumerRecords:
        messages = self._client.consume(min(limit, MAX_RECORDS), timeout_s)
        errors = [message for message in messages if message.error() is not None]
        ends = dict(map(_end_of_partition, errors))
        if errors:
            messages = [message for message in messages if message.error() is None]
        last: dict[Any, Any] = {(m.topic(), m.partition()): m.offset() for m in messages}
        ends |= {
            TopicPartition(*tp): max(offset + 1, ends.get(TopicPartition(*tp), 0))
            for tp, offset in last.items()
        }
        return ConsumerRecords(_framed_values(messages), ends, messages)

    def ends(self) -> dict[TopicPartition, int]:
        """Return the high watermarks that were fetched last; no less than the positions."""
        cached = {
            tp: self._client.get_watermark_offsets(confluent_kafka.TopicPartition(*tp), cached=True)
            for tp in self._positions
        }
        return {tp: max(cached[tp][1], end) for tp, end in self._positions.items()}

    def lag(self) -> int:
        """Return how many records lie beyond the positions, by the watermarks fetched last."""
        return sum(self.ends().values()) - sum(self._positions.values())

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


def record_headers(message: Message) -> dict[str, bytes]:
    """Return a record's headers: of a name that repeats the last, as Kafka's `lastHeader`."""
    return {name: value or b"" for name, value in message.headers() or ()}  # type: ignore[misc, str-unpack]


def _framed_values(messages: list[Message]) -> list[bytes | None]:
    values = [message.value() for message in messages]
    if any([message.headers() for message in messages]):
        ids = (record_headers(message).get(SCHEMA_ID_HEADER) for message in messages)
        return [framed(*one) for one in zip(values, ids, strict=True)]
    return values


def _partitions(metadata: ClusterMetadata, matches: Callable[[str], bool]) -> list[TopicPartition]:
    found: list[TopicPartition] = []
    for name in sorted(filter(matches, metadata.topics)):
        topic = metadata.topics[name]
        if topic.error is not None:
            raise TransientError(f"{name}: no partitions: {topic.error.str()}")
        found += (TopicPartition(name, number) for number in sorted(topic.partitions))
    return found


def _end_of_partition(report: Message) -> tuple[TopicPartition, int]:
    tp = TopicPartition(report.topic() or "", report.partition() or 0)
    error = report.error()
    if error is None or error.code() != KafkaError._PARTITION_EOF:
        reason = "" if error is None else error.str()
        raise TransientError(f"{tp.topic} partition {tp.partition}: {reason}")
    return tp, report.offset() or 0


HIGH_WATERMARKS_TIMEOUT_S: Final = 1.0


class HighWatermarks:
    """Reads a cluster's high watermarks in two short requests, however many partitions."""

    def __init__(self, cluster: Cluster, *, timeout_s: float = HIGH_WATERMARKS_TIMEOUT_S) -> None:
        self._cluster = cluster
        self._admin = cluster.admin()
        self._timeout_s = timeout_s

    def read(self, matches: Callable[[str], bool]) -> dict[TopicPartition, int]:
        """Return the offset of the next record of each partition of the topics that match.

        Raises:
            TransientError: the cluster does not answer.
        """
        metadata = self._cluster.metadata(self._admin, timeout_s=self._timeout_s)
        partitions = _partitions(metadata, matches)
        try:
            return self._latest(partitions) if partitions else {}
        except KafkaException as exc:
            raise self._cluster.error(exc.args[0].str()) from exc

    def _latest(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        latest = self._admin.list_offsets(
            {confluent_kafka.TopicPartition(*tp): OffsetSpec.latest() for tp in partitions},  # type: ignore[no-untyped-call]
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=self._timeout_s,
        )
        return {
            TopicPartition(tp.topic, tp.partition): answer.result().offset
            for tp, answer in latest.items()
        }
