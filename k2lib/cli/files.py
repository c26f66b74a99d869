"""Commands on files: loading them, and making some."""

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
    from k2lib.cli.views.terminal import load_progress

    with open_k2(with_sinks=not no_sink) as k2, load_progress(paths) as on_progress:
        report = k2.load_asx(list(paths), reference=reference, parts=parts, on_progress=on_progress)
    _report(report, as_json=as_json)


def simulate_asx(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    companies: Annotated[int, typer.Option(help="Invented companies.")] = 3,
    days: Annotated[int, typer.Option(help="Trading days.")] = 2,
    trades_per_day: Annotated[int, typer.Option(help="Of the largest company.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Write ASX-shaped files of invented companies; they load as exchange ASX_SIM."""
    from k2lib.cli.views.terminal import samples_progress
    from k2lib.simulator import write_samples

    with samples_progress() as on_progress:
        summary = write_samples(
            folder,
            seed=seed,
            companies=companies,
            days=days,
            trades_per_day=trades_per_day,
            on_progress=on_progress,
        )
    if as_json:
        print_json({"folder": str(folder), "exchange": summary.exchange, "rows": summary.rows})
    else:
        typer.echo(f"{summary.rows:,} rows in {len(summary.files)} files in {folder}")


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
    from k2lib.cli.views.terminal import archive_progress

    with open_k2(with_sinks=not no_sink) as k2, archive_progress(paths) as on_progress:
        report = k2.load_binance_archive(
            list(paths), exchange=exchange, assets=assets or (), on_progress=on_progress
        )
    _report(report, as_json=as_json)


def _report(report: "LoadReport", *, as_json: bool) -> None:
    from k2lib.cli.views.terminal import print_load

    if as_json:
        print_json(report.to_json())
    else:
        print_load(report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.failed:
        raise typer.Exit(FAILED)
