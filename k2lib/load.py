"""Loading ASX files: each file on its own, a report line each, nothing lost and nothing twice."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from k2lib.errors import SourceError
from k2lib.log.topics import DEAD_LETTERS, topic_name
from k2lib.model.dead_letters import dead_letter_rows
from k2lib.model.schemas import DEAD_LETTER, QUOTE, REFERENCE, TRADE
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.sources.asx.files import AsxFile, Batch, file_kind, find_files, read_file
from k2lib.sources.asx.reference import ReferenceData, find_reference, read_reference

SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE, "reference": REFERENCE}
OnProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class FileReport:
    """What became of one file: every line is a new row, one already there, or a dead letter.

    `already_there` is None where no sink ran, so that nobody can tell yet.
    """

    file: str
    kind: str = ""
    rows: int = 0
    already_there: int | None = None
    dead_letters: int = 0
    error: str | None = None


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


class _Load:
    """One load: the reference data met so far, and the report lines by ingestion time."""

    def __init__(self, pipeline: Pipeline, on_progress: OnProgress) -> None:
        self.reports: dict[datetime, FileReport] = {}
        self._pipeline = pipeline
        self._on_progress = on_progress
        self._references: dict[Path, ReferenceData] = {}

    def load(self, file: AsxFile, reference: Path | None) -> None:
        """Produce a file's rows, its company's reference data before them."""
        stamp = self._stamp()
        self.reports[stamp] = FileReport(file.name)
        try:
            self.reports[stamp] = FileReport(file.name, file_kind(file))
            data = self._reference(reference or find_reference(file.paths[0]))
            instrument = data.instrument(file.company_id)
            for batch in read_file(file, instrument, ingested=stamp):
                self._produce(batch, instrument.exchange)
                self._note(stamp, batch)
        except SourceError as exc:
            self.reports[stamp] = replace(self.reports[stamp], error=str(exc))

    def _reference(self, folder: Path) -> ReferenceData:
        if folder not in self._references:
            self._references[folder] = read_reference(folder)
            self._load_reference(self._references[folder])
        return self._references[folder]

    def _load_reference(self, data: ReferenceData) -> None:
        stamp = self._stamp()
        rows = data.rows(stamp)
        self._pipeline.produce(topic_name("equities", "reference", data.exchange), rows, REFERENCE)
        name = f"{data.folder.name}/company_info.csv"
        self.reports[stamp] = FileReport(name, "reference", rows.num_rows)

    def _produce(self, batch: Batch, exchange: str) -> None:
        if batch.rows.num_rows:
            topic = topic_name("equities", batch.kind, exchange)
            self._pipeline.produce(topic, batch.rows, SCHEMAS[batch.kind])
        if batch.dead_letters:
            letters = dead_letter_rows(batch.dead_letters, datetime.now(UTC))
            self._pipeline.produce(DEAD_LETTERS, letters, DEAD_LETTER, key="source")

    def _note(self, stamp: datetime, batch: Batch) -> None:
        before = self.reports[stamp]
        self.reports[stamp] = replace(
            before,
            kind=batch.kind,
            rows=before.rows + batch.rows.num_rows,
            dead_letters=before.dead_letters + len(batch.dead_letters),
        )
        self._on_progress(before.file, batch.n_bytes)

    def _stamp(self) -> datetime:
        """Return an ingestion time of this file alone, by which its rows are known in the lake."""
        latest = max(self.reports, default=datetime.min.replace(tzinfo=UTC))
        return max(datetime.now(UTC), latest + timedelta(microseconds=1))


def load_asx(
    paths: Sequence[str | Path],
    *,
    pipeline: Pipeline,
    engine: Engine | None,
    reference: Path | None = None,
    parts: bool = False,
    on_progress: OnProgress = lambda file, n_bytes: None,
) -> LoadReport:
    """Load files, folders and globs, and wait until the lake has all of it.

    Args:
        engine: counts the rows that were already there; None where no sink feeds the lake.
        reference: folder of the reference data; by default looked for beside each file.
        parts: files of one company are parts of one file.
        on_progress: told of every chunk: file, bytes.
    Returns:
        A line for every file; one that cannot be loaded has its error, and the others are loaded.
        After Ctrl-C, the lines of what was loaded until then.
    Raises:
        DeliveryError, TransientError: Kafka or the lake did not take all of it.
    """
    began = time.monotonic()
    load = _Load(pipeline, on_progress)
    interrupted = False
    try:
        for file in find_files(paths, parts=parts):
            load.load(file, reference)
    except KeyboardInterrupt:
        interrupted = True
    reports: Iterable[FileReport] = load.reports.values()
    if engine is None:
        pipeline.flush()
    else:
        pipeline.settle()
        reports = _with_already_there(load.reports, engine)
    return LoadReport(tuple(reports), time.monotonic() - began, interrupted)


def _with_already_there(
    reports: dict[datetime, FileReport], engine: Engine
) -> Iterable[FileReport]:
    """The first row stored stays, so a row that came now carries this load's ingestion time."""
    kinds = {report.kind for report in reports.values() if report.kind}
    stored = {
        stamp: count
        for kind in kinds
        for stamp, count in engine.sql(
            f"select ingestion_timestamp, count(*) from lake.{kind}_v2 "
            "where ingestion_timestamp between ? and ? group by all",
            [min(reports), max(reports)],
        ).iter_rows()
    }
    for stamp, report in reports.items():
        yield replace(report, already_there=report.rows - stored.get(stamp, 0))
