"""What a load reports: a line for every file, each line known in the lake by its own time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine

OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class FileReport:
    """What became of one file: every line is a new row, one already there, or a dead letter.

    `already_there` is None where no sink ran, so that nobody can tell yet. `note` is what else
    there is to say of a file that was loaded.
    """

    file: str
    kind: str = ""
    rows: int = 0
    already_there: int | None = None
    dead_letters: int = 0
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class LoadReport:
    """What became of every file, and how long it took until all of it was in the lake."""

    files: tuple[FileReport, ...]
    seconds: float
    interrupted: bool = False

    @property
    def failed(self) -> bool:
        """Whether some file could not be loaded."""
        return any(file.error is not None for file in self.files)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


class Reports:
    """The report lines of one load, by the ingestion time that the rows of each file carry."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lines: dict[datetime, FileReport] = {}

    def begin(self, report: FileReport) -> datetime:
        """Add a line, and return the ingestion time of its rows alone."""
        latest = max(self._lines, default=datetime.min.replace(tzinfo=UTC))
        stamp = max(datetime.now(UTC), latest + timedelta(microseconds=1))
        self._lines[stamp] = report
        return stamp

    def change(self, stamp: datetime, **changes: Any) -> None:
        """Set fields of a line."""
        self._lines[stamp] = replace(self._lines[stamp], **changes)

    def count(self, stamp: datetime, *, rows: int, dead_letters: int) -> None:
        """Add to the counts of a line."""
        before = self._lines[stamp]
        self.change(stamp, rows=before.rows + rows, dead_letters=before.dead_letters + dead_letters)

    def finish(self, pipeline: Pipeline, engine: Engine | None, *, interrupted: bool) -> LoadReport:
        """Wait until the lake has all of it, or Kafka where no engine can ask the lake.

        Raises:
            DeliveryError, TransientError: they did not take all of it.
        """
        lines = tuple(self._lines.values())
        if engine is None:
            pipeline.flush()
        else:
            pipeline.settle()
            lines = tuple(self._with_already_there(engine))
        return LoadReport(lines, time.monotonic() - self._began, interrupted)

    def _with_already_there(self, engine: Engine) -> Iterator[FileReport]:
        """The first row stored stays, so a row that came now carries this load's stamp."""
        kinds = {line.kind for line in self._lines.values() if line.kind}
        stored = {
            stamp: count
            for kind in kinds
            for stamp, count in engine.sql(
                f"select ingestion_timestamp, count(*) from lake.{kind}_v2 "
                "where ingestion_timestamp between ? and ? "
                "and ingestion_timestamp in (select unnest(?)) group by all",
                [min(self._lines), max(self._lines), list(self._lines)],
            ).iter_rows()
        }
        for stamp, line in self._lines.items():
            yield replace(line, already_there=line.rows - stored.get(stamp, 0))
