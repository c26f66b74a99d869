"""The command line: each command reads the settings, calls the library, and reports."""

import sys

import typer

from k2lib.cli import files, home, live, shows
from k2lib.errors import K2Error

app = typer.Typer(
    help="Market data through Kafka into Iceberg, exactly once, and back out of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
loads = typer.Typer(help="Load files.", no_args_is_help=True)
streams = typer.Typer(help="Stream live trades.", no_args_is_help=True)
simulations = typer.Typer(help="Make data that look like a venue's.", no_args_is_help=True)
app.add_typer(loads, name="load")
app.add_typer(streams, name="stream")
app.add_typer(simulations, name="simulate")

loads.command("asx")(files.load_asx)
loads.command("binance-archive")(files.load_binance_archive)
simulations.command("asx")(files.simulate_asx)
simulations.command("binance")(live.simulate_binance)
streams.command("binance")(live.stream_binance)
app.command()(live.watch)
app.command()(home.sql)
app.command()(home.sink)
app.command()(home.up)
app.command()(home.status)
app.command()(home.down)
app.command()(home.maintain)
app.command()(home.reset)
app.command()(shows.notebooks)
app.command()(shows.demo)


def main() -> None:
    """Run the command line: an error of ours is one line and exit code 1."""
    try:
        app()
    except K2Error as exc:
        typer.echo(f"k2: {exc}", err=True)
        sys.exit(1)
