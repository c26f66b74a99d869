"""Records whose schema id stands in a header: decoded wherever records are read."""

import uuid

from confluent_kafka import Producer
from support.feeding import open_session, read_messages, watermarks
from support.lake_audit import audit
from support.log_rows import TRADES_TOPIC, many_trades, message_ids
from support.waiting import wait_until

from k2lib.iceberg.tables import TABLES, load_table, open_catalog
from k2lib.kafka.cluster import KafkaSource
from k2lib.kafka.connect import Kafka
from k2lib.kafka.consumer import TopicConsumer
from k2lib.kafka.topics import DEAD_LETTERS, create_topics
from k2lib.query.table_state import NewestTimes
from k2lib.query.tail import Tail
from k2lib.schema.codec import SCHEMA_ID_HEADER, encode, header
from k2lib.schema.records import TRADE
from k2lib.settings import Settings

UNKNOWN = uuid.UUID(int=4711)


def bodies(count: int) -> list[bytes]:
    (batch,) = many_trades(count).to_batches()
    return [message[5:] for message in encode(batch, TRADE, schema_id=0)]


def send(kafka: Kafka, body: bytes, *schema_ids: bytes | None) -> None:
    """Produce a value with several headers, as any client may."""
    if kafka.client is None:
        create_topics(kafka.cluster.admin(), [TRADES_TOPIC])
    client = kafka.client or Producer({"bootstrap.servers": kafka.cluster.bootstrap})
    headers = [("other", b"\xff"), *((SCHEMA_ID_HEADER, one) for one in schema_ids)]
    client.produce(TRADES_TOPIC, value=body, key=b"AAA", headers=headers, partition=0)
    assert client.flush(60) == 0


def guids(kafka: Kafka) -> list[bytes]:
    """Return the header of the GUID of trades; a registry may have none."""
    return [b"\1" + one.bytes for one in kafka.registry.texts() if isinstance(one, uuid.UUID)]


def test_ids_and_guids_in_headers_are_decoded_by_sink_and_tail(
    kafka: Kafka, settings: Settings
) -> None:
    number = header(kafka.registry.register(TRADES_TOPIC, TRADE))
    first, second, third, *_ = bodies(3)
    send(kafka, number + first)
    send(kafka, second, None, number)
    send(kafka, third, *(guids(kafka) or [number]))
    source = KafkaSource(kafka.cluster, kafka.registry.text)
    catalog = open_catalog(settings)
    with Tail(
        TABLES["trades_v2"], source, lambda: load_table(catalog, "trades_v2"), times=NewestTimes()
    ) as tail:
        wait_until(lambda: sorted(tail.view().rows["message_id"].to_pylist()) == message_ids(3))
    with open_session(kafka, settings) as session:
        read_messages(session, 3)
        session.commit()
    stored = audit(settings.home)
    assert stored is not None and stored.column() == message_ids(3)


def test_values_are_framed_and_the_bytes_as_they_came_stay(kafka: Kafka) -> None:
    (body,) = bodies(1)
    send(kafka, body, header(7))
    with TopicConsumer(kafka.cluster) as consumer:
        consumer.assign({tp: 0 for tp in consumer.partitions(TRADES_TOPIC)})
        found = [consumer.read(0.1)]
        wait_until(lambda: found[-1].values or found.append(consumer.read(0.1)))
    assert found[-1].values == [header(7) + body]
    assert [message.value() for message in found[-1].raw] == [body]


def test_a_guid_that_nobody_knows_is_a_dead_letter_with_key_and_headers(
    kafka: Kafka, settings: Settings
) -> None:
    (body,) = bodies(1)
    kafka.registry.patience_s = 0.0
    send(kafka, body, b"\1" + UNKNOWN.bytes)
    with open_session(kafka, settings) as session:
        read_messages(session, 1)
        session.commit()
    with open_session(kafka, settings, "dead_letters") as session:
        read_messages(session, sum(high for _, high in watermarks(kafka, DEAD_LETTERS)))
        session.commit()
    table = load_table(open_catalog(settings), "dead_letters")
    assert table is not None
    (letter,) = table.scan().to_arrow().to_pylist(maps_as_pydicts="strict")
    assert letter["detail"] == (
        f"no schema has the GUID {UNKNOWN}, or the registry cannot look up GUIDs"
    )
    assert (letter["source"], letter["position"]) == (TRADES_TOPIC, "0:0")
    assert (letter["raw"], letter["key"]) == (body, b"AAA")
    headers = {"other": b"\xff", SCHEMA_ID_HEADER: b"\1" + UNKNOWN.bytes}
    assert letter["headers"] == headers
