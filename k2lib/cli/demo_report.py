"""`k2 demo`: load a folder of ASX files twice, and count the rows at both ends independently."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb
from rich.box import SIMPLE_HEAD
from rich.table import Table

from k2lib.cli.terminal import out
from k2lib.client import K2
from k2lib.errors import ConfigError
from k2lib.kafka.consumer import TopicConsumer
from k2lib.kafka.topics import topic_kind
from k2lib.load import FileReport, LoadReport
from k2lib.ops.home import reset_home
from k2lib.simulator import write_samples
from k2lib.venues.asx.files import AsxFile, find_files

DAYS: Final = 5
TRADES_A_DAY: Final = 6_000
# Lines are split at commas only: nothing of k2lib's own parser is used here.
CSV_TURNOVER: Final = """
    SELECT sum(try_cast(cells[3] AS DECIMAL(18, 8)) * try_cast(cells[4] AS DECIMAL(19, 8)))
    FROM (SELECT string_split(line, ',') AS cells FROM read_csv(?, header = false, sep = chr(1),
        columns = {'line': 'VARCHAR'}, quote = '', encoding = 'latin-1', strict_mode = false))
"""
IN_LAKE: Final = {
    "trades": """
        SELECT vendor_data['company_id'], count(*), count(DISTINCT message_id),
            sum(price * quantity) FROM lake.trades_v2 GROUP BY ALL""",
    "quotes": """
        SELECT vendor_data['company_id'], count(*), count(DISTINCT message_id), NULL
        FROM lake.quotes_v2 GROUP BY ALL""",
}
NUMBERS = ("CSV", "Kafka", "Iceberg", "ids", "turnover", "dead", "again")
CAPTION = """CSV: lines of the file. Kafka: messages. Iceberg: rows, and distinct ids.
turnover: price times quantity, the same sum from the file and from Iceberg.
dead: lines in the dead letters. again: rows that the second load added."""


@dataclass(frozen=True)
class FileFigures:
    """One company's file, counted in the folder, by the loads, and in the lake.

    Turnover is given for trades, where every line is a row and new.
    """

    file: str
    kind: str
    lines: int
    rows: int
    new: int
    dead_letters: int
    in_lake: int
    ids: int
    csv_turnover: Decimal | None
    lake_turnover: Decimal | None
    new_again: int

    @property
    def agree(self) -> bool:
        """Whether every line is in the lake or in the dead letters, once."""
        return (
            self.lines == self.rows + self.dead_letters
            and self.new == self.in_lake == self.ids
            and self.csv_turnover == self.lake_turnover
            and self.new_again == 0
        )


@dataclass(frozen=True)
class DemoReport:
    """The result of two loads of a folder; `messages` counts those of the first one, by kind."""

    figures: tuple[FileFigures, ...]
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
            and all(self.messages.get(kind, 0) == rows[kind] for kind in IN_LAKE)
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
        on_progress: called for every chunk of both loads: file, bytes.
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
    counts: Counter[str] = Counter()
    with TopicConsumer(k2.pipeline.cluster) as reader:
        for partition in reader.find_partitions(lambda topic: topic_kind(topic) is not None):
            counts[topic_kind(partition.topic) or ""] += reader.watermarks(partition)[1]
    return counts


def _figures(folder: Path, k2: K2, first: LoadReport, again: LoadReport) -> tuple[FileFigures, ...]:
    in_lake = {
        (kind, company): counts
        for kind, query in IN_LAKE.items()
        for company, *counts in k2.sql(query).iter_rows()
    }
    return tuple(
        _file_figures(file, _reports(file, first), _reports(file, again), in_lake)
        for file in find_files([folder], parts=True)
    )


def _reports(file: AsxFile, load: LoadReport) -> list[FileReport]:
    names = {AsxFile((path,)).name for path in file.paths}
    return [report for report in load.files if report.file in names]


def _file_figures(
    file: AsxFile,
    first: list[FileReport],
    again: list[FileReport],
    in_lake: Mapping[tuple[str, str], Sequence[Any]],
) -> FileFigures:
    kind = first[0].kind
    lines = sum(map(_lines, file.paths))
    rows = sum(report.rows for report in first)
    is_whole = kind == "trades" and lines == rows == _new(first)
    n_rows, ids, turnover = in_lake.get((kind, file.company_id), (0, 0, None))
    return FileFigures(
        file=file.name,
        kind=kind,
        lines=lines,
        rows=rows,
        new=_new(first),
        dead_letters=sum(report.dead_letters for report in first),
        in_lake=n_rows,
        ids=ids,
        csv_turnover=_csv_turnover(file) if is_whole else None,
        lake_turnover=turnover if is_whole else None,
        new_again=_new(again),
    )


def _new(reports: Iterable[FileReport]) -> int:
    return sum(report.rows - (report.already_there or 0) for report in reports)


def _lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _csv_turnover(file: AsxFile) -> Decimal | None:
    paths = [str(path) for path in file.paths]
    found = duckdb.connect().execute(CSV_TURNOVER, [paths]).fetchall()
    turnover: Decimal | None = found[0][0]
    return turnover


def print_demo(report: DemoReport) -> None:
    """Print a line for every file, the sums of each kind, both loads' speed, and the verdict."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("file", no_wrap=True)
    for name in NUMBERS:
        table.add_column(name, justify="right", no_wrap=True)
    for kind in sorted({one.kind for one in report.figures}):
        _add_kind(table, kind, report)
    out().print(table)
    out().print(CAPTION, highlight=False, style="dim")
    for name, load in (("first", report.first), ("second", report.again)):
        out().print(_speed(name, load), highlight=False)
    for failed in (file for file in report.first.files if file.error is not None):
        out().print(f"[red]not loaded[/red] {failed.error}", highlight=False)
    agree = "[green]All figures agree.[/green]" if report.agree else "[red]Figures differ.[/red]"
    out().print(agree)


def _add_kind(table: Table, kind: str, report: DemoReport) -> None:
    ours = [one for one in report.figures if one.kind == kind]
    for one in ours:
        table.add_row(*_row(one), style="" if one.agree else "red")
    messages = report.messages.get(kind, 0)
    style = "bold" if messages == sum(one.rows for one in ours) else "bold red"
    table.add_row(*_sums(kind, ours, messages), style=style, end_section=True)


def _row(one: FileFigures) -> list[str]:
    counts = [
        one.lines,
        None,
        one.in_lake,
        one.ids,
        _turnover(one),
        one.dead_letters,
        one.new_again,
    ]
    return [one.file, *map(_text, counts)]


def _sums(kind: str, ours: Sequence[FileFigures], messages: int) -> list[str]:
    counts = [
        sum(one.lines for one in ours),
        messages,
        sum(one.in_lake for one in ours),
        sum(one.ids for one in ours),
        None,
        sum(one.dead_letters for one in ours),
        sum(one.new_again for one in ours),
    ]
    return [f"all {kind}", *map(_text, counts)]


def _turnover(one: FileFigures) -> str | None:
    if one.csv_turnover is None or one.lake_turnover is None:
        return None
    if one.csv_turnover == one.lake_turnover:
        return f"{one.csv_turnover.normalize():,f}"
    return f"{one.csv_turnover:,f} and {one.lake_turnover:,f}"


def _text(value: int | str | None) -> str:
    return f"{value:,}" if isinstance(value, int) else value or ""


def _speed(name: str, load: LoadReport) -> str:
    rows = sum(file.rows for file in load.files)
    return f"{name} load: {rows:,} rows in {load.seconds:.1f} s, {rows / load.seconds:,.0f} rows/s"
