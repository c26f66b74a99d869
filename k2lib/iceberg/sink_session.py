"""One run of a sink from the table's offsets: read, decode, write dead letters, commit."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.table import Table

from k2lib.errors import (
    LossError,
    SchemaError,
    TransientError,
)
from k2lib.events import (
    BatchDone,
    BatchRead,
    DeadLettersSent,
    OnEvent,
    RowsVisible,
    SinkLagMeasured,
    TableMeasured,
)
from k2lib.iceberg.offsets import OffsetRange
from k2lib.iceberg.tables import TableSpec
from k2lib.iceberg.writer import TableWriter
from k2lib.kafka.cluster import Cluster
from k2lib.kafka.consumer import (
    ConsumerRecords,
    TopicConsumer,
    TopicPartition,
    record_headers,
)
from k2lib.kafka.log_ends import LogEnds
from k2lib.kafka.producer import BatchProducer
from k2lib.kafka.registry import SchemaRegistry
from k2lib.kafka.topics import DEAD_LETTERS, GAPS, topic_kind
from k2lib.schema.codec import UndecodableRecord, decode
from k2lib.schema.dead_letters import DeadLetter, dead_letter_rows
from k2lib.schema.records import DEAD_LETTER

# Their records say what was lost elsewhere, so none of them may become a dead letter.
NO_DEAD_LETTERS: Final = {topic_kind(DEAD_LETTERS), topic_kind(GAPS)}


@dataclass
class PendingCommit:
    """What was read and is not yet in the table."""

    rows: list[pa.Table] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    read: dict[TopicPartition, OffsetRange] = field(default_factory=dict)
    n_records: int = 0
    since: float = 0.0


def _measured(name: str, table: Table) -> TableMeasured:
    snapshot = table.current_snapshot()
    totals = snapshot.summary if snapshot is not None else None
    rows, files, size_bytes = (
        int(totals.get(f"total-{part}") or 0) if totals is not None else 0
        for part in ("records", "data-files", "files-size")
    )
    return TableMeasured(name, rows, files, size_bytes)


class SinkSession:
    """One run of a sink from the table's offsets: read, decode, write dead letters, commit.

    `sent_letters` are ids of dead letters that Kafka has and no commit went past yet: a later
    session that reads their records again sends them again, and counts them once.
    """

    def __init__(
        self,
        spec: TableSpec,
        writer: TableWriter,
        consumer: TopicConsumer,
        *,
        cluster: Cluster,
        registry: SchemaRegistry,
        log_ends: LogEnds,
        accept_loss: bool,
        sent_letters: set[str],
        on_event: OnEvent,
    ) -> None:
        self.pending = PendingCommit()
        self.commit_began = float("-inf")
        self._spec = spec
        self._writer = writer
        self._consumer = consumer
        self._cluster = cluster
        self._registry = registry
        self._log_ends = log_ends
        self._accept_loss = accept_loss
        self._sent_letters = sent_letters
        self._on_event = on_event
        self._log_ids: dict[str, str] = {}
        self._letters: BatchProducer | None = None

    def discovered_within(self, seconds: float) -> bool:
        """Say whether topics were looked for during the last so many seconds."""
        return self._consumer.found_within(seconds)

    def follow_topics(self) -> None:
        """Find the topics that feed the table, and start new partitions at the table's offsets.

        Raises:
            LossError: the log no longer has, or does not yet have, the offset to start at; or a
                topic was deleted with records that the table has not read.
            TransientError: a topic was deleted and created again: start again, at its first offset.
        """
        partitions = self._consumer.find_partitions(
            lambda topic: topic_kind(topic) == self._spec.kind
        )
        found = self._consumer.log_ids(partitions)
        self._check_log_ids(found)
        for topic, log in found.items():
            if topic not in self._log_ids:
                self._check_former_logs(topic, log)
        self._log_ids |= found
        ends: dict[TopicPartition, int] = {}

        def start_at(tp: TopicPartition, low: int, high: int) -> int:
            ends[tp] = high
            return self._start_at(tp, low, high)

        self._consumer.follow(partitions, start_at, position_of=self._position_of)
        self._log_ends.note(self._log_ids, self._consumer.ends() | ends)

    def check_rollback(self) -> None:
        """Notice a rollback of the table.

        Raises:
            StaleWriterError: as `TableWriter.check_rollback`.
        """
        self._writer.check_rollback()

    def read(self, timeout_s: float, *, limit: int) -> int:
        """Read and decode the records that have arrived; return how many they were."""
        before = dict(self._consumer.positions)
        records = self._consumer.read(timeout_s, limit=limit)
        if not records.values:
            return 0
        pending = self.pending
        pending.since = pending.since or time.monotonic()
        pending.n_records += len(records.values)
        for tp, end in records.ends.items():
            start, _ = pending.read.get(tp, (before[tp], 0))
            pending.read[tp] = (start, end)
        self._decode(records)
        return len(records.values)

    def commit(self) -> None:
        """Append what is pending to the table, after Kafka has acknowledged its dead letters.

        Raises:
            StaleWriterError, TransientError: as `TableWriter.append`.
        """
        batch, self.pending = self.pending, PendingCommit()
        self.commit_began = time.monotonic()
        table = self._spec.name
        self._on_event(BatchRead(table, batch.n_records))
        if batch.letters:
            self._produce_letters(batch.letters)
        rows = pa.concat_tables([self._spec.schema.arrow.empty_table(), *batch.rows])
        added = self._writer.append(rows, batch.read, self._log_ids)
        self._sent_letters.clear()
        if added and "ingestion_timestamp" in rows.column_names:
            oldest = pc.min(rows["ingestion_timestamp"]).as_py()
            seconds = (datetime.now(UTC) - oldest).total_seconds()
            self._on_event(RowsVisible(table, seconds))
        self._on_event(SinkLagMeasured(table, self._consumer.lag()))
        self._on_event(_measured(table, self._writer.table))
        duplicates = rows.num_rows - added
        self._on_event(BatchDone(table, added, duplicates, dead_letters=len(batch.letters)))

    def _check_log_ids(self, found: Mapping[str, str]) -> None:
        """Refuse a new topic under a known name: its offsets are not those of the old one."""
        for topic, log in self._log_ids.items():
            if found.get(topic, log) != log:
                if self.pending.read:
                    self.commit()
                raise TransientError(
                    f"{topic} was deleted and made again: it is now {found[topic]}"
                )

    def _check_former_logs(self, topic: str, log: str) -> None:
        """Account for what earlier topics of this name had and the table has not read."""
        former_logs = self._log_ends.of_former_logs(topic, log)
        for former, ends in former_logs.items():
            for tp, end in sorted(ends.items()):
                position = self._writer.end_of(former, tp) or 0
                if position < end:
                    self._record_loss(tp, position, end, why="went with the deleted topic")
        self._log_ends.forget(former_logs)

    def _position_of(self, tp: TopicPartition) -> int | None:
        return self._writer.end_of(self._log_ids[tp.topic], tp)

    def _decode(self, records: ConsumerRecords) -> None:
        rows, refused = decode(records.values, self._spec.schema, writer=self._registry.text)
        self.pending.rows.append(rows)
        if refused and self._spec.kind in NO_DEAD_LETTERS:
            tp, offset = records.position(refused[0].index)
            raise SchemaError(
                f"{tp.topic} {tp.partition}:{offset} cannot be decoded: {refused[0].detail}. "
                "Nothing is skipped in this topic: delete the record, or restore its schema"
            )
        self.pending.letters += [_letter(records, one) for one in refused]

    def _start_at(self, tp: TopicPartition, low: int, high: int) -> int:
        """Return where the table ends; in a log that is new to it, the first offset there is."""
        end = self._position_of(tp)
        if end is None:
            return low
        if end > high:
            raise LossError(
                f"{tp.topic} partition {tp.partition} ends at {high}, but the table has read "
                f"up to {end} of this log: the log was cut. Restore it, or begin a new topic"
            )
        if end < low:
            self._record_loss(tp, end, low, why="left the log")
            self.pending.read[tp] = (low, low)
        return max(end, low)

    def _record_loss(self, tp: TopicPartition, start: int, end: int, *, why: str) -> None:
        if not self._accept_loss:
            raise LossError(
                f"{tp.topic} partition {tp.partition}: offsets {start} to {end - 1} {why} before "
                f"{self._spec.name} read them. `k2 sink --accept-loss` records that and goes on"
            )
        position = f"{tp.partition}:{start}-{end - 1}"
        detail = f"{end - start} records {why} before {self._spec.name} read them"
        self._produce_letters([DeadLetter(tp.topic, position, "lost", detail, b"")])

    def _produce_letters(self, letters: list[DeadLetter]) -> None:
        if self._letters is None:
            self._letters = BatchProducer(self._cluster, self._registry, on_event=self._on_event)
        rows = dead_letter_rows(letters, datetime.now(UTC))
        self._letters.produce(DEAD_LETTERS, rows, DEAD_LETTER, key="source")
        self._letters.flush()
        new = set(rows["message_id"].to_pylist()) - self._sent_letters
        self._sent_letters |= new
        if new:
            self._on_event(DeadLettersSent(self._spec.name, len(new)))


def _letter(records: ConsumerRecords, refused: UndecodableRecord) -> DeadLetter:
    tp, offset = records.position(refused.index)
    message = records.raw[refused.index]
    return DeadLetter(
        tp.topic,
        f"{tp.partition}:{offset}",
        refused.reason,
        refused.detail,
        message.value() or b"",
        key=message.key(),
        headers=record_headers(message),
    )
