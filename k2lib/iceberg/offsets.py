"""Snapshot properties of K2: `k2.offsets`, how far a table has read each log, and `k2.cause`.

Offsets are in the snapshot summaries and nowhere else. The truth is the newest ancestor of the
current snapshot that has them: snapshots of maintenance copy them, those of other engines do not.
`writer.TableWriter` reads them when it starts; after a commit with an unknown outcome the sink
makes a new writer, which reads them again.
"""

import json
from collections.abc import Mapping
from typing import Final

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot, ancestors_of

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


def offset_lineage(table: Table, snapshot: Snapshot | None = None) -> list[Snapshot]:
    """Return the snapshots from this one back to the newest that has offsets.

    Args:
        snapshot: where to begin; the table's current one where it is None.
    Returns:
        The first snapshot alone where none of its ancestors has offsets.
    """
    start = table.current_snapshot() if snapshot is None else snapshot
    lineage = []
    for ancestor in ancestors_of(start, table.metadata):
        lineage.append(ancestor)
        if has_offsets(ancestor):
            return lineage
    return lineage[:1]


def offset_properties(table: Table, snapshot: Snapshot | None = None) -> dict[str, str]:
    """Return the newest offsets of a table as the property that a later snapshot carries on."""
    properties = snapshot_properties(next(reversed(offset_lineage(table, snapshot)), None))
    return {name: value for name, value in properties.items() if name == OFFSETS_PROPERTY}


def read_offsets(table: Table, snapshot: Snapshot | None = None) -> Offsets:
    """Return log id → partition → [start, end) as a table has read them at a snapshot.

    Args:
        snapshot: the table's current one where it is None.
    """
    text = offset_properties(table, snapshot).get(OFFSETS_PROPERTY)
    return {} if text is None else parse(text)


def parse(text: str) -> Offsets:
    """Read the JSON of a summary."""
    return {
        log: {
            TopicPartition(topic, int(partition)): (start, end)
            for topic, partitions in topics.items()
            for partition, (start, end) in partitions.items()
        }
        for log, topics in json.loads(text).items()
    }


def render(offsets: Offsets) -> str:
    """Write the JSON of a summary: {log id: {topic: {partition: [start, end]}}}."""
    by_topic: dict[str, dict[str, dict[str, OffsetRange]]] = {}
    for log, ranges in offsets.items():
        for tp, offset_range in sorted(ranges.items()):
            topics = by_topic.setdefault(log, {})
            topics.setdefault(tp.topic, {})[str(tp.partition)] = offset_range
    return json.dumps(by_topic, separators=(",", ":"))


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
