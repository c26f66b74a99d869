"""How far a table has read each log: kept in the snapshots' summaries, nowhere else."""

import json
from collections.abc import Mapping
from typing import Final

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2lib.kafka.consumer import TopicPartition

SUMMARY_KEY: Final = "k2.offsets"
EMBEDDED: Final = "embedded-"

OffsetRange = tuple[int, int]
Offsets = dict[str, dict[TopicPartition, OffsetRange]]


def read_offsets(table: Table, snapshot: Snapshot | None = None) -> Offsets:
    """Return log → partition → [start, end) by the newest ancestor that tells them.

    Args:
        snapshot: where to begin; the table's current one where it is None.
    """
    at = snapshot or table.current_snapshot()
    while at is not None:
        text = at.summary.additional_properties.get(SUMMARY_KEY) if at.summary else None
        if text is not None:
            return parse(text)
        at = table.snapshot_by_id(at.parent_snapshot_id) if at.parent_snapshot_id else None
    return {}


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
    """Write the JSON of a summary: {log: {topic: {partition: [start, end]}}}."""
    told: dict[str, dict[str, dict[str, OffsetRange]]] = {}
    for log, places in offsets.items():
        for place, reached in sorted(places.items()):
            told.setdefault(log, {}).setdefault(place.topic, {})[str(place.partition)] = reached
    return json.dumps(told, separators=(",", ":"))


def advance(
    offsets: Offsets, logs: Mapping[str, str], read: Mapping[TopicPartition, OffsetRange]
) -> Offsets:
    """Return the offsets after a commit of what was `read`: [start, end) of each partition read.

    Args:
        logs: the log of each topic; other embedded logs are dropped once one of these is embedded.
    """
    embedded = any(logs[place.topic].startswith(EMBEDDED) for place in read)
    after = {
        log: {place: (end, end) for place, (_, end) in places.items()}
        for log, places in offsets.items()
        if not (embedded and log.startswith(EMBEDDED) and log not in logs.values())
    }
    for place, reached in read.items():
        after.setdefault(logs[place.topic], {})[place] = reached
    return after


def end_of(offsets: Offsets, log: str, place: TopicPartition) -> int | None:
    """Return the next offset to read, None where the table never read this partition."""
    reached = offsets.get(log, {}).get(place)
    return None if reached is None else reached[1]
