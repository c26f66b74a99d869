"""The command `k2 audit`: an independent account of a home."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from k2lib.cli.shared import FAILED, AsJson, one_line, print_json
from k2lib.errors import SourceError

if TYPE_CHECKING:
    from k2lib.audit import AuditReport, Check


def audit(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="ASX files, archives, or folders, as loaded.")
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds after which a file that nothing needs is named."),
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of the reference data.")] = None,
    exchange: Annotated[
        str | None, typer.Option(help="Of archives without exchange.txt; BINANCE else.")
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="Files of a company are parts of one.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="File to write as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Account for every record, row and file of the home; exit code 1 names what is different."""
    from k2lib.audit import audit as audit_home
    from k2lib.cli.terminal import working
    from k2lib.reasons import file_errors
    from k2lib.settings import read_settings

    settings = read_settings()
    with working("counting"):
        try:
            report = audit_home(
                settings,
                paths or (),
                grace_s=grace,
                reference=reference,
                exchange=exchange,
                parts=parts,
            )
        except SourceError as exc:
            typer.echo(f"k2: {one_line(exc)}", err=True)
            raise typer.Exit(FAILED) from exc
    if html is not None:
        from k2lib.audit.page import to_html

        with file_errors(f"--html {html}"):
            html.write_text(to_html(report), encoding="utf-8")
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)
    if report.first_difference is not None:
        typer.echo(f"k2: {' '.join(report.first_difference.split())}", err=True)
        raise typer.Exit(1)


COLORS: Final = {"held": "green", "different": "red", "not checked": "yellow"}


def _print(report: "AuditReport") -> None:
    from rich.table import Column, Table

    from k2lib.audit.report import PARTITION_COLUMNS, SYMBOL_COLUMNS
    from k2lib.cli.terminal import out

    console = out()
    home = f"home {report.home}, {report.kafka}"
    console.print(home, highlight=False, markup=False, soft_wrap=True)
    tables = list(dict.fromkeys(one.table for one in report.checks))
    checks = {(one.name, one.table): one for one in report.checks}
    overview = Table("check", *(Column(name, overflow="fold") for name in tables))
    for name in dict.fromkeys(one.name for one in report.checks):
        overview.add_row(name, *(_cell(checks.get((name, table))) for table in tables))
    console.print(overview)
    _print_numbers(
        PARTITION_COLUMNS, [one for one in report.partitions if one.records or one.unread]
    )
    symbols = [name for name in SYMBOL_COLUMNS if not name.startswith("price")]
    _print_numbers(symbols, report.symbols)
    for line in [*report.equations, *_remarks(report.checks)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(report.summary, highlight=False)


def _cell(check: "Check | None") -> str:
    if check is None:
        return ""
    shown = f"{check.counted} held" if check.state == "held" else check.state
    return f"[{COLORS[check.state]}]{shown}[/]"


def _print_numbers(names: Sequence[str], rows: Sequence[object]) -> None:
    from rich.table import Table

    from k2lib.cli.terminal import out

    table = Table()
    for name in names:
        is_number = bool(rows) and isinstance(vars(rows[0])[name], int)
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold")
    for row in rows:
        values = (vars(row)[name] for name in names)
        table.add_row(*(f"{one:,}" if isinstance(one, int) else one for one in values))
    if rows:
        out().print(table)


def _remarks(checks: "Sequence[Check]") -> Iterator[str]:
    """Say what is different, what is good to know, and what was not checked, once for each why."""
    for one in checks:
        if one.not_checked is None and one.result:
            yield f"{one.name}, {one.table}: {one.result}"
    for why in dict.fromkeys(one.not_checked for one in checks if one.not_checked):
        names = dict.fromkeys(one.name for one in checks if one.not_checked == why)
        yield f"not checked: {', '.join(names)}: {why}"
