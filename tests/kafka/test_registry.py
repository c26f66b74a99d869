"""The registry: one id a topic, texts by id, and refusals that say who refused what."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from support.ports import dripping_server, silent_port

from k2lib.errors import RecordError, SchemaError, TransientError
from k2lib.kafka.connect import Kafka
from k2lib.kafka.registry import SchemaRegistry
from k2lib.ops.services import Services
from k2lib.schema.records import QUOTE, TRADE

TOPIC = "market.equities.trades.asx"
UNKNOWN = 987_654
PROTOBUF = 'syntax = "proto3"; message Other { string name = 1; }'


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
    registry.patience_s = 0.0
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


@pytest.mark.slow
def test_a_registry_is_given_up_in_its_time_however_slowly_it_answers() -> None:
    with dripping_server() as server:
        url = f"http://127.0.0.1:{server.port}"
        with (
            closing(SchemaRegistry(url, timeout_s=1)) as registry,
            pytest.raises(TransientError) as caught,
        ):
            registry.register(TOPIC, TRADE)
    assert str(caught.value) == (
        f"the schema registry at {url} does not answer: no answer within 1 s: "
        "start it, or correct its address"
    )


@pytest.mark.slow
def test_the_second_of_two_registries_answers_where_the_first_is_silent(
    answering: Callable[..., str],
) -> None:
    with silent_port() as port:
        urls = f"http://127.0.0.1:{port},{answering((200, {'id': 5}))}"
        with closing(SchemaRegistry(urls, timeout_s=4)) as registry:
            assert registry.register(TOPIC, TRADE) == 5


class _Answers(BaseHTTPRequestHandler):
    """Answers one request after the other from a list of status and body."""

    answers: ClassVar[list[tuple[int, dict[str, object]]]] = []

    def do_GET(self) -> None:
        status, body = self.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Return the address of a registry that gives these answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def answer(*answers: tuple[int, dict[str, object]]) -> str:
            _Answers.answers[:] = answers
            return f"http://127.0.0.1:{server.server_port}"

        yield answer
        server.shutdown()


UNKNOWN_YET = (404, {"error_code": 40403, "message": "Schema not found"})


@pytest.mark.slow
def test_an_id_is_asked_for_again_while_the_registry_reads_its_schemas(
    answering: Callable[..., str],
) -> None:
    url = answering(UNKNOWN_YET, UNKNOWN_YET, (200, {"schema": TRADE.text}))
    with closing(SchemaRegistry(url)) as registry:
        assert registry.text(7) == TRADE.text


def test_an_id_that_is_not_believed_once_is_asked_for_once_from_then_on(
    answering: Callable[..., str],
) -> None:
    url = answering(UNKNOWN_YET, UNKNOWN_YET, (200, {"schema": TRADE.text}))
    with closing(SchemaRegistry(url)) as registry:
        registry.patience_s = 0.0
        for _ in range(2):
            with pytest.raises(RecordError, match="no schema has the id 7"):
                registry.text(7)
        assert registry.text(7) == TRADE.text


@pytest.mark.slow
def test_a_conflict_with_another_that_registers_the_same_is_no_refusal(
    answering: Callable[..., str],
) -> None:
    url = answering((409, {"error_code": 409, "message": "already exists"}), (200, {"id": 5}))
    with closing(SchemaRegistry(url)) as registry:
        assert registry.register(TOPIC, TRADE) == 5
