"""A replay back into Kafka: the same records, in topics that no sink reads."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from k2lib.errors import QueryError
from k2lib.kafka.producer import SLICE_ROWS, BatchProducer
from k2lib.replay.events import Batch
from k2lib.replay.player import Replay
from k2lib.replay.records import Gap
from k2lib.schema.identity import message_id
from k2lib.schema.records import GAP, QUOTE, TRADE

PREFIX: Final = "replay."
SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE, "gaps": GAP}


def replay_to_topic(replay: Replay, producer: BatchProducer, *, topic: str) -> Mapping[str, int]:
    """Produce a replay as framed Avro, each record keyed by its symbol, at the replay's speed.

    It waits while Kafka takes no more, and in the end until Kafka has all of it.

    Args:
        topic: how the topics' names begin, itself beginning `replay.`: `replay.monday` makes
            `replay.monday.trades`, `replay.monday.quotes` and, where there are any,
            `replay.monday.gaps`, in which a gap that is not recorded has the state `noticed`.
    Returns:
        How many records went to each topic.
    Raises:
        QueryError: another name.
        DeliveryError, TransientError: Kafka did not take some, or does not answer.
    """
    _check(topic)
    counts: Counter[str] = Counter()
    for batch in replay.batches(SLICE_ROWS):
        name = f"{topic}.{batch.kind}"
        producer.produce(name, _rows(batch), SCHEMAS[batch.kind], key="symbol")
        producer.check()
        counts[name] += batch.rows.num_rows
    producer.flush()
    return dict(counts)


def _check(topic: str) -> None:
    if not topic.startswith(PREFIX) or topic == PREFIX:
        raise QueryError(
            f"topic={topic}: give a name that begins {PREFIX}, for example {PREFIX}monday; sinks "
            "read market.* into the lake, where these records are already"
        )


def _rows(batch: Batch) -> pa.Table:
    if batch.kind == "gaps":
        return _gap_rows(batch.rows)
    return pa.Table.from_batches([batch.rows])


def _gap_rows(rows: pa.RecordBatch) -> pa.Table:
    records = [_gap_record(Gap(**row)) for row in rows.to_pylist()]
    return pa.Table.from_pylist(records, schema=GAP.arrow)


def _gap_record(gap: Gap) -> dict[str, object]:
    gap_id = message_id(gap.exchange, gap.symbol, str(gap.from_id))
    return {
        "message_id": message_id(gap_id, "0"),
        "gap_id": gap_id,
        "revision": 0,
        "noticed": gap.timestamp,
        "exchange": gap.exchange,
        "symbol": gap.symbol,
        "from_id": gap.from_id,
        "to_id": gap.to_id,
        "state": "noticed" if gap.state == "unrecorded" else gap.state,
        "filled": 0,
        "covered": 0,
        "absent": 0,
        "note": gap.note,
    }
