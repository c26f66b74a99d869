"""The log: the records of our topics, read by confluent_kafka and decoded by fastavro."""

import io
import json
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import fastavro
import pyarrow as pa
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from duckdb import DuckDBPyConnection

from k2lib.audit.tables import TABLE_OF, Offsets, compared
from k2lib.client import choose_kafka
from k2lib.errors import RecordError, TransientError
from k2lib.kafka.cluster import KafkaSource
from k2lib.kafka.embedded import attach
from k2lib.kafka.registry import SchemaRegistry
from k2lib.settings import Settings

OPTIONS: Final = {
    "group.id": "k2-audit",
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",  # what left the log meanwhile is a range that is named
    "enable.partition.eof": True,
}
BATCH: Final = 5_000
POLL_S: Final = 0.1
STALLED_S: Final = 30.0
SCHEMA_ID: Final = "__value_schema_id"
ID_BYTES: Final = {0: 5, 1: 17}
BROKEN: Final = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    struct.error,
    fastavro.schema.SchemaParseException,
)
ARROW: Final[Mapping[str, pa.DataType]] = {
    "VARCHAR": pa.string(),
    "VARCHAR[]": pa.list_(pa.string()),
    "BLOB": pa.binary(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    "DECIMAL(18,8)": pa.decimal128(18, 8),
    "DECIMAL(19,8)": pa.decimal128(19, 8),
}
# What is not in a table yet counts too: they explain what is in others.
TO_THE_END: Final = ("dead_letters", "gaps")

Place = tuple[str, int]


@dataclass(frozen=True)
class LogRange:
    """A partition as Kafka has it, and how far its table has read it.

    Attributes:
        first: the first offset that Kafka still has.
        end: up to which the table has read, 0 where it never did.
        high: the high watermark when the audit began.
    """

    table: str
    log: str
    topic: str
    partition: int
    first: int
    end: int
    high: int


@contextmanager
def find_log(settings: Settings) -> Iterator[KafkaSource | str]:
    """Find the log that goes with a home; yield why there is none where that is so.

    Raises:
        ConfigError: the settings name a Kafka as it cannot be.
        TransientError: the Kafka of the home has ended.
    """
    target = choose_kafka(settings)
    if target.cluster is not None:
        target.check()
        with closing(
            SchemaRegistry(
                target.registry_url,
                timeout_s=settings.timeout_s,
                options=target.registry_options,
            )
        ) as registry:
            yield KafkaSource(target.cluster, registry.text)
        return
    try:
        found: KafkaSource | str = attach(settings.home)
    except TransientError:
        found = "the log of an embedded broker is there only while its owner lives"
    yield found


def read_log(
    source: KafkaSource, connection: DuckDBPyConnection, offsets: Mapping[str, Offsets]
) -> list[LogRange]:
    """Read our topics into `<table>.records`, as far as the tables have read them.

    Args:
        offsets: those of each table.
    Raises:
        TransientError: Kafka or the registry do not answer.
    """
    try:
        with closing(Consumer(source.cluster.client() | OPTIONS)) as consumer:
            ranges = _find_ranges(source, consumer, offsets)
            partitions = {(one.topic, one.partition): one for one in ranges}
            return _read_all(source, consumer, connection, partitions)
    except KafkaException as exc:
        raise source.cluster.error(exc.args[0].str()) from exc


def _find_ranges(
    source: KafkaSource, consumer: Consumer, offsets: Mapping[str, Offsets]
) -> Iterator[LogRange]:
    metadata = consumer.list_topics(timeout=source.cluster.timeout_s)
    topics = sorted(name for name in metadata.topics if _table(name) is not None)
    logs = _log_ids(source, topics, str(metadata.cluster_id))
    for topic in topics:
        table = str(_table(topic))
        for partition in sorted(metadata.topics[topic].partitions):
            low, high = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=source.cluster.timeout_s
            )
            _, end = offsets.get(table, {}).get((logs[topic], topic, partition), (0, 0))
            yield LogRange(table, logs[topic], topic, partition, low, end, high)


def _table(topic: str) -> str | None:
    parts = topic.split(".")
    if parts[0] != "market" or len(parts) not in (2, 4):
        return None
    return TABLE_OF.get(parts[1] if len(parts) == 2 else parts[2])


def _log_ids(source: KafkaSource, topics: list[str], cluster_id: str) -> dict[str, str]:
    cluster = source.cluster
    if cluster.embedded_log is not None or not topics:
        return dict.fromkeys(topics, cluster.embedded_log or "")
    admin = AdminClient(cluster.client())
    described = admin.describe_topics(TopicCollection(topics), request_timeout=cluster.timeout_s)
    return {name: f"{cluster_id}/{one.result().topic_id}" for name, one in described.items()}


