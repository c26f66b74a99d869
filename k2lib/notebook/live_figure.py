"""The figure of a live view and its texts as HTML: connection, trade tape, alerts. No I/O."""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from plotly.graph_objects import FigureWidget
from plotly.subplots import make_subplots

from k2lib.feed.status import FeedStatus, HostStatus, SymbolStatus, TapeRow
from k2lib.ops.firing_alerts import Alert

Floats = npt.NDArray[np.float64]
PLOTLY: Final = "application/vnd.plotly.v1+json"
NOTHING: Final = float("nan")
SERIES: Final = ("price", "trades_per_s", "lag_ms")
MOST_PANELS: Final = 4
SHORTEST_S: Final = 5.0
COLORS: Final = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
UNITS: Final = {"trades_per_s": "trades per second", "lag_ms": "lag, ms"}
TAPE_ROWS: Final = 12
GREEN, AMBER, RED, GREY = "#2a9d5c", "#e09f1f", "#d1495b", "#90a4ae"
LAMPS: Final = {"live": GREEN, "failed": RED, "stopped": GREY}
BREAKERS: Final = {"closed": GREY, "half_open": AMBER, "open": RED}
SIDES: Final = {"BUY": GREEN, "SELL": RED}
CELL: Final = "padding:0 .8em 0 0;text-align:right;white-space:nowrap"
TITLE: Final = "font-weight:600;margin:.2em 0"


def plotly_output(figure: Any) -> dict[str, Any]:
    """Return a figure in its present state as a notebook output of plotly's MIME type."""
    plain = json.loads(figure.to_json())
    return {PLOTLY: {"data": plain["data"], "layout": plain["layout"]}}


class FeedHistory:
    """The last `length` feed statuses: times, and by symbol price, trades per second and lag."""

    def __init__(self, symbols: Sequence[str], *, length: int) -> None:
        self.symbols = tuple(symbols)
        self._last: dict[str, tuple[int, float | None]] = {}
        self._times: deque[float] = deque(maxlen=length)
        self._values = {
            (symbol, name): deque[float](maxlen=length) for symbol in symbols for name in SERIES
        }

    def __len__(self) -> int:
        return len(self._times)

    def add(self, status: FeedStatus) -> None:
        """Add a status; a quiet symbol, without a new trade or another lag, has no lag."""
        self._times.append(status.at.timestamp() * 1000)
        for row in status.symbols:
            is_new = self._last.get(row.symbol) != (row.trades, row.lag_s)
            self._last[row.symbol] = row.trades, row.lag_s
            price = NOTHING if row.last_price is None else float(row.last_price)
            lag_ms = row.lag_s * 1000 if is_new and row.lag_s is not None else NOTHING
            for name, value in zip(SERIES, (price, row.trades_per_s, lag_ms), strict=True):
                self._values[row.symbol, name].append(value)

    def times_ms(self) -> Floats:
        """Return the times of the statuses, in milliseconds since the epoch."""
        return np.array(self._times)

    def until(self) -> datetime:
        """Return the time of the newest status."""
        return datetime.fromtimestamp(self._times[-1] / 1000, UTC)

    def series(self, symbol: str, name: str) -> Floats:
        """Return one of `SERIES` of a symbol, NaN where there is no value."""
        return np.array(self._values[symbol, name])


def panels(symbols: Sequence[str]) -> list[str]:
    """Return the symbols that have room in the figure: the first four."""
    return list(symbols[:MOST_PANELS])


def live_figure(exchange: str, quotes: Mapping[str, str]) -> Any:
    """Return the empty figure: prices at the left, trades per second and lag at the right.

    Args:
        quotes: by symbol, the asset in which it is priced.
    """
    shown = panels(list(quotes))
    figure = _axes(quotes, shown)
    for index, symbol in enumerate(shown):
        color = COLORS[index]
        rows = {"price": (2 * index + 1, 1), "trades_per_s": (1, 2), "lag_ms": (len(shown) + 1, 2)}
        for name in SERIES:
            row, col = rows[name]
            figure.add_scatter(
                mode="lines",
                name=symbol,
                legendgroup=symbol,
                showlegend=name == "price",
                line={"color": color, "width": 1.6, "shape": "hv" if name == "price" else None},
                row=row,
                col=col,
            )
    figure.update_layout(
        title=exchange,
        template="plotly_white",
        width=960,
        height=max(360, 190 * len(shown)) + 60,
        margin={"l": 70, "r": 20, "t": 70, "b": 40},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.08, "yanchor": "bottom"},
        uirevision="live",
    )
    return FigureWidget(figure)


