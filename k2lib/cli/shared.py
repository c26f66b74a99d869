"""Options and helpers that several commands share."""

import contextlib
import json
import signal
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from k2lib.client import K2

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
Symbols = Annotated[str, typer.Option(help="Joined by commas.")]
Seconds = Annotated[float | None, typer.Option(min=0, help="End after so long; Ctrl-C else.")]
BOTH: Final = "BTCUSDT,ETHUSDT"
FAILED: Final = 2
INTERRUPTED: Final = 130


@contextlib.contextmanager
def open_k2(*, with_sinks: bool = True) -> "Iterator[K2]":
    """Open the home of the settings, and print on standard error which it is."""
    from k2lib.client import K2
    from k2lib.settings import read_settings

    with K2(read_settings(), with_sinks=with_sinks) as k2:
        typer.echo(str(k2), err=True)
        yield k2


def print_json(value: Any) -> None:
    """Print plain values as indented JSON, decimals with all their digits."""
    typer.echo(json.dumps(value, indent=2, default=_json_text))


def _json_text(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


@contextlib.contextmanager
def sigterm_ends_it() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
