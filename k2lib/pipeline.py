"""The write path of a process: a producer, the sinks, and the wait for the lake to catch up."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2lib.errors import ConfigError, TransientError
from k2lib.events import BatchDone, DeadLettersSent, Event, OnEvent, log_event
from k2lib.iceberg.offsets import end_of, read_offsets
from k2lib.iceberg.sink_threads import LOOK_AGAIN_S, SinkThreads, make_sinks
from k2lib.iceberg.tables import TABLES, check_schema, load_table
from k2lib.iceberg.writer import check_appendable
from k2lib.kafka.cluster import Cluster, KafkaSource, log_ids
from k2lib.kafka.connect import RECORD_OVERHEAD_BYTES, open_kafka
from k2lib.kafka.consumer import (
    ConsumerRecords,
    TopicConsumer,
    TopicPartition,
    believed_watermarks,
)
from k2lib.kafka.log_ends import LogEnds
from k2lib.kafka.producer import FLUSH_S, SLICE_ROWS, BatchProducer
from k2lib.kafka.registry import SchemaRegistry
from k2lib.kafka.topics import DEAD_LETTERS, topic_kind
from k2lib.lifecycle import Closing
from k2lib.schema.codec import decode
from k2lib.schema.records import RecordSchema
from k2lib.settings import Settings

STALLED_S: Final = 30.0
TABLE_OF: Final = {spec.kind: spec for spec in TABLES.values()}

Ends = Mapping[TopicPartition, int]


@dataclass(frozen=True)
class Target:
    """The Kafka that writes go to and how it was chosen.

    Attributes:
        cluster: None if embedded.
        check: refuses one that ended by a TransientError, before anything connects to it.
    """

    mode: str
    cluster: Cluster | None = None
    registry_url: str = field(default="", repr=False)
    registry_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    check: Callable[[], None] = field(default=lambda: None, repr=False)

    def __str__(self) -> str:
        where = self.cluster.bootstrap if self.cluster else "in this process"
        return f"Kafka {self.mode} ({where})"


class Pipeline(Closing):
    """Producer, sinks and Kafka of one process that writes; a context manager."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        settings: Settings,
        target: Target,
        with_sinks: bool = True,
        on_event: OnEvent = log_event,
    ) -> None:
        """Start producer and sinks; the embedded broker before them where that is the target.

        Raises:
            OwnerError: the home has an owner, in this process or another.
            ConfigError: the embedded broker without sinks would lose everything at its end.
            TransientError: Kafka does not answer.
        """
        if target.cluster is None and not with_sinks:
            raise ConfigError(
                "without sinks the embedded broker loses all at its end: "
                "`k2 up`, or set K2_KAFKA_BOOTSTRAP"
            )
        target.check()
        self._catalog = catalog
        self._timeout_s = settings.timeout_s
        self._on_event = on_event
        self._landed = threading.Event()
        self._producing = threading.Lock()
        self._has_sinks = with_sinks
        self._kafka = open_kafka(
            settings.home, target.cluster, target.registry_url, target.registry_options
        )
        self.cluster = self._kafka.cluster
        self._producer = BatchProducer(
            self.cluster, self._kafka.registry, client=self._kafka.client, on_event=on_event
        )
        self._watch = TopicConsumer(self.cluster)
        self._log_ends = LogEnds(settings.home / "run")
        self._admin = self.cluster.admin()
        self._topics: set[str] = set()
        self._window: Ends = {}
        self._emptied: dict[TopicPartition, int] = {}
        self._ahead = 0
        specs = TABLES.values() if with_sinks else ()
        self._sinks = SinkThreads(
            make_sinks(specs, catalog, self._kafka, settings, on_event=self._follow_sinks)
        )
        try:
            self._sinks.start()
        except BaseException:
            self._end()
            raise

    def check_topic(self, topic: str, schema: RecordSchema) -> None:
        """See, before there are any rows, whether `produce` will take them; makes no topic.

        Raises:
            SchemaError, TableError, LossError: as `produce`.
            TransientError: the registry does not answer.
        """
        self._check_sinks(topic)
        self._check_schema(topic, schema)
        self._kafka.registry.register(topic, schema)

    def produce(
        self, topic: str, rows: pa.Table, schema: RecordSchema, *, key: str = "symbol"
    ) -> None:
        """Queue the rows, waiting while the tables are two windows behind; threads take turns.

        Raises:
            DeliveryError, TransientError: Kafka did not take them.
            SchemaError: the schema cannot read the rows of the table; nothing was produced.
            TableError: another engine left the table as rows cannot be added; nothing was produced.
            LossError: a sink ended by it.
        """
        self._check_sinks(topic)
        with self._producing:
            if topic not in self._topics:
                self._check_schema(topic, schema)
            for batch in rows.to_batches(max_chunksize=SLICE_ROWS):
                messages = self._producer.encode(topic, batch, schema, key=key)
                self._send(topic, messages, self._producer.send)

    def produce_again(
        self, topic: str, messages: list[dict[str, Any]], schema: RecordSchema
    ) -> None:
        """Queue records as they once came: key, value and headers of each.

        Raises:
            DeliveryError, TransientError, SchemaError, LossError: as `produce`.
        """
        self._sinks.check()
        with self._producing:
            if topic not in self._topics:
                self._check_schema(topic, schema)
            self._send(topic, messages, self._producer.send_again)

    @property
    def log(self) -> KafkaSource:
        """The cluster that readers in this process read, with its schemas."""
        return KafkaSource(self.cluster, self._kafka.registry.text)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until Kafka has everything produced so far.

        Raises:
            DeliveryError: Kafka did not take some of it within that time.
        """
        self._producer.flush(timeout_s)

    def check(self) -> None:
        """Raise, without waiting, the first error so far.

        Raises:
            DeliveryError: Kafka did not take some of what was produced.
            LossError: a sink ended by it.
        """
        self._check_sinks()
        self._producer.check()

    def settle(self, stalled_s: float = STALLED_S) -> None:
        """Wait until the tables have everything produced so far.

        Raises:
            DeliveryError: Kafka did not take some of it.
            TransientError: for `stalled_s` seconds no table got anything; says what is missing.
                Or why a sink has been failing, longer than `K2_TIMEOUT_S`.
        """
        self.flush()
        self._wait(self._high_watermarks(), stalled_s)
        if DEAD_LETTERS in self._topics:
            # Sinks have their own letters acknowledged before they commit past the records.
            self._wait(self._high_watermarks(), stalled_s)

    def unread(self, topic: str, schema: RecordSchema) -> pa.Table:
        """Return the records of a topic that its table does not have yet; see the function."""
        table = load_table(self._catalog, TABLE_OF[topic_kind(topic) or ""].name)
        return unread(
            topic, schema, table=table, cluster=self.cluster, registry=self._kafka.registry
        )

    def close(self) -> None:
        """Wait for the tables as `settle` does, then end sinks, producer and broker."""
        try:
            self.settle() if self._has_sinks else self._leave()
        finally:
            self._end()

    def _leave(self) -> None:
        """Note how far the log goes: sinks that come later miss what a deleted topic took."""
        self.flush()
        self._high_watermarks()

    def _end(self) -> None:
        self._sinks.stop()
        self._watch.close()
        self._producer.close()
        self._kafka.close()

    def _check_sinks(self, *topics: str) -> None:
        """Raise what ended a sink; of tables that nothing is produced for, only what ends all."""
        kinds = {topic_kind(topic) or "" for topic in [*self._topics, *topics]}
        self._sinks.check(tables={TABLE_OF[kind].name for kind in kinds})

    def _check_schema(self, topic: str, schema: RecordSchema) -> None:
        """Check before the first record, because a sink cannot send one back that Kafka has."""
        table = load_table(self._catalog, TABLE_OF[topic_kind(topic) or ""].name)
        if table is not None:
            check_schema(table, schema)
            check_appendable(table, TABLE_OF[topic_kind(topic) or ""])

    def _send(
        self,
        topic: str,
        messages: list[dict[str, Any]],
        send: Callable[[str, list[dict[str, Any]]], None],
    ) -> None:
        for part, size in _parts(messages, self._kafka.window_bytes):
            if self._has_sinks:
                self._pace(size)
            send(topic, part)
            self._follow(topic)

    def _follow(self, topic: str) -> None:
        if topic in self._topics:
            return
        self._producer.flush()
        self._topics.add(topic)
        self._sinks.discover()

    def _pace(self, size: int) -> None:
        """Keep at most two windows ahead of the tables, so that the log never drops unread records.

        The sinks commit the window before once half a window is sent: a steady flow never waits.
        """
        if self._ahead <= self._kafka.window_bytes // 2 < self._ahead + size:
            self._sinks.commit_early()
        self._ahead += size
        if self._ahead > self._kafka.window_bytes:
            self._producer.flush()
            sent = self._high_watermarks()
            self._wait(self._window, STALLED_S)
            self._window, self._ahead = sent, size

    def _high_watermarks(self) -> Ends:
        partitions = [tp for topic in sorted(self._topics) for tp in self._watch.partitions(topic)]
        watermarks = {tp: self._watch.watermarks(tp) for tp in partitions}
        # What was sent can have expired, or the broker has just started and knows no better.
        empty = {tp: high for tp, (low, high) in watermarks.items() if low == high > 0}
        if doubtful := empty.items() - self._emptied.items():
            positions = dict.fromkeys(tp for tp, _ in doubtful)
            watermarks |= believed_watermarks(positions, self._watch.watermarks)
            self._emptied |= {tp: watermarks[tp][1] for tp in positions}
        ends = {tp: high for tp, (low, high) in watermarks.items() if low < high}
        self._log_ends.note(log_ids(self.cluster, self._admin, self._topics), ends)
        return ends

    def _wait(self, ends: Ends, stalled_s: float) -> None:
        self._sinks.hurry(True)
        tables = {_table_name(tp) for tp in ends}
        try:
            # A look at a catalog that does not answer takes long: first ask the sinks.
            self._sinks.check_progress(tables, after_s=self._timeout_s)
            missing, since = self._still_missing(ends, dict(ends)), time.monotonic()
            while missing:
                self._check_sinks()
                self._sinks.check_progress(tables, after_s=self._timeout_s)
                if time.monotonic() - since > stalled_s:
                    raise TransientError(_stalled_message(missing, stalled_s))
                self._landed.wait(LOOK_AGAIN_S)
                self._landed.clear()
                still = self._still_missing(ends, missing)
                since = since if still == missing else time.monotonic()
                missing = still
        finally:
            self._sinks.hurry(False)

    def _still_missing(
        self, ends: Ends, before: dict[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Return what is missing; where the catalog or Kafka do not answer, what was before."""
        try:
            return self._missing(ends)
        except TransientError:
            return before

    def _missing(self, ends: Ends) -> dict[TopicPartition, int]:
        """Return how many records of each partition the tables do not have yet."""
        logs = log_ids(self.cluster, self._admin, {tp.topic for tp in ends})
        tables = {_table_name(tp) for tp in ends}
        offsets = {
            name: read_offsets(table) if (table := load_table(self._catalog, name)) else {}
            for name in tables
        }
        behind = {
            tp: end - (end_of(offsets[_table_name(tp)], logs[tp.topic], tp) or 0)
            for tp, end in ends.items()
        }
        return {tp: count for tp, count in behind.items() if count > 0}

    def _follow_sinks(self, event: Event) -> None:
        match event:
            case DeadLettersSent():
                self._topics.add(DEAD_LETTERS)
                self._sinks.discover()
            case BatchDone():
                self._landed.set()
        self._on_event(event)


