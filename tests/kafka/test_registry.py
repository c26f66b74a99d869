"""The registry: one id a topic, texts by id, and refusals that say who refused what."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from support.kafkas import opened

from k2lib.errors import RecordError, SchemaError, TransientError
from k2lib.kafka.connect import Kafka
from k2lib.kafka.registry import SchemaRegistry
from k2lib.ops.services import Services
from k2lib.schema.records import QUOTE, TRADE

TOPIC = "market.equities.trades.asx"
UNKNOWN = 987_654
PROTOBUF = 'syntax = "proto3"; message Other { string name = 1; }'


@pytest.fixture
def kafka(kafka_settings: dict[str, str], tmp_path: Path) -> Iterator[Kafka]:
    with opened(kafka_settings, tmp_path / "home") as one:
        yield one


@pytest.fixture
def registry(kafka: Kafka) -> SchemaRegistry:
    return kafka.registry


def test_a_schema_has_one_id_however_often_it_is_registered(registry: SchemaRegistry) -> None:
    first = registry.register(TOPIC, TRADE)
    assert registry.register(TOPIC, TRADE) == first
    assert registry.texts()[first] == TRADE.text
    guids = registry.texts().keys() - {first}
    assert all(registry.text(guid) == TRADE.text for guid in guids)
    assert [guid for guid in guids if isinstance(guid, int)] == []


@pytest.mark.stack
def test_another_client_finds_the_text_by_the_id(services: Services) -> None:
    with (
        closing(SchemaRegistry(services.registry_url)) as writer,
        closing(SchemaRegistry(services.registry_url)) as reader,
    ):
        assert reader.text(writer.register(TOPIC, TRADE)) == TRADE.text


def test_an_id_that_nobody_registered_is_the_records_fault(registry: SchemaRegistry) -> None:
    with pytest.raises(RecordError, match=f"no schema has the id {UNKNOWN}"):
        registry.text(UNKNOWN)


@pytest.mark.stack
def test_a_schema_that_is_not_avro_is_the_records_fault(services: Services) -> None:
    client = SchemaRegistryClient.new_client({"url": services.registry_url})
    number = client.register_schema("other-value", Schema(PROTOBUF, "PROTOBUF"))
    client.close()
    with (
        closing(SchemaRegistry(services.registry_url)) as registry,
        pytest.raises(RecordError, match=f"the schema {number} is PROTOBUF, not AVRO"),
    ):
        registry.text(number)


@pytest.mark.stack
def test_the_registry_refuses_an_incompatible_schema(services: Services) -> None:
    with closing(SchemaRegistry(services.registry_url)) as registry:
        registry.register("market.refused", TRADE)
    with (
        closing(SchemaRegistry(services.registry_url)) as registry,
        pytest.raises(SchemaError, match=r"market\.refused-value: the registry refuses"),
    ):
        registry.register("market.refused", QUOTE)


@pytest.mark.slow
def test_a_registry_that_does_not_answer_is_a_transient_error() -> None:
    with (
        closing(SchemaRegistry("http://127.0.0.1:1")) as registry,
        pytest.raises(TransientError, match=r"127\.0\.0\.1:1 does not answer"),
    ):
        registry.text(1)
