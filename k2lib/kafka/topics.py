"""Topic names, and the creation of topics with explicit partitions and retention."""

from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from k2lib.errors import TransientError

PARTITIONS: Final = 4
DEAD_LETTERS: Final = "market.dead_letters"
GAPS: Final = "market.gaps"
RETENTION: Final = {
    "retention.ms": str(7 * 24 * 3600 * 1000),
    "retention.bytes": str(1024**3),
    "segment.bytes": str(64 * 1024**2),
}


def topic_name(asset_class: str, kind: str, exchange: str) -> str:
    """Return the topic of one kind of record of one venue."""
    return f"market.{asset_class}.{kind}.{exchange.lower()}"


def topic_kind(topic: str) -> str | None:
    """Return the kind of records a topic of ours holds, None for any other topic."""
    parts = topic.split(".")
    if parts[0] != "market" or len(parts) not in (2, 4):
        return None
    return parts[1] if len(parts) == 2 else parts[2]


def create_topics(admin: AdminClient, topics: Iterable[str]) -> None:
    """Create the topics that do not exist.

    Raises:
        TransientError: the cluster did not create one; the message says why.
    """
    new_topics = [
        NewTopic(topic, num_partitions=PARTITIONS, replication_factor=-1, config=RETENTION)
        for topic in topics
    ]
    for topic, created in admin.create_topics(
        new_topics, operation_timeout=10, request_timeout=10
    ).items():
        try:
            created.result()
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TransientError(f"topic {topic} was not created: {exc.args[0].str()}") from exc
