"""Properties of K2 in a table: `k2.offsets`, how far it has read each log, and `k2.cause`.

The truth is the summary of the newest ancestor of the current snapshot that has offsets: snapshots
of maintenance copy them, those of other engines do not. The table property of the same name
follows each commit. It counts only where another engine expired the ancestors before one with
offsets, and only if it is older than the oldest ancestor kept: then it was one of theirs.
`writer.TableWriter` reads the offsets when it starts; after a commit with an unknown outcome the
sink makes a new writer, which reads them again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot, ancestors_of

from k2lib.errors import TableError
from k2lib.iceberg.columns import AVRO_SCHEMA_PROPERTY
from k2lib.kafka.cluster import EMBEDDED
from k2lib.kafka.consumer import TopicPartition

OFFSETS_PROPERTY: Final = "k2.offsets"
CAUSE_PROPERTY: Final = "k2.cause"

OffsetRange = tuple[int, int]
Offsets = dict[str, dict[TopicPartition, OffsetRange]]


def snapshot_properties(snapshot: Snapshot | None) -> Mapping[str, str]:
    """Return the properties in a snapshot's summary; none where there is no snapshot."""
    if snapshot is None or snapshot.summary is None:
        return {}
    return snapshot.summary.additional_properties


def snapshot_cause(snapshot: Snapshot) -> str | None:
    """Return what committed a snapshot other than a sink, such as `compaction`; else None."""
    return snapshot_properties(snapshot).get(CAUSE_PROPERTY)


def has_offsets(snapshot: Snapshot) -> bool:
    """Say whether the summary of this very snapshot has offsets."""
    return OFFSETS_PROPERTY in snapshot_properties(snapshot)


