"""What a topic has and the table has not yet: read from exactly the table's offsets."""

import time
from collections.abc import Mapping
from typing import Final

import pyarrow as pa
from pyiceberg.table import Table

from k2lib.iceberg.offsets import end_of, read_offsets
from k2lib.kafka.cluster import Cluster, list_topics, log_ids
from k2lib.kafka.consumer import TopicConsumer, TopicPartition
from k2lib.kafka.registry import Registry
from k2lib.schema.codec import decode
from k2lib.schema.records import RecordSchema

POLL_S: Final = 0.2
STALLED_S: Final = 10.0


def unread(
    topic: str, schema: RecordSchema, *, table: Table | None, cluster: Cluster, registry: Registry
) -> pa.Table:
    """Return the records of a topic from the table's offsets to the high watermarks of now.

    Returns:
        Rows of the schema in the order of each partition; records that cannot be decoded, which
        the sink sets aside, are not among them.
    Raises:
        TransientError: Kafka does not answer, or the offset to begin at has left the log.
    """
    admin = cluster.admin()
    if topic not in list_topics(admin):
        return schema.arrow.empty_table()
    log = log_ids(cluster, admin, [topic])[topic]
    read_up_to = read_offsets(table) if table is not None else {}
    with TopicConsumer(cluster) as reader:
        marks = {place: reader.watermarks(place) for place in reader.partitions(topic)}
        starts = {
            place: low if (end := end_of(read_up_to, log, place)) is None else end
            for place, (low, _) in marks.items()
        }
        left = {place: high for place, (_, high) in marks.items() if starts[place] < high}
        reader.assign({place: starts[place] for place in left})
        parts = [schema.arrow.empty_table(), *_read(reader, left, schema, registry)]
    return pa.concat_tables(parts)


def _read(
    reader: TopicConsumer,
    left: Mapping[TopicPartition, int],
    schema: RecordSchema,
    registry: Registry,
) -> list[pa.Table]:
    parts = []
    heard = time.monotonic()
    while left and time.monotonic() - heard < STALLED_S:
        messages = reader.read(POLL_S)
        if messages.values:
            heard = time.monotonic()
            parts.append(decode(messages.values, schema, writer=registry.text)[0])
        left = {place: end for place, end in left.items() if messages.ends.get(place, 0) < end}
    # Offsets may end in some that are no records, as transactions leave them. Kafka answers?
    for place in left:
        reader.watermarks(place)
    return parts
