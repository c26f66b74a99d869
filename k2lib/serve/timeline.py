"""How the hosts of a feed fared, as spans of time: connections, breakers, waits. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import polars as pl

from k2lib.serve.event_log import Heard

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
