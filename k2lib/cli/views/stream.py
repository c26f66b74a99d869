"""What `k2 stream` tells: what happens while it runs, and what came of it."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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
from k2lib.feed.status import FeedStatus
from k2lib.lifecycle import Closing
from k2lib.ops.alerts import Alert, log_alert

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
KNOWN_BEFORE: Final = (
    "every trade has an id that this home knew before, and was left out. An offline exchange of "
    "another rate counts otherwise: give it a home of its own, by K2_HOME"
)
GAPS: Final = """
    SELECT state, count(*) AS gaps FROM gaps
    WHERE exchange = $exchange AND symbol IN (SELECT unnest($symbols)) AND noticed >= $since
    GROUP BY ALL ORDER BY ALL"""


@dataclass(frozen=True)
class StreamReport:
    """What came of a stream.

    `gaps` counts by state those that the stream noticed or closed. `ids` has what `contiguity`
    says of each symbol. Both are empty where other sinks feed the lake, which may be behind.
    """

    status: FeedStatus
    seconds: float
    gaps: dict[str, int]
    ids: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        said = {name: getattr(self.status, name) for name in ("exchange", "state", "reason")}
        counts = {name: getattr(self.status, name) for name in ("reconnects", "dead_letters")}
        symbols = [_without_tape(one) | {"lake": self.ids.get(one["symbol"])} for one in self._rows]
        return {**said, "seconds": self.seconds, **counts, "gaps": self.gaps, "symbols": symbols}

    @property
    def _rows(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.status.symbols]


class ConsoleLog(logging.Handler):
    """Prints what the log says above what the console shows."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        _say(self._console, record.getMessage())


class Telling(Closing):
    """Prints what a person wants to know of a stream, its alerts too, once it has begun.

    Until then nothing is printed: a stream that cannot begin says why in one line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = False
        self._handler = ConsoleLog(console)
        self._handler.setLevel(logging.CRITICAL)
        self._logger = logging.getLogger(LOG)
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self._handler)

    def begin(self, line: str, firing: Callable[[], Iterable[Alert]]) -> None:
        """Print this line, from now on everything, and the alerts that fire by now."""
        _say(self._console, line)
        self._begun = True
        self._handler.setLevel(logging.INFO)
        for alert in firing():
            log_alert(alert)

    def on_event(self, event: Event) -> None:
        """Log the event, and print it if a person wants to know of it."""
        log_event(event)
        if self._begun and isinstance(event, PRINTED):
            fields = event.to_json().items()
            text = ", ".join(f"{name} {value}" for name, value in fields if name not in NOT_PRINTED)
            _say(self._console, f"{event.name}: {text}" if text else event.name)

    def close(self) -> None:
        """Print no more."""
        self._logger.removeHandler(self._handler)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)


def begin_line(feed: Feed, metrics_url: str | None) -> str:
    """Say what is streamed from where."""
    venue = feed.venue
    assumed = [name for name, one in feed.instruments.items() if not one.listed]
    told = f"{feed}: streams {', '.join(venue.stream_hosts)}, REST {', '.join(venue.request_hosts)}"
    if metrics_url is not None:
        told += f"; metrics at {metrics_url}"
    if assumed:
        told += f"; assets of {', '.join(assumed)} are those k2lib knows: no REST host answers"
    return told


def report_stream(k2: K2, feed: Feed, *, began: datetime, with_sinks: bool) -> StreamReport:
    """Wait until Kafka, and the lake where sinks run here, have what a closed feed produced."""
    status = feed.status()
    exchange, symbols = status.exchange, [one.symbol for one in status.symbols]
    k2.pipeline.settle() if with_sinks else k2.pipeline.flush()
    seconds = (datetime.now(UTC) - began).total_seconds()
    if not with_sinks:
        return StreamReport(status, seconds, {}, {})
    asked = {"exchange": exchange, "symbols": symbols, "since": began}
    gaps = {state: int(count) for state, count in k2.sql(GAPS, asked).iter_rows()}
    rows = k2.contiguity(exchange).iter_rows(named=True)
    ids = {row["symbol"]: {name: row[name] for name in IN_LAKE} for row in rows}
    return StreamReport(status, seconds, gaps, {name: ids[name] for name in symbols if name in ids})


def print_report(report: StreamReport, *, console: Console) -> None:
    """Print what came of a stream: the run, its gaps, and each symbol's ids in the lake."""
    status = report.status
    trades = sum(one.trades for one in status.symbols)
    gaps = ", ".join(f"{count} {state}" for state, count in report.gaps.items()) or "none"
    console.print(
        f"{status.exchange}: {trades:,} trades in {report.seconds:.1f} s, "
        f"{status.reconnects} reconnects, {status.dead_letters} dead letters; gaps: {gaps}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_table("symbol", IN_RUN, {one.symbol: vars(one) for one in status.symbols}))
    if report.ids:
        console.print("in the lake:")
        console.print(_table("symbol", IN_LAKE, report.ids))
    if report.gaps.get("noticed"):
        console.print("gaps that are only noticed are filled once the stream runs again")
    for one in status.symbols:
        if one.repeated and one.repeated == one.trades:
            console.print(f"{one.symbol}: {KNOWN_BEFORE}", soft_wrap=True, highlight=False)


def _table(first: str, names: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for symbol, values in rows.items():
        table.add_row(symbol, *(str(values[name]) for name in names))
    return table


def _without_tape(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "tape"}


def _say(console: Console, text: str) -> None:
    now = datetime.now(UTC)
    console.print(f"{now:%H:%M:%S} {text}", markup=False, highlight=False, soft_wrap=True)