def _read_all(
    source: KafkaSource,
    consumer: Consumer,
    connection: DuckDBPyConnection,
    ranges: Mapping[Place, LogRange],
) -> list[LogRange]:
    """Read all partitions; return them as they turned out: retention may have taken more."""
    limits = {
        partition: part.high if part.table in TO_THE_END else min(part.end, part.high)
        for partition, part in ranges.items()
    }
    firsts: dict[Place, int] = {}
    for messages in _messages(source, consumer, ranges, limits):
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in messages:
            partition, offset = _partition_of(one)
            firsts.setdefault(partition, offset)
            table = ranges[partition].table
            rows.setdefault(table, []).append(_row(source, table, one))
        for table, some in rows.items():
            connection.register("batch", _arrow_table(some, _arrow_schema(table)))
            connection.execute(f"INSERT INTO {table}.records SELECT * FROM batch")
            connection.unregister("batch")
    return [
        replace(part, first=firsts.get(partition, max(part.first, limits[partition])))
        for partition, part in ranges.items()
    ]


def _messages(
    source: KafkaSource,
    consumer: Consumer,
    ranges: Mapping[Place, LogRange],
    limits: Mapping[Place, int],
) -> Iterator[list[Message]]:
    """Yield the records below the limits, each partition's in order."""
    pending = {partition for partition, part in ranges.items() if part.first < limits[partition]}
    consumer.assign([TopicPartition(*partition, ranges[partition].first) for partition in pending])
    last = time.monotonic()
    while pending:
        messages = consumer.consume(BATCH, POLL_S)
        last = time.monotonic() if messages else last
        if time.monotonic() - last > STALLED_S:
            raise source.cluster.error(f"no records of {sorted(pending)} for {STALLED_S:g} s")
        records = []
        for one in messages:
            (partition, offset), error = _partition_of(one), one.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None and offset < limits[partition]:
                records.append(one)
            if partition in pending and offset + (error is None) >= limits[partition]:
                pending.remove(partition)
                consumer.incremental_unassign([TopicPartition(*partition)])
        if records:
            yield records


def _partition_of(message: Message) -> tuple[Place, int]:
    return (str(message.topic()), message.partition() or 0), message.offset() or 0


def create_records(connection: DuckDBPyConnection, table: str) -> None:
    """Make a schema for a table, and the empty `<table>.records`."""
    connection.execute(f"CREATE SCHEMA {table}")
    columns = ", ".join(f'"{name}" {kind}' for name, kind in compared(table).items())
    connection.execute(
        f"CREATE TABLE {table}.records (topic VARCHAR, part INTEGER, pos BIGINT, {columns})"
    )


@cache
def _arrow_schema(table: str) -> pa.Schema:
    position = [("topic", pa.string()), ("part", pa.int32()), ("pos", pa.int64())]
    return pa.schema([*position, *((name, ARROW[kind]) for name, kind in compared(table).items())])


def _arrow_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; of one that does not fit only its position."""
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if len(rows) > 1:
            return pa.concat_tables(_arrow_table([row], schema) for row in rows)
    position = {name: rows[0][name] for name in ("topic", "part", "pos")}
    return pa.Table.from_pylist([position], schema=schema)


def _row(source: KafkaSource, table: str, message: Message) -> dict[str, Any]:
    """Return a record's columns; those of one that cannot be decoded are null."""
    position = {"topic": message.topic(), "part": message.partition(), "pos": message.offset()}
    try:
        record = _decode(source, message)
    except (*BROKEN, RecordError):
        return position
    return {**{name: record.get(name) for name in compared(table)}, **position}


def _decode(source: KafkaSource, message: Message) -> Mapping[str, Any]:
    value = message.value() or b""
    headers: dict[str, Any] = dict(message.headers() or ())
    prefix = headers.get(SCHEMA_ID) or value[: ID_BYTES[value[0]]]
    body = io.BytesIO(value if SCHEMA_ID in headers else value[len(prefix) :])
    number = int.from_bytes(prefix[1:]) if prefix[0] == 0 else uuid.UUID(bytes=prefix[1:])
    schema = _parsed(source.schema_text(number))
    record: Any = fastavro.schemaless_reader(body, schema, None)
    if body.read():
        raise ValueError("more than a record")
    return dict(record)


@cache
def _parsed(text: str) -> Any:
    return fastavro.parse_schema(json.loads(text))
