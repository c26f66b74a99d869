"""The command line: each command reads the settings, calls the library, and reports."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from k2lib.errors import K2Error

if TYPE_CHECKING:
    from k2lib.platform import K2

app = typer.Typer(
    help="Market data through Kafka into Iceberg, exactly once, and back out of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
loads = typer.Typer(help="Load files.", no_args_is_help=True)
simulations = typer.Typer(help="Make data that look like a venue's.", no_args_is_help=True)
app.add_typer(loads, name="load")
app.add_typer(simulations, name="simulate")

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
FAILED_FILE = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line: an error of ours is one line and exit code 1."""
    try:
        app()
    except K2Error as exc:
        typer.echo(f"k2: {exc}", err=True)
        sys.exit(1)


@loads.command("asx")
def load_asx(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders or globs.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of the reference data.")] = None,
    parts: Annotated[bool, typer.Option("--parts", help="A company's files are one.")] = False,
    no_sink: Annotated[bool, typer.Option("--no-sink", help="To Kafka only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Load ASX trades and quotes; exit code 2 if a file could not be loaded."""
    from k2lib.serve.terminal import load_progress, print_load

    with _open(with_sinks=not no_sink) as k2, load_progress(paths) as on_progress:
        report = k2.load_asx(list(paths), reference=reference, parts=parts, on_progress=on_progress)
    if as_json:
        _print_json(report.as_json())
    else:
        print_load(report)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.failed:
        raise typer.Exit(FAILED_FILE)


@simulations.command("asx")
def simulate_asx(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    companies: Annotated[int, typer.Option(help="Invented companies.")] = 3,
    days: Annotated[int, typer.Option(help="Trading days.")] = 2,
    trades_per_day: Annotated[int, typer.Option(help="Of the largest company.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Write ASX-shaped files of invented companies; they load as exchange ASX_SIM."""
    from k2lib.serve.terminal import samples_progress
    from k2lib.sources.samples import write_samples

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
        _print_json({"folder": str(folder), "exchange": summary.exchange, "rows": summary.rows})
    else:
        typer.echo(f"{summary.rows:,} rows in {len(summary.files)} files in {folder}")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="For example: select count(*) from trades_v2")],
    form: Annotated[
        str, typer.Option("--format", help="table, json, csv, parquet or arrow.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="File to write; standard output else.")
    ] = None,
) -> None:
    """Ask the lake; starts no broker."""
    from k2lib.query.export import as_format, write

    with _open() as k2:
        write(k2.sql(query), as_format(form), output=output, stdout=sys.stdout.buffer)


@app.command()
def sink(
    tables: Annotated[list[str] | None, typer.Argument(help="All tables without it.")] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Record lost ranges as dead letters; go on.")
    ] = False,
) -> None:
    """Feed the tables from Kafka until Ctrl-C."""
    from k2lib.serve.terminal import print_commit

    with _open() as k2:
        k2.sink(tables, accept_loss=accept_loss, on_event=print_commit)


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start Kafka and the schema registry on this machine; a second time does no harm."""
    from k2lib.ops.services import status as services_status
    from k2lib.ops.services import up as services_up
    from k2lib.serve.terminal import print_services, working
    from k2lib.settings import read_settings

    settings = read_settings()
    with working("starting") as tell:
        services_up(
            settings.home,
            kafka_port=settings.kafka_port,
            registry_port=settings.registry_port,
            on_event=tell,
        )
    status = services_status(settings.home)
    if as_json:
        _print_json(status.as_json())
    else:
        print_services(status)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say what runs, what the tables hold, and what it takes on disk."""
    from k2lib.ops.status import read_status
    from k2lib.serve.terminal import print_status
    from k2lib.settings import read_settings

    found = read_status(read_settings())
    if as_json:
        _print_json(found.as_json())
    else:
        print_status(found)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop what `k2 up` started; the data stay."""
    from k2lib.ops.services import down as services_down
    from k2lib.settings import read_settings

    stopped = services_down(read_settings().home)
    if as_json:
        _print_json([{"name": one.name, "pid": one.pid, "killed": one.killed} for one in stopped])
        return
    for one in stopped:
        typer.echo(f"{one.name} stopped (pid {one.pid}{', killed' if one.killed else ''})")
    if not stopped:
        typer.echo("nothing was running")


@app.command()
def maintain(as_json: AsJson = False) -> None:
    """Compact files and expire snapshots now, where no sink does so by itself."""
    from k2lib.ops.maintain import maintain_all
    from k2lib.serve.terminal import print_maintenance

    with _open() as k2:
        done = maintain_all(k2.catalog, run_folder=k2.settings.home / "run")
    if as_json:
        _print_json([one.as_json() for one in done])
    else:
        print_maintenance(done)


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the home: tables, files and the local services' data."""
    from k2lib.ops.reset import reset_home
    from k2lib.settings import read_settings

    home = read_settings().home
    if not yes:
        typer.confirm(f"Delete {home} and all data in it?", abort=True)
    reset_home(home)
    typer.echo(f"{home} is deleted")


@app.command()
def notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="All without it.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, a JSON scalar.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Rewrite the committed outputs too.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where notebooks and HTML go.")] = Path(
        "build/notebooks"
    ),
) -> None:
    """Run the notebooks and write them with an index page, readable without a network."""
    from k2lib.serve.notebooks.runs import parse_parameters, run_notebooks
    from k2lib.serve.terminal import notebook_progress

    with notebook_progress() as on_progress:
        index = run_notebooks(
            names or [],
            parameters=parse_parameters(parameter or []),
            output=output,
            in_place=in_place,
            on_progress=on_progress,
        )
    typer.echo(f"open {index}")


@app.command()
def demo(
    asx: Annotated[
        Path | None, typer.Option("--asx", help="Folder of real ASX files; generated ones else.")
    ] = None,
    build: Annotated[Path, typer.Option(help="All of the demo's files go here.")] = Path("build"),
) -> None:
    """Run the main job: files through Kafka into the lake, twice, proved; then the notebooks."""
    from k2lib.serve.demo import demo_samples, run_demo
    from k2lib.serve.demo_report import print_demo
    from k2lib.serve.notebooks.runs import run_notebooks
    from k2lib.serve.terminal import load_progress, notebook_progress

    folder = asx or demo_samples(build)
    with load_progress([folder], times=2) as on_progress:
        report = run_demo(folder, home=build / "homes" / "demo", on_progress=on_progress)
    print_demo(report)
    with notebook_progress() as on_cell:
        index = run_notebooks(
            [],
            parameters={"asx": str(folder)},
            output=build / "notebooks",
            homes=build / "homes",
            on_progress=on_cell,
        )
    typer.echo(f"open {index}")
    if not report.agree:
        raise typer.Exit(1)


@contextlib.contextmanager
def _open(*, with_sinks: bool = True) -> "Iterator[K2]":
    from k2lib.platform import K2
    from k2lib.settings import read_settings

    with K2(read_settings(), with_sinks=with_sinks) as k2:
        typer.echo(str(k2), err=True)
        yield k2


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
