"""Options and helpers that several commands share."""

import contextlib
import json
import logging
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from k2lib.lifecycle import raise_interrupt

if TYPE_CHECKING:
    from k2lib.client import K2
    from k2lib.events import Event
    from k2lib.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
Symbols = Annotated[str, typer.Option(help="Joined by commas.")]
Seconds = Annotated[float | None, typer.Option(min=0, help="End after so long; Ctrl-C else.")]
BOTH: Final = "BTCUSDT,ETHUSDT"
FAILED: Final = 2
INTERRUPTED: Final = 130


@contextlib.contextmanager
def open_k2(*, with_sinks: bool = True, metrics_port: int | None = None) -> "Iterator[K2]":
    """Open the home of the settings to write it, and print on standard error which it is."""
    from k2lib.settings import read_settings

    explicit = {} if metrics_port is None else {"metrics_port": metrics_port}

    # What ends the command says what the alerts of its last seconds would say, in one line.
    logging.getLogger("k2lib.alerts").addHandler(logging.NullHandler())
    with _opened(read_settings(explicit), with_sinks=with_sinks) as k2:
        yield k2


@contextlib.contextmanager
def open_home() -> "Iterator[K2]":
    """Open the home of the settings to read it, as `open_k2` does; there must be one."""
    from k2lib.ops.home import check_catalog, check_home
    from k2lib.settings import read_settings

    settings = read_settings()
    check_home(settings)
    with _opened(settings) as k2:
        check_catalog(k2.catalog, settings)
        yield k2


@contextlib.contextmanager
def _opened(settings: "Settings", *, with_sinks: bool = True) -> "Iterator[K2]":
    from k2lib.client import K2
    from k2lib.events import log_event, to_all

    with K2(settings, with_sinks=with_sinks, on_event=to_all(log_event, print_stall)) as k2:
        typer.echo(str(k2), err=True)
        yield k2


def print_stall(event: "Event") -> None:
    """Print on standard error that Kafka acknowledges nothing, and until when it is waited for."""
    from k2lib.events import DeliveryStalled

    if isinstance(event, DeliveryStalled):
        until = datetime.now(UTC) + timedelta(seconds=event.gives_up_in_s)
        typer.echo(
            f"K2: Kafka at {event.address} does not acknowledge {event.records:,} records: "
            f"waiting for it until {until:%H:%M:%S} UTC",
            err=True,
        )


def one_line(exc: Exception) -> str:
    """Return the message of an error as one line."""
    return " ".join(str(exc).split())


def print_json(value: Any) -> None:
    """Print plain values as indented JSON, decimals with all their digits."""
    typer.echo(json.dumps(value, indent=2, default=_json_text))


def _json_text(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


@contextlib.contextmanager
def sigterm_ends_it() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C; a second one ends the process at once."""
    before = signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
