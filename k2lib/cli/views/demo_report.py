"""What `k2 demo` shows: every file counted in the folder, in Kafka and in Iceberg."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from k2lib.cli.views.demo import DemoReport, Figures
from k2lib.cli.views.terminal import out
from k2lib.load import LoadReport

NUMBERS = ("CSV", "Kafka", "Iceberg", "ids", "turnover", "dead", "again")
CAPTION = """CSV: lines of the file. Kafka: messages. Iceberg: rows, and distinct ids.
turnover: price times quantity, the same sum from the file and from Iceberg.
dead: lines in the dead letters. again: rows that the second load added."""


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


def _row(one: Figures) -> list[str]:
    counts = [one.lines, None, one.stored, one.ids, _turnover(one), one.dead_letters, one.new_again]
    return [one.file, *map(_text, counts)]


def _sums(kind: str, ours: Sequence[Figures], messages: int) -> list[str]:
    counts = [
        sum(one.lines for one in ours),
        messages,
        sum(one.stored for one in ours),
        sum(one.ids for one in ours),
        None,
        sum(one.dead_letters for one in ours),
        sum(one.new_again for one in ours),
    ]
    return [f"all {kind}", *map(_text, counts)]


def _turnover(one: Figures) -> str | None:
    if one.csv_turnover is None or one.stored_turnover is None:
        return None
    if one.csv_turnover == one.stored_turnover:
        return f"{one.csv_turnover.normalize():,f}"
    return f"{one.csv_turnover:,f} and {one.stored_turnover:,f}"


def _text(value: int | str | None) -> str:
    return f"{value:,}" if isinstance(value, int) else value or ""


def _speed(name: str, load: LoadReport) -> str:
    rows = sum(file.rows for file in load.files)
    return f"{name} load: {rows:,} rows in {load.seconds:.1f} s, {rows / load.seconds:,.0f} rows/s"
