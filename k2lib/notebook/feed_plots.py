"""Plots of a feed's troubles: its hosts over time, and its gaps as they opened and were filled."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from k2lib.notebook.event_log import EventLog, Heard
from k2lib.query.engine import Engine

SPAN: Final = {
    "lane": pl.String,
    "state": pl.String,
    "start_s": pl.Float64,
    "end_s": pl.Float64,
}
# What an event says of a lane: the lane's kind, the field with the host, the state, if it is fixed.
SAYS: Final[Mapping[str, tuple[tuple[str, str, str | None], ...]]] = {
    "connection_opened": (("connection", "host", "connected"),),
    "connection_lost": (("connection", "host", "none"),),
    "connection_rotated": (("connection", "old", "none"), ("connection", "new", "connected")),
    "breaker_changed": (("breaker", "host", None),),
    "host_banned": (("breaker", "host", "banned"),),
}
AT_FIRST: Final = {"connection": "none", "breaker": "closed"}


def lane(host: str, kind: str) -> str:
    """Return the name under which a host's connection or breaker is drawn."""
    return f"{urlsplit(host).netloc} {kind}"


def spans(heard: Iterable[Heard], hosts: Iterable[str], *, until_s: float) -> pl.DataFrame:
    """Return how long each host's connection and breaker were in which state.

    Args:
        hosts: URLs, in the order in which they are preferred.
        until_s: when the last spans end.
    Returns:
        A row a span: lane, state, start_s, end_s; the lanes in the order of the hosts.
    """
    lanes = [lane(host, kind) for host in hosts for kind in AT_FIRST]
    changes: dict[str, list[tuple[float, str]]] = {
        name: [(0.0, AT_FIRST[name.rpartition(" ")[2]])] for name in lanes
    }
    for at_s, name, state in _changes(heard):
        for of in changes if name is None else [name]:
            if of in changes and (name is not None or of.endswith("connection")):
                changes[of].append((at_s, state))
    rows = [row for name in lanes for row in _rows(name, changes[name], until_s)]
    return pl.DataFrame(rows, schema=SPAN, orient="row")


def waits(heard: Iterable[Heard]) -> pl.DataFrame:
    """Return the waits between attempts: at_s, delay_s and reason, a row each, in order."""
    rows = [
        (one.at_s, one.event.fields["delay_s"], one.event.fields["reason"])
        for one in heard
        if one.event.name == "reconnect_waiting"
    ]
    schema = {"at_s": pl.Float64, "delay_s": pl.Float64, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def refusals(heard: Iterable[Heard]) -> pl.DataFrame:
    """Return the attempts that failed: at_s, lane and reason, a row each, in order."""
    rows = [
        (one.at_s, lane(str(one.event.fields["host"]), "connection"), one.event.fields["reason"])
        for one in heard
        if one.event.name == "connection_refused"
    ]
    schema = {"at_s": pl.Float64, "lane": pl.String, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def faults(heard: Iterable[Heard]) -> pl.DataFrame:
    """Return the faults that were caused: at_s, fault and its options, a row each, in order."""
    rows = [
        (round(one.at_s, 1), one.event.fields["fault"], _options(one.event.fields["options"]))
        for one in heard
        if one.event.name == "fault_caused"
    ]
    schema = {"at_s": pl.Float64, "fault": pl.String, "options": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _options(options: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _changes(heard: Iterable[Heard]) -> Iterator[tuple[float, str | None, str]]:
    """Yield (when, lane, state); without a lane it is every connection's."""
    for one in heard:
        if one.event.name in ("feed_stopped", "feed_failed"):
            yield one.at_s, None, "none"
        for kind, field, state in SAYS.get(one.event.name, ()):
            host = str(one.event.fields[field])
            yield one.at_s, lane(host, kind), state or str(one.event.fields["state"])


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
