"""An instrument as each kept snapshot has it, with a slider over the snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache, partial
from html import escape
from typing import Any, Final

import ipywidgets
import polars as pl
from IPython.display import display
from plotly.graph_objects import FigureWidget

from k2lib.client import K2
from k2lib.errors import K2Error, NotFoundError, QueryError
from k2lib.notebook.live_figure import plotly_output
from k2lib.notebook.market_plots import PRICES, floats, local_start
from k2lib.schema.calendar import zone

SNAPSHOT_ROW: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "snapshot_id": pl.Int64,
    "committed": pl.Datetime("us", "UTC"),
    "cause": pl.String,
    "tags": pl.List(pl.String),
    "rows_total": pl.Int64,
    "newest": pl.Datetime("us", "UTC"),
    "trades": pl.Int64,
    "bars": pl.Int64,
}


@dataclass(frozen=True)
class InstrumentSnapshot:
    """An instrument as one snapshot has it.

    Attributes:
        snapshot: a row of `k2.snapshots()`.
        bars: None where the snapshot has no trade of the instrument.
        newest: time of its newest trade.
        currency: of its prices; empty without a trade.
    """

    snapshot: Mapping[str, Any]
    bars: pl.DataFrame | None = None
    newest: datetime | None = None
    currency: str = ""

    @property
    def trades(self) -> int:
        """Number of trades in the bars."""
        return 0 if self.bars is None else int(self.bars["trades"].sum())

    def row(self) -> dict[str, Any]:
        """Return a row with the columns of `SNAPSHOT_ROW`; `trades` and `bars` are counts."""
        columns = {name: self.snapshot[name] for name in SNAPSHOT_ROW if name in self.snapshot}
        bars = 0 if self.bars is None else self.bars.height
        return {**columns, "newest": self.newest, "trades": self.trades, "bars": bars}


def read_instrument(
    k2: K2,
    snapshot: Mapping[str, Any],
    symbol: str,
    *,
    exchange: str,
    every: str | timedelta = "1m",
    day: date | None = None,
) -> InstrumentSnapshot:
    """Read an instrument's bars and its newest trade as of one snapshot.

    Args:
        snapshot: a row of `k2.snapshots()`.
        day: only bars of this trading date of the venue.
    Raises:
        QueryError: the snapshot is no longer kept, or `every` is no valid length.
    """
    as_of = int(snapshot["snapshot_id"])
    until = None if day is None else day + timedelta(days=1)
    try:
        bars = k2.bars(symbol, exchange=exchange, every=every, start=day, end=until, as_of=as_of)
        last = k2.trades(symbol, exchange=exchange, as_of=as_of, last=1)
    except NotFoundError:
        if as_of not in k2.snapshots()["snapshot_id"]:
            raise
        return InstrumentSnapshot(snapshot)
    return InstrumentSnapshot(snapshot, bars, last["timestamp"][0], last["currency"][0])


class SnapshotsView:
    """Shows the bars of an instrument as of the snapshot that a slider selects.

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
        self._title = f"{symbol} at {exchange}, bars of {every},"
        self._snapshots = k2.snapshots().reverse().rows(named=True)
        if not self._snapshots:
            raise QueryError(f"trades_v2 of {k2.settings.home} has no snapshot: load trades first")
        read = partial(read_instrument, k2, symbol=symbol, exchange=exchange, every=every, day=day)
        self._read = cache(lambda index: read(self._snapshots[index]))
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
        self.slider.observe(lambda _: self._on_slider(), names="value")
        self._on_slider()

    def show(self) -> None:
        """Display slider, text and bars; a page that is not alive shows the bars alone."""
        box = ipywidgets.VBox([self.slider, self.text, self.figure])
        output = {**box._repr_mimebundle_(), **plotly_output(self.figure)}
        display(output, raw=True)  # type: ignore[no-untyped-call]

    def table(self) -> pl.DataFrame:
        """Return a row per snapshot, the oldest first, with the columns of `SNAPSHOT_ROW`."""
        rows = [self._read(index).row() for index in range(len(self._snapshots))]
        return pl.DataFrame(rows, schema=SNAPSHOT_ROW)

    def _on_slider(self) -> None:
        try:
            instrument = self._read(self.slider.value)
        except K2Error as exc:
            self.text.value = escape(str(exc))
            return
        self.text.value = _describe(instrument)
        self._draw(instrument)

    def _draw(self, instrument: InstrumentSnapshot) -> None:
        with self.figure.batch_update():
            [trace] = self.figure.data
            if instrument.bars is None:
                trace.update({name: [] for name in ("x", *PRICES)}, overwrite=True)
            else:
                bars = floats(instrument.bars)
                trace.x = bars.select(local_start(bars)).to_series()
                for name in PRICES:
                    trace[name] = bars[name]
            self.figure.layout.yaxis.title.text = f"price, {instrument.currency}".rstrip(", ")
            self.figure.layout.title.text = (
                f"{self._title} as of {instrument.snapshot['committed']:%Y-%m-%d %H:%M:%S} UTC"
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


def _describe(instrument: InstrumentSnapshot) -> str:
    snapshot, newest = instrument.snapshot, instrument.newest
    tags = f", tagged {', '.join(snapshot['tags'])}" if snapshot["tags"] else ""
    until = "" if newest is None else f", the newest of {newest:%Y-%m-%d %H:%M:%S.%f}"
    return escape(
        f"Snapshot {snapshot['snapshot_id']}, {snapshot['cause']} of "
        f"{snapshot['committed']:%H:%M:%S} UTC{tags}: {snapshot['rows_total']:,} rows in the "
        f"table; {instrument.trades:,} trades in the bars{until}"
    )
