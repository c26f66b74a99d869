"""Commands on a home: its services, its tables, its upkeep."""

import contextlib
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from k2lib.cli.shared import AsJson, open_home, open_k2, print_json
from k2lib.errors import ConfigError, TableError, TransientError

if TYPE_CHECKING:
    from k2lib.client import K2
    from k2lib.query.answer import ReadResult

SERVICES: Final = "s3, redis, exchange, sink, stream, api, alertmanager, prometheus"


def sql(
    query: Annotated[str, typer.Argument(help="For example: select count(*) from trades_v2")],
    form: Annotated[
        str, typer.Option("--format", help="table, json, csv, parquet or arrow.")
    ] = "table",
    output: Annotated[
        Path | None, typer.Option(help="File to write; standard output else.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Only rows from then on: a date, or a time with its zone.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="As --start, itself left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the lake; starts no broker."""
    from k2lib.query.export import as_format, write

    chosen = as_format("json" if as_json else form)
    with open_home() as k2:
        result = k2.engine.run_sql(query, start=start, end=end)
        _warn_of_lake_only(k2, result)
        write(result.frame, chosen, output=output, stdout=sys.stdout.buffer)
    for complete_to in result.complete_to.values():
        for gap in complete_to.gaps:
            typer.echo(
                f"open gap: {gap.exchange} {gap.symbol} trades {gap.from_id} to {gap.to_id} are "
                "missing and asked for",
                err=True,
            )


def _warn_of_lake_only(k2: "K2", result: "ReadResult") -> None:
    """Where a Kafka should be, say that the answer lacks what it has; refuse one of nothing."""
    lacking = {name: one for name, one in result.complete_to.items() if one.reason is not None}
    if not lacking or k2.kafka.cluster is None:
        return
    names, reason = ", ".join(lacking), next(iter(lacking.values())).reason
    if all(one.snapshot_id is None for one in lacking.values()):
        raise TransientError(f"{names}: nothing is in the lake, and {reason}")
    typer.echo(f"k2: {names}: what the lake has, without what Kafka has: {reason}", err=True)


def sink(
    tables: Annotated[list[str] | None, typer.Argument(help="All tables without it.")] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Record lost ranges as dead letters; go on.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of /metrics; K2_METRICS_PORT else, 0: a free one."),
    ] = None,
) -> None:
    """Feed the tables from Kafka until Ctrl-C; then commit what was read, and say what was done."""
    from k2lib.cli.terminal import SinkPrinter

    printer = SinkPrinter()
    with open_k2(metrics_port=metrics_port) as k2:
        if k2.watch.metrics_url is not None:
            typer.echo(f"metrics at {k2.watch.metrics_url}", err=True)
        k2.sink(tables, accept_loss=accept_loss, on_event=printer.on_event)
    typer.echo(printer.summary())


def up(
    with_services: Annotated[
        str | None,
        typer.Option("--with", help=f"Services besides, joined by commas: {SERVICES}."),
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option("--port", metavar="NAME=PORT", help="Of a service; 0: a free one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start Kafka and the schema registry on this machine; a second time does no harm."""
    from k2lib.cli.terminal import print_services, print_stack, working
    from k2lib.ops.services import status as services_status
    from k2lib.ops.services import up as services_up
    from k2lib.ops.stack import read_request, start_stack
    from k2lib.settings import read_settings

    settings = read_settings()
    names = [name.strip() for name in (with_services or "").split(",") if name.strip()]
    ports = dict(map(_port, port or ()))
    if names or ports or read_request(settings.home).ports:
        with working("starting") as show_step:
            stack = start_stack(settings, names, ports=ports, on_step=show_step)
        print_json(stack.to_json()) if as_json else print_stack(stack)
        return
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


def _port(text: str) -> tuple[str, int]:
    name, found, number = text.partition("=")
    if not found or not number.isascii() or not number.isdigit() or int(number) > 65535:
        raise ConfigError(f"--port {text}: write NAME=PORT, for example --port redis=16379")
    return name.strip(), int(number)


def logs(
    name: Annotated[str, typer.Argument(help="Of a service, or supervisor.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="So many of the last ones first.")] = 100,
) -> None:
    """Show the log of a service of this home."""
    from k2lib.ops import logs as service_logs
    from k2lib.ops.home import check_home
    from k2lib.settings import read_settings

    settings = read_settings()
    check_home(settings)
    log = service_logs.find_log(settings.home, name)
    new = service_logs.follow(log) if follow else iter(())
    with contextlib.suppress(KeyboardInterrupt):
        for line in chain(service_logs.last_lines(log, lines=lines), new):
            typer.echo(line)


def status(as_json: AsJson = False) -> None:
    """Say what runs, what the tables hold, and what it takes on disk."""
    from k2lib.cli.terminal import print_status
    from k2lib.ops.home import check_home, read_home_status
    from k2lib.settings import read_settings

    settings = read_settings()
    check_home(settings)
    found = read_home_status(settings)
    if as_json:
        print_json(found.to_json())
    else:
        print_status(found)
    if found.problem is not None:
        raise TransientError(found.problem)
    _raise_first([one.problem for one in found.tables if one.problem is not None])


def down(as_json: AsJson = False) -> None:
    """Stop what `k2 up` started; the data stay."""
    from k2lib.cli.terminal import working
    from k2lib.ops.home import check_home
    from k2lib.ops.services import down as services_down
    from k2lib.settings import read_settings

    settings = read_settings()
    check_home(settings)
    with working("stopping"):
        stopped = services_down(settings.home)
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

    with open_home() as k2:
        done = maintain_all(
            k2.catalog,
            run_folder=k2.settings.home / "run",
            orphan_age=k2.settings.orphan_age,
        )
    if as_json:
        print_json([one.to_json() for one in done])
    else:
        print_maintenance(done)
    _raise_first([one.problem for one in done if one.problem is not None])


def _raise_first(problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - 1} more tables" if len(problems) > 1 else ""
        raise TableError(f"{problems[0]}{more}")


def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the home: tables, files and the local services' data."""
    from k2lib.ops.home import check_home, reset_home
    from k2lib.settings import read_settings

    settings = read_settings()
    check_home(settings)
    home = settings.home
    if not yes:
        typer.confirm(f"Delete {home} and all data in it?", abort=True)
    reset_home(home)
    typer.echo(f"{home} is deleted")
