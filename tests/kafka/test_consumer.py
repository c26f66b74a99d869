"""The consumer: finds partitions, reads them in order from explicit offsets, and skips none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.cimpl import NewTopic
from support.feeding import produce, watermarks
from support.kafkas import opened
from support.log_rows import TRADES_TOPIC, many_trades
from support.waiting import wait_until

from k2lib.errors import TransientError
from k2lib.kafka.connect import Kafka
from k2lib.kafka.consumer import (
    ConsumerRecords,
    TopicConsumer,
    TopicPartition,
    Watermarks,
    believed_watermarks,
)

ONE = ("AAA",)


@pytest.fixture
def consumer(kafka: Kafka) -> Iterator[TopicConsumer]:
    with TopicConsumer(kafka.cluster) as one:
        yield one


def only_partition(kafka: Kafka, count: int) -> TopicPartition:
    """Produce trades of one symbol; return the partition that holds them."""
    produce(kafka, many_trades(count, symbols=ONE))
    ends = [high for _, high in watermarks(kafka)]
    return TopicPartition(TRADES_TOPIC, ends.index(count))


def read(consumer: TopicConsumer, count: int, *, limit: int = 5_000) -> list[ConsumerRecords]:
    found: list[ConsumerRecords] = []

    def has_read() -> bool:
        found.append(consumer.read(0.2, limit=limit))
        return sum(len(some.values) for some in found) >= count

    wait_until(has_read)
    return [some for some in found if some.values]


def test_reading_begins_at_the_given_offset_and_tells_the_next(
    kafka: Kafka, consumer: TopicConsumer
) -> None:
    tp = only_partition(kafka, 100)
    consumer.assign({tp: 40})
    found = read(consumer, 60)
    assert found[0].position(0) == (tp, 40)
    assert found[-1].ends == {tp: 100}


def test_at_most_so_many_messages_are_read(kafka: Kafka, consumer: TopicConsumer) -> None:
    tp = only_partition(kafka, 100)
    consumer.assign({tp: 0})
    sizes = [len(some.values) for some in read(consumer, 100, limit=30)]
    assert max(sizes) <= 30 and sum(sizes) == 100


def test_watermarks_are_the_first_offset_and_the_next(
    kafka: Kafka, consumer: TopicConsumer
) -> None:
    tp = only_partition(kafka, 100)
    assert consumer.watermarks(tp) == (0, 100)


@pytest.mark.stack
def test_watermarks_wait_until_somebody_leads_each_partition(
    empty_kafka: dict[str, str], tmp_path: Path
) -> None:
    topic = "market.many"  # its partitions come one after the other
    with opened(empty_kafka, tmp_path) as kafka, TopicConsumer(kafka.cluster) as consumer:
        admin = kafka.cluster.admin()
        [made] = admin.create_topics([NewTopic(topic, 300)]).values()
        made.result()
        wait_until(lambda: topic in admin.list_topics(timeout=10).topics)
        assert len(consumer.partitions(topic)) == 300
        assert consumer.watermarks(TopicPartition(topic, 299)) == (0, 0)


def test_a_topic_tells_its_partitions(kafka: Kafka, consumer: TopicConsumer) -> None:
    produce(kafka, many_trades(1))
    assert consumer.partitions(TRADES_TOPIC) == [
        TopicPartition(TRADES_TOPIC, number) for number in range(4)
    ]


def test_partitions_of_all_matching_topics_are_found(kafka: Kafka, consumer: TopicConsumer) -> None:
    produce(kafka, many_trades(1))
    assert not consumer.found_within(60)
    found = consumer.find_partitions(lambda topic: topic == TRADES_TOPIC)
    assert found == consumer.partitions(TRADES_TOPIC)
    assert consumer.found_within(60)
    assert consumer.find_partitions(lambda topic: topic == "market.none") == []


def test_a_followed_partition_keeps_its_position(kafka: Kafka, consumer: TopicConsumer) -> None:
    tp = only_partition(kafka, 100)
    consumer.follow([tp], lambda _, low, high: (low + high) // 2)
    assert consumer.positions == {tp: 50}
    read(consumer, 50)
    others = [other for other in consumer.partitions(TRADES_TOPIC) if other != tp]
    consumer.follow([tp, *others], lambda _, low, high: low)
    assert consumer.positions == {tp: 100} | dict.fromkeys(others, 0)


def test_an_unfollowed_partition_is_no_longer_read(kafka: Kafka, consumer: TopicConsumer) -> None:
    tp = only_partition(kafka, 100)
    consumer.follow(consumer.partitions(TRADES_TOPIC), lambda _, low, high: low)
    consumer.unfollow([tp])
    assert tp not in consumer.positions
    assert not consumer.read(0.5).values


def test_an_offset_past_the_end_is_an_error(kafka: Kafka, consumer: TopicConsumer) -> None:
    tp = only_partition(kafka, 10)
    consumer.assign({tp: 11})
    with pytest.raises(TransientError, match=f"{TRADES_TOPIC} partition {tp.partition}"):
        wait_until(lambda: consumer.read(0.2).values)


def answers(*script: Watermarks, position: int | None) -> tuple[Watermarks, int]:
    """Ask a broker that answers so, in the end always the same; return what is believed."""
    told, waits = list(script), list[float]()
    tp = TopicPartition(TRADES_TOPIC, 0)
    found = believed_watermarks(
        {tp: position},
        lambda _: told.pop(0) if len(told) > 1 else told[0],
        wait=waits.append,
    )
    return found[tp], len(waits)


@pytest.mark.parametrize("position", [None, 0, 40, 100])
def test_watermarks_that_lose_nothing_are_believed_at_once(position: int | None) -> None:
    assert answers((0, 100), position=position) == ((0, 100), 0)


@pytest.mark.parametrize("position", [None, 0, 40])
def test_a_broker_that_says_at_first_that_a_log_begins_at_its_end_is_asked_again(
    position: int | None,
) -> None:
    assert answers((100, 100), (0, 100), position=position) == ((0, 100), 1)
    assert answers((100, 100), (100, 100), (0, 100), position=position) == ((0, 100), 2)


def test_a_broker_that_says_at_first_that_a_log_ends_too_early_is_asked_again() -> None:
    assert answers((0, 0), (0, 100), position=40) == ((0, 100), 1)


def test_a_loss_is_believed_once_the_broker_insists() -> None:
    assert answers((50, 100), position=40) == ((50, 100), 4)
    assert answers((0, 30), position=40) == ((0, 30), 4)


def test_a_reader_that_may_skip_nothing_has_a_loss_confirmed(
    kafka: Kafka, consumer: TopicConsumer
) -> None:
    tp = only_partition(kafka, 100)
    consumer.follow([tp], lambda _, low, high: high, position_of=lambda _: 40)
    assert consumer.positions == {tp: 100}


@pytest.mark.stack
def test_a_topic_that_does_not_exist_is_an_error(
    empty_kafka: dict[str, str], tmp_path: Path
) -> None:
    with (
        opened(empty_kafka, tmp_path) as kafka,
        TopicConsumer(kafka.cluster) as consumer,
        pytest.raises(TransientError, match=r"market\.none: no partitions"),
    ):
        consumer.partitions("market.none")
