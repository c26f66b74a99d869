"""A view of how old answers are, asked several times a second; a picture once it is over."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import ipywidgets
import polars as pl
from IPython.display import display
from plotly.graph_objects import FigureWidget

from k2lib.notebook.freshness import HYBRID, KINDS, LAKE, Looks, look
from k2lib.notebook.widgets.pictures import picture
from k2lib.query.engine import Engine

FRAME_S: Final = 0.3
WINDOW_S: Final = 60.0
SHORTEST_S: Final = 5.0
COLORS: Final = {HYBRID: "#2a9d5c", LAKE: "#f58518"}
AGES_MS: Final = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)


class FreshnessView:
    """Asks for an instrument's trades with Kafka's tail and without, and draws their ages.

    Args:
        frame_s: seconds from one pair of questions to the next; a pair is one frame.
        window_s: how many seconds the figure and the table keep.
        clock: seconds since the epoch, as the venue's clock has them.
    """

    def __init__(
        self,
        engine: Engine,
        symbol: str,
        *,
        exchange: str,
        frame_s: float = FRAME_S,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._symbol = symbol
        self._exchange = exchange
        self._frame_s = frame_s
        self._window_s = window_s
        self._clock = clock
        self.looks = Looks(length=round(window_s / frame_s))
        self._figure = ages_figure(f"{symbol} at {exchange}")

    async def run(self, seconds: float) -> None:
        """Show the view, and ask and draw for so long; then its picture stands in its place.

        It is awaited, and asks in a thread, so that the kernel hears the browser meanwhile.
        """
        box = ipywidgets.VBox([self._figure])
        handle = display(box, display_id=True)  # type: ignore[no-untyped-call]
        until = time.monotonic() + seconds
        try:
            while (began := time.monotonic()) < until:
                await asyncio.to_thread(self.ask)
                self.draw()
                await asyncio.sleep(began + self._frame_s - time.monotonic())
        finally:
            if handle is not None:
                handle.update(picture(self._figure), raw=True)
            box.close()

    def ask(self) -> None:
        """Ask once for each kind of answer."""
        for answer in KINDS:
            one = look(
                self._engine,
                self._symbol,
                exchange=self._exchange,
                answer=answer,
                clock=self._clock,
            )
            self.looks.add(one)

    def draw(self) -> None:
        """Bring the figure up to date, as one message to the browser."""
        until_s = self.looks.until_s()
        with self._figure.batch_update():
            for trace, answer in zip(self._figure.data, KINDS, strict=True):
                trace.x, trace.y = self.looks.ages(answer)
            since_s = max(0.0, until_s - self._window_s)
            self._figure.layout.xaxis.range = [since_s, max(until_s, SHORTEST_S)]

    def table(self) -> pl.DataFrame:
        """Return what the figure shows, a row for each kind of answer; see `Looks.table`."""
        return self.looks.table()


def ages_figure(what: str) -> Any:
    """Return the empty figure of ages, a line for each kind of answer."""
    figure = FigureWidget()
    for answer, color in COLORS.items():
        line = {"color": color, "width": 1.8}
        figure.add_scatter(mode="lines", name=answer, line=line, connectgaps=False)
    figure.update_layout(
        title=f"{what}: age of the newest trade in an answer",
        template="plotly_white",
        width=960,
        height=420,
        xaxis_title="seconds since the first answer",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        uirevision="live",
    )
    figure.update_yaxes(
        title="age, ms (logarithmic)",
        type="log",
        tickvals=AGES_MS,
        ticktext=[f"{age:,}" for age in AGES_MS],
    )
    return figure
