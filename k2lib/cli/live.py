"""Commands on live trades: streaming them, watching a stream, and an exchange to stream from."""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k2lib.cli.shared import FAILED, AsJson, print_json, sigterm_ends_it
from k2lib.errors import ConfigError, K2Error, TransientError

if TYPE_CHECKING:
    from k2lib.settings import Settings
    from k2lib.venues.base import LiveVenue

Symbols = Annotated[str, typer.Option(help="Joined by commas.")]
Seconds = Annotated[float | None, typer.Option(min=0, help="End after so long; Ctrl-C else.")]
BOTH = "BTCUSDT,ETHUSDT"
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
    names = [name.strip().upper() for name in symbols.split(",") if name.strip()]
    # What is retried is told by the feed's own events.
    logging.getLogger("stamina").addHandler(logging.NullHandler())
    with sigterm_ends_it(), contextlib.ExitStack() as parts:
        with _in_one_line(hint=not offline):
            from k2lib.settings import read_settings

            _check_options(us=us, offline=offline, rate=rate)
            settings = read_settings()
            venue = parts.enter_context(_venue(settings, names, us=us, offline=offline, rate=rate))
        if check:
            _check(venue, names, as_json=as_json, hint=not offline)
        else:
            _stream(
                settings,
                venue,
                names,
                quotes=quotes,
                seconds=seconds,
                with_sinks=not no_sink,
                as_json=as_json,
                hint=not offline,
            )


def watch(seconds: Seconds = None, as_json: AsJson = False) -> None:
    """Watch the stream that runs in this home until Ctrl-C; --json looks once."""
    from k2lib.cli.views.terminal import out
    from k2lib.cli.views.watch import ended, pace_s, show, told_looks
    from k2lib.feed.status_file import read_status, status_path
    from k2lib.settings import read_settings

    home = read_settings().home
    path = status_path(home)
    if (why := ended(read_status(path))) is not None:
        raise ConfigError(f"no stream runs in the home {home}: {why}. `k2 stream binance` does one")
    looks = told_looks(path, every_s=pace_s(out()), seconds=seconds)
    if as_json:
        print_json(next(looks).to_json())
        return
    with sigterm_ends_it(), contextlib.suppress(KeyboardInterrupt):
        show(looks, console=out(), now=_now)
        if (why := ended(read_status(path))) is not None:
            typer.echo(f"the stream is over: {why}")


def simulate_binance(
    symbols: Symbols = BOTH,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the first host, others follow; 0: free ones.")
    ] = 9443,
    hosts: Annotated[int, typer.Option(min=1, help="Addresses that tell the same trades.")] = 1,
    rate: Annotated[float, typer.Option(help="Trades a second of each symbol.")] = 50.0,
    seed: Annotated[int, typer.Option(help="Same seed and rate, same trades.")] = 7,
    first_id: Annotated[
        int | None, typer.Option(help="Of the first trade; from the clock else.")
    ] = None,
    life_s: Annotated[float, typer.Option(help="Age at which connections are cut.")] = 86_400.0,
    ping_s: Annotated[float, typer.Option(help="Between two pings.")] = 20.0,
    script: Annotated[
        Path | None, typer.Option(help="Faults to come, a JSON object a line.")
    ] = None,
    seconds: Seconds = None,
    as_json: AsJson = False,
) -> None:
    """Run an exchange that speaks as Binance does, with faults on demand, until Ctrl-C."""
    from k2lib.cli.views.simulation import addresses, addresses_text, made, read_script
    from k2lib.simulator import OfflineExchange

    with (
        sigterm_ends_it(),
        OfflineExchange(
            [name.strip().upper() for name in symbols.split(",")],
            rate=rate,
            seed=seed,
            port=port,
            hosts=hosts,
            first_id=first_id,
            life_s=life_s,
            ping_s=ping_s,
            script=() if script is None else read_script(script),
        ) as exchange,
    ):
        told = addresses(exchange)
        typer.echo(json.dumps(told) if as_json else addresses_text(told))
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait(seconds)
        ids = made(exchange)
    if as_json:
        typer.echo(json.dumps({"made": ids}))
        return
    for symbol, one in ids.items():
        typer.echo(f"{symbol}: ids {one['first_id']} to {one['last_id']}, {one['void']} left out")


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
    from k2lib.cli.views.stream import Telling, begin_line, print_report, report_stream
    from k2lib.cli.views.terminal import err, out
    from k2lib.cli.views.watch import looks, pace_s, show
    from k2lib.client import K2
    from k2lib.feed.options import FeedOptions

    console, began = err(), _now()
    with Telling(console) as telling, contextlib.ExitStack() as parts:
        with _in_one_line(hint=hint):
            k2 = parts.enter_context(K2(settings, with_sinks=with_sinks, on_event=telling.on_event))
            typer.echo(str(k2), err=True)
            options = FeedOptions(quotes=quotes)
            feed = parts.enter_context(k2.feed(symbols, venue=venue, options=options))
        try:
            line = begin_line(feed, k2.watch.metrics_url)
            telling.begin(line, lambda: k2.watch.alerts.firing)
            show(looks(feed, every_s=pace_s(console), seconds=seconds), console=console, now=_now)
        except KeyboardInterrupt:
            console.print("ending: waiting until the lake has what came")
        finally:
            feed.close()
            report = report_stream(k2, feed, began=began, with_sinks=with_sinks)
            print_json(report.to_json()) if as_json else print_report(report, console=out())


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
        told = f"{venue.exchange}: {failed} of {len(checks)} steps failed{remedy}"
        typer.echo(f"k2: {told}", err=True)
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
    from k2lib.cli.views.simulation import rate_of_home
    from k2lib.client import choose_venue
    from k2lib.notebook.venue import reachable_venue
    from k2lib.venues import live_venue

    if us and settings.binance_ws_urls is not None:
        raise ConfigError("K2_BINANCE_WS_URLS and --us name two venues: leave one out")
    if not offline:
        yield live_venue("binanceus") if us else choose_venue(settings)
        return
    kept = rate_of_home(settings.home, rate)
    with reachable_venue(symbols, rate=kept, offline=True) as chosen:
        yield chosen.venue


@contextlib.contextmanager
def _in_one_line(*, hint: bool) -> Iterator[None]:
    """End in exit code 2 with what is wrong; a venue out of reach has a stand-in, if asked for."""
    try:
        yield
    except K2Error as exc:
        remedy = OFFLINE if hint and isinstance(exc, TransientError) else ""
        typer.echo(f"k2: {' '.join(str(exc).split())}{remedy}", err=True)
        raise typer.Exit(FAILED) from exc


def _now() -> datetime:
    return datetime.now(UTC)
