"""Plots of a feed under faults: its hosts over time, and its gaps as they opened and filled."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from k2lib.events import (
    BreakerChanged,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRefused,
    ConnectionRotated,
    Event,
    FaultCaused,
    FeedFailed,
    FeedStopped,
    GapClosed,
    GapNoticed,
    HostBanned,
    ReconnectWaiting,
)
from k2lib.notebook.faults import EventLog, LoggedEvent, events_of
from k2lib.query.engine import Engine

SPAN: Final = {
    "lane": pl.String,
    "state": pl.String,
    "start_s": pl.Float64,
    "end_s": pl.Float64,
}
FIRST_STATE: Final = {"connection": "none", "breaker": "closed"}


def lane(host: str, kind: str) -> str:
    """Return the name under which a host's connection or breaker is drawn."""
    return f"{urlsplit(host).netloc} {kind}"


def spans(
    entries: Iterable[LoggedEvent[Event]], hosts: Iterable[str], *, until_s: float
) -> pl.DataFrame:
    """Return the states of each host's connection and breaker over time.

    Args:
        hosts: URLs, in the order in which they are preferred.
        until_s: when the last spans end.
    Returns:
        A row per span: lane, state, start_s, end_s; the lanes in the order of the hosts.
    """
    lanes = [lane(host, kind) for host in hosts for kind in FIRST_STATE]
    changes: dict[str, list[tuple[float, str]]] = {
        name: [(0.0, FIRST_STATE[name.rpartition(" ")[2]])] for name in lanes
    }
    connections = [name for name in lanes if name.endswith("connection")]
    for at_s, lane_name, state in _changes(entries):
        for name in connections if lane_name is None else [lane_name]:
            if name in changes:
                changes[name].append((at_s, state))
    rows = [row for name in lanes for row in _rows(name, changes[name], until_s)]
    return pl.DataFrame(rows, schema=SPAN, orient="row")


