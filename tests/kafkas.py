"""Every kind of Kafka that a test runs on, opened the same way."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from k2lib.log.cluster import Cluster
from k2lib.log.kafka import Kafka, open_kafka


@contextmanager
def opened(settings: Mapping[str, str], home: Path) -> Iterator[Kafka]:
    """Open the Kafka of these settings: without any, the embedded broker of the home."""
    bootstrap = settings.get("kafka_bootstrap")
    cluster = Cluster(bootstrap) if bootstrap else None
    url = settings.get("schema_registry_url", "")
    with closing(open_kafka(home, cluster, url)) as kafka:
        yield kafka
