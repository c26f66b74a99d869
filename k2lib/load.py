"""Loading files of a venue: each on its own, a report line each, nothing lost and nothing twice."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from k2lib.errors import SourceError
from k2lib.kafka.topics import DEAD_LETTERS, topic_name
from k2lib.lifecycle import DeferredInterrupt, interrupts_deferred
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.dead_letters import DeadLetter, dead_letter_rows
from k2lib.schema.records import DEAD_LETTER, QUOTE, REFERENCE, TRADE, RecordSchema
from k2lib.venues.base import BrokenFileError, FileBatch, FileOptions, FileVenue, SourceFile

OnProgress = Callable[[str, int], None]
# A letter takes a kilobyte while its row is made, and a file can have one for each line.
LETTERS_AT_ONCE: Final = 10_000
SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE, "reference": REFERENCE}


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

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)


class LoadReports:
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

    def finish(
        self, pipeline: Pipeline | None, engine: Engine | None, *, interrupted: bool
    ) -> LoadReport:
        """Wait until the lake has all of it, or Kafka where no engine can ask the lake.

        Args:
            pipeline: None where no file had a row.
        Raises:
            DeliveryError, TransientError: they did not take all of it.
        """
        lines = tuple(self._lines.values())
        if pipeline is None:
            lines = tuple(replace(line, already_there=0) for line in lines)
        elif engine is None:
            pipeline.flush()
        else:
            pipeline.settle()
            lines = tuple(self._with_already_there(engine))
        return LoadReport(lines, time.monotonic() - self._began, interrupted)

    def _with_already_there(self, engine: Engine) -> Iterator[FileReport]:
        """The first row stored stays, so a row that came now carries this load's stamp."""
        kinds = {line.kind for line in self._lines.values() if line.kind}
        in_lake = {
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
            yield replace(line, already_there=line.rows - in_lake.get(stamp, 0))


class _Load:
    """One load: where rows go, and the report lines."""

    def __init__(
        self,
        venue: FileVenue,
        start: Callable[[], Pipeline],
        on_progress: OnProgress,
        interrupts: DeferredInterrupt,
    ) -> None:
        self.reports = LoadReports()
        self._asset_class = venue.asset_class
        self.pipeline: Pipeline | None = None
        self._start = start
        self._on_progress = on_progress
        self._interrupts = interrupts

    def load(self, file: SourceFile) -> None:
        """Produce a file's rows, its reference data before them."""
        stamp = self.reports.begin(FileReport(file.name))
        try:
            facts = file.open()
            self.reports.change(stamp, kind=facts.kind, note=facts.note)
            for other in file.reference():
                self.load(other)
            for batch in file.read(stamp):
                self._take(batch, file.name, stamp)
        except BrokenFileError as exc:
            self._produce_dead_letters([exc.letter])
            self.reports.count(stamp, rows=0, dead_letters=1)
            self.reports.change(stamp, error=str(exc))
        except SourceError as exc:
            self.reports.change(stamp, error=str(exc))

    def _take(self, batch: FileBatch, name: str, stamp: datetime) -> None:
        if batch.rows.num_rows:
            topic = topic_name(self._asset_class, batch.kind, batch.exchange)
            self._produce(topic, batch.rows, SCHEMAS[batch.kind])
        self._produce_dead_letters(batch.dead_letters)
        self.reports.count(stamp, rows=batch.rows.num_rows, dead_letters=len(batch.dead_letters))
        if batch.n_bytes:
            self._on_progress(name, batch.n_bytes)
        self._interrupts.check()

    def _produce_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        for first in range(0, len(letters), LETTERS_AT_ONCE):
            part = letters[first : first + LETTERS_AT_ONCE]
            rows = dead_letter_rows(part, datetime.now(UTC))
            self._produce(DEAD_LETTERS, rows, DEAD_LETTER, key="source")

    def _produce(
        self, topic: str, rows: pa.Table, schema: RecordSchema, *, key: str = "symbol"
    ) -> None:
        """Nothing is started or written before the first row: files may all be missing."""
        if self.pipeline is None:
            self.pipeline = self._start()
        self.pipeline.produce(topic, rows, schema, key=key)


def load_files(
    venue: FileVenue,
    paths: Sequence[str | Path],
    *,
    pipeline: Callable[[], Pipeline],
    engine: Engine | None,
    options: FileOptions | None = None,
    on_progress: OnProgress = lambda file, n_bytes: None,
) -> LoadReport:
    """Load files, folders and globs, and wait until the lake has all of it.

    Args:
        pipeline: starts the write path, called with the first rows.
        engine: counts the rows that were already there; None where no sink feeds the lake.
        on_progress: called with every chunk: file, bytes.
    Returns:
        A line for every file; one that cannot be loaded has its error, and the others are loaded.
        After Ctrl-C, the lines of what was loaded until then.
    Raises:
        ConfigError: an option does not suit the venue.
        DeliveryError, TransientError: Kafka or the lake did not take all of it.
    """
    files = venue.find_files(paths, options or FileOptions())
    interrupted = False
    with interrupts_deferred() as interrupts:
        load = _Load(venue, pipeline, on_progress, interrupts)
        try:
            for file in files:
                load.load(file)
        except KeyboardInterrupt:
            interrupted = True
        return load.reports.finish(load.pipeline, engine, interrupted=interrupted)
