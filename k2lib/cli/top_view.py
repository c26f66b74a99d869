"""The full screen of `k2 top`: sections that fit the width and height there are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.filesize import decimal as size_text
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from k2lib.cli.stream_view import BREAKERS, OVERDUE_S, STYLES, lag_text, price_text
from k2lib.cli.top_state import BAR_S, BARS, TableHealth, TopState
from k2lib.feed.status import FeedStatus, TapeRow

WIDE: Final = 130
GAP: Final = 3
TAPE_ROWS: Final = 50
TAPE_ONCE: Final = 10
HOST_COLUMNS: Final = 36
BLOCKS: Final = "▁▂▃▄▅▆▇█"
SIDES: Final = {"BUY": "green", "SELL": "red"}
Lines = list[list[Segment]]


@dataclass(frozen=True)
class Section:
    """A part of the screen; where height is short, the highest `rank` gives way first."""

    title: str
    body: RenderableType
    rank: int
    least: int = 2


class TopView:
    """Draws a home's state in the width of the console, without a wrapped line.

    Args:
        height: lines there are; None for as many as it takes.
        only_feed: leave out sinks, tables and services.
    """

    def __init__(
        self, state: TopState, *, height: int | None = None, only_feed: bool = False
    ) -> None:
        self._state = state
        self._height = height
        self._only_feed = only_feed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, self._height
        head = _draw(console, options, _head(self._state), width)
        left = None if height is None else max(0, height - len(head))
        if width >= WIDE and not self._only_feed:
            body = self._two_columns(console, options, width, left)
        else:
            parts = [*self._feed_sections(), *([] if self._only_feed else self._lake_sections())]
            body = _stack(console, options, parts, width, left)
        lines = [*head, *body]
        for line in lines if height is None else lines[:height]:
            yield from line
            yield Segment.line()

    def _two_columns(
        self, console: Console, options: ConsoleOptions, width: int, height: int | None
    ) -> Lines:
        left_width = (width - GAP) * 46 // 100
        left = _stack(console, options, self._feed_sections(), left_width, height)
        right_width = width - GAP - left_width
        right = _stack(console, options, self._lake_sections(), right_width, height)
        rows = max(len(left), len(right))
        blank = [[Segment(" " * left_width)]]
        left += blank * (rows - len(left))
        right += [[Segment("")]] * (rows - len(right))
        return [[*one, Segment(" " * GAP), *other] for one, other in zip(left, right, strict=True)]

    def _feed_sections(self) -> list[Section]:
        feed = self._state.feed
        if feed is None:
            return [Section("feed", Text("no stream ever ran in this home", "dim"), 1)]
        over = self._state.feed_over
        sections = [Section(f"feed {feed.exchange}", _feed(feed, over, self._state.at), 2, 4)]
        sections.append(Section("alerts", _alerts(feed, over), 1))
        sections.append(Section("tape", _tape(feed), 6, 0))
        return sections

    def _lake_sections(self) -> list[Section]:
        state = self._state
        sections = [Section("sinks and tables", _tables(state.tables, state.at), 3, 4)]
        sections.append(Section("last minutes", _trend(state), 4, 0))
        if state.services:
            sections.append(Section("services", _services(state), 5, 0))
        return sections


def _stack(
    console: Console,
    options: ConsoleOptions,
    sections: Sequence[Section],
    width: int,
    height: int | None,
) -> Lines:
    """Draw sections below each other; the ranks that give way first lose lines first."""
    drawn = [_draw(console, options, one.body, width) for one in sections]
    titles = [_draw(console, options, _title(one.title, width), width) for one in sections]
    blocks = [title + body for title, body in zip(titles, drawn, strict=True)]
    if height is None:
        limit = {"tape": TAPE_ONCE + 1}
        blocks = [
            block[: limit.get(one.title, len(block))]
            for one, block in zip(sections, blocks, strict=True)
        ]
        return [line for block in blocks for line in block]
    over = sum(map(len, blocks)) - height
    for least in ([one.least for one in sections], [0] * len(sections)):
        for index in sorted(range(len(sections)), key=lambda one: -sections[one].rank):
            cut = min(max(0, over), max(0, len(blocks[index]) - least[index]))
            keep = len(blocks[index]) - cut
            # A title alone says nothing.
            blocks[index] = blocks[index][: 0 if keep == 1 and cut else keep]
            over = sum(map(len, blocks)) - height
    return [line for block in blocks for line in block]


def _draw(console: Console, options: ConsoleOptions, what: RenderableType, width: int) -> Lines:
    return console.render_lines(what, options.update(width=width, height=None), pad=True)


def _title(title: str, width: int) -> Text:
    rule = "─" * max(0, width - len(title) - 4)
    text = Text.assemble(("─ ", "dim"), (title, "bold cyan"), (f" {rule}", "dim"))
    return _one_line(text)


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _rows(lines: Iterable[Text]) -> Table:
    grid = Table.grid()
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for line in lines:
        grid.add_row(_one_line(line))
    return grid


def _columns(*names: str, text: int = 1) -> Table:
    """Return a table whose first `text` columns are words, the others numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for index, name in enumerate(names):
        table.add_column(
            name, justify="left" if index < text else "right", no_wrap=True, overflow="ellipsis"
        )
    return table


