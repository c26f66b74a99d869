"""Loading Binance's archive: each file verified, then on its own; a broken one is left out."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from k2lib.errors import SourceError
from k2lib.kafka.topics import DEAD_LETTERS, topic_name
from k2lib.lifecycle import Held, interrupts_held
from k2lib.load.report import FileReport, LoadReport, OnProgress, Reports
from k2lib.pipeline import Pipeline
from k2lib.query.engine import Engine
from k2lib.schema.dead_letters import DeadLetter, dead_letter_rows
from k2lib.schema.records import DEAD_LETTER, TRADE
from k2lib.venues.binance.archive import (
    BrokenFileError,
    FileBatch,
    archive_exchange,
    archive_instrument,
    find_archives,
    read_archive,
    verify,
)
from k2lib.venues.binance.instruments import Instrument

NO_INSTRUMENTS: Final[Mapping[str, Instrument]] = MappingProxyType({})
DAY_US: Final = 24 * 3600 * 1_000_000


def load_binance_archive(
    paths: Sequence[str | Path],
    *,
    pipeline: Pipeline,
    engine: Engine | None,
    exchange: str | None = None,
    instruments: Mapping[str, Instrument] = NO_INSTRUMENTS,
    on_progress: OnProgress = lambda file, n_bytes: None,
) -> LoadReport:
    """Load zips of trades (files, folders, globs), and wait until the lake has all of it.

    Args:
        engine: counts the rows that were already there; None where no sink feeds the lake.
        exchange: of all files; by default what `exchange.txt` in their folders says, else BINANCE.
        instruments: by symbol, for symbols that the shipped table does not have.
        on_progress: told of every chunk: file, bytes.
    Returns:
        A line for every file; one that cannot be loaded has its error, and the others are loaded.
        After Ctrl-C, the lines of what was loaded until then.
    Raises:
        DeliveryError, TransientError: Kafka or the lake did not take all of it.
    """
    interrupted = False
    with interrupts_held() as held:
        load = _Load(pipeline, exchange, instruments, on_progress, held)
        try:
            for path in find_archives(paths):
                load.load(path)
        except KeyboardInterrupt:
            interrupted = True
        return load.reports.finish(pipeline, engine, interrupted=interrupted)


class _Load:
    """One load: what holds for all files, and the report lines."""

    def __init__(
        self,
        pipeline: Pipeline,
        exchange: str | None,
        instruments: Mapping[str, Instrument],
        on_progress: OnProgress,
        held: Held,
    ) -> None:
        self.reports = Reports()
        self._pipeline = pipeline
        self._exchange = exchange
        self._instruments = instruments
        self._on_progress = on_progress
        self._held = held

    def load(self, path: Path) -> None:
        """Produce a file's rows, once it is verified."""
        stamp = self.reports.begin(FileReport(path.name))
        try:
            self._load(path, stamp)
        except BrokenFileError as exc:
            self._refuse([exc.letter])
            self.reports.count(stamp, rows=0, dead_letters=1)
            self.reports.change(stamp, error=str(exc))
        except SourceError as exc:
            self.reports.change(stamp, error=str(exc))

    def _load(self, path: Path, stamp: datetime) -> None:
        instrument = archive_instrument(path, self._instruments)
        exchange = archive_exchange(path, self._exchange)
        self.reports.change(stamp, kind="trades", note=verify(path))
        batches = read_archive(
            path,
            instrument,
            exchange=exchange,
            ingested=stamp,
            # A clock of ours that is behind must not refuse the trades of yesterday.
            latest_us=time.time_ns() // 1000 + DAY_US,
        )
        for batch in batches:
            self._produce(batch, topic_name("crypto", "trades", exchange))
            self.reports.count(
                stamp, rows=batch.rows.num_rows, dead_letters=len(batch.dead_letters)
            )
            self._on_progress(path.name, batch.n_bytes)
            self._held.check()

    def _produce(self, batch: FileBatch, topic: str) -> None:
        if batch.rows.num_rows:
            self._pipeline.produce(topic, batch.rows, TRADE)
        self._refuse(batch.dead_letters)

    def _refuse(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            rows = dead_letter_rows(letters, datetime.now(UTC))
            self._pipeline.produce(DEAD_LETTERS, rows, DEAD_LETTER, key="source")
