"""What a person sees of a running feed: a view drawn again and again, or a line now and then."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from k2lib.feed.feed import Feed
from k2lib.feed.status import FeedStatus, HostStatus, SymbolStatus
from k2lib.feed.status_file import StatusFile, read_status
from k2lib.ops.processes import birth

FRAME_S: Final = 0.5
LINE_S: Final = 10.0
FIRST_S: Final = 1.0
# A feed tells where it stands every second; one that has not for so long hangs, or its disk does.
OVERDUE_S: Final = 5.0
OVER: Final = ("stopped", "failed")
STYLES: Final = {"live": "green", "failed": "red", "stopped": "red"}
BREAKERS: Final = {"closed": "green", "open": "red", "half_open": "yellow"}


def pace_s(console: Console) -> float:
    """Return how many seconds to leave between two looks that are shown there."""
    return FRAME_S if console.is_terminal else LINE_S


def looks(feed: Feed, *, every_s: float, seconds: float | None = None) -> Iterator[FeedStatus]:
    """Yield where a feed of this process stands, after a second and then at a pace.

    Raises:
        K2Error: what ended the feed.
    """
    waits = _waits(every_s, seconds)
    while (wait_s := next(waits, None)) is not None and not feed.wait(wait_s):
        yield feed.status()


def told_looks(
    path: Path,
    *,
    every_s: float,
    seconds: float | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[FeedStatus]:
    """Yield where the feed stands that tells it in a file, while its process lives."""
    for wait_s in _waits(every_s, seconds):
        told = read_status(path)
        if told is None or ended(told) is not None:
            return
        yield told.status
        wait(wait_s)


def ended(told: StatusFile | None) -> str | None:
    """Say why the feed that told this is over; None where it goes on."""
    if told is None:
        return "none ever did"
    status, when = told.status, f"{told.status.at:%Y-%m-%d %H:%M:%S} UTC"
    if status.state in OVER:
        return f"{status.state} at {when} ({status.reason})"
    return f"process {told.pid} is gone since {when}" if birth(told.pid) is None else None


def show(statuses: Iterable[FeedStatus], *, console: Console, now: Callable[[], datetime]) -> None:
    """Show each look: one view in place on a terminal, a line for each elsewhere."""
    if not console.is_terminal:
        for status in statuses:
            console.print(status_line(status, now()), soft_wrap=True, highlight=False, markup=False)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for status in statuses:
            live.update(view(status, now()), refresh=True)


def status_line(status: FeedStatus, now: datetime) -> str:
    """Say in one line where a feed stands."""
    symbols = "; ".join(map(_symbol_line, status.symbols))
    names = sorted({one.partition(":")[0] for one in status.alerts})
    alerts = f"; {len(status.alerts)} alerts: {', '.join(names)}" if names else ""
    return f"{now:%H:%M:%S} {_head(status, now)}; {symbols}{alerts}"


def view(status: FeedStatus, now: datetime) -> RenderableType:
    """Draw where a feed stands."""
    head = Text(_head(status, now), STYLES.get(status.state, "yellow"))
    queue = (
        f"queue {status.queue_depth:,} of {status.queue_limit:,}, "
        f"{status.queue_waited_s:.1f} s waited for Kafka"
    )
    return Group(
        head,
        Text(queue, "dim"),
        _symbols(status.symbols),
        _hosts(status.hosts),
        _alerts(status.alerts),
    )


def _waits(every_s: float, seconds: float | None) -> Iterator[float]:
    """Yield how long to wait before each next look, up to the end; the first comes early."""
    end = float("inf") if seconds is None else time.monotonic() + seconds
    wait_s = min(FIRST_S, every_s)
    while (left_s := end - time.monotonic()) > 0:
        yield min(wait_s, left_s)
        wait_s = every_s


def _head(status: FeedStatus, now: datetime) -> str:
    where = f" at {status.host}" if status.host else ""
    why = f" ({status.reason})" if status.reason else ""
    wait = f", next attempt after {status.delay_s:.1f} s" if status.state == "waiting" else ""
    silent_s = (now - status.at).total_seconds()
    overdue = f", told {silent_s:.0f} s ago" if silent_s > OVERDUE_S else ""
    return (
        f"{status.exchange} {status.state}{where}{why}{wait}{overdue}, "
        f"{status.reconnects} reconnects, {status.dead_letters} dead letters"
    )


def _symbol_line(one: SymbolStatus) -> str:
    stale = " stale" if one.is_stale else ""
    return (
        f"{one.symbol}{stale} {_price(one)}, {one.trades_per_s:,.1f} trades/s, lag {_lag(one)}, "
        f"{one.trades:,} trades, gaps {one.gaps_open} open {one.gaps_closed} closed"
    )


def _symbols(symbols: Sequence[SymbolStatus]) -> Table:
    table = _table("symbol")
    quotes = ["quotes"] if any(one.quotes for one in symbols) else []
    names = ("last price", "trades/s", "lag", "trades", *quotes, "backfilled")
    for name in (*names, "gaps open", "closed"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in symbols:
        counts = (one.trades, *[one.quotes for _ in quotes], one.backfilled)
        table.add_row(
            Text(f"{one.symbol} stale" if one.is_stale else one.symbol),
            Text(_price(one), {"BUY": "green", "SELL": "red"}.get(one.last_side or "", "")),
            f"{one.trades_per_s:,.1f}",
            _lag(one),
            *(f"{count:,}" for count in counts),
            Text(f"{one.gaps_open:,}", "red" if one.gaps_open else ""),
            f"{one.gaps_closed:,}",
        )
    return table


def _hosts(hosts: Sequence[HostStatus]) -> Table:
    table = _table("host")
    table.add_column("connection", no_wrap=True)
    table.add_column("breaker", no_wrap=True)
    table.add_column("refused for good", overflow="fold")
    for one in hosts:
        table.add_row(
            Text(one.url),
            Text("open", "green") if one.connected else Text("-", "dim"),
            Text(one.breaker, BREAKERS.get(one.breaker, "")),
            Text(one.banned or "", "red"),
        )
    return table


def _alerts(alerts: Sequence[str]) -> Text:
    if not alerts:
        return Text("no alert fires", "dim")
    return Text("\n".join(f"alert {one}" for one in alerts), "red")


def _table(first: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column(first, no_wrap=True)
    return table


def _price(one: SymbolStatus) -> str:
    return "no price yet" if one.last_price is None else f"{one.last_price.normalize():,f}"


def _lag(one: SymbolStatus) -> str:
    return "?" if one.lag_s is None else f"{one.lag_s:.3f} s"