def _head(state: TopState) -> RenderableType:
    clock = Text("clock not compared", "dim")
    behind_s = state.feed.clock_behind_s if state.feed and state.feed_over is None else None
    if behind_s is not None:
        style = "red" if abs(behind_s) >= 1 else "green"
        clock = Text(f"clock offset {-behind_s:+.3f} s", style)
    owner = "" if state.writer_pid is None else f", written by process {state.writer_pid}"
    lines = [
        Text.assemble(f"{state.at:%Y-%m-%d %H:%M:%S} UTC  ", (f"home {state.home}", "bold")),
        Text.assemble(f"{state.mode}{owner}; ", clock),
    ]
    if not state.runs:
        why = f"the stream: {state.feed_over}" if state.feed else "no stream ever ran"
        lines.append(Text(f"NOTHING RUNS in this home; {why}", "bold yellow"))
        lines.append(Text("`k2 stream binance` starts a stream, `k2 sink` a sink", "yellow"))
    lines += [Text(one, "yellow") for one in state.problems if state.runs]
    return _rows(lines)


def _feed(feed: FeedStatus, over: str | None, at: datetime) -> RenderableType:
    if over is not None:
        return _rows([Text(f"over: {over}", "red")])
    why = f" ({feed.reason})" if feed.reason else ""
    silent_s = (at - feed.at).total_seconds()
    overdue = f", status {silent_s:.0f} s old" if silent_s > OVERDUE_S else ""
    state = Text(f"{feed.state}{why}{overdue}", STYLES.get(feed.state, "yellow"))
    counts = (
        f", {feed.reconnects} reconnects, {feed.dead_letters} dead letters, "
        f"queue {feed.queue_depth:,} of {feed.queue_limit:,}"
    )
    table = _columns("symbol", "last price", "trades/s", "lag", "trades", "gaps open", "closed")
    for one in feed.symbols:
        table.add_row(
            Text(one.symbol, "yellow" if one.is_stale else ""),
            Text(price_text(one), SIDES.get(one.last_side or "", "")),
            f"{one.trades_per_s:,.1f}",
            lag_text(one),
            f"{one.trades:,}",
            Text(f"{one.gaps_open:,}", "red" if one.gaps_open else ""),
            f"{one.gaps_closed:,}",
        )
    hosts = _columns("host", "connection", "breaker", "refused for good", text=4)
    hosts.columns[0].max_width = HOST_COLUMNS
    for host in feed.hosts:
        hosts.add_row(
            Text(host.url),
            Text("open", "green") if host.connected else Text("-", "dim"),
            Text(host.breaker, BREAKERS.get(host.breaker, "")),
            Text(host.banned or "", "red"),
        )
    grid = Table.grid()
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for part in (_one_line(state + Text(counts)), table, hosts):
        grid.add_row(part)
    return grid


