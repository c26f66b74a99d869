"""The producer: Arrow batches become framed Avro messages, in order per key, none lost silently."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from confluent_kafka import KafkaError, Message, Producer

from k2lib.errors import DeliveryError, TransientError
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.registry import SchemaRegistry
from k2lib.kafka.topics import create_topics
from k2lib.schema.codec import encode
from k2lib.schema.records import RecordSchema

QUEUE_MESSAGES: Final = 100_000
SLICE_ROWS: Final = 10_000
FLUSH_S: Final = 120.0
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


class BatchProducer:
    """Produces whole batches; `flush()` says whether all of them arrived."""

    def __init__(
        self, cluster: Cluster, registry: SchemaRegistry, *, client: Producer | None = None
    ) -> None:
        self.registry = registry
        self._cluster = cluster
        self._client = client or cluster.open(_producer)
        self._topics: set[str] = set()
        self._failed: Counter[str] = Counter()

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
        """Queue the messages in order, waiting while the queue is full."""
        while messages:
            while len(self._client) > QUEUE_MESSAGES:
                self._client.poll(0.05)
            self._client.produce_batch(topic, messages, on_delivery=self._on_failure)
            messages = self._not_queued(messages)
            self._client.poll(0.05 if messages else 0)

    def send_again(self, topic: str, messages: Sequence[dict[str, Any]]) -> None:
        """Queue records as they came, with their keys and headers."""
        self._create(topic)
        for message in messages:
            while len(self._client) > QUEUE_MESSAGES:
                self._client.poll(0.05)
            self._client.produce(topic, **message, on_delivery=self._on_failure)
        self._client.poll(0)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until Kafka has all that was produced.

        Raises:
            DeliveryError: some messages did not arrive; says how many of which topic, and why.
        """
        pending = self._client.flush(timeout_s)
        if pending:
            self._failed[f"{pending} not acknowledged within {timeout_s:g} s"] += pending
        self._raise_failed()

    def check(self) -> None:
        """Say, without waiting, whether Kafka has refused anything so far.

        Raises:
            DeliveryError: as `flush`.
        """
        self._client.poll(0)
        self._raise_failed()

    def _raise_failed(self) -> None:
        failed, self._failed = self._failed, Counter()
        if failed:
            reasons = "; ".join(f"{count} records, {reason}" for reason, count in failed.items())
            raise DeliveryError(f"not delivered to Kafka: {reasons}. Load them again")

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
