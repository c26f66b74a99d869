"""Bars as candlesticks with their volume below, several instruments side by side."""

from dataclasses import dataclass
from typing import Final

import plotly.graph_objects as go  # type: ignore[import-untyped]
import polars as pl
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from k2lib.model.venues import zone

PRICES: Final = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Panel:
    """Bars of one instrument, as `k2.bars` returns them, and what to write beside them.

    Attributes:
        price: the unit of the prices, for example AUD.
        volume: the unit of the volume, for example shares.
    """

    bars: pl.DataFrame
    title: str
    price: str
    volume: str


def floats(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with floats for its decimals, as plots need them."""
    return frame.cast({pl.Decimal: pl.Float64})


def local_start(bars: pl.DataFrame) -> pl.Expr:
    """Return the starts of one instrument's bars by the clock of its venue."""
    return local("start", bars["exchange"][0] if len(bars) else "")


def local(column: str, exchange: str) -> pl.Expr:
    """Return a time as the venue's wall clock shows it, without a zone."""
    return pl.col(column).dt.convert_time_zone(zone(exchange).key).dt.replace_time_zone(None)


def draw_bars(title: str, *panels: Panel) -> go.Figure:
    """Draw instruments side by side, each with its own axes and its venue's time."""
    figure = make_subplots(
        rows=2,
        cols=len(panels),
        shared_xaxes="columns",
        row_heights=[0.7, 0.3],
        vertical_spacing=0.05,
        horizontal_spacing=0.12,
        column_titles=[panel.title for panel in panels],
    )
    for col, panel in enumerate(panels, start=1):
        _draw_panel(figure, panel, col)
    figure.update_xaxes(rangeslider_visible=False)
    return figure.update_layout(
        title=title,
        template="plotly_white",
        showlegend=False,
        width=960,
        height=480,
    )


def _draw_panel(figure: go.Figure, panel: Panel, col: int) -> None:
    drawn = floats(panel.bars).with_columns(local_start(panel.bars))
    prices = {name: drawn[name] for name in PRICES}
    figure.add_candlestick(x=drawn["start"], **prices, row=1, col=col)
    figure.add_bar(x=drawn["start"], y=drawn["volume"], marker_color="slategray", row=2, col=col)
    key = zone(panel.bars["exchange"][0] if len(panel.bars) else "").key
    figure.update_yaxes(title=f"price, {panel.price}", tickformat=",", row=1, col=col)
    figure.update_yaxes(title=f"volume, {panel.volume}", row=2, col=col)
    time_axis = {"title": f"time at the venue, {key}", "ticklabelstandoff": 6}
    figure.update_xaxes(time_axis, row=2, col=col)