def _alerts(feed: FeedStatus, over: str | None) -> RenderableType:
    if over is not None or not feed.alerts:
        return Text("no alert fires" if over is None else "no stream runs that has any", "dim")
    return _rows(Text(f"● {one}", "red") for one in feed.alerts)


def _tape(feed: FeedStatus) -> RenderableType:
    trades = [(one.symbol, row) for one in feed.symbols for row in one.tape]

    def when(trade: tuple[str, TapeRow]) -> datetime:
        return trade[1].timestamp

    table = _columns("time (UTC)", "symbol", "side", "price", "quantity", text=3)
    for symbol, row in nlargest(TAPE_ROWS, trades, key=when):
        table.add_row(
            f"{row.timestamp:%H:%M:%S.%f}"[:-3],
            Text(symbol),
            Text(row.side, SIDES.get(row.side, "")),
            f"{row.price.normalize():,f}",
            f"{row.quantity.normalize():,f}",
        )
    return table


def _tables(tables: Sequence[TableHealth], at: datetime) -> RenderableType:
    if not tables:
        return Text("no table yet", "dim")
    names = ("rows", "rows/s", "lag", "fresh", "commit", "files", "disk")
    grid = _columns("table", *names)
    empty = [one.name for one in tables if not (one.rows or one.lag or one.problem)]
    for one in (one for one in tables if one.name not in empty):
        if one.problem is not None:
            grid.add_row(one.name, Text("cannot be read", "red"))
            continue
        commit = "-" if one.last_commit is None else _age((at - one.last_commit).total_seconds())
        fresh = "?" if one.freshness_s is None else f"{one.freshness_s:.1f} s"
        grid.add_row(
            Text(one.name, "dim" if one.sink_pid is None else ""),
            f"{one.rows:,}",
            f"{one.rows_per_s:,.1f}",
            "?" if one.lag is None else f"{one.lag:,}",
            Text(fresh, "red" if (one.freshness_s or 0) > 30 else ""),
            commit,
            f"{one.files:,}",
            size_text(one.disk_bytes),
        )
    without = [one.name for one in tables if one.sink_pid is None]
    note = f"no sink feeds {', '.join(without)}" if without else "a sink feeds each table"
    note += f"; empty: {', '.join(empty)}" if empty else ""
    problems = [Text(one.problem, "red") for one in tables if one.problem is not None]
    whole = Table.grid()
    whole.add_column(no_wrap=True, overflow="ellipsis")
    whole.add_row(grid)
    for line in (*problems, Text(note, "dim")):
        whole.add_row(_one_line(line))
    return whole


def _age(seconds: float) -> str:
    """Return how long ago something was, in the largest unit that says enough."""
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _trend(state: TopState) -> RenderableType:
    trend = state.trend
    grid = _columns("", f"each bar {BAR_S:g} s", "now", "most", text=2)
    parts = (("rows/s", trend.rows_per_s), ("lag", trend.lag), ("fresh s", trend.freshness_s))
    for name, values in parts:
        cells = (f"{values[-1]:,.1f}", f"{max(values):,.1f}") if values else ("?", "?")
        grid.add_row(name, Text(sparkline(values).rjust(BARS), "cyan"), *cells)
    return grid


def sparkline(values: Sequence[float]) -> str:
    """Return a block a value, as high as its share of the highest."""
    most = max(values, default=0.0)
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round(top * value / most) if most > 0 else 0] for value in values)


def _services(state: TopState) -> RenderableType:
    table = _columns("service", "state", "port", "restarts", text=2)
    for one in state.services:
        style = {"healthy": "green", "failed": "red"}.get(one.state, "yellow")
        table.add_row(one.name, Text(one.state, style), str(one.port), str(one.restarts))
    return table
