"""Bars as candlesticks with their volume below, several instruments side by side."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from k2lib.schema.calendar import bar_length, zone

PRICES: Final = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Panel:
    """Bars of one instrument, as `k2.bars` returns them, with title and units.

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
    bars = floats(panel.bars).with_columns(local_start(panel.bars))
    prices = {name: bars[name] for name in PRICES}
    figure.add_candlestick(x=bars["start"], **prices, row=1, col=col)
    figure.add_bar(x=bars["start"], y=bars["volume"], marker_color="slategray", row=2, col=col)
    key = zone(panel.bars["exchange"][0] if len(panel.bars) else "").key
    figure.update_yaxes(title=f"price, {panel.price}", tickformat=",", row=1, col=col)
    figure.update_yaxes(title=f"volume, {panel.volume}", row=2, col=col)
    time_axis = {"title": f"time at the venue, {key}", "ticklabelstandoff": 6}
    figure.update_xaxes(time_axis, row=2, col=col)


def flow(signed: pl.DataFrame, every: str | timedelta) -> pl.DataFrame:
    """Fold one instrument's signed trades by interval.

    Args:
        signed: trades with spread_bps and sign, as `k2lib.analytics` adds them.
    Returns:
        A row per interval with a trade: time (by the venue's clock), trades, spread_bps (mean of
        the trades with a quote of both sides), bought (share of buys among the trades with a
        sign).
    """
    exchange = signed["exchange"][0] if len(signed) else ""
    timed = signed.with_columns(local("timestamp", exchange).alias("time")).sort("time")
    return timed.group_by_dynamic("time", every=bar_length(every)).agg(
        trades=pl.len().cast(pl.Int64),
        spread_bps=pl.col("spread_bps").mean(),
        bought=(pl.col("sign").drop_nulls() == 1).mean(),
    )


def draw_flow(flows: pl.DataFrame, title: str) -> go.Figure:
    """Draw the spread and the share of buys, one above the other."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    figure.add_scatter(x=flows["time"], y=flows["spread_bps"], line_color="#4c78a8", row=1, col=1)
    figure.add_bar(
        x=flows["time"], y=flows["bought"] * 100 - 50, base=50, marker_color="#54a24b", row=2, col=1
    )
    figure.add_hline(y=50, line={"width": 1, "color": "#90a4ae"}, row=2, col=1)
    figure.update_yaxes(title="spread, basis points", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="bought, % of trades", row=2, col=1)
    figure.update_xaxes(title="time at the venue", row=2, col=1)
    return figure.update_layout(
        title=title, template="plotly_white", showlegend=False, width=960, height=480
    )
