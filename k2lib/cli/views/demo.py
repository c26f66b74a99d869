"""`k2 demo`: load a folder of ASX files twice, and count it at both ends by other means."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb

from k2lib.client import K2
from k2lib.errors import ConfigError
from k2lib.kafka.cluster import list_topics
from k2lib.kafka.consumer import TopicConsumer
from k2lib.kafka.topics import topic_kind
from k2lib.load import FileReport, LoadReport
from k2lib.ops.home import reset_home
from k2lib.simulator import write_samples
from k2lib.venues.asx.files import AsxFile, find_files

DAYS: Final = 5
TRADES_A_DAY: Final = 6_000
# A line is cut by its commas alone, so that nothing of k2lib's reading is repeated here.
CSV_TURNOVER: Final = """
    SELECT sum(try_cast(cells[3] AS DECIMAL(38, 8)) * try_cast(cells[4] AS DECIMAL(18, 8)))
    FROM (SELECT string_split(line, ',') AS cells FROM read_csv(?, header = false, sep = chr(1),
        columns = {'line': 'VARCHAR'}, quote = '', encoding = 'latin-1', strict_mode = false))
"""
STORED: Final = {
    "trades": """
        SELECT vendor_data['company_id'], count(*), count(DISTINCT message_id),
            sum(price::DECIMAL(38, 8) * quantity) FROM lake.trades_v2 GROUP BY ALL""",
    "quotes": """
        SELECT vendor_data['company_id'], count(*), count(DISTINCT message_id), NULL
        FROM lake.quotes_v2 GROUP BY ALL""",
}


@dataclass(frozen=True)
class Figures:
    """One company's file, counted in the folder, by the loads, and in the lake.

    Turnover is given for trades, where every line is a row and new.
    """

    file: str
    kind: str
    lines: int
    rows: int
    new: int
    dead_letters: int
    stored: int
    ids: int
    csv_turnover: Decimal | None
    stored_turnover: Decimal | None
    new_again: int

    @property
    def agree(self) -> bool:
        """Whether every line is where it should be, once."""
        return (
            self.lines == self.rows + self.dead_letters
            and self.new == self.stored == self.ids
            and self.csv_turnover == self.stored_turnover
            and self.new_again == 0
        )


@dataclass(frozen=True)
class DemoReport:
    """What two loads of a folder came to; `messages` counts the first one's, by kind."""

    figures: tuple[Figures, ...]
    messages: Mapping[str, int]
    first: LoadReport
    again: LoadReport

    @property
    def agree(self) -> bool:
        """Whether files, Kafka and Iceberg hold the same."""
        rows: Counter[str] = Counter()
        for one in self.figures:
            rows[one.kind] += one.rows
        return (
            not self.first.failed
            and all(one.agree for one in self.figures)
            and all(self.messages.get(kind, 0) == rows[kind] for kind in STORED)
        )


def demo_samples(build: Path) -> Path:
    """Write the sample that the notebooks take by default, and return its folder."""
    folder = build / "samples" / "asx"
    return write_samples(folder, days=DAYS, trades_per_day=TRADES_A_DAY).folder


def run_demo(
    folder: Path,
    *,
    home: Path,
    on_progress: Callable[[str, int], None] = lambda file, n_bytes: None,
) -> DemoReport:
    """Load the folder into an emptied home, load it again, and count what is where.

    Args:
        on_progress: told of every chunk of both loads: file, bytes.
    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give one with trades/ and quotes/")
    reset_home(home)
    with K2.open(home=home) as k2:
        before = _messages(k2)
        first = k2.load_asx(folder, on_progress=on_progress)
        messages = _messages(k2) - before
        again = k2.load_asx(folder, on_progress=on_progress)
        return DemoReport(_figures(folder, k2, first, again), messages, first, again)


def _messages(k2: K2) -> Counter[str]:
    """Count the messages of each kind by the topics' watermarks."""
    cluster = k2.pipeline.cluster
    counted: Counter[str] = Counter()
    with TopicConsumer(cluster) as reader:
        for topic in list_topics(cluster.admin()):
            ends = (reader.watermarks(place)[1] for place in reader.partitions(topic))
            counted[topic_kind(topic) or ""] += sum(ends)
    return counted


def _figures(folder: Path, k2: K2, first: LoadReport, again: LoadReport) -> tuple[Figures, ...]:
    stored = {
        (kind, company): counted
        for kind, query in STORED.items()
        for company, *counted in k2.sql(query).iter_rows()
    }
    return tuple(
        _counted(file, _of(file, first), _of(file, again), stored)
        for file in find_files([folder], parts=True)
    )


def _of(file: AsxFile, load: LoadReport) -> list[FileReport]:
    names = {AsxFile((path,)).name for path in file.paths}
    return [report for report in load.files if report.file in names]


def _counted(
    file: AsxFile,
    first: list[FileReport],
    again: list[FileReport],
    stored: Mapping[tuple[str, str], Sequence[Any]],
) -> Figures:
    kind = first[0].kind
    lines = sum(map(_lines, file.paths))
    rows = sum(report.rows for report in first)
    whole = kind == "trades" and lines == rows == _new(first)
    n_stored, ids, turnover = stored.get((kind, file.company_id), (0, 0, None))
    return Figures(
        file=file.name,
        kind=kind,
        lines=lines,
        rows=rows,
        new=_new(first),
        dead_letters=sum(report.dead_letters for report in first),
        stored=n_stored,
        ids=ids,
        csv_turnover=_turnover(file) if whole else None,
        stored_turnover=turnover if whole else None,
        new_again=_new(again),
    )


def _new(reports: Iterable[FileReport]) -> int:
    return sum(report.rows - (report.already_there or 0) for report in reports)


def _lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _turnover(file: AsxFile) -> Decimal | None:
    paths = [str(path) for path in file.paths]
    found = duckdb.connect().execute(CSV_TURNOVER, [paths]).fetchall()
    turnover: Decimal | None = found[0][0]
    return turnover
