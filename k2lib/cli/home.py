"""Commands on a home: its services, its tables, its upkeep."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from k2lib.cli.shared import AsJson, open_k2, print_json


def sql(
    query: Annotated[str, typer.Argument(help="For example: select count(*) from trades_v2")],
    form: Annotated[
        str, typer.Option("--format", help="table, json, csv, parquet or arrow.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="File to write; standard output else.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the lake; starts no broker."""
    from k2lib.query.export import as_format, write

    chosen = as_format("json" if as_json else form)
    with open_k2() as k2:
        result = k2.engine.run_sql(query)
        write(result.frame, chosen, output=output, stdout=sys.stdout.buffer)
    for complete_to in result.complete_to.values():
        for gap in complete_to.gaps:
            typer.echo(
                f"open gap: {gap.exchange} {gap.symbol} trades {gap.from_id} to {gap.to_id} are "
                "missing and asked for",
                err=True,
            )


def sink(
    tables: Annotated[list[str] | None, typer.Argument(help="All tables without it.")] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Record lost ranges as dead letters; go on.")
    ] = False,
) -> None:
    """Feed the tables from Kafka until Ctrl-C; then commit what was read, and say what was done."""
    from k2lib.cli.terminal import SinkPrinter

    printer = SinkPrinter()
    with open_k2() as k2:
        k2.sink(tables, accept_loss=accept_loss, on_event=printer.on_event)
    typer.echo(printer.summary())


def up(as_json: AsJson = False) -> None:
    """Start Kafka and the schema registry on this machine; a second time does no harm."""
    from k2lib.cli.terminal import print_services, working
    from k2lib.ops.services import status as services_status
    from k2lib.ops.services import up as services_up
    from k2lib.settings import read_settings

    settings = read_settings()
    with working("starting") as show_step:
        services_up(
            settings.home,
            kafka_port=settings.kafka_port,
            registry_port=settings.registry_port,
            on_step=show_step,
        )
    status = services_status(settings.home)
    if as_json:
        print_json(status.to_json())
    else:
        print_services(status)


def status(as_json: AsJson = False) -> None:
    """Say what runs, what the tables hold, and what it takes on disk."""
    from k2lib.cli.terminal import print_status
    from k2lib.ops.home import read_home_status
    from k2lib.settings import read_settings

    found = read_home_status(read_settings())
    if as_json:
        print_json(found.to_json())
    else:
        print_status(found)


def down(as_json: AsJson = False) -> None:
    """Stop what `k2 up` started; the data stay."""
    from k2lib.ops.services import down as services_down
    from k2lib.settings import read_settings

    stopped = services_down(read_settings().home)
    if as_json:
        print_json([{"name": one.name, "pid": one.pid, "killed": one.killed} for one in stopped])
        return
    for one in stopped:
        typer.echo(f"{one.name} stopped (pid {one.pid}{', killed' if one.killed else ''})")
    if not stopped:
        typer.echo("nothing was running")


def maintain(as_json: AsJson = False) -> None:
    """Compact files and expire snapshots now, where no sink does so by itself."""
    from k2lib.cli.terminal import print_maintenance
    from k2lib.ops.home import maintain_all

    with open_k2() as k2:
        done = maintain_all(k2.catalog, run_folder=k2.settings.home / "run")
    if as_json:
        print_json([one.to_json() for one in done])
    else:
        print_maintenance(done)


def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the home: tables, files and the local services' data."""
    from k2lib.ops.home import reset_home
    from k2lib.settings import read_settings

    home = read_settings().home
    if not yes:
        typer.confirm(f"Delete {home} and all data in it?", abort=True)
    reset_home(home)
    typer.echo(f"{home} is deleted")
