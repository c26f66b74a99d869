"""The command line: each command reads the settings, calls the library, and reports."""

import logging
import sys
from typing import Annotated, Final

import typer

import k2lib
from k2lib.cli import dead_letters
from k2lib.cli.api import api
from k2lib.cli.audit import audit
from k2lib.cli.backup import backup, restore
from k2lib.cli.home import down, logs, maintain, reset, sink, sql, status, up
from k2lib.cli.load import load_asx, load_binance_archive
from k2lib.cli.notebooks import demo, notebooks
from k2lib.cli.shared import one_line, sigterm_ends_it
from k2lib.cli.simulate import simulate_asx, simulate_binance
from k2lib.cli.stream import stream_binance, watch
from k2lib.cli.top import top
from k2lib.errors import K2Error

# What a library warns of K2 says in its own line, if it matters.
UNPRINTED: Final = logging.NullHandler()

app = typer.Typer(
    help="Market data through Kafka into Iceberg, exactly once, and back out of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(is_given: bool) -> None:
    """Print the version and end, where `--version` is given."""
    if is_given:
        typer.echo(f"k2 {k2lib.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Market data through Kafka into Iceberg, exactly once, and back out of it."""


loads = typer.Typer(help="Load files.", no_args_is_help=True)
streams = typer.Typer(help="Stream live trades.", no_args_is_help=True)
simulations = typer.Typer(help="Make data that look like a venue's.", no_args_is_help=True)
letters = typer.Typer(help="Records that were refused: list, show, retry.", no_args_is_help=True)
app.add_typer(letters, name="dead-letters")
app.add_typer(loads, name="load")
app.add_typer(streams, name="stream")
app.add_typer(simulations, name="simulate")

loads.command("asx")(load_asx)
loads.command("binance-archive")(load_binance_archive)
letters.command("list")(dead_letters.list_letters)
letters.command("show")(dead_letters.show)
letters.command("retry")(dead_letters.retry)
streams.command("binance")(stream_binance)
simulations.command("asx")(simulate_asx)
simulations.command("binance")(simulate_binance)
for command in (
    top,
    watch,
    sql,
    api,
    sink,
    up,
    status,
    logs,
    down,
    audit,
    maintain,
    backup,
    restore,
    reset,
    notebooks,
    demo,
):
    app.command()(command)


def main() -> None:
    """Run the command line: an error of ours is one line and exit code 1.

    SIGTERM ends every command as Ctrl-C does, cleanly and with what was done.
    """
    logging.getLogger("pyiceberg").addHandler(UNPRINTED)
    try:
        with sigterm_ends_it():
            app()
    except K2Error as exc:
        typer.echo(f"k2: {one_line(exc)}", err=True)
        sys.exit(1)
