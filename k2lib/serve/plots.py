"""Plots of a feed's troubles: its hosts over time, and its gaps as they opened and were filled."""

from typing import Any, Final

import plotly.graph_objects as go  # type: ignore[import-untyped]
import polars as pl
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from k2lib.query.engine import Engine
from k2lib.serve.event_log import EventLog
from k2lib.serve.timeline import faults, refusals, spans, waits

STATES: Final = {
    "connected": ("connected", "#2a9d5c"),
    "closed": ("breaker closed", "#cfd8dc"),
    "open": ("breaker open", "#d1495b"),
    "half_open": ("breaker half open", "#edae49"),
    "banned": ("banned", "#5c1a25"),
}
CAME: Final = {"live": "#4c78a8", "filled from REST": "#f58518"}
# Trades of one symbol as they came; a trade in a gap that is closed was asked for.
ARRIVALS: Final = """
    SELECT source_sequence AS id, epoch_us(timestamp) / 1e6 AS event_s,
        epoch_us(ingestion_timestamp) / 1e6 AS came_s,
        CASE WHEN from_id IS NULL THEN 'live' ELSE 'filled from REST' END AS how
    FROM lake.trades_v2 AS trades LEFT JOIN gaps ON gaps.exchange = trades.exchange
        AND gaps.symbol = trades.symbol AND source_sequence BETWEEN from_id AND to_id
    WHERE trades.exchange = ? AND trades.symbol = ? AND trades.ingestion_timestamp >= ?
    ORDER BY id"""


def draw_hosts(log: EventLog, hosts: list[str]) -> go.Figure:
    """Draw each host's connection and breaker over time, the waits, and the faults that began it.

    Args:
        hosts: URLs, in the order in which they are preferred.
    """
    heard, until_s = log.events(), log.now_s()
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.07
    )
    _draw_spans(figure, spans(heard, hosts, until_s=until_s))
    refused = refusals(heard)
    figure.add_scatter(
        x=refused["at_s"],
        y=refused["lane"],
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": "#37474f"},
        name="attempt failed",
        row=1,
        col=1,
    )
    _draw_waits(figure, waits(heard))
    _mark_faults(figure, faults(heard))
    figure.update_layout(
        title="Hosts, breakers and back-off",
        template="plotly_white",
        barmode="overlay",
        height=540,
        legend={"orientation": "h", "y": -0.16},
        margin={"t": 130},
    )
    figure.update_xaxes(range=[0, until_s])
    figure.update_xaxes(title="seconds since the start", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(title="wait, s", rangemode="tozero", row=2, col=1)
    return figure


def draw_gaps(engine: Engine, log: EventLog, *, exchange: str, symbol: str) -> go.Figure:
    """Draw when each trade id came: live ids rise, a gap is a step that REST fills later."""
    since = pl.from_epoch(pl.Series([int(log.began * 1e6)]), time_unit="us").dt.replace_time_zone(
        "UTC"
    )
    came = engine.sql(ARRIVALS, [exchange, symbol, since[0]])
    first_id = int(came["id"][0]) if len(came) else 0
    figure = go.Figure()
    _shade_gaps(figure, log, symbol, first_id)
    for how, color in CAME.items():
        rows = came.filter(pl.col("how") == how)
        figure.add_scattergl(
            x=rows["came_s"] - log.began,
            y=rows["id"] - first_id,
            mode="markers",
            marker={"size": 4 if how == "live" else 5, "color": color},
            name=f"{how} ({len(rows):,})",
        )
    return figure.update_layout(
        title=f"{symbol}: every trade id, and when it came; shaded: a gap, from noticed to closed",
        template="plotly_white",
        xaxis_title="seconds since the start",
        yaxis_title=f"trade id, from {first_id:,}",
        legend={"orientation": "h", "y": -0.2},
    )


def _draw_spans(figure: go.Figure, table: pl.DataFrame) -> None:
    # Every lane is named first, so that lanes stand in this order whatever their states.
    lanes = table["lane"].unique(maintain_order=True)
    nothing = [0.0] * len(lanes)
    figure.add_bar(x=nothing, y=lanes, orientation="h", showlegend=False, row=1, col=1)
    for state, (name, color) in STATES.items():
        rows = table.filter(pl.col("state") == state)
        if len(rows):
            figure.add_bar(
                x=rows["end_s"] - rows["start_s"],
                base=rows["start_s"],
                y=rows["lane"],
                orientation="h",
                marker={"color": color, "line": {"width": 0}},
                width=0.7 if state == "connected" else 0.35,
                name=name,
                row=1,
                col=1,
            )


def _draw_waits(figure: go.Figure, table: pl.DataFrame) -> None:
    figure.add_bar(
        x=table["at_s"] + table["delay_s"] / 2,
        y=table["delay_s"],
        width=table["delay_s"],
        marker={"color": "#7e57c2", "line": {"width": 1, "color": "white"}},
        name="wait before the next attempt",
        row=2,
        col=1,
    )


def _mark_faults(figure: go.Figure, table: pl.DataFrame) -> None:
    for at_s, fault, _ in table.iter_rows():
        figure.add_vline(x=at_s, line={"dash": "dot", "width": 1, "color": "#90a4ae"})
        label: dict[str, Any] = {"text": fault, "textangle": -45, "font": {"size": 11}}
        figure.add_annotation(
            x=at_s,
            y=1.0,
            xref="x",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            **label,
        )


def _shade_gaps(figure: go.Figure, log: EventLog, symbol: str, first_id: int) -> None:
    noticed = {one.event.fields["gap_id"]: one.at_s for one in log.events("gap_noticed")}
    for one in log.events("gap_closed"):
        of: dict[str, Any] = dict(one.event.fields)
        if of["symbol"] != symbol or of["gap_id"] not in noticed:
            continue
        color = "#d1495b" if of["absent"] else "#f58518"
        figure.add_shape(
            type="rect",
            x0=noticed[of["gap_id"]],
            x1=one.at_s,
            y0=of["from_id"] - first_id,
            y1=of["to_id"] - first_id,
            fillcolor=color,
            opacity=0.3,
            line={"color": color, "width": 2},
        )
        figure.add_annotation(
            x=one.at_s,
            y=(of["from_id"] + of["to_id"]) / 2 - first_id,
            text=_said(of),
            xanchor="left",
            xshift=6,
            showarrow=False,
            font={"size": 11, "color": color},
        )


def _said(of: dict[str, Any]) -> str:
    if of["absent"]:
        return f"{of['absent']} ids that the venue never made"
    return f"{of['filled']} ids filled"
