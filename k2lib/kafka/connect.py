"""The Kafka that a process writes to: a cluster with its registry, or the embedded broker."""

from pathlib import Path
from typing import Final, Protocol

from confluent_kafka import Producer

from k2lib.kafka.cluster import Cluster
from k2lib.kafka.embedded import EmbeddedBroker
from k2lib.kafka.registry import NO_OPTIONS, Options, SchemaRegistry

RECORD_OVERHEAD_BYTES: Final = 24
WINDOW_BYTES: Final = 128 * 1024 * 1024


class Kafka(Protocol):
    """What writers need; `client` is the embedded broker's own producer, else None.

    A loader stays within two `window_bytes` of the tables: far below what the log keeps.
    """

    window_bytes: int
    cluster: Cluster
    registry: SchemaRegistry
    client: Producer | None

    def close(self) -> None:
        """Close the connections; an embedded broker ends."""


class RemoteKafka:
    """A cluster and its schema registry, wherever they run."""

    window_bytes = WINDOW_BYTES

    def __init__(
        self, cluster: Cluster, registry_url: str, registry_options: Options = NO_OPTIONS
    ) -> None:
        self.cluster = cluster
        self.registry = SchemaRegistry(
            registry_url, timeout_s=cluster.timeout_s, options=registry_options
        )
        self.client: Producer | None = None

    def close(self) -> None:
        """Close the connections to the registry."""
        self.registry.close()


def open_kafka(
    home: Path,
    cluster: Cluster | None,
    registry_url: str,
    registry_options: Options = NO_OPTIONS,
) -> Kafka:
    """Return the Kafka of these addresses; without a cluster, start the embedded broker.

    Raises:
        OwnerError: the home's embedded broker runs already, in this process or another.
    """
    if cluster is None:
        return EmbeddedBroker(home)
    return RemoteKafka(cluster, registry_url, registry_options)
