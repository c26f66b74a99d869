"""Missing trades by REST: single trades in pages, aggregates where no host offers those."""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from k2lib.errors import RecordError
from k2lib.venues.base import (
    BackfillPage,
    Hole,
    MissingTrades,
    VenueUnavailableError,
    absent_ids,
)
from k2lib.venues.binance.hosts import exchange_of
from k2lib.venues.binance.pages import Aggregate, aggregates_page, single_trades, trades_page
from k2lib.venues.binance.rest import ReplySource

PAGE: Final = 1000
TRADES_WEIGHT: Final = 25
AGGREGATES_WEIGHT: Final = 4
A_DAY_US: Final = 24 * 3600 * 1_000_000
NOTED_AT_MOST: Final = 20


def missing_trades(
    rest: ReplySource, missing: MissingTrades, *, stop: threading.Event
) -> Iterator[BackfillPage]:
    """Yield pages of single trades, then of aggregates where no host that answers has those.

    Raises:
        VenueRefusedError: the venue refuses the request itself.
        VenueUnavailableError, RecordError: ask again later.
    """
    low, high = missing.holes[0][0], missing.holes[-1][1]
    try:
        while low <= high and not stop.is_set():
            page = _single_trades(rest, missing, low, high)
            yield page
            ends = [*page.ids[page.ids <= high], *(end for _, end in page.absent)]
            reached = int(max(ends, default=low - 1))
            if reached < low:
                return  # the newest reach the venue's database late
            low = _next_missing(missing, reached + 1)
    except VenueUnavailableError:
        if missing.single_only or stop.is_set():
            return
        yield _from_aggregates(rest, missing, low, high, stop)


def _next_missing(missing: MissingTrades, low: int) -> int:
    later = (max(start, low) for start, end in missing.holes if end >= low)
    return next(later, missing.holes[-1][1] + 1)


def _single_trades(rest: ReplySource, missing: MissingTrades, low: int, high: int) -> BackfillPage:
    # One more than is missing: an answer past the gap proves what is absent in it.
    limit = min(PAGE, high - low + 2)
    params = {"symbol": missing.instrument.symbol, "fromId": low, "limit": limit}
    body = _get(rest, missing, "/api/v3/historicalTrades", params, weight=TRADES_WEIGHT)
    page = trades_page(body, unit="us", **_facts(missing))
    return replace(
        page, absent=absent_ids((low, high), page.ids), absent_note="REST has no {} either"
    )


def _from_aggregates(
    rest: ReplySource, missing: MissingTrades, low: int, high: int, stop: threading.Event
) -> BackfillPage:
    found = [one for one in _aggregates(rest, missing, high, stop) if one.last_id >= low - 1]
    inside = [one for one in found if one.last_id >= low and one.first_id <= high]
    merged = [one for one in inside if one.first_id < one.last_id]
    return replace(
        single_trades(inside, **_facts(missing)),
        absent=ids_between(found),
        absent_note="no aggregate has {}",
        covered=[(one.first_id, one.last_id) for one in merged],
        notes=tuple(map(_aggregate_text, merged[:NOTED_AT_MOST])),
    )


def _aggregates(
    rest: ReplySource, missing: MissingTrades, high: int, stop: threading.Event
) -> Iterator[Aggregate]:
    """Yield aggregates from before the gap on, until one reaches its end."""
    after_us = missing.after_us
    if after_us is None:
        after_us = (missing.before_us or time.time_ns() // 1000) - A_DAY_US
    symbol = missing.instrument.symbol
    params = {"symbol": symbol, "limit": PAGE, "startTime": after_us // 1000}
    last = -1
    while not stop.is_set():
        body = _get(rest, missing, "/api/v3/aggTrades", params, weight=AGGREGATES_WEIGHT)
        page = aggregates_page(body, unit="us")
        yield from page
        if not page or page[-1].last_id >= high or page[-1].aggregate_id <= last:
            return
        last = page[-1].aggregate_id
        params = {"symbol": symbol, "limit": PAGE, "fromId": last + 1}


def ids_between(aggregates: list[Aggregate]) -> list[Hole]:
    """Return the ids of no trade: they lie between two aggregates that follow each other."""
    return [
        (one.last_id + 1, other.first_id - 1)
        for one, other in pairwise(aggregates)
        if other.aggregate_id == one.aggregate_id + 1 and other.first_id > one.last_id + 1
    ]


def _aggregate_text(aggregate: Aggregate) -> str:
    ids = f"{aggregate.first_id}..{aggregate.last_id}"
    return f"{ids} {aggregate.price} x {aggregate.quantity}"


def _get(
    rest: ReplySource, missing: MissingTrades, path: str, params: Mapping[str, Any], *, weight: int
) -> bytes:
    reply, exchange = rest.get(path, params, weight=weight), missing.instrument.exchange
    if (name := exchange_of(reply.host, reply.exchange)) != exchange:
        raise RecordError(f"{reply.host} is {name}, not {exchange}: nothing of it is taken")
    return reply.body


def _facts(missing: MissingTrades) -> dict[str, Any]:
    now_us = time.time_ns() // 1000
    return {
        "instrument": missing.instrument,
        "received_us": now_us,
        # The venue's own time on the other side of the hole, where our clock is behind.
        "latest_us": max(now_us, missing.before_us or 0) + A_DAY_US,
        "source": missing.source,
    }
