"""The terminal view of a stream: its state while it runs, its events, and its report."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from k2lib.client import K2
from k2lib.events import (
    ConnectionLost,
    ConnectionOpened,
    ConnectionRotated,
    Event,
    FeedPaused,
    FeedResumed,
    GapEvent,
    HostBanned,
    log_event,
)
from k2lib.feed.feed import Feed
from k2lib.feed.status import FeedStatus, HostStatus, SymbolStatus
from k2lib.feed.status_file import StatusFile, read_status
from k2lib.lifecycle import Closing
from k2lib.ops.firing_alerts import Alert, log_alert
from k2lib.ops.processes import birth

FRAME_S: Final = 0.5
LINE_S: Final = 10.0
FIRST_S: Final = 1.0
# A feed writes its status every second; if the status is older, the feed or its disk hangs.
OVERDUE_S: Final = 5.0
OVER: Final = ("stopped", "failed")
STYLES: Final = {"live": "green", "failed": "red", "stopped": "red"}
BREAKERS: Final = {"closed": "green", "open": "red", "half_open": "yellow"}
LOG: Final = "k2lib.alerts"
PRINTED: Final = (
    ConnectionOpened,
    ConnectionLost,
    ConnectionRotated,
    HostBanned,
    GapEvent,
    FeedPaused,
    FeedResumed,
)
NOT_PRINTED: Final = frozenset({"exchange", "gap_id", "filled", "covered", "absent"})
IN_RUN: Final = ("trades", "quotes", "repeated", "backfilled")
IN_LAKE: Final = ("first_id", "last_id", "rows", "twice", "missing", "explained", "unexplained")
ALL_REPEATED: Final = (
    "every trade has an id that this home knew before, and was left out. An offline exchange of "
    "another rate counts otherwise: give it a home of its own, by K2_HOME"
)
GAPS: Final = """
    SELECT state, count(*) AS gaps FROM gaps
    WHERE exchange = $exchange AND symbol IN (SELECT unnest($symbols)) AND noticed >= $since
    GROUP BY ALL ORDER BY ALL"""


def refresh_s(console: Console) -> float:
    """Return the seconds between two statuses shown on this console."""
    return FRAME_S if console.is_terminal else LINE_S


def poll_feed(feed: Feed, *, every_s: float, seconds: float | None = None) -> Iterator[FeedStatus]:
    """Yield the status of a feed of this process, first after a second, then at this interval.

    Raises:
        K2Error: the error that ended the feed.
    """
    waits = _waits(every_s, seconds)
    while (wait_s := next(waits, None)) is not None and not feed.wait(wait_s):
        yield feed.status()


def poll_status_file(
    path: Path,
    *,
    every_s: float,
    seconds: float | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[FeedStatus]:
    """Yield the status that a feed of another process writes, while that process lives."""
    for wait_s in _waits(every_s, seconds):
        file = read_status(path)
        if file is None or why_ended(file) is not None:
            return
        yield file.status
        wait(wait_s)


def why_ended(file: StatusFile | None) -> str | None:
    """Return why the feed of a status file is over; None while it runs."""
    if file is None:
        return "none ever did"
    status, when = file.status, f"{file.status.at:%Y-%m-%d %H:%M:%S} UTC"
    if status.state in OVER:
        return f"{status.state} at {when} ({status.reason})"
    return f"process {file.pid} is gone since {when}" if birth(file.pid) is None else None


def show_statuses(
    statuses: Iterable[FeedStatus], *, console: Console, now: Callable[[], datetime]
) -> None:
    """Show each status: one view in place on a terminal, a line for each elsewhere."""
    if not console.is_terminal:
        for status in statuses:
            console.print(status_line(status, now()), soft_wrap=True, highlight=False, markup=False)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for status in statuses:
            live.update(status_view(status, now()), refresh=True)


def status_line(status: FeedStatus, now: datetime) -> str:
    """Return the status of a feed in one line."""
    symbols = "; ".join(map(_symbol_line, status.symbols))
    names = sorted({alert.partition(":")[0] for alert in status.alerts})
    alerts = f"; {len(status.alerts)} alerts: {', '.join(names)}" if names else ""
    return f"{now:%H:%M:%S} {_head(status, now)}; {symbols}{alerts}"


def status_view(status: FeedStatus, now: datetime) -> RenderableType:
    """Draw the status of a feed."""
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
    """Yield the seconds to wait before each next status, up to the end; the first wait is short."""
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
    overdue = f", status {silent_s:.0f} s old" if silent_s > OVERDUE_S else ""
    return (
        f"{status.exchange} {status.state}{where}{why}{wait}{overdue}, "
        f"{status.reconnects} reconnects, {status.dead_letters} dead letters"
    )


def _symbol_line(one: SymbolStatus) -> str:
    stale = " stale" if one.is_stale else ""
    return (
        f"{one.symbol}{stale} {price_text(one)}, {one.trades_per_s:,.1f} trades/s, "
        f"lag {lag_text(one)}, {one.trades:,} trades, "
        f"gaps {one.gaps_open} open {one.gaps_closed} closed"
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
            Text(price_text(one), {"BUY": "green", "SELL": "red"}.get(one.last_side or "", "")),
            f"{one.trades_per_s:,.1f}",
            lag_text(one),
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


def price_text(one: SymbolStatus) -> str:
    """Return the last price of a symbol with all its digits."""
    return "no price yet" if one.last_price is None else f"{one.last_price.normalize():,f}"


def lag_text(one: SymbolStatus) -> str:
    """Return the lag of a symbol."""
    return "?" if one.lag_s is None else f"{one.lag_s:.3f} s"


@dataclass(frozen=True)
class StreamReport:
    """The result of a stream.

    `gaps` counts by state those that the stream noticed or closed. `ids` has the result of
    `contiguity` for each symbol. Both are empty where other sinks feed the lake, which may lag.
    """

    status: FeedStatus
    seconds: float
    gaps: dict[str, int]
    ids: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        state = {name: getattr(self.status, name) for name in ("exchange", "state", "reason")}
        counts = {name: getattr(self.status, name) for name in ("reconnects", "dead_letters")}
        symbols = [_without_tape(one) | {"lake": self.ids.get(one["symbol"])} for one in self._rows]
        return {**state, "seconds": self.seconds, **counts, "gaps": self.gaps, "symbols": symbols}

    @property
    def _rows(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.status.symbols]


class ConsoleHandler(logging.Handler):
    """Prints log lines above the live view of the console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        _print_line(self._console, record.getMessage())


