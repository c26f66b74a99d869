"""Commands that load files: `k2 load asx`, `k2 load binance-archive`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k2lib.cli.shared import FAILED, INTERRUPTED, AsJson, open_k2, print_json

if TYPE_CHECKING:
    from k2lib.load import LoadReport


def load_asx(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders or globs.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of the reference data.")] = None,
    parts: Annotated[bool, typer.Option("--parts", help="A company's files are one.")] = False,
    no_sink: Annotated[bool, typer.Option("--no-sink", help="To Kafka only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load ASX trades and quotes; exit code 2 if a file could not be loaded."""
    from k2lib.cli.terminal import load_progress

    with open_k2(with_sinks=not no_sink) as k2, load_progress(paths) as on_progress:
        report = k2.load_asx(list(paths), reference=reference, parts=parts, on_progress=on_progress)
    _report(report, as_json=as_json)


def load_binance_archive(
    paths: Annotated[list[Path], typer.Argument(help="Zips, folders or globs.")],
    exchange: Annotated[
        str | None, typer.Option(help="Venue of the files; exchange.txt or BINANCE else.")
    ] = None,
    assets: Annotated[
        list[str] | None, typer.Option(help="BASE/QUOTE of a symbol that is not known.")
    ] = None,
    no_sink: Annotated[bool, typer.Option("--no-sink", help="To Kafka only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load trades from Binance's archive; exit code 2 if a file could not be loaded."""
    from k2lib.cli.terminal import archive_progress

    with open_k2(with_sinks=not no_sink) as k2, archive_progress(paths) as on_progress:
        report = k2.load_binance_archive(
            list(paths), exchange=exchange, assets=assets or (), on_progress=on_progress
        )
    _report(report, as_json=as_json)


def _report(report: "LoadReport", *, as_json: bool) -> None:
    from k2lib.cli.terminal import print_load

    if as_json:
        print_json(report.to_json())
    else:
        print_load(report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.failed:
        raise typer.Exit(FAILED)
