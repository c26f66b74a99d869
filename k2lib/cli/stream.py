"""Commands on live trades: `k2 stream`, and `k2 watch` from another process."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from k2lib.cli.shared import BOTH, FAILED, AsJson, Seconds, Symbols, one_line, print_json
from k2lib.errors import ConfigError, K2Error, TransientError

if TYPE_CHECKING:
    from k2lib.settings import Settings
    from k2lib.venues.base import LiveVenue

OFFLINE = "; `--offline` streams invented trades, without a network"


def stream_binance(
    symbols: Symbols = BOTH,
    quotes: Annotated[bool, typer.Option("--quotes", help="Best bid and ask too.")] = False,
    us: Annotated[bool, typer.Option("--us", help="Binance.US, as exchange BINANCEUS.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="An exchange in this process, invented trades.")
    ] = False,
    rate: Annotated[
        float | None, typer.Option(help="With --offline: trades a second of each symbol; 50 first.")
    ] = None,
    seconds: Seconds = None,
    no_sink: Annotated[bool, typer.Option("--no-sink", help="To Kafka only.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether the venue is reached.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stream live trades into Kafka and the lake until Ctrl-C; exit code 2 if it cannot begin."""
    texts = [name.strip().upper() for name in symbols.split(",") if name.strip()]
    # The feed's own events report retries.
    logging.getLogger("stamina").addHandler(logging.NullHandler())
    with contextlib.ExitStack() as parts:
        with _in_one_line(hint=not offline):
            from k2lib.schema.identity import split_instrument
            from k2lib.settings import read_settings

            _check_options(us=us, offline=offline, rate=rate)
            names = [split_instrument(text)[1] for text in texts]
            settings = read_settings()
            venue = parts.enter_context(_venue(settings, names, us=us, offline=offline, rate=rate))
        # Addresses of one's own are corrected, not replaced by invented trades.
        hint = not offline and settings.binance_ws_urls is None
        if check:
            _check(venue, texts, as_json=as_json, hint=hint)
        else:
            _stream(
                settings,
                venue,
                texts,
                quotes=quotes,
                seconds=seconds,
                with_sinks=not no_sink,
                as_json=as_json,
                hint=hint,
            )


def watch(seconds: Seconds = None, as_json: AsJson = False) -> None:
    """Watch the stream that runs in this home until Ctrl-C; --json looks once."""
    from k2lib.cli.stream_view import poll_status_file, refresh_s, show_statuses, why_ended
    from k2lib.cli.terminal import out
    from k2lib.cli.top import show_top
    from k2lib.feed.status_file import read_status, status_path
    from k2lib.settings import read_settings

    home = read_settings().home
    path = status_path(home)
    if (reason := why_ended(read_status(path))) is not None:
        raise ConfigError(
            f"no stream runs in the home {home}: {reason}. `k2 stream binance` starts one"
        )
    statuses = poll_status_file(path, every_s=refresh_s(out()), seconds=seconds)
    if as_json:
        print_json(next(statuses).to_json())
        return
    with contextlib.suppress(KeyboardInterrupt):
        if out().is_terminal:
            show_top(
                seconds=seconds,
                only_feed=True,
                goes_on=lambda: why_ended(read_status(path)) is None,
            )
        else:
            show_statuses(statuses, console=out(), now=_now)
        if (reason := why_ended(read_status(path))) is not None:
            typer.echo(f"the stream is over: {reason}")


def _stream(
    settings: "Settings",
    venue: "LiveVenue",
    symbols: Sequence[str],
    *,
    quotes: bool,
    seconds: float | None,
    with_sinks: bool,
    as_json: bool,
    hint: bool,
) -> None:
    from k2lib.cli.stream_view import (
        StreamPrinter,
        poll_feed,
        print_report,
        refresh_s,
        report_stream,
        show_statuses,
        start_line,
    )
    from k2lib.cli.terminal import err, out
    from k2lib.client import K2
    from k2lib.feed.options import FeedOptions

    console, began = err(), _now()
    with StreamPrinter(console) as printer, contextlib.ExitStack() as parts:
        with _in_one_line(hint=hint):
            k2 = parts.enter_context(K2(settings, with_sinks=with_sinks, on_event=printer.on_event))
            typer.echo(str(k2), err=True)
            options = FeedOptions(quotes=quotes, first_connection_s=settings.timeout_s)
            feed = parts.enter_context(k2.feed(symbols, venue=venue, options=options))
        try:
            printer.begin(start_line(feed, k2.watch.metrics_url), lambda: k2.watch.alerts.firing)
            statuses = poll_feed(feed, every_s=refresh_s(console), seconds=seconds)
            show_statuses(statuses, console=console, now=_now)
        except KeyboardInterrupt:
            console.print("ending: waiting until the lake has what arrived")
        finally:
            feed.close()
            report = report_stream(k2, feed, began=began, with_sinks=with_sinks)
            print_json(report.to_json()) if as_json else print_report(report, console=out())
        feed.wait(0)


def _check(venue: "LiveVenue", symbols: Sequence[str], *, as_json: bool, hint: bool) -> None:
    from k2lib.feed.check import check_venue

    checks = []
    for one in check_venue(venue, symbols):
        checks.append(one)
        if not as_json:
            state = "passed" if one.passed else "FAILED"
            typer.echo(f"{state} {one.seconds:7.3f} s  {one.step:<12} {one.host}: {one.detail}")
    if as_json:
        print_json([one.to_json() for one in checks])
    failed = sum(not one.passed for one in checks)
    if failed:
        remedy = OFFLINE if hint else ""
        typer.echo(
            f"k2: {venue.exchange}: {failed} of {len(checks)} steps failed{remedy}", err=True
        )
        raise typer.Exit(FAILED)


def _check_options(*, us: bool, offline: bool, rate: float | None) -> None:
    if us and offline:
        raise ConfigError("--us and --offline name two venues: leave one out")
    if rate is not None and not offline:
        raise ConfigError(f"--rate {rate:g} is for --offline: a real venue trades as it does")


@contextlib.contextmanager
def _venue(
    settings: "Settings", symbols: Sequence[str], *, us: bool, offline: bool, rate: float | None
) -> "Iterator[LiveVenue]":
    from k2lib.client import choose_venue
    from k2lib.notebook.venue import reachable_venue
    from k2lib.ops.offline_rate import rate_of_home
    from k2lib.venues import live_venue

    if us and settings.binance_ws_urls is not None:
        raise ConfigError("K2_BINANCE_WS_URLS and --us name two venues: leave one out")
    if not offline:
        yield live_venue("binanceus") if us else choose_venue(settings)
        return
    rate = rate_of_home(settings.home, rate)
    with reachable_venue(symbols, rate=rate, offline=True) as chosen:
        yield chosen.venue


@contextlib.contextmanager
def _in_one_line(*, hint: bool) -> Iterator[None]:
    """Turn an error into one line and exit code 2; `hint` adds the offline exchange as a remedy."""
    try:
        yield
    except K2Error as exc:
        remedy = OFFLINE if hint and isinstance(exc, TransientError) else ""
        typer.echo(f"k2: {one_line(exc)}{remedy}", err=True)
        raise typer.Exit(FAILED) from exc


def _now() -> datetime:
    return datetime.now(UTC)
