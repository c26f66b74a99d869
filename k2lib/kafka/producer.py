"""The producer: Arrow batches become framed Avro messages, in order per key, none lost silently."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from confluent_kafka import KafkaError, Message, Producer

from k2lib.errors import DeliveryError, TransientError
from k2lib.events import DeliveryStalled, OnEvent, log_event
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.registry import SchemaRegistry
from k2lib.kafka.topics import create_topics
from k2lib.schema.codec import encode
from k2lib.schema.records import RecordSchema

QUEUE_MESSAGES: Final = 100_000
SLICE_ROWS: Final = 10_000
FLUSH_S: Final = 120.0
# Python runs the handler of a signal, Ctrl-C's too, between two waits of the C library.
FLUSH_STEP_S: Final = 1.0
ROOM_STEP_S: Final = 0.05
OPTIONS: Final[dict[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",
    "delivery.report.only.error": True,
    "linger.ms": 5,
    "batch.size": 256 * 1024,
    "compression.type": "lz4",
    "queue.buffering.max.messages": QUEUE_MESSAGES + SLICE_ROWS,
    "queue.buffering.max.kbytes": 1024 * 1024,
}


def _producer(options: dict[str, Any]) -> Producer:
    return Producer(options | OPTIONS)


@dataclass
class Backlog:
    """The fewest records that Kafka had not acknowledged, and since when.

    The client counts its own notices among them, so that the number also grows and shrinks by few.
    """

    records: int
    since: float
    is_reported: bool = False


class BatchProducer:
    """Produces whole batches; `flush()` says whether all of them arrived.

    A broker that restarts is waited for; it is given up after `FLUSH_S` without an acknowledgement.
    """

    def __init__(
        self,
        cluster: Cluster,
        registry: SchemaRegistry,
        *,
        client: Producer | None = None,
        on_event: OnEvent = log_event,
    ) -> None:
        self.registry = registry
        self._cluster = cluster
        self._client = client or cluster.open(_producer)
        self._topics: set[str] = set()
        self._failed: Counter[str] = Counter()
        self._on_event = on_event
        self._backlog: Backlog | None = None

    def produce(self, topic: str, rows: pa.Table, schema: RecordSchema, *, key: str) -> None:
        """Encode the rows and queue one message each, waiting while the queue is full.

        Args:
            key: the column whose text is the message key; rows of one key keep their order.
        """
        for batch in rows.to_batches(max_chunksize=SLICE_ROWS):
            self.send(topic, self.encode(topic, batch, schema, key=key))

    def encode(
        self, topic: str, batch: pa.RecordBatch, schema: RecordSchema, *, key: str
    ) -> list[dict[str, bytes]]:
        """Return the messages of a batch; the first of a topic registers schema and topic."""
        schema_id = self._prepare(topic, schema)
        keys = batch.column(key).cast(pa.binary()).to_pylist()
        values = encode(batch, schema, schema_id=schema_id)
        return [{"key": k, "value": v} for k, v in zip(keys, values, strict=True)]

    def send(self, topic: str, messages: list[dict[str, Any]]) -> None:
        """Queue the messages in order, waiting while the queue is full.

        Raises:
            DeliveryError: it stays full, because Kafka acknowledges nothing.
        """
        while messages:
            self._wait_for_room()
            self._client.produce_batch(topic, messages, on_delivery=self._on_failure)
            messages = self._not_queued(messages)
            self._client.poll(ROOM_STEP_S if messages else 0)

    def send_again(self, topic: str, messages: Sequence[dict[str, Any]]) -> None:
        """Queue records as they came, with their keys and headers."""
        self._create(topic)
        for message in messages:
            self._wait_for_room()
            self._client.produce(topic, **message, on_delivery=self._on_failure)
        self._client.poll(0)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until Kafka has all that was produced.

        Args:
            timeout_s: how long it may acknowledge nothing, since an earlier call if it was so then.
        Raises:
            DeliveryError: some messages did not arrive; says how many of which topic, and why.
        """
        backlog = self._begin_to_wait()
        while pending := self._client.flush(min(FLUSH_STEP_S, timeout_s)):
            self._check_progress(backlog, pending, timeout_s)
        self._backlog = None
        self._raise_failed()

    def check(self) -> None:
        """Say, without waiting, whether Kafka has refused anything so far.

        Raises:
            DeliveryError: as `flush`.
        """
        self._client.poll(0)
        self._raise_failed()

    def close(self) -> None:
        """Drop what Kafka has not acknowledged: it would keep alive whoever listens to this."""
        self._client.purge()
        self._client.flush(FLUSH_STEP_S)

    def _wait_for_room(self) -> None:
        while (pending := len(self._client)) > QUEUE_MESSAGES:
            self._check_progress(self._begin_to_wait(), pending, FLUSH_S)
            self._client.poll(ROOM_STEP_S)
        self._backlog = None

    def _begin_to_wait(self) -> Backlog:
        """Go on with the wait before, if nothing was queued or acknowledged since."""
        self._backlog = self._backlog or Backlog(len(self._client), time.monotonic())
        return self._backlog

    def _check_progress(self, backlog: Backlog, pending: int, timeout_s: float) -> None:
        """Report once that Kafka acknowledges nothing; raise when that lasts too long."""
        now = time.monotonic()
        if pending < backlog.records:
            backlog.records, backlog.since, backlog.is_reported = pending, now, False
            return
        stalled_s = now - backlog.since
        if stalled_s >= timeout_s:
            self._failed[f"none acknowledged for {timeout_s:g} s"] += pending
            self._raise_failed()
        if stalled_s >= self._cluster.timeout_s and not backlog.is_reported:
            backlog.is_reported = True
            left_s = timeout_s - stalled_s
            self._on_event(DeliveryStalled(self._cluster.bootstrap, pending, left_s))

    def _raise_failed(self) -> None:
        failed, self._failed = self._failed, Counter()
        if failed:
            reasons = "; ".join(f"{count} records, {reason}" for reason, count in failed.items())
            raise DeliveryError(
                f"not delivered to Kafka at {self._cluster.bootstrap}: {reasons}. "
                "Load them again: no row comes twice"
            )

    def _prepare(self, topic: str, schema: RecordSchema) -> int:
        schema_id = self.registry.register(topic, schema)
        self._create(topic)
        return schema_id

    def _create(self, topic: str) -> None:
        if topic not in self._topics and self._cluster.embedded_log is None:
            admin = self._cluster.admin()
            self._cluster.check_answers(admin)
            create_topics(admin, [topic])
        self._topics.add(topic)

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        self._failed[f"{message.topic()}: {error.str() if error else 'unknown'}"] += 1

    def _not_queued(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what is to be queued again: all from the first message that did not fit."""
        left = [message for message in messages if "_error" in message]
        for message in left:
            error = message.pop("_error")
            if error.code() != KafkaError._QUEUE_FULL:
                raise TransientError(f"Kafka takes no messages: {error.str()}")
        return left
