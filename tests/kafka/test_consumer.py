"""The reader: from the offsets it is given, in order, and an error where the log has no such."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.cimpl import NewTopic
from support.feeding import produce, watermarks
from support.kafkas import opened
from support.log_rows import TRADES_TOPIC, many_trades
from support.waiting import wait_until

from k2lib.errors import TransientError
from k2lib.kafka.cluster import list_topics
from k2lib.kafka.connect import Kafka
from k2lib.kafka.consumer import ConsumerRecords, TopicConsumer, TopicPartition

ONE = ("AAA",)


@pytest.fixture
def kafka(kafka_settings: dict[str, str], tmp_path: Path) -> Iterator[Kafka]:
    with opened(kafka_settings, tmp_path / "home") as one:
        yield one


@pytest.fixture
def reader(kafka: Kafka) -> Iterator[TopicConsumer]:
    with TopicConsumer(kafka.cluster) as one:
        yield one


def only_place(kafka: Kafka, count: int) -> TopicPartition:
    """Produce trades of one symbol; return the partition that holds them."""
    produce(kafka, many_trades(count, symbols=ONE))
    ends = [high for _, high in watermarks(kafka)]
    return TopicPartition(TRADES_TOPIC, ends.index(count))


def read(reader: TopicConsumer, count: int, *, limit: int = 5_000) -> list[ConsumerRecords]:
    found: list[ConsumerRecords] = []

    def has_read() -> bool:
        found.append(reader.read(0.2, limit=limit))
        return sum(len(some.values) for some in found) >= count

    wait_until(has_read)
    return [some for some in found if some.values]


def test_reading_begins_at_the_given_offset_and_tells_the_next(
    kafka: Kafka, reader: TopicConsumer
) -> None:
    place = only_place(kafka, 100)
    reader.assign({place: 40})
    found = read(reader, 60)
    assert found[0].position(0) == (place, 40)
    assert found[-1].ends == {place: 100}


def test_at_most_so_many_messages_are_read(kafka: Kafka, reader: TopicConsumer) -> None:
    place = only_place(kafka, 100)
    reader.assign({place: 0})
    sizes = [len(some.values) for some in read(reader, 100, limit=30)]
    assert max(sizes) <= 30 and sum(sizes) == 100


def test_watermarks_are_the_first_offset_and_the_next(kafka: Kafka, reader: TopicConsumer) -> None:
    place = only_place(kafka, 100)
    assert reader.watermarks(place) == (0, 100)


@pytest.mark.stack
def test_watermarks_wait_until_somebody_leads_each_partition(
    empty_kafka: dict[str, str], tmp_path: Path
) -> None:
    topic = "market.many"  # its partitions come one after the other
    with opened(empty_kafka, tmp_path) as kafka, TopicConsumer(kafka.cluster) as reader:
        admin = kafka.cluster.admin()
        [made] = admin.create_topics([NewTopic(topic, 300)]).values()
        made.result()
        wait_until(lambda: topic in list_topics(admin))
        assert len(reader.partitions(topic)) == 300
        assert reader.watermarks(TopicPartition(topic, 299)) == (0, 0)


def test_a_topic_tells_its_partitions(kafka: Kafka, reader: TopicConsumer) -> None:
    produce(kafka, many_trades(1))
    assert reader.partitions(TRADES_TOPIC) == [
        TopicPartition(TRADES_TOPIC, number) for number in range(4)
    ]


def test_an_offset_past_the_end_is_an_error(kafka: Kafka, reader: TopicConsumer) -> None:
    place = only_place(kafka, 10)
    reader.assign({place: 11})
    with pytest.raises(TransientError, match=f"{TRADES_TOPIC} partition {place.partition}"):
        wait_until(lambda: reader.read(0.2).values)


@pytest.mark.stack
def test_a_topic_that_does_not_exist_is_an_error(
    empty_kafka: dict[str, str], tmp_path: Path
) -> None:
    with (
        opened(empty_kafka, tmp_path) as kafka,
        TopicConsumer(kafka.cluster) as reader,
        pytest.raises(TransientError, match=r"market\.none: no partitions"),
    ):
        reader.partitions("market.none")
