"""The live view of a feed: alive in JupyterLab, a static figure once its time is over."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import ipywidgets
import polars as pl
from IPython.display import DisplayHandle, display

from k2lib.errors import K2Error
from k2lib.feed.feed import Feed
from k2lib.feed.status import FeedStatus
from k2lib.lifecycle import Closing
from k2lib.notebook.live_figure import (
    FeedHistory,
    alerts_html,
    draw,
    live_figure,
    plotly_output,
    status_html,
    tape_html,
)
from k2lib.ops.alerts import Alerts

FRAME_S: Final = 0.4
# A browser that is slow or gone gets a frame at least this often.
LATE_S: Final = 2.0
POLL_S: Final = 0.1
WINDOW_S: Final = 60.0


class LiveView(Closing):
    """Shows a feed several times a second, with buttons that start and stop it.

    Args:
        open_feed: starts a feed; called at once, and again for each press of "start".
        alerts: shown while they fire.
        below: a widget of the caller's, for example the buttons of faults.
        frame_s: seconds from one frame to the next.
        window_s: how many seconds the figure shows.
    Raises:
        K2Error: the feed cannot be started.
    """

    def __init__(
        self,
        open_feed: Callable[[], Feed],
        *,
        alerts: Alerts | None = None,
        below: Any = None,
        frame_s: float = FRAME_S,
        window_s: float = WINDOW_S,
    ) -> None:
        self._open_feed = open_feed
        self._alerts = alerts
        self._frame_s = frame_s
        self._window_s = window_s
        self._feeding = threading.Lock()
        self._over = threading.Event()
        self._closed = threading.Event()
        self._drawn = threading.Event()
        self._drawn.set()
        self._drawn_at = 0.0
        self._handle: DisplayHandle | None = None
        self._thread: threading.Thread | None = None
        self._problem = ""
        self.feed = open_feed()
        symbols = list(self.feed.instruments)
        self._history = FeedHistory(symbols, length=round(window_s / frame_s))
        quotes = {name: one.quote_asset for name, one in self.feed.instruments.items()}
        self._figure = live_figure(self.feed.venue.exchange, quotes)
        self._widget = self._lay_out(below)

    def __repr__(self) -> str:
        return f"live view of the {self.feed}"

    def show(self) -> None:
        """Display the view; it is alive until the end of `wait`, or until `close`."""
        self._handle = display(self._widget, display_id=True)  # type: ignore[no-untyped-call]
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)
        self._thread.start()

    async def wait(self, seconds: float) -> None:
        """Wait while the view is alive, then leave a static figure in its place; the feed goes on.

        The button "go on" ends the wait early. It is awaited, because a kernel handles no button
        while another cell blocks it.
        """
        until = time.monotonic() + seconds
        try:
            while not self._over.is_set() and time.monotonic() < until:
                await asyncio.sleep(POLL_S)
        finally:
            self._leave_figure()

    def status(self) -> FeedStatus:
        """Return the feed's status."""
        return self.feed.status()

    def table(self) -> pl.DataFrame:
        """Return a row per symbol with what the view shows, counted since the feed's last start."""
        rows = [
            {
                "symbol": one.symbol,
                "trades": one.trades,
                "trades_per_s": one.trades_per_s,
                "lag_ms": None if one.lag_s is None else round(one.lag_s * 1000, 1),
                "last_price": one.last_price,
                "last_time": one.last_time,
                "gaps_closed": one.gaps_closed,
                "backfilled": one.backfilled,
            }
            for one in self.status().symbols
        ]
        return pl.DataFrame(rows)

    def tape(self, rows: int = 10) -> pl.DataFrame:
        """Return the newest trades, the newest first."""
        trades = [
            {
                "timestamp": row.timestamp,
                "symbol": one.symbol,
                "side": row.side,
                "price": row.price,
                "quantity": row.quantity,
            }
            for one in self.status().symbols
            for row in one.tape
        ]
        return pl.DataFrame(trades).sort("timestamp", descending=True).head(rows)

    def start(self) -> None:
        """Start a feed if none runs; trades missed in between are a gap, and are filled.

        Raises:
            K2Error: the feed cannot be started.
        """
        with self._feeding:
            if self.status().state in ("stopped", "failed"):
                self.feed.close()
                self.feed = self._open_feed()

    def stop(self) -> None:
        """End the feed; the view stays."""
        with self._feeding:
            self.feed.close()

    def close(self) -> None:
        """End the frames and the feed."""
        self._end_frames()
        self._widget.close()
        self.stop()

    def _leave_figure(self) -> None:
        self._end_frames()
        self._draw()
        if self._handle is not None:
            self._handle.update(plotly_output(self._figure), raw=True)  # type: ignore[no-untyped-call]
        self._widget.close()

    def _end_frames(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._closed.wait(self._frame_s):
            self._frame()

    def _frame(self) -> None:
        status = self.status()
        self._history.add(status)
        if self._drawn.is_set() or time.monotonic() - self._drawn_at > LATE_S:
            self._draw()
        self._status.value = status_html(status, problem=self._problem)
        self._tape.value = tape_html(status.symbols)
        self._firing.value = alerts_html(self._alerts.firing if self._alerts else ())
        runs = status.state not in ("stopped", "failed")
        self._start.disabled, self._stop.disabled = runs, not runs

    def _draw(self) -> None:
        """Draw a frame, and note when the browser has drawn it: frames must not queue up."""
        self._drawn.clear()
        self._drawn_at = time.monotonic()
        exchange = self.feed.venue.exchange
        draw(self._figure, self._history, exchange=exchange, window_s=self._window_s)
        self._figure.on_edits_completed(self._drawn.set)

    def _lay_out(self, below: Any) -> Any:
        self._status, self._tape, self._firing = (ipywidgets.HTML() for _ in range(3))
        self._start = self._button("start", "play", self.start)
        self._stop = self._button("stop", "stop", self.stop)
        go_on = self._button("go on", "forward", self._over.set)
        buttons = ipywidgets.HBox([self._start, self._stop, go_on])
        half = ipywidgets.Layout(width="50%")
        self._tape.layout = self._firing.layout = half
        texts = ipywidgets.HBox([self._tape, self._firing])
        parts = [buttons, self._status, self._figure, texts]
        return ipywidgets.VBox(parts if below is None else [below, *parts])

    def _button(self, name: str, icon: str, action: Callable[[], None]) -> Any:
        button = ipywidgets.Button(description=name, icon=icon)
        button.on_click(lambda _: self._press(action))
        return button

    def _press(self, action: Callable[[], None]) -> None:
        """Run the action of a button; an error is shown beside the lamp."""
        self._problem = ""
        try:
            action()
        except K2Error as exc:
            self._problem = str(exc)
