"""Every kind of Kafka that a test runs on, opened the same way."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient
from support.waiting import wait_until

from k2lib.kafka.cluster import Cluster
from k2lib.kafka.connect import Kafka, open_kafka
from k2lib.ops.services import Services


@contextmanager
def opened(settings: Mapping[str, str], home: Path) -> Iterator[Kafka]:
    """Open the Kafka of these settings: without any, the embedded broker of the home."""
    bootstrap = settings.get("kafka_bootstrap")
    cluster = Cluster(bootstrap) if bootstrap else None
    url = settings.get("schema_registry_url", "")
    with closing(open_kafka(home, cluster, url)) as kafka:
        yield kafka


def emptied(services: Services) -> dict[str, str]:
    """Delete our topics and return the Kafka's settings."""
    delete_topics(services.bootstrap)
    return {
        "kafka_bootstrap": services.bootstrap,
        "schema_registry_url": services.registry_url,
    }


def delete_topics(bootstrap: str) -> None:
    """Delete all topics of ours, and wait until they are gone."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    ours = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith("market.")]
    for done in admin.delete_topics(ours).values() if ours else ():
        done.result()
    # The controller has deleted them; the broker's own view follows a little later.
    wait_until(lambda: not set(ours) & set(admin.list_topics(timeout=60).topics))