class StreamPrinter(Closing):
    """Prints the events of a stream that a person needs, and its alerts, once it has begun.

    Before that nothing is printed: a stream that cannot begin ends in one line of error.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = False
        self._handler = ConsoleHandler(console)
        self._handler.setLevel(logging.CRITICAL)
        self._logger = logging.getLogger(LOG)
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self._handler)

    def begin(self, line: str, firing: Callable[[], Iterable[Alert]]) -> None:
        """Print this line, the alerts that fire already, and from now on every event."""
        _print_line(self._console, line)
        self._begun = True
        self._handler.setLevel(logging.INFO)
        for alert in firing():
            log_alert(alert)

    def on_event(self, event: Event) -> None:
        """Log the event, and print it if it is one of `PRINTED`."""
        log_event(event)
        if self._begun and isinstance(event, PRINTED):
            fields = event.to_json().items()
            text = ", ".join(
                f"{name} {value}"
                for name, value in fields
                if name not in NOT_PRINTED and value != ""
            )
            _print_line(self._console, f"{event.name}: {text}" if text else event.name)

    def close(self) -> None:
        """Stop printing."""
        self._logger.removeHandler(self._handler)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)


def start_line(feed: Feed, metrics_url: str | None) -> str:
    """Return the line that a stream begins with: symbols, hosts, metrics."""
    venue = feed.venue
    assumed = [name for name, one in feed.instruments.items() if not one.listed]
    line = f"{feed}: streams {', '.join(venue.stream_hosts)}, REST {', '.join(venue.request_hosts)}"
    if metrics_url is not None:
        line += f"; metrics at {metrics_url}"
    if halted := [
        f"{name} is {one.halted}" for name, one in feed.instruments.items() if one.halted
    ]:
        line += f"; not trading now: {', '.join(halted)}"
    if assumed:
        line += f"; assets of {', '.join(assumed)} are those k2lib knows: no REST host answers"
    return line


def report_stream(k2: K2, feed: Feed, *, began: datetime, with_sinks: bool) -> StreamReport:
    """Wait until Kafka, and the lake if sinks run here, have the rows of a closed feed."""
    status = feed.status()
    exchange, symbols = status.exchange, [one.symbol for one in status.symbols]
    k2.pipeline.settle() if with_sinks else k2.pipeline.flush()
    seconds = (datetime.now(UTC) - began).total_seconds()
    if not with_sinks:
        return StreamReport(status, seconds, {}, {})
    parameters = {"exchange": exchange, "symbols": symbols, "since": began}
    gaps = {state: int(count) for state, count in k2.sql(GAPS, parameters).iter_rows()}
    rows = k2.contiguity(exchange).iter_rows(named=True)
    ids = {row["symbol"]: {name: row[name] for name in IN_LAKE} for row in rows}
    return StreamReport(status, seconds, gaps, {name: ids[name] for name in symbols if name in ids})


def print_report(report: StreamReport, *, console: Console) -> None:
    """Print the report of a stream: the run, its gaps, and each symbol's ids in the lake."""
    status = report.status
    trades = sum(one.trades for one in status.symbols)
    gaps = ", ".join(f"{count} {state}" for state, count in report.gaps.items()) or "none"
    console.print(
        f"{status.exchange}: {trades:,} trades in {report.seconds:.1f} s, "
        f"{status.reconnects} reconnects, {status.dead_letters} dead letters; gaps: {gaps}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_count_table("symbol", IN_RUN, {one.symbol: vars(one) for one in status.symbols}))
    if report.ids:
        console.print("in the lake:")
        console.print(_count_table("symbol", IN_LAKE, report.ids))
    if report.gaps.get("noticed"):
        console.print("gaps that are only noticed are filled once the stream runs again")
    for one in status.symbols:
        if one.repeated and one.repeated == one.trades:
            console.print(f"{one.symbol}: {ALL_REPEATED}", soft_wrap=True, highlight=False)


def _count_table(first: str, names: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table(first)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for symbol, values in rows.items():
        table.add_row(symbol, *(str(values[name]) for name in names))
    return table


def _without_tape(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "tape"}


def _print_line(console: Console, text: str) -> None:
    now = datetime.now(UTC)
    console.print(f"{now:%H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True)
