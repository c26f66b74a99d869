"""Up to where an answer is complete: offsets and event time, and what is known to be missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from k2lib.log.reader import Place

EndsByLog = Mapping[str, Mapping[Place, int]]


@dataclass(frozen=True)
class CompleteTo:
    """What an answer rests on.

    Attributes:
        table: its name.
        snapshot_id: the lake's snapshot; None where nothing was ever committed.
        offsets: by log and partition, the offset before which every record is in the answer.
        time: the newest event time in the table and the log up to those offsets; None where
            there is no record.
        times: the newest event time read from each partition of the log, where there was any.
        log: whether the log was read beyond the snapshot.
        tail_rows: how many rows the log had beyond the snapshot.
        behind: how many offsets Kafka had at the time of asking beyond `offsets`; None where it
            did not say.
        reason: why the answer is not complete, or why it is of the lake only; None where it is
            as it was asked for.
    """

    table: str
    snapshot_id: int | None = None
    offsets: EndsByLog = field(default_factory=dict)
    time: datetime | None = None
    times: Mapping[Place, datetime] = field(default_factory=dict)
    log: bool = False
    tail_rows: int = 0
    behind: int | None = 0
    reason: str | None = None

    def told(self) -> dict[str, Any]:
        """Return all of it in what JSON can say, times as ISO 8601."""
        return {
            "table": self.table,
            "snapshot_id": self.snapshot_id,
            "offsets": {log: by_topic(ends) for log, ends in self.offsets.items()},
            "time": None if self.time is None else self.time.isoformat(),
            "log": self.log,
            "tail_rows": self.tail_rows,
            "behind": self.behind,
            "reason": self.reason,
        }


def by_topic(ends: Mapping[Place, int]) -> dict[str, dict[str, int]]:
    """Return offsets as the tables' summaries name them: by topic, then partition."""
    told: dict[str, dict[str, int]] = {}
    for place, end in sorted(ends.items()):
        told.setdefault(place.topic, {})[str(place.partition)] = end
    return told


@dataclass(frozen=True)
class Answer:
    """Rows, and up to where each table that they come from is complete in them."""

    frame: pl.DataFrame
    complete_to: Mapping[str, CompleteTo]
