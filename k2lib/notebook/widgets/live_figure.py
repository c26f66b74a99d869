"""The figure of a live view: a price line for each symbol, trades per second, and lag."""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from plotly.graph_objects import FigureWidget
from plotly.subplots import make_subplots

from k2lib.feed.status import FeedStatus

Floats = npt.NDArray[np.float64]
NOTHING: Final = float("nan")
SERIES: Final = ("price", "trades_per_s", "lag_ms")
MOST_PANELS: Final = 4
SHORTEST_S: Final = 5.0
COLORS: Final = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
UNITS: Final = {"trades_per_s": "trades per second", "lag_ms": "lag, ms"}


class History:
    """The last `length` looks: times, and for each symbol price, trades per second and lag."""

    def __init__(self, symbols: Sequence[str], *, length: int) -> None:
        self.symbols = tuple(symbols)
        self._trades: dict[str, int] = {}
        self._times: deque[float] = deque(maxlen=length)
        self._values = {
            (symbol, name): deque[float](maxlen=length) for symbol in symbols for name in SERIES
        }

    def __len__(self) -> int:
        return len(self._times)

    def add(self, status: FeedStatus) -> None:
        """Take a look; a symbol of which nothing came since the last look has no lag."""
        self._times.append(status.at.timestamp() * 1000)
        for one in status.symbols:
            came = one.lag_s is not None and self._trades.get(one.symbol) != one.trades
            self._trades[one.symbol] = one.trades
            price = NOTHING if one.last_price is None else float(one.last_price)
            lag_ms = one.lag_s * 1000 if came and one.lag_s is not None else NOTHING
            for name, value in zip(SERIES, (price, one.trades_per_s, lag_ms), strict=True):
                self._values[one.symbol, name].append(value)

    def times_ms(self) -> Floats:
        """Return when the looks were taken, in milliseconds since the epoch."""
        return np.array(self._times)

    def until(self) -> datetime:
        """Return when the newest look was taken."""
        return datetime.fromtimestamp(self._times[-1] / 1000, UTC)

    def series(self, symbol: str, name: str) -> Floats:
        """Return one of `SERIES` of a symbol, NaN where there was nothing."""
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
    for place, symbol in enumerate(shown):
        color = COLORS[place]
        rows = {"price": (2 * place + 1, 1), "trades_per_s": (1, 2), "lag_ms": (len(shown) + 1, 2)}
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


def draw(figure: Any, history: History, *, exchange: str, window_s: float) -> None:
    """Bring the figure up to date, as one message to the browser."""
    if not len(history):
        return
    ago = (history.times_ms() - history.times_ms()[-1]) / 1000
    with figure.batch_update():
        for place, symbol in enumerate(panels(history.symbols)):
            for offset, name in enumerate(SERIES):
                trace = figure.data[place * len(SERIES) + offset]
                trace.x, trace.y = ago, history.series(symbol, name)
        figure.layout.xaxis.range = [max(min(ago[0], -SHORTEST_S), -window_s), 0]
        figure.layout.title.text = f"{exchange} until {history.until():%H:%M:%S} UTC"


def _axes(quotes: Mapping[str, str], shown: Sequence[str]) -> Any:
    count = len(shown)
    specs: list[list[Any]] = [[None, None] for _ in range(2 * count)]
    for place in range(count):
        specs[2 * place][0] = {"rowspan": 2}
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
    for place, symbol in enumerate(shown):
        title = f"{symbol}, {quotes[symbol]}"
        figure.update_yaxes(title=title, row=2 * place + 1, col=1)
    figure.update_yaxes(title=UNITS["trades_per_s"], rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title=UNITS["lag_ms"], rangemode="tozero", row=count + 1, col=2)
    figure.update_yaxes(exponentformat="none", separatethousands=True)
    figure.update_xaxes(matches="x")
    figure.update_xaxes(title="seconds before that", row=2 * count - 1, col=1)
    figure.update_xaxes(title="seconds before that", row=count + 1, col=2)
    return figure
