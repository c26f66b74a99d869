"""Loading ASX files: each file on its own, a report line each, nothing lost and nothing twice."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from k2lib.errors import SourceError
from k2lib.kafka.topics import DEAD_LETTERS, topic_name
from k2lib.lifecycle import Held, interrupts_held
from k2lib.load.report import FileReport, LoadReport, OnProgress, Reports
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.dead_letters import dead_letter_rows
from k2lib.schema.records import DEAD_LETTER, QUOTE, REFERENCE, TRADE
from k2lib.venues.asx.files import AsxFile, FileBatch, file_kind, find_files, read_file
from k2lib.venues.asx.reference import ReferenceData, find_reference, read_reference

SCHEMAS: Final = {"trades": TRADE, "quotes": QUOTE, "reference": REFERENCE}


class _Load:
    """One load: the reference data met so far, and the report lines."""

    def __init__(self, pipeline: Pipeline, on_progress: OnProgress, held: Held) -> None:
        self.reports = Reports()
        self._pipeline = pipeline
        self._on_progress = on_progress
        self._held = held
        self._references: dict[Path, ReferenceData] = {}

    def load(self, file: AsxFile, reference: Path | None) -> None:
        """Produce a file's rows, its company's reference data before them."""
        stamp = self.reports.begin(FileReport(file.name))
        try:
            self.reports.change(stamp, kind=file_kind(file))
            data = self._reference(reference or find_reference(file.paths[0]))
            instrument = data.instrument(file.company_id)
            for batch in read_file(file, instrument, ingested=stamp):
                self._produce(batch, instrument.exchange)
                self.reports.count(
                    stamp, rows=batch.rows.num_rows, dead_letters=len(batch.dead_letters)
                )
                self._on_progress(file.name, batch.n_bytes)
                self._held.check()
        except SourceError as exc:
            self.reports.change(stamp, error=str(exc))

    def _reference(self, folder: Path) -> ReferenceData:
        if folder not in self._references:
            self._references[folder] = read_reference(folder)
            self._load_reference(self._references[folder])
        return self._references[folder]

    def _load_reference(self, data: ReferenceData) -> None:
        name = f"{data.folder.name}/company_info.csv"
        stamp = self.reports.begin(FileReport(name, "reference"))
        rows = data.rows(stamp)
        self._pipeline.produce(topic_name("equities", "reference", data.exchange), rows, REFERENCE)
        self.reports.count(stamp, rows=rows.num_rows, dead_letters=0)

    def _produce(self, batch: FileBatch, exchange: str) -> None:
        if batch.rows.num_rows:
            topic = topic_name("equities", batch.kind, exchange)
            self._pipeline.produce(topic, batch.rows, SCHEMAS[batch.kind])
        if batch.dead_letters:
            letters = dead_letter_rows(batch.dead_letters, datetime.now(UTC))
            self._pipeline.produce(DEAD_LETTERS, letters, DEAD_LETTER, key="source")


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
    interrupted = False
    with interrupts_held() as held:
        load = _Load(pipeline, on_progress, held)
        try:
            for file in find_files(paths, parts=parts):
                load.load(file, reference)
        except KeyboardInterrupt:
            interrupted = True
        return load.reports.finish(pipeline, engine, interrupted=interrupted)
