"""The producer: in order per key, where Java's clients look for it, nothing unaccounted for."""

import subprocess
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from support.feeding import produce, watermarks
from support.kafkas import opened
from support.log_rows import SYMBOLS, TRADES_TOPIC, many_trades, message_ids
from support.recorded_events import events_of

from k2lib.errors import DeliveryError
from k2lib.events import DeliveryStalled, Event
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.connect import Kafka
from k2lib.kafka.producer import OPTIONS, BatchProducer
from k2lib.kafka.registry import SchemaRegistry
from k2lib.schema.codec import decode, encode
from k2lib.schema.records import TRADE

PARTITIONS = 4
NOWHERE = Cluster("127.0.0.1:1", embedded_log="embedded-nowhere")
JAVA_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def murmur2(data: bytes) -> int:
    """Hash as org.apache.kafka.common.utils.Utils.murmur2 does."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return h - 2**32 if h >= 2**31 else h


def read_all(kafka: Kafka, topic: str = TRADES_TOPIC) -> list[Message]:
    """Read a topic with a plain client, from its beginning to its high watermarks."""
    marks = watermarks(kafka, topic)
    client = Consumer({"bootstrap.servers": kafka.cluster.bootstrap, "group.id": "plain"})
    client.assign([TopicPartition(topic, number, low) for number, (low, _) in enumerate(marks)])
    wanted = sum(high - low for low, high in marks)
    messages: list[Message] = []
    while len(messages) < wanted:
        messages += client.consume(wanted - len(messages), timeout=30)
    client.close()
    assert not [message.error() for message in messages if message.error()]
    return messages


def ids_by_key(kafka: Kafka, messages: list[Message]) -> dict[bytes, list[str]]:
    values = [message.value() for message in messages]
    rows, refused = decode(values, TRADE, writer=kafka.registry.text)
    assert not refused
    found: dict[bytes, list[str]] = defaultdict(list)
    for message, message_id in zip(messages, rows["message_id"].to_pylist(), strict=True):
        found[message.key()].append(message_id)
    return found


def assert_complete_and_in_order(kafka: Kafka, count: int) -> None:
    found = ids_by_key(kafka, read_all(kafka))
    assert sorted(one for ids in found.values() for one in ids) == message_ids(count)
    assert all(ids == sorted(ids) for ids in found.values())
    assert set(found) == {symbol.encode() for symbol in SYMBOLS}


def slow_producer(kafka: Kafka, **options: Any) -> BatchProducer:
    """Return a producer whose client has other options than ours."""
    named = {name.replace("_", "."): value for name, value in options.items()}
    client = Producer(kafka.cluster.client() | OPTIONS | named)
    return BatchProducer(kafka.cluster, kafka.registry, client=client)


def test_rows_of_a_key_keep_their_order(kafka: Kafka) -> None:
    produce(kafka, many_trades(25_000))
    assert_complete_and_in_order(kafka, 25_000)


def test_more_rows_than_the_queue_takes_wait_and_keep_their_order(kafka: Kafka) -> None:
    producer = slow_producer(kafka, queue_buffering_max_messages=300)
    producer.produce(TRADES_TOPIC, many_trades(12_000), TRADE, key="symbol")
    producer.flush()
    assert_complete_and_in_order(kafka, 12_000)


def test_the_murmur2_of_this_test_is_javas() -> None:
    assert {key: murmur2(key) for key in JAVA_MURMUR2} == JAVA_MURMUR2


def test_a_key_stands_where_javas_clients_put_it(kafka: Kafka) -> None:
    symbols = (*SYMBOLS, *(key.decode() for key in JAVA_MURMUR2))
    produce(kafka, many_trades(len(symbols), symbols=symbols))
    placed = {message.key(): message.partition() for message in read_all(kafka)}
    assert placed == {
        key: (murmur2(key) & 0x7FFFFFFF) % PARTITIONS for key in map(str.encode, symbols)
    }


def test_what_no_broker_took_is_counted_and_then_forgotten() -> None:
    client = Producer(NOWHERE.client() | OPTIONS | {"message.timeout.ms": 300, "log_level": 0})
    producer = BatchProducer(NOWHERE, SchemaRegistry("mock://nowhere"), client=client)
    producer.produce(TRADES_TOPIC, many_trades(7), TRADE, key="symbol")
    with pytest.raises(DeliveryError, match=rf"7 records, {TRADES_TOPIC}: .*timed out"):
        producer.flush()
    producer.flush()


def test_what_is_not_acknowledged_in_time_is_counted() -> None:
    client = Producer(NOWHERE.client() | OPTIONS | {"log_level": 0})
    producer = BatchProducer(NOWHERE, SchemaRegistry("mock://nowhere"), client=client)
    producer.produce(TRADES_TOPIC, many_trades(5), TRADE, key="symbol")
    with pytest.raises(DeliveryError) as caught:
        producer.flush(0.1)
    client.purge()
    assert str(caught.value) == (
        "not delivered to Kafka at 127.0.0.1:1: 5 records, none acknowledged for 0.1 s. "
        "Load them again: no row comes twice"
    )


def test_a_kafka_that_acknowledges_nothing_is_told_once_and_waited_for_once() -> None:
    events: list[Event] = []
    cluster = replace(NOWHERE, timeout_s=0.2)
    client = Producer(cluster.client() | OPTIONS | {"log_level": 0})
    registry = SchemaRegistry("mock://nowhere")
    producer = BatchProducer(cluster, registry, client=client, on_event=events.append)
    producer.produce(TRADES_TOPIC, many_trades(5), TRADE, key="symbol")
    with pytest.raises(DeliveryError, match=r"none acknowledged for 3 s"):
        producer.flush(3)
    began = time.monotonic()
    with pytest.raises(DeliveryError, match=r"none acknowledged for 3 s"):
        producer.flush(3)
    assert time.monotonic() - began < 2
    producer.close()
    assert len(client) == 0
    (stalled,) = events_of(events, DeliveryStalled)
    assert (stalled.address, stalled.records) == ("127.0.0.1:1", 5)
    assert 1 < stalled.gives_up_in_s < 3


@pytest.mark.stack
def test_what_the_broker_refused_is_counted(empty_kafka: dict[str, str], tmp_path: Path) -> None:
    topic = NewTopic(TRADES_TOPIC, PARTITIONS, config={"max.message.bytes": "100"})
    with opened(empty_kafka, tmp_path) as kafka:
        admin = kafka.cluster.admin()
        admin.create_topics([topic])[TRADES_TOPIC].result()
        with pytest.raises(DeliveryError, match=rf"9 records, {TRADES_TOPIC}: .*too large"):
            produce(kafka, many_trades(9, symbols=("AAA",)))


@pytest.mark.stack
def test_a_plain_client_reads_the_topic_by_the_registry(
    empty_kafka: dict[str, str], tmp_path: Path
) -> None:
    rows = many_trades(100)
    with opened(empty_kafka, tmp_path) as kafka:
        produce(kafka, rows)
        messages = read_all(kafka)
    with SchemaRegistryClient.new_client({"url": empty_kafka["schema_registry_url"]}) as client:
        to_record = AvroDeserializer(client)
        context = SerializationContext(TRADES_TOPIC, MessageField.VALUE)
        records = [to_record(message.value(), context) for message in messages]
    assert sorted(records, key=lambda one: one["message_id"]) == rows.to_pylist()


@pytest.mark.stack
def test_kcat_reads_keys_and_bytes(empty_kafka: dict[str, str], tmp_path: Path) -> None:
    rows = many_trades(50)
    with opened(empty_kafka, tmp_path) as kafka:
        produce(kafka, rows)
        schema_id = kafka.registry.register(TRADES_TOPIC, TRADE)
    address = ["-b", empty_kafka["kafka_bootstrap"], "-t", TRADES_TOPIC]
    told = subprocess.run(
        ["kcat", "-C", *address, "-e", "-q", "-f", "%K %k %R%s"], capture_output=True, check=True
    )
    values = encode(rows.to_batches()[0], TRADE, schema_id=schema_id)
    keys = rows["symbol"].to_pylist()
    wanted = [
        f"3 {key} ".encode() + len(value).to_bytes(4, "big") + value
        for key, value in zip(keys, values, strict=True)
    ]
    assert all(message in told.stdout for message in wanted)
    assert len(told.stdout) == sum(map(len, wanted))
