"""The best bid and ask of one invented day, in the proportions of a real large company's week.

Each row changes one side of the book and leaves the other as it was. A move of the price thus
shows for a row as a locked, wide or crossed book, as it does in the real files.
"""

from dataclasses import dataclass

import numpy as np

from k2lib.simulator.asx.draws import (
    MINUTE,
    SESSION_END,
    Columns,
    Company,
    Draws,
    Ints,
    Pieces,
    apart,
    session_moments,
    sizes_up_to,
    tick_of,
)

BID, ASK = 0, 1
GARBAGE_VOLUME = 1_000_000_000

_VOLUMES = Pieces(
    *[(10, 1, 20), (90, 20, 430), (150, 450, 900), (250, 1350, 1850), (250, 3200, 3000)],
    *[(150, 6200, 4300), (90, 10500, 14500), (10, 25000, 25000)],
)
_MOVES = Pieces((9090, 0, 1), (450, -1, 1), (450, 1, 1), (5, -2, 1), (5, 2, 1))
_WIDENINGS = Pieces((870, 0, 1), (120, 1, 1), (10, 2, 1))


@dataclass(frozen=True)
class Quotes(Columns):
    """Best bid and ask in time order; an ask of 0 for 0 is an empty side."""

    bid: Ints
    ask: Ints
    bid_volume: Ints
    ask_volume: Ints


@dataclass(frozen=True)
class _Changes(Columns):
    side: Ints
    ticks: Ints
    volume: Ints


def quotes_of_day(company: Company, draws: Draws, *, opens: int, closes: int) -> Quotes:
    """Make a day's quotes, 05:43 to 18:50, no two rows alike.

    Args:
        opens: when the opening auction ends.
        closes: when the closing auction ends.
    """
    tick = tick_of(company.price)
    usual, reach = company.price // tick, company.price // tick // 10
    first = usual + draws.one(reach // 2 + 1) - reach // 4
    before, auction, late = _rows_outside(company.quotes)
    session = _session(
        draws, company.quotes - 2 - before - auction - late, opens=opens, first=first, reach=reach
    )
    last = int(session.ticks[session.side == BID][-1])
    parts = [
        _at_once(draws, 343 * MINUTE + 45_000 + draws.one(3_000), level=first),
        _crossed(draws, before, start=420 * MINUTE, end=599 * MINUTE, level=first, reach=reach),
        session,
        _crossed(
            draws, auction, start=SESSION_END + 1_500, end=969 * MINUTE, level=last, reach=reach
        ),
        *(
            [_at_once(draws, closes, level=last), _late(draws, late - 2, level=last)]
            if late
            else []
        ),
    ]
    return _distinct(_carried(_Changes.join(parts), tick))


def _rows_outside(count: int) -> tuple[int, int, int]:
    if count < 100:
        return 0, 0, 0
    return max(6, count * 27 // 10_000), max(4, count * 11 // 10_000), max(4, count * 8 // 10_000)


def _session(draws: Draws, count: int, *, opens: int, first: int, reach: int) -> _Changes:
    rows = sizes_up_to(count, np.concatenate(([2], 1 + draws.hits(294, count))))
    moments = np.concatenate(([opens], session_moments(draws, len(rows) - 1, opens=opens)))
    ms = np.repeat(moments, rows)
    second = np.diff(ms, prepend=0) == 0
    level = _walk(draws, len(rows), first=first, reach=reach)
    rises = np.repeat(np.diff(level, prepend=first), rows)
    # A side that is taken leaves a wider book first: a rise shows at the ask, a fall at the bid.
    taken = (rises != 0) & (draws.hits(550, count) == 1)
    alone = np.where(taken, rises > 0, draws.below(2, count))
    side = np.where(np.repeat(rows, rows) == 2, second, alone).astype(np.int64)
    spread = 1 + np.repeat(_WIDENINGS.draw(draws, len(rows) // 10 + 1), 10)[: len(rows)]
    ticks = np.repeat(level, rows) + side * np.repeat(spread, rows)
    volume = _VOLUMES.draw(draws, count) + _garbage(draws, side)
    return _Changes(ms, side, ticks, volume)


def _walk(draws: Draws, count: int, *, first: int, reach: int) -> Ints:
    moves = _MOVES.draw(draws, count)
    moves[:1] = 0
    # Folded back at the edges, so that a day of any size stays near its price.
    return np.asarray(first + np.abs((np.cumsum(moves) + reach) % (4 * reach) - 2 * reach) - reach)


def _garbage(draws: Draws, side: Ints) -> Ints:
    extra = np.zeros(len(side), dtype=np.int64)
    asks = np.flatnonzero(side == ASK)
    if len(side) >= 100:
        extra[asks[draws.below(len(asks), max(1, len(side) // 15_000))]] = GARBAGE_VOLUME
    return extra


def _at_once(draws: Draws, ms: int, *, level: int) -> _Changes:
    side = np.array([BID, ASK])
    return _Changes(np.array([ms, ms]), side, level + side, _VOLUMES.draw(draws, 2))


def _crossed(draws: Draws, count: int, *, start: int, end: int, level: int, reach: int) -> _Changes:
    side = draws.below(2, count)
    away = 2 + draws.below(reach, count)
    ticks = level + np.where(side == BID, away, -away)
    ms = draws.moments(count, start=start, end=end)
    return _Changes(ms, side, ticks, _VOLUMES.draw(draws, count))


def _late(draws: Draws, count: int, *, level: int) -> _Changes:
    ms = draws.moments(count - 1, start=972 * MINUTE, end=1080 * MINUTE)
    side = draws.below(2, count)
    at_end = apart(np.append(ms, 1130 * MINUTE + draws.one(1_500)))
    return _Changes(at_end, side, level + side, _VOLUMES.draw(draws, count))


def _carried(changes: _Changes, tick: int) -> Quotes:
    places = np.arange(len(changes), dtype=np.int64)
    bids = np.maximum.accumulate(np.where(changes.side == BID, places, 0))
    asks = np.maximum.accumulate(np.where(changes.side == ASK, places, -1))
    ask, ask_volume = changes.ticks[asks] * tick, changes.volume[asks]
    ask[0] = ask_volume[0] = 0
    return Quotes(changes.ms, changes.ticks[bids] * tick, ask, changes.volume[bids], ask_volume)


def _distinct(quotes: Quotes) -> Quotes:
    columns = (quotes.ms, quotes.bid, quotes.ask, quotes.bid_volume, quotes.ask_volume)
    same = np.logical_and.reduce([np.diff(column, prepend=-1) == 0 for column in columns])
    return Quotes(*columns[:4], quotes.ask_volume + same)
