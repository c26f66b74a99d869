"""One run of a sink from the table's offsets: read, decode, set dead letters aside, append."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from k2lib.errors import LossError, SchemaError, TransientError
from k2lib.events import (
    BatchDone,
    BatchRead,
    DeadLettersSent,
    OnEvent,
    RowsVisible,
    SinkLagMeasured,
)
from k2lib.iceberg.offsets import Range
from k2lib.iceberg.tables import TableSpec
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.cluster import Cluster, list_topics, log_ids
from k2lib.kafka.consumer import ConsumerRecords, TopicConsumer, TopicPartition
from k2lib.kafka.producer import BatchProducer
from k2lib.kafka.registry import Registry
from k2lib.kafka.topics import DEAD_LETTERS, GAPS, topic_kind
from k2lib.schema.codec import UndecodableRecord, decode
from k2lib.schema.dead_letters import DeadLetter, dead_letter_rows
from k2lib.schema.records import DEAD_LETTER


@dataclass
class PendingCommit:
    """What was read and is not yet in the table."""

    rows: list[pa.Table] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    read: dict[TopicPartition, Range] = field(default_factory=dict)
    n_messages: int = 0
    since: float = 0.0


class SinkSession:
    """Where a sink stands: the next offset of every partition, what is pending, the last commit."""

    def __init__(
        self,
        spec: TableSpec,
        writer: TableWriter,
        reader: TopicConsumer,
        *,
        cluster: Cluster,
        registry: Registry,
        accept_loss: bool,
        on_event: OnEvent,
    ) -> None:
        self.pending = PendingCommit()
        self.commit_began = float("-inf")
        self._spec = spec
        self._writer = writer
        self._reader = reader
        self._cluster = cluster
        self._registry = registry
        self._accept_loss = accept_loss
        self._on_event = on_event
        self._admin = cluster.admin()
        self._next: dict[TopicPartition, int] = {}
        self._logs: dict[str, str] = {}
        self._letters: BatchProducer | None = None

    def follow_topics(self) -> None:
        """Look which topics feed the table, and begin those that are new at the table's offsets.

        Raises:
            LossError: the log no longer has, or does not yet have, the offset to begin at.
            TransientError: a topic was deleted and made again: begin again, at its first offset.
        """
        topics = [t for t in list_topics(self._admin) if topic_kind(t) == self._spec.kind]
        logs = log_ids(self._cluster, self._admin, topics)
        self._check_logs(logs)
        self._logs |= logs
        places = [place for topic in topics for place in self._reader.partitions(topic)]
        new = {place: self._start(place) for place in places if place not in self._next}
        if new:
            self._next |= new
            self._reader.assign(self._next)

    def read(self, timeout_s: float, *, limit: int) -> int:
        """Read and decode what has arrived; return how many messages that was."""
        messages = self._reader.read(timeout_s, limit=limit)
        if not messages.values:
            return 0
        pending = self.pending
        pending.since = pending.since or time.monotonic()
        pending.n_messages += len(messages.values)
        for place, end in messages.ends.items():
            start, _ = pending.read.get(place, (self._next[place], 0))
            pending.read[place] = (start, end)
            self._next[place] = end
        self._decode(messages)
        return len(messages.values)

    def commit(self) -> None:
        """Bring what is pending into the table; its dead letters are acknowledged before.

        Raises:
            StaleWriterError, TransientError: as `TableWriter.append`.
        """
        done, self.pending = self.pending, PendingCommit()
        self.commit_began = time.monotonic()
        table = self._spec.name
        self._on_event(BatchRead(table, done.n_messages))
        if done.letters:
            self._produce_letters(done.letters)
        rows = pa.concat_tables([self._spec.schema.arrow.empty_table(), *done.rows])
        added = self._writer.append(rows, done.read, self._logs)
        if added and "ingestion_timestamp" in rows.column_names:
            oldest = pc.min(rows["ingestion_timestamp"]).as_py()
            seconds = (datetime.now(UTC) - oldest).total_seconds()
            self._on_event(RowsVisible(table, seconds))
        self._on_event(SinkLagMeasured(table, self._reader.lag(self._next)))
        duplicates = rows.num_rows - added
        self._on_event(BatchDone(table, added, duplicates, dead_letters=len(done.letters)))

    def _check_logs(self, logs: Mapping[str, str]) -> None:
        """Refuse another log under a known name: what was read is the former's, not its own."""
        for topic, log in self._logs.items():
            if logs.get(topic, log) != log:
                if self.pending.read:
                    self.commit()
                raise TransientError(f"{topic} was deleted and made again: it is now {logs[topic]}")

    def _decode(self, messages: ConsumerRecords) -> None:
        rows, refused = decode(messages.values, self._spec.schema, writer=self._registry.text)
        self.pending.rows.append(rows)
        if refused and self._spec.kind in (DEAD_LETTERS.split(".")[1], GAPS.split(".")[1]):
            place, offset = messages.position(refused[0].index)
            raise SchemaError(
                f"{place.topic} {place.partition}:{offset} cannot be decoded: {refused[0].detail}. "
                "Nothing is skipped in this topic: delete the record, or restore its schema"
            )
        self.pending.letters += [_letter(messages, one) for one in refused]

    def _start(self, place: TopicPartition) -> int:
        """Return the offset to begin at: where the table ends, in a new log the first there is."""
        low, high = self._reader.watermarks(place)
        end = self._writer.end_of(self._logs[place.topic], place)
        if end is None:
            return low
        if end > high:
            raise LossError(
                f"{place.topic} partition {place.partition} ends at {high}, but the table has read "
                f"up to {end} of this log: the log was cut. Restore it, or begin a new topic"
            )
        if end < low:
            self._lost(place, end, low)
            self.pending.read[place] = (low, low)
        return max(end, low)

    def _lost(self, place: TopicPartition, end: int, low: int) -> None:
        if not self._accept_loss:
            raise LossError(
                f"{place.topic} partition {place.partition}: offsets {end} to {low - 1} left the "
                "log before the table read them. `k2 sink --accept-loss` records that and goes on"
            )
        position = f"{place.partition}:{end}-{low - 1}"
        detail = f"{low - end} records left the log before {self._spec.name} read them"
        self._produce_letters([DeadLetter(place.topic, position, "lost", detail, b"")])

    def _produce_letters(self, letters: list[DeadLetter]) -> None:
        if self._letters is None:
            self._letters = BatchProducer(self._cluster, self._registry)
        rows = dead_letter_rows(letters, datetime.now(UTC))
        self._letters.produce(DEAD_LETTERS, rows, DEAD_LETTER, key="source")
        self._letters.flush()
        self._on_event(DeadLettersSent(self._spec.name, len(letters)))


def _letter(messages: ConsumerRecords, refused: UndecodableRecord) -> DeadLetter:
    place, offset = messages.position(refused.index)
    raw = messages.values[refused.index] or b""
    return DeadLetter(
        place.topic, f"{place.partition}:{offset}", refused.reason, refused.detail, raw
    )