def waits(entries: Iterable[LoggedEvent[Event]]) -> pl.DataFrame:
    """Return a row per wait between attempts, in order: at_s, delay_s and reason."""
    rows = [
        (entry.at_s, entry.event.delay_s, entry.event.reason)
        for entry in events_of(entries, ReconnectWaiting)
    ]
    schema = {"at_s": pl.Float64, "delay_s": pl.Float64, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def refusals(entries: Iterable[LoggedEvent[Event]]) -> pl.DataFrame:
    """Return a row per failed attempt, in order: at_s, lane and reason."""
    rows = [
        (entry.at_s, lane(entry.event.host, "connection"), entry.event.reason)
        for entry in events_of(entries, ConnectionRefused)
    ]
    schema = {"at_s": pl.Float64, "lane": pl.String, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def faults_caused(entries: Iterable[LoggedEvent[Event]]) -> pl.DataFrame:
    """Return a row per fault caused, in order: at_s, fault and its options."""
    rows = [
        (round(entry.at_s, 1), entry.event.fault, _options(entry.event.options))
        for entry in events_of(entries, FaultCaused)
    ]
    schema = {"at_s": pl.Float64, "fault": pl.String, "options": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _changes(entries: Iterable[LoggedEvent[Event]]) -> Iterator[tuple[float, str | None, str]]:
    """Yield time, lane and new state; lane None means every connection."""
    for entry in entries:
        match entry.event:
            case ConnectionOpened(host=host):
                yield entry.at_s, lane(host, "connection"), "connected"
            case ConnectionLost(host=host):
                yield entry.at_s, lane(host, "connection"), "none"
            case ConnectionRotated(old=old, new=new):
                yield entry.at_s, lane(old, "connection"), "none"
                yield entry.at_s, lane(new, "connection"), "connected"
            case BreakerChanged(host=host, state=state):
                yield entry.at_s, lane(host, "breaker"), state
            case HostBanned(host=host):
                yield entry.at_s, lane(host, "breaker"), "banned"
            case FeedStopped() | FeedFailed():
                yield entry.at_s, None, "none"


def _rows(
    name: str, changes: list[tuple[float, str]], until_s: float
) -> Iterator[tuple[str, str, float, float]]:
    ends = [at_s for at_s, _ in changes[1:]] + [until_s]
    for (start_s, state), end_s in zip(changes, ends, strict=True):
        if end_s > start_s:
            yield name, state, start_s, end_s


STATES: Final = {
    "connected": ("connected", "#2a9d5c"),
    "closed": ("breaker closed", "#cfd8dc"),
    "open": ("breaker open", "#d1495b"),
    "half_open": ("breaker half open", "#edae49"),
    "banned": ("banned", "#5c1a25"),
}
ORIGINS: Final = {"live": "#4c78a8", "filled from REST": "#f58518"}
# Trades of one symbol with their origin: a trade inside a closed gap was requested from REST.
ARRIVALS: Final = """
    SELECT source_sequence AS id, epoch_us(timestamp) / 1e6 AS event_s,
        epoch_us(ingestion_timestamp) / 1e6 AS arrived_s,
        CASE WHEN from_id IS NULL THEN 'live' ELSE 'filled from REST' END AS origin
    FROM lake.trades_v2 AS trades LEFT JOIN gaps ON gaps.exchange = trades.exchange
        AND gaps.symbol = trades.symbol AND source_sequence BETWEEN from_id AND to_id
    WHERE trades.exchange = ? AND trades.symbol = ? AND trades.ingestion_timestamp >= ?
    ORDER BY id"""


def draw_hosts(log: EventLog, hosts: list[str]) -> go.Figure:
    """Draw each host's connection and breaker over time, the waits, and the faults caused.

    Args:
        hosts: URLs, in the order in which they are preferred.
    """
    entries, until_s = log.all_events(), log.now_s()
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.07
    )
    _draw_spans(figure, spans(entries, hosts, until_s=until_s))
    refused = refusals(entries)
    figure.add_scatter(
        x=refused["at_s"],
        y=refused["lane"],
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": "#37474f"},
        name="attempt failed",
        row=1,
        col=1,
    )
    _draw_waits(figure, waits(entries))
    _mark_faults(figure, faults_caused(entries))
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
    """Draw when each trade id arrived: live ids rise, a gap is a step that REST fills later."""
    since = pl.from_epoch(pl.Series([int(log.began * 1e6)]), time_unit="us").dt.replace_time_zone(
        "UTC"
    )
    trades = engine.sql(ARRIVALS, [exchange, symbol, since[0]])
    first_id = int(trades["id"][0]) if len(trades) else 0
    figure = go.Figure()
    _shade_gaps(figure, log, symbol, first_id)
    for origin, color in ORIGINS.items():
        rows = trades.filter(pl.col("origin") == origin)
        figure.add_scattergl(
            x=rows["arrived_s"] - log.began,
            y=rows["id"] - first_id,
            mode="markers",
            marker={"size": 4 if origin == "live" else 5, "color": color},
            name=f"{origin} ({len(rows):,})",
        )
    return figure.update_layout(
        title=f"{symbol}: every trade id by time of arrival; shaded: a gap, from noticed to closed",
        template="plotly_white",
        xaxis_title="seconds since the start",
        yaxis_title=f"trade id, from {first_id:,}",
        legend={"orientation": "h", "y": -0.2},
    )


def _draw_spans(figure: go.Figure, table: pl.DataFrame) -> None:
    # Empty bars first: they fix the order of the lanes, whatever their states.
    lanes = table["lane"].unique(maintain_order=True)
    figure.add_bar(x=[0.0] * len(lanes), y=lanes, orientation="h", showlegend=False, row=1, col=1)
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
    opened_s = {entry.event.gap_id: entry.at_s for entry in log.events(GapNoticed)}
    for entry in log.events(GapClosed):
        gap = entry.event
        if gap.symbol != symbol or gap.gap_id not in opened_s:
            continue
        color = "#d1495b" if gap.absent else "#f58518"
        figure.add_shape(
            type="rect",
            x0=opened_s[gap.gap_id],
            x1=entry.at_s,
            y0=gap.from_id - first_id,
            y1=gap.to_id - first_id,
            fillcolor=color,
            opacity=0.3,
            line={"color": color, "width": 2},
        )
        figure.add_annotation(
            x=entry.at_s,
            y=(gap.from_id + gap.to_id) / 2 - first_id,
            text=_gap_text(gap),
            xanchor="left",
            xshift=6,
            showarrow=False,
            font={"size": 11, "color": color},
        )


def _gap_text(gap: GapClosed) -> str:
    if gap.absent:
        return f"{gap.absent} ids that the venue never made"
    return f"{gap.filled} ids filled"
