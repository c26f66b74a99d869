"""Retry of dead letters: Kafka records that can be decoded now are produced again, as they came."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from k2lib.iceberg.tables import TableSpec
from k2lib.kafka.topics import topic_kind
from k2lib.pipeline import TABLE_OF, Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.codec import SCHEMA_ID_HEADER, decode, framed

RECORD: Final = re.compile(r"\d{1,10}:\d+")
RANGE: Final = re.compile(r"\d+:\d+-\d+")
NO_RECORD: Final = "a line of a file, no Kafka record: load the file again"
FRAME: Final = (
    "a frame of the venue, no Kafka record: the stream fills the hole, or the archive has it"
)
GONE: Final = "these records left Kafka before the table read them: nothing is kept of them"
REFUSED_AGAIN: Final = "produced again, and not in the table: the newest dead letters say why"

Letter = Mapping[str, Any]
Outcome = Literal["stored", "already stored", "not retried"]


@dataclass(frozen=True)
class RetriedLetter:
    """What became of one dead letter: `reason` says why it was not retried."""

    message_id: str
    source: str
    position: str
    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True)
class RetryReport:
    """What became of each dead letter, in their order."""

    letters: tuple[RetriedLetter, ...]

    @property
    def failed(self) -> bool:
        """Whether some record is not in the lake."""
        return any(one.outcome == "not retried" for one in self.letters)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


def retry_letters(
    letters: Sequence[Letter], *, engine: Engine, pipeline: Callable[[], Pipeline]
) -> RetryReport:
    """Produce the records of dead letters again, and wait until the lake has them.

    A record whose message_id the lake has is not produced, and a sink stores none twice.

    Args:
        letters: rows of `dead_letters`.
        pipeline: starts producer and sinks; not called where no letter is a whole Kafka record.
    Raises:
        DeliveryError, TransientError: Kafka or the lake did not take all of it.
    """
    refusals = {letter["message_id"]: _refusal(letter) for letter in letters}
    whole = [letter for letter in letters if refusals[letter["message_id"]] is None]
    done: dict[str, RetriedLetter] = {}
    for topic in sorted({letter["source"] for letter in whole}):
        mine = [letter for letter in whole if letter["source"] == topic]
        done |= _retry_topic(topic, mine, engine=engine, pipeline=pipeline())
    return RetryReport(
        tuple(
            done.get(letter["message_id"])
            or _retried(letter, "not retried", refusals[letter["message_id"]])
            for letter in letters
        )
    )


def _refusal(letter: Letter) -> str | None:
    """Return why a letter holds no whole Kafka record, None where it does."""
    if topic_kind(letter["source"]) not in TABLE_OF:
        return NO_RECORD
    if RANGE.fullmatch(letter["position"]):
        return GONE
    if not RECORD.fullmatch(letter["position"]):
        return FRAME
    kept, size = len(letter["raw"]), letter["raw_size"]
    if kept < size:
        return f"cut: the dead letter has the first {kept:,} of {size:,} bytes of the record"
    return None


def _retry_topic(
    topic: str, letters: Sequence[Letter], *, engine: Engine, pipeline: Pipeline
) -> dict[str, RetriedLetter]:
    spec = TABLE_OF[topic_kind(topic) or ""]
    values = [framed(one["raw"], (one["headers"] or {}).get(SCHEMA_ID_HEADER)) for one in letters]
    rows, undecodable = decode(values, spec.schema, writer=pipeline.log.schema_text)
    details = {one.index: one.detail for one in undecodable}
    decoded = [one for index, one in enumerate(letters) if index not in details]
    ids = rows["message_id"].to_pylist()
    before = _ids_in_lake(engine, spec, rows)
    new = [one for one, found in zip(decoded, ids, strict=True) if found not in before]
    if new:
        pipeline.produce_again(topic, list(map(_message, new)), spec.schema)
        pipeline.settle()
    after = _ids_in_lake(engine, spec, rows) if new else before
    done = [_retried(letters[index], "not retried", why) for index, why in details.items()]
    for letter, record_id in zip(decoded, ids, strict=True):
        if record_id in before:
            done.append(_retried(letter, "already stored"))
        elif record_id in after:
            done.append(_retried(letter, "stored"))
        else:
            done.append(_retried(letter, "not retried", REFUSED_AGAIN))
    return {one.message_id: one for one in done}


def _ids_in_lake(engine: Engine, spec: TableSpec, rows: pa.Table) -> set[str]:
    """Return the ids of these rows that the table has."""
    text = f"SELECT message_id FROM lake.{spec.name} WHERE message_id IN (SELECT unnest($ids))"
    ids = rows["message_id"].to_pylist()
    return set(engine.sql(text, {"ids": ids})["message_id"]) if ids else set()


def _message(letter: Letter) -> dict[str, Any]:
    return {"key": letter["key"], "value": letter["raw"], "headers": letter["headers"] or {}}


def _retried(letter: Letter, outcome: Outcome, reason: str | None = None) -> RetriedLetter:
    return RetriedLetter(
        letter["message_id"], letter["source"], letter["position"], outcome, reason
    )
