"""The unread: what Kafka has beyond the table's offsets, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer
from support.feeding import open_session, produce, produce_raw, read_messages
from support.kafkas import opened
from support.log_rows import TRADES_TOPIC, many_trades, message_ids

from k2lib.errors import TransientError
from k2lib.iceberg.tables import load_table, open_catalog
from k2lib.kafka.connect import Kafka
from k2lib.pipeline import unread
from k2lib.schema.records import TRADE
from k2lib.settings import Settings


def unread_ids(kafka: Kafka, settings: Settings) -> list[str]:
    table = load_table(open_catalog(settings), "trades_v2")
    rows = unread(TRADES_TOPIC, TRADE, table=table, cluster=kafka.cluster, registry=kafka.registry)
    assert rows.schema.equals(TRADE.arrow)
    return sorted(rows["message_id"].to_pylist())


def commit(kafka: Kafka, settings: Settings, count: int) -> None:
    """Move so many messages into the table."""
    with open_session(kafka, settings) as session:
        read_messages(session, count)
        session.commit()


def test_a_topic_that_is_not_there_has_nothing(kafka: Kafka, settings: Settings) -> None:
    assert unread_ids(kafka, settings) == []


def test_without_a_table_all_of_the_topic_is_unread(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(3_000))
    assert unread_ids(kafka, settings) == message_ids(3_000)


def test_unread_is_what_came_after_the_tables_offsets(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(500))
    commit(kafka, settings, 500)
    assert unread_ids(kafka, settings) == []
    produce(kafka, many_trades(200, first=500))
    assert unread_ids(kafka, settings) == message_ids(200, first=500)


def test_what_cannot_be_decoded_is_left_to_the_sink(kafka: Kafka, settings: Settings) -> None:
    produce(kafka, many_trades(10))
    produce_raw(kafka, b"garbage", b"")
    produce(kafka, many_trades(10, first=10))
    assert unread_ids(kafka, settings) == message_ids(20)


@pytest.mark.slow
@pytest.mark.stack
def test_offsets_that_are_no_records_do_not_hold_it_up(
    empty_kafka: Mapping[str, str], settings: Settings, tmp_path: Path
) -> None:
    with opened(empty_kafka, tmp_path / "home") as kafka:
        produce(kafka, many_trades(10))
        client = Producer({"bootstrap.servers": kafka.cluster.bootstrap, "transactional.id": "t"})
        client.init_transactions()
        client.begin_transaction()
        client.produce(TRADES_TOPIC, value=b"garbage", partition=0)
        client.commit_transaction()
        assert unread_ids(kafka, settings) == message_ids(10)


@pytest.mark.slow
def test_a_broker_that_is_gone_is_told(settings: Settings, tmp_path: Path) -> None:
    with opened({}, tmp_path / "home") as kafka:
        produce(kafka, many_trades(10))
        cluster, registry = kafka.cluster, kafka.registry
    with pytest.raises(TransientError):
        unread(TRADES_TOPIC, TRADE, table=None, cluster=cluster, registry=registry)
