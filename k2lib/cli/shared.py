"""What several commands share."""

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from k2lib.client import K2

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
FAILED: Final = 2
INTERRUPTED: Final = 130


@contextlib.contextmanager
def open_k2(*, with_sinks: bool = True) -> "Iterator[K2]":
    """Open the home of the settings, and say on standard error which it is."""
    from k2lib.client import K2
    from k2lib.settings import read_settings

    with K2(read_settings(), with_sinks=with_sinks) as k2:
        typer.echo(str(k2), err=True)
        yield k2


def print_json(value: Any) -> None:
    """Print plain values as JSON, for people too."""
    typer.echo(json.dumps(value, indent=2, default=str))


@contextlib.contextmanager
def sigterm_ends_it() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
