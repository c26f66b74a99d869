"""Trades beside their quotes, by interval: how far bid and ask stood apart, and who pressed."""

from datetime import timedelta

import plotly.graph_objects as go  # type: ignore[import-untyped]
import polars as pl
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from k2lib.model.lengths import bar_length
from k2lib.serve.bar_plots import local


def flow(signed: pl.DataFrame, every: str | timedelta) -> pl.DataFrame:
    """Fold one instrument's signed trades by interval.

    Args:
        signed: trades with spread_bps and sign, as `k2lib.analytics` adds them.
    Returns:
        A row an interval with a trade: time (by the venue's clock), trades, spread_bps (mean of
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