def draw(figure: Any, history: FeedHistory, *, exchange: str, window_s: float) -> None:
    """Bring the figure up to date, as one message to the browser."""
    if not len(history):
        return
    ago = (history.times_ms() - history.times_ms()[-1]) / 1000
    with figure.batch_update():
        for index, symbol in enumerate(panels(history.symbols)):
            for offset, name in enumerate(SERIES):
                trace = figure.data[index * len(SERIES) + offset]
                trace.x, trace.y = ago, history.series(symbol, name)
        figure.layout.xaxis.range = [max(min(ago[0], -SHORTEST_S), -window_s), 0]
        figure.layout.title.text = f"{exchange} until {history.until():%H:%M:%S} UTC"


def _axes(quotes: Mapping[str, str], shown: Sequence[str]) -> Any:
    count = len(shown)
    specs: list[list[Any]] = [[None, None] for _ in range(2 * count)]
    for index in range(count):
        specs[2 * index][0] = {"rowspan": 2}
    specs[0][1] = {"rowspan": count}
    specs[count][1] = {"rowspan": count}
    figure = make_subplots(
        rows=2 * count,
        cols=2,
        specs=specs,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.09,
        vertical_spacing=0.22 / count,
    )
    for index, symbol in enumerate(shown):
        title = f"{symbol}, {quotes[symbol]}"
        figure.update_yaxes(title=title, row=2 * index + 1, col=1)
    figure.update_yaxes(title=UNITS["trades_per_s"], rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title=UNITS["lag_ms"], rangemode="tozero", row=count + 1, col=2)
    figure.update_yaxes(exponentformat="none", separatethousands=True)
    figure.update_xaxes(matches="x")
    figure.update_xaxes(title="seconds before that", row=2 * count - 1, col=1)
    figure.update_xaxes(title="seconds before that", row=count + 1, col=2)
    return figure


def status_html(status: FeedStatus, *, problem: str = "") -> str:
    """Return the lamp and state of the connection, the gaps, and the state of each host."""
    color = RED if problem else LAMPS.get(status.state, AMBER)
    lamp = f'<span class="k2-lamp" style="color:{color};font-size:1.4em">●</span>'
    wait = f" {status.delay_s:.1f} s" if status.state == "waiting" else ""
    reason = f": {status.reason}" if status.reason and status.state != "live" else ""
    state = problem or f"{status.state}{wait}{reason}"
    host = f" at {status.host}" if status.host else ""
    return (
        f'<div style="line-height:1.5">{lamp} <b>{escape(status.exchange)}</b> '
        f'<span class="k2-state">{escape(state)}</span>{escape(host)}'
        f" · {status.reconnects} reconnects · {_gaps(status.symbols)}"
        f"<br>{' · '.join(map(_host, status.hosts))}</div>"
    )


def tape_html(symbols: Sequence[SymbolStatus], *, rows: int = TAPE_ROWS) -> str:
    """Return the newest trades of all symbols, the newest first."""
    trades = [(trade, row.symbol) for row in symbols for trade in row.tape]
    newest = sorted(trades, key=lambda pair: pair[0].timestamp, reverse=True)[:rows]
    lines = "".join(_trade(trade, symbol) for trade, symbol in newest)
    return (
        f'<div style="{TITLE}">Trades</div>'
        f'<table class="k2-tape" style="font-size:.85em;line-height:1.35">{lines}</table>'
    )


def alerts_html(firing: Iterable[Alert]) -> str:
    """Return the firing alerts, the oldest first."""
    lines = "".join(map(_alert, firing))
    nothing = f'<span style="color:{GREEN}">no alert fires</span>'
    return f'<div style="{TITLE}">Alerts</div><div class="k2-alerts">{lines or nothing}</div>'


def _gaps(symbols: Sequence[SymbolStatus]) -> str:
    opened = sum(row.gaps_open for row in symbols)
    closed = sum(row.gaps_closed for row in symbols)
    filled = sum(row.backfilled for row in symbols)
    return f"gaps: {opened} open, {closed} closed, {filled:,} trades filled"


def _host(host: HostStatus) -> str:
    color = RED if host.banned else GREEN if host.connected else BREAKERS[host.breaker]
    state = "banned" if host.banned else f"breaker {host.breaker.replace('_', ' ')}"
    return f'<span style="color:{color}">●</span> {escape(host.url)} ({state})'


def _trade(trade: TapeRow, symbol: str) -> str:
    cells = (
        f"{trade.timestamp:%H:%M:%S}.{trade.timestamp.microsecond // 1000:03}",
        escape(symbol),
        f'<span style="color:{SIDES.get(trade.side, GREY)}">{trade.side}</span>',
        f"{trade.price.normalize():,f}",
        f"{trade.quantity.normalize():f}",
    )
    return "<tr>" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _alert(alert: Alert) -> str:
    name = f"{alert.name.replace('_', ' ')} {alert.subject}".strip()
    return (
        f'<div style="line-height:1.3;margin-bottom:.3em"><span style="color:{RED}">▲</span> '
        f"<b>{escape(name)}</b> since {alert.since:%H:%M:%S}<br>{escape(alert.summary)}</div>"
    )
