"""Producers, sessions and sinks as tests drive them: step by step, or in a thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from support.log_rows import TRADES_TOPIC
from support.recorded_events import AnEvent, events_of
from support.waiting import wait_until

from k2lib.events import BatchDone, Event, OnEvent
from k2lib.iceberg.sink import Sink
from k2lib.iceberg.sink_session import SinkSession
from k2lib.iceberg.tables import TABLES, ensure_table, open_catalog
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.connect import Kafka
from k2lib.kafka.consumer import TopicConsumer
from k2lib.kafka.log_ends import LogEnds
from k2lib.kafka.producer import BatchProducer
from k2lib.kafka.topics import create_topics
from k2lib.schema.records import TRADE, RecordSchema
from k2lib.settings import Settings


def produce(
    kafka: Kafka,
    rows: pa.Table,
    topic: str = TRADES_TOPIC,
    *,
    schema: RecordSchema = TRADE,
    key: str = "symbol",
) -> None:
    """Produce rows and wait until Kafka has them."""
    producer = BatchProducer(kafka.cluster, kafka.registry, client=kafka.client)
    producer.produce(topic, rows, schema, key=key)
    producer.flush()


def produce_raw(
    kafka: Kafka, *values: bytes, topic: str = TRADES_TOPIC, partition: int = 0
) -> None:
    """Produce bytes as they are."""
    if kafka.client is None:
        create_topics(kafka.cluster.admin(), [topic])
    client = kafka.client or Producer({"bootstrap.servers": kafka.cluster.bootstrap})
    for value in values:
        client.produce(topic, value=value, partition=partition)
    assert client.flush(60) == 0


def watermarks(kafka: Kafka, topic: str = TRADES_TOPIC) -> list[tuple[int, int]]:
    """Return first and next offset of each partition, once each of them has a leader."""
    client = Consumer({"bootstrap.servers": kafka.cluster.bootstrap, "group.id": "watermarks"})
    partitions = sorted(client.list_topics(topic, timeout=60).topics[topic].partitions)
    found: list[tuple[int, int]] = []

    def answered() -> bool:
        with suppress(KafkaException):
            found[:] = [client.get_watermark_offsets(TopicPartition(topic, n)) for n in partitions]
        return bool(found)

    wait_until(answered)
    client.close()
    return found


@contextmanager
def open_session(
    kafka: Kafka,
    settings: Settings,
    table: str = "trades_v2",
    *,
    accept_loss: bool = False,
    sent_letters: set[str] | None = None,
    on_event: OnEvent = lambda event: None,
) -> Iterator[SinkSession]:
    """Begin at the table's offsets, as a sink does, and go on step by step."""
    spec = TABLES[table]
    writer = TableWriter(ensure_table(open_catalog(settings), spec), spec, on_event=on_event)
    with TopicConsumer(kafka.cluster) as reader:
        yield SinkSession(
            spec,
            writer,
            reader,
            cluster=kafka.cluster,
            registry=kafka.registry,
            log_ends=LogEnds(settings.home / "run"),
            accept_loss=accept_loss,
            sent_letters=set() if sent_letters is None else sent_letters,
            on_event=on_event,
        )


def read_messages(session: SinkSession, count: int) -> None:
    """Read so many messages that are not yet in the table."""
    session.follow_topics()
    pending = session.pending

    def has_read() -> bool:
        session.read(0.1, limit=count - pending.n_records)
        return pending.n_records >= count

    wait_until(has_read)


@dataclass
class RunningSink:
    """A sink in a thread: what it told, and what ended it."""

    sink: Sink
    stop: threading.Event = field(default_factory=threading.Event)
    events: list[Event] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def run(self) -> None:
        """Run until stopped; keep the error, if any."""
        try:
            self.sink.run(self.stop)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.errors.append(exc)

    def named(self, kind: type[AnEvent]) -> list[AnEvent]:
        """Return the events of a class."""
        return events_of(self.events, kind)

    def added(self) -> int:
        """Return how many rows the sink added."""
        return sum(batch.added for batch in self.named(BatchDone))

    def wait(self, fact: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for a fact, or fail with what ended the sink."""
        wait_until(lambda: self.errors or fact(), seconds)
        assert not self.errors, self.errors


@contextmanager
def running_sink(
    kafka: Kafka, settings: Settings, table: str = "trades_v2", **options: Any
) -> Iterator[RunningSink]:
    """Run a sink beside the test."""
    events: list[Event] = []
    catalog = open_catalog(settings)
    sink = Sink(
        TABLES[table],
        catalog=catalog,
        cluster=kafka.cluster,
        registry=kafka.registry,
        run_folder=settings.home / "run",
        on_event=events.append,
        **{"interval_s": 0.1, **options},
    )
    running = RunningSink(sink, events=events)
    thread = threading.Thread(target=running.run, name=f"test-sink-{table}")
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join()
        catalog.close()


def settings_in(folder: Path, **changed: Any) -> Settings:
    """Return the settings of a home of its own."""
    return Settings(home=folder / "home", **changed)