def _table_name(tp: TopicPartition) -> str:
    return TABLE_OF[topic_kind(tp.topic) or ""].name


def _parts(
    messages: list[dict[str, Any]], limit: int
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Cut the messages into parts of at most `limit` bytes as the broker stores them."""
    part: list[dict[str, Any]] = []
    size = 0
    for message in messages:
        record_size = len(message["key"] or b"") + len(message["value"]) + RECORD_OVERHEAD_BYTES
        if part and size + record_size > limit:
            yield part, size
            part, size = [], 0
        part.append(message)
        size += record_size
    if part:
        yield part, size


def _stalled_message(missing: Mapping[TopicPartition, int], stalled_s: float) -> str:
    counts = ", ".join(
        f"{count} records of {tp.topic} partition {tp.partition}" for tp, count in missing.items()
    )
    return f"not in the lake after {stalled_s:g} s without progress: {counts}. Load them again"


UNREAD_POLL_S: Final = 0.2
UNREAD_STALLED_S: Final = 10.0


def unread(
    topic: str,
    schema: RecordSchema,
    *,
    table: Table | None,
    cluster: Cluster,
    registry: SchemaRegistry,
) -> pa.Table:
    """Return the records of a topic that its table does not have yet, read by its offsets.

    Returns:
        Rows of the schema from the table's offsets to the high watermarks of now, in the order
        of each partition, without records that cannot be decoded: those become dead letters.
    Raises:
        TransientError: Kafka does not answer, or the offset to start at has left the log.
    """
    with TopicConsumer(cluster) as consumer:
        partitions = consumer.find_partitions(lambda name: name == topic)
        log = consumer.log_ids(partitions).get(topic, "")
        offsets = {} if table is None else read_offsets(table)
        starts: dict[TopicPartition, int] = {}
        ends: dict[TopicPartition, int] = {}
        positions = {tp: end_of(offsets, log, tp) for tp in partitions}
        watermarks = believed_watermarks(positions, consumer.watermarks)
        for tp, (low, high) in watermarks.items():
            end = positions[tp]
            start = low if end is None else end
            if start < high:
                starts[tp], ends[tp] = start, high
        consumer.assign(starts)
        read = _read_to(consumer, ends)
        parts = [decode(some.values, schema, writer=registry.text)[0] for some in read]
    return pa.concat_tables([schema.arrow.empty_table(), *parts])


def _read_to(
    consumer: TopicConsumer, ends: Mapping[TopicPartition, int]
) -> Iterator[ConsumerRecords]:
    last_read = time.monotonic()
    while ends and time.monotonic() - last_read < UNREAD_STALLED_S:
        records = consumer.read(UNREAD_POLL_S)
        if records.values:
            last_read = time.monotonic()
            yield records
        ends = {tp: end for tp, end in ends.items() if consumer.positions[tp] < end}
    # The last offsets may be control records of transactions, which are not read. Kafka answers?
    for tp in ends:
        consumer.watermarks(tp)
