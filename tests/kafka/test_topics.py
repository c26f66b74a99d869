"""Topics: their names, what kind they hold, and how they are made."""

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewTopic
from support.feeding import produce
from support.kafkas import opened
from support.log_rows import many_trades
from support.waiting import wait_until

from k2lib.errors import TransientError
from k2lib.kafka.cluster import Cluster, log_ids
from k2lib.kafka.connect import Kafka
from k2lib.kafka.topics import create_topics, topic_kind, topic_name

TOPIC = "market.equities.trades.asx"


def partitions(kafka: Kafka, topic: str) -> int:
    return len(kafka.cluster.admin().list_topics(topic, timeout=10).topics[topic].partitions)


def configs(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result()
    return {name: entry.value for name, entry in found.items()}


def create(admin: AdminClient, topic: str = TOPIC) -> None:
    """Create a topic as ours are, and wait until the broker that answers knows it."""
    create_topics(admin, [topic])
    wait_until(lambda: topic in admin.list_topics(timeout=10).topics)


def test_the_name_tells_asset_class_kind_and_exchange() -> None:
    assert topic_name("equities", "trades", "ASX") == TOPIC
    assert topic_name("crypto", "quotes", "BINANCE_SIM") == "market.crypto.quotes.binance_sim"


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        (TOPIC, "trades"),
        ("market.crypto.quotes.binance_sim", "quotes"),
        ("market.equities.reference.asx", "reference"),
        ("market.dead_letters", "dead_letters"),
        ("market.gaps", "gaps"),
        ("market.equities.trades", None),
        ("other.equities.trades.asx", None),
        ("trades", None),
        ("__consumer_offsets", None),
    ],
)
def test_the_kind_is_read_from_the_name(topic: str, kind: str | None) -> None:
    assert topic_kind(topic) == kind


def test_a_topic_has_four_partitions_and_is_found(kafka: Kafka) -> None:
    produce(kafka, many_trades(1), TOPIC)
    assert partitions(kafka, TOPIC) == 4
    assert TOPIC in kafka.cluster.admin().list_topics(timeout=10).topics


@pytest.mark.stack
def test_retention_is_bounded_in_time_and_in_bytes(empty_kafka: dict[str, str]) -> None:
    admin = Cluster(empty_kafka["kafka_bootstrap"]).admin()
    create(admin)
    found = configs(admin, TOPIC)
    assert found["retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert found["retention.bytes"] == str(1024**3)
    assert found["segment.bytes"] == str(64 * 1024**2)


@pytest.mark.stack
def test_a_topic_that_exists_is_left_as_it_is(empty_kafka: dict[str, str]) -> None:
    admin = Cluster(empty_kafka["kafka_bootstrap"]).admin()
    admin.create_topics([NewTopic(TOPIC, num_partitions=2)])[TOPIC].result()
    wait_until(lambda: TOPIC in admin.list_topics(timeout=10).topics)
    create(admin)
    assert len(admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions) == 2


@pytest.mark.stack
def test_a_topic_the_cluster_refuses_is_named(empty_kafka: dict[str, str]) -> None:
    admin = Cluster(empty_kafka["kafka_bootstrap"]).admin()
    with pytest.raises(TransientError, match="topic not a name! was not created"):
        create_topics(admin, ["not a name!"])


@pytest.mark.stack
def test_a_topic_made_again_is_another_log(empty_kafka: dict[str, str]) -> None:
    cluster = Cluster(empty_kafka["kafka_bootstrap"])
    admin = cluster.admin()
    create(admin)
    before = log_ids(cluster, admin, [TOPIC])[TOPIC]
    admin.delete_topics([TOPIC])[TOPIC].result()
    wait_until(lambda: TOPIC not in admin.list_topics(timeout=10).topics)
    create(admin)
    after = log_ids(cluster, admin, [TOPIC])[TOPIC]
    assert before != after and before.split("/")[0] == after.split("/")[0]


def test_all_topics_of_an_embedded_broker_are_one_log_and_each_start_is_another(
    tmp_path: Path,
) -> None:
    logs = []
    for _ in range(2):
        with opened({}, tmp_path) as kafka:
            told = log_ids(kafka.cluster, kafka.cluster.admin(), [TOPIC, "market.gaps"])
            assert told[TOPIC] == told["market.gaps"]
            logs.append(told[TOPIC])
    assert logs[0] != logs[1] and logs[0].startswith("embedded-")


def test_a_cluster_that_does_not_answer_is_a_transient_error() -> None:
    cluster = Cluster("127.0.0.1:1", {"log_level": "0"}, timeout_s=0.5)
    with pytest.raises(TransientError, match=r"Kafka at 127\.0\.0\.1:1 does not answer"):
        cluster.metadata(cluster.admin())
