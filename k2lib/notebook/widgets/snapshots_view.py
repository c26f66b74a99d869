"""A slider over the snapshots kept of the trades: what each one knew of an instrument."""

from datetime import date, timedelta
from functools import cache, partial
from html import escape
from typing import Any, Final

import ipywidgets
import polars as pl
from IPython.display import display
from plotly.graph_objects import FigureWidget

from k2lib.client import K2
from k2lib.errors import K2Error, QueryError
from k2lib.notebook.market_plots import floats, local_start
from k2lib.notebook.snapshot_history import Past, past, past_table
from k2lib.notebook.widgets.pictures import picture
from k2lib.schema.calendar import zone

PRICES: Final = ("open", "high", "low", "close")


class SnapshotsView:
    """Shows the bars of an instrument as of the snapshot that a slider stands at.

    Args:
        every: length of a bar.
        day: only bars of this trading date of the venue.
    Raises:
        QueryError: the table of trades was never written.
    """

    def __init__(
        self,
        k2: K2,
        symbol: str,
        *,
        exchange: str,
        every: str | timedelta = "1m",
        day: date | None = None,
    ) -> None:
        self._what = f"{symbol} at {exchange}, bars of {every},"
        self._snapshots = k2.snapshots().reverse().rows(named=True)
        if not self._snapshots:
            raise QueryError(f"trades_v2 of {k2.settings.home} has no snapshot: load trades first")
        ask = partial(past, k2, symbol=symbol, exchange=exchange, every=every, day=day)
        self._past = cache(lambda place: ask(self._snapshots[place]))
        newest = len(self._snapshots) - 1
        self.slider = ipywidgets.IntSlider(
            value=newest,
            max=newest,
            description="snapshot",
            readout=False,
            layout=ipywidgets.Layout(width="60%"),
        )
        self.text = ipywidgets.HTML()
        self.figure = _figure(exchange)
        self.slider.observe(lambda _: self._moved(), names="value")
        self._moved()

    def show(self) -> None:
        """Put slider, text and bars into the notebook; what is not alive shows the bars alone."""
        box = ipywidgets.VBox([self.slider, self.text, self.figure])
        told = {**box._repr_mimebundle_(), **picture(self.figure)}
        display(told, raw=True)  # type: ignore[no-untyped-call]

    def table(self) -> pl.DataFrame:
        """Return what the slider shows, a row a snapshot, the oldest first; see `pasts.PAST`."""
        return past_table([self._past(place) for place in range(len(self._snapshots))])

    def _moved(self) -> None:
        try:
            one = self._past(self.slider.value)
        except K2Error as exc:
            self.text.value = escape(str(exc))
            return
        self.text.value = _told(one)
        self._draw(one)

    def _draw(self, one: Past) -> None:
        with self.figure.batch_update():
            [trace] = self.figure.data
            if one.bars is None:
                trace.update({name: [] for name in ("x", *PRICES)}, overwrite=True)
            else:
                drawn = floats(one.bars)
                trace.x = drawn.select(local_start(drawn)).to_series()
                for name in PRICES:
                    trace[name] = drawn[name]
            self.figure.layout.yaxis.title.text = f"price, {one.currency}".rstrip(", ")
            self.figure.layout.title.text = (
                f"{self._what} as of {one.snapshot['committed']:%Y-%m-%d %H:%M:%S} UTC"
            )


def _figure(exchange: str) -> Any:
    figure = FigureWidget()
    figure.add_candlestick()
    return figure.update_layout(
        title="",
        template="plotly_white",
        width=960,
        height=400,
        xaxis_title=f"time at the venue, {zone(exchange).key}",
        yaxis={"title": "price", "tickformat": ","},
        xaxis_rangeslider_visible=False,
        uirevision="live",
    )


def _told(one: Past) -> str:
    of = one.snapshot
    tags = f", tagged {', '.join(of['tags'])}" if of["tags"] else ""
    newest = "" if one.newest is None else f", the newest of {one.newest:%Y-%m-%d %H:%M:%S.%f}"
    return escape(
        f"Snapshot {of['snapshot_id']}, {of['cause']} of {of['committed']:%H:%M:%S} UTC{tags}: "
        f"{of['rows_total']:,} rows in the table; {one.trades:,} trades in the bars{newest}"
    )