@dataclass(frozen=True)
class OffsetsProperty:
    """The table property: the offsets that the summary of a snapshot has.

    `sequence_number` 0 is before every snapshot: the table has read nothing of any log.
    """

    snapshot_id: int
    sequence_number: int
    offsets: Offsets

    def to_json(self) -> dict[str, str]:
        """Return the property as a table keeps it."""
        record = {
            "snapshot_id": self.snapshot_id,
            "sequence_number": self.sequence_number,
            "offsets": _by_topic(self.offsets),
        }
        return {OFFSETS_PROPERTY: json.dumps(record, separators=(",", ":"))}

    @classmethod
    def of(cls, table: Table) -> "OffsetsProperty | None":
        """Return a table's property; None where it has none, or a text that is not one."""
        try:
            record = json.loads(table.properties[OFFSETS_PROPERTY])
            return cls(
                int(record["snapshot_id"]),
                int(record["sequence_number"]),
                _from_topics(record["offsets"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


NO_OFFSETS: Final = OffsetsProperty(0, 0, {})


def next_property(table: Table, snapshot_id: int, offsets: Offsets) -> dict[str, str]:
    """Return the property that goes with a commit about to be made on a table."""
    return OffsetsProperty(snapshot_id, table.metadata.next_sequence_number(), offsets).to_json()


def offset_lineage(table: Table, snapshot: Snapshot | None = None) -> list[Snapshot]:
    """Return the snapshots from this one back to the newest that has offsets.

    Args:
        snapshot: where to begin; the table's current one where it is None.
    Returns:
        The first snapshot alone where none of its ancestors has offsets.
    """
    lineage = _lineage(table, snapshot)
    return lineage if lineage and has_offsets(lineage[-1]) else lineage[:1]


def read_offsets(table: Table, snapshot: Snapshot | None = None) -> Offsets:
    """Return log id → partition → [start, end) as a table has read them at a snapshot.

    Args:
        snapshot: the table's current one where it is None.
    Raises:
        TableError: the snapshots that had them were expired, and the property does not tell.
    """
    return find_offsets(table, snapshot).offsets


def find_offsets(table: Table, snapshot: Snapshot | None = None) -> OffsetsProperty:
    """Return the offsets of a table with the snapshot that has them, as `read_offsets` does."""
    lineage = _lineage(table, snapshot)
    if not lineage:
        return NO_OFFSETS
    oldest = lineage[-1]
    if has_offsets(oldest):
        offsets = _offsets_of(table, oldest)
        return OffsetsProperty(oldest.snapshot_id, oldest.sequence_number or 0, offsets)
    if is_first(oldest):
        return NO_OFFSETS
    recorded = OffsetsProperty.of(table)
    if recorded is not None and recorded.sequence_number < (oldest.sequence_number or 0):
        return recorded
    if _ever_had_offsets(table):
        raise _lost_offsets(table)
    return NO_OFFSETS


def _offsets_of(table: Table, snapshot: Snapshot) -> Offsets:
    text = snapshot_properties(snapshot)[OFFSETS_PROPERTY]
    try:
        return parse(text)
    except (ValueError, TypeError, AttributeError) as exc:
        raise TableError(
            f"table {'.'.join(table.name())}: another writer's snapshot {snapshot.snapshot_id} has "
            f"a {OFFSETS_PROPERTY} that is none ({text[:60]!r}): roll back to the one before it"
        ) from exc


def leads(recorded: OffsetsProperty | None, found: OffsetsProperty) -> bool:
    """Say whether the property is of a snapshot that a rollback has left behind."""
    return recorded is not None and recorded.sequence_number > found.sequence_number


def _lineage(table: Table, snapshot: Snapshot | None) -> list[Snapshot]:
    start = table.current_snapshot() if snapshot is None else snapshot
    lineage = []
    for ancestor in ancestors_of(start, table.metadata):
        lineage.append(ancestor)
        if has_offsets(ancestor):
            break
    return lineage


def is_first(oldest: Snapshot) -> bool:
    """Say whether a snapshot is a table's first: pyiceberg's expiry takes away the parent too."""
    return oldest.parent_snapshot_id is None and (oldest.sequence_number or 0) <= 1


def _ever_had_offsets(table: Table) -> bool:
    """Sinks feed the tables that K2 made; others say so by a snapshot or by the property."""
    named = {AVRO_SCHEMA_PROPERTY, OFFSETS_PROPERTY} & table.properties.keys()
    return bool(named) or any(map(has_offsets, table.snapshots()))


def _lost_offsets(table: Table) -> TableError:
    (anew,) = NO_OFFSETS.to_json().values()
    return TableError(
        f"table {'.'.join(table.name())}: another engine expired the snapshots that had its "
        f"{OFFSETS_PROPERTY}, and its property {OFFSETS_PROPERTY} is missing or newer than what is "
        f"kept: set the property to the offsets to go on at, or to {anew} to read the log from its "
        "first record on, which brings back rows that were deleted"
    )


def parse(text: str) -> Offsets:
    """Read the JSON of a summary."""
    return _from_topics(json.loads(text))


def render(offsets: Offsets) -> str:
    """Write the JSON of a summary: {log id: {topic: {partition: [start, end]}}}."""
    return json.dumps(_by_topic(offsets), separators=(",", ":"))


def _from_topics(by_topic: dict[str, Any]) -> Offsets:
    return {
        log: {
            TopicPartition(topic, int(partition)): (int(start), int(end))
            for topic, partitions in topics.items()
            for partition, (start, end) in partitions.items()
        }
        for log, topics in by_topic.items()
    }


def _by_topic(offsets: Offsets) -> dict[str, dict[str, dict[str, OffsetRange]]]:
    by_topic: dict[str, dict[str, dict[str, OffsetRange]]] = {}
    for log, ranges in offsets.items():
        for tp, offset_range in sorted(ranges.items()):
            topics = by_topic.setdefault(log, {})
            topics.setdefault(tp.topic, {})[str(tp.partition)] = offset_range
    return by_topic


def advance(
    offsets: Offsets, logs: Mapping[str, str], read: Mapping[TopicPartition, OffsetRange]
) -> Offsets:
    """Return the offsets after a commit of what was `read`: [start, end) of each partition read.

    Args:
        logs: the log id of each topic; once one of them is embedded, other embedded logs are
            dropped.
    """
    embedded = any(logs[tp.topic].startswith(EMBEDDED) for tp in read)
    after = {
        log: {tp: (end, end) for tp, (_, end) in ranges.items()}
        for log, ranges in offsets.items()
        if not (embedded and log.startswith(EMBEDDED) and log not in logs.values())
    }
    for tp, offset_range in read.items():
        after.setdefault(logs[tp.topic], {})[tp] = offset_range
    return after


def end_of(offsets: Offsets, log: str, tp: TopicPartition) -> int | None:
    """Return the next offset to read, None where the table never read this partition."""
    offset_range = offsets.get(log, {}).get(tp)
    return None if offset_range is None else offset_range[1]
