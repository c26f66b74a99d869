"""Three brokers of which one dies while load and sink run: the lake is exact afterwards."""

from collections.abc import Iterator

import pytest
from confluent_kafka import TopicCollection, TopicPartitionInfo
from support.kafka_cluster import Broker, ThreeBrokers, three_brokers
from support.lake_audit import audit
from support.log_rows import TRADES_TOPIC, many_trades, message_ids
from support.paths import CACHE
from support.waiting import wait_until

from k2lib import K2
from k2lib.ops.jars import fetch_servers
from k2lib.schema.records import TRADE

pytestmark = [pytest.mark.stack, pytest.mark.slow]

BATCH = 2_000
ROUNDS = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreeBrokers]:
    with three_brokers(tmp_path_factory.mktemp("three")) as one:
        yield one


def test_a_broker_that_dies_costs_no_row_and_doubles_none(
    cluster: ThreeBrokers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    settings = {
        "home": home,
        "kafka_bootstrap": cluster.bootstrap,
        "schema_registry_url": "mock://three-brokers",
        "commit_interval_s": 0.1,
    }
    with K2.open(**settings) as k2:
        for number in range(ROUNDS):
            k2.pipeline.produce(TRADES_TOPIC, many_trades(BATCH, first=BATCH * number), TRADE)
            if number == ROUNDS // 3:
                victim = leader_of(k2, cluster)
                victim.end()
        k2.pipeline.settle()
        assert in_sync(k2) == [2, 2, 2, 2]
        victim.start(fetch_servers(CACHE / "java"))
        wait_until(lambda: in_sync(k2) == [3, 3, 3, 3])
        k2.pipeline.produce(TRADES_TOPIC, many_trades(BATCH, first=BATCH * ROUNDS), TRADE)
        k2.pipeline.settle()
    found = audit(home)
    assert found is not None
    assert found.column() == message_ids(BATCH * (ROUNDS + 1))
    found.assert_contiguous()
    assert sum(found.ends().values()) == BATCH * (ROUNDS + 1)


def leader_of(k2: K2, cluster: ThreeBrokers) -> Broker:
    """Return the broker that leads the first partition."""
    leader = partitions(k2)[0].leader
    assert leader is not None
    return cluster.brokers[leader.id - 1]


def in_sync(k2: K2) -> list[int]:
    """Return how many of the three replicas of each partition are in sync."""
    assert [len(one.replicas) for one in partitions(k2)] == [3] * 4
    return [len(one.isr) for one in partitions(k2)]


def partitions(k2: K2) -> list[TopicPartitionInfo]:
    admin = k2.pipeline.cluster.admin()
    (topic,) = admin.describe_topics(TopicCollection([TRADES_TOPIC]), request_timeout=60).values()
    return list(topic.result().partitions)
