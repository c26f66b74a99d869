"""The trades and quotes of one invented day, in the proportions of a real large company's week.

Each quote row changes one side of the book and leaves the other as it was. A move of the price
thus shows for a row as a locked, wide or crossed book, as it does in the real files. Each trade
happens at the quote of its moment: ordinary ones at the bid or the ask, a tenth between them, a
few a tick beyond. A share of the rows repeats another row byte for byte.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from k2lib.simulator.asx.draws import (
    MINUTE,
    SESSION_END,
    Draws,
    Ints,
    SampleCompany,
    TimedColumns,
    WeightedRanges,
    apart,
    opening_ms,
    session_moments,
    sizes_up_to,
    tick_of,
)

CODES = (0, 25, 2, 27, 5, 8, 26)
MID_CODES = (25, 27, 5, 26)
ADJACENT_REPEATS, NEARBY_REPEATS = 18, 15  # per thousand rows

# How many trades share one millisecond.
_GROUP_COUNTS = (15571, 5027, 2756, 1773, 1319, 1046, 725, 620, 494, 376, 298, 219, 186, 150, 134)
_GROUPS = WeightedRanges(
    *[(count, size, 1) for size, count in enumerate(_GROUP_COUNTS, start=1)],
    *[(368, 16, 5), (24, 21, 10)],
)
_CODE_COUNTS = (78532, 8051, 3199, 989, 544, 132, 51)
_CODES = WeightedRanges(*((n, code, 1) for code, n in zip(CODES, _CODE_COUNTS, strict=True)))
_TRADE_VOLUMES = WeightedRanges(
    *[(46, 1, 1), (32, 2, 1), (22, 3, 1), (100, 4, 9), (50, 13, 8), (50, 20, 11), (96, 31, 21)],
    *[(92, 52, 37), (76, 88, 70), (92, 157, 79), (20, 194, 1), (48, 235, 71), (48, 305, 96)],
    *[(72, 400, 385), (50, 784, 469), (40, 1252, 2473), (9, 3724, 6277), (1, 10000, 15000)],
    *[(10, 50, 1), (10, 100, 1), (10, 200, 1), (6, 300, 1), (7, 500, 1), (6, 1000, 1)],
)
_PRINT_VOLUMES = WeightedRanges((40, 10, 2_000), (40, 2_000, 18_000), (20, 20_000, 480_000))
_FIRST_TICKS_OUT = WeightedRanges((945, 0, 1), (15, 1, 1), (40, -1, 1))
_NEXT_TICKS_OUT = WeightedRanges((3, 0, 1), (1, 1, 1))

# Off-market prints, taken in turn: (from minute, minutes, code).
_BEFORE, _BY_RULE, _AFTER = (425, 115, 3), (425, 1, 1), (972, 80, 3)
_WITHIN, _CROSS = (610, 340, 3), (610, 340, 9)
_PRINTS = np.array(
    [_BEFORE, _CROSS, _AFTER, _BY_RULE, _WITHIN, _CROSS, _WITHIN, _BEFORE, _CROSS, _WITHIN, _AFTER]
)

BID, ASK = 0, 1
GARBAGE_VOLUME = 1_000_000_000

_QUOTE_VOLUMES = WeightedRanges(
    *[(10, 1, 20), (90, 20, 430), (150, 450, 900), (250, 1350, 1850), (250, 3200, 3000)],
    *[(150, 6200, 4300), (90, 10500, 14500), (10, 25000, 25000)],
)
_MOVES = WeightedRanges((9090, 0, 1), (450, -1, 1), (450, 1, 1), (5, -2, 1), (5, 2, 1))
_WIDENINGS = WeightedRanges((870, 0, 1), (120, 1, 1), (10, 2, 1))


@dataclass(frozen=True)
class SampleQuotes(TimedColumns):
    """Best bid and ask in time order; an ask of 0 for 0 is an empty side."""

    bid: Ints
    ask: Ints
    bid_volume: Ints
    ask_volume: Ints


@dataclass(frozen=True)
class _Changes(TimedColumns):
    side: Ints
    ticks: Ints
    volume: Ints


@dataclass(frozen=True)
class SampleTrades(TimedColumns):
    """Trades in time order; `off_market` is 0 or 1, a `buyer` of 0 an empty field."""

    price: Ints
    volume: Ints
    code: Ints
    off_market: Ints
    buyer: Ints


def make_day(company: SampleCompany, *, seed: int, day: int) -> tuple[SampleTrades, SampleQuotes]:
    """Make a company's day: a function of its arguments alone.

    Args:
        day: the date's ordinal.
    """
    draws = Draws(seed, company.company_id, day)
    opens = opening_ms(company.symbol, draws)
    closes = 970 * MINUTE + draws.one(20_000)
    quotes = quotes_of_day(company, draws, opens=opens, closes=closes)
    tick = tick_of(company.price)
    prints = _prints(draws, quotes, _print_count(company.trades), opens=opens, tick=tick)
    count = company.trades - len(prints)
    on_market = _on_market(draws, quotes, count, opens=opens, closes=closes, tick=tick)
    joined = SampleTrades.join([prints, on_market])
    return joined.take(np.argsort(joined.ms, kind="stable")), quotes


def _print_count(count: int) -> int:
    return max(4, count * 145 // 100_000) if count >= 100 else 0


def _prints(
    draws: Draws, quotes: SampleQuotes, count: int, *, opens: int, tick: int
) -> SampleTrades:
    start, minutes, code = _PRINTS[np.arange(count) % len(_PRINTS)].T
    ms = start * MINUTE + draws.below(minutes * MINUTE, count)
    bid, ask = _prevailing(quotes, np.maximum(ms, opens))
    middle = (bid + ask) // 2
    agreed = middle + draws.below(middle // 125, count) - middle // 250
    agreed = np.where(draws.hits(330, count), agreed, agreed // tick * tick)
    by_rule = middle * 11 // 10 // (50 * tick) * (50 * tick)
    price = np.select([code == 3, code == 9], [agreed, bid], by_rule)
    volume = _PRINT_VOLUMES.draw(draws, count)
    return SampleTrades(ms, price, volume, code, np.ones_like(ms), np.zeros_like(ms))


def _on_market(
    draws: Draws, quotes: SampleQuotes, count: int, *, opens: int, closes: int, tick: int
) -> SampleTrades:
    opening, closing = min(12, count // 100), min(30, count // 100)
    sizes = sizes_up_to(count - opening - closing, _GROUPS.draw(draws, count))
    moments = np.concatenate(([opens], session_moments(draws, len(sizes), opens=opens), [closes]))
    sizes = np.concatenate(([opening], sizes, [closing]))
    group = np.repeat(np.arange(len(sizes)), sizes)
    row_in_group = np.arange(count) - (np.cumsum(sizes) - sizes)[group]
    in_auction = (group == 0) | (group == len(sizes) - 1)
    starts = (row_in_group == 0) | (~in_auction & (draws.hits(60, count) == 1))
    first = np.flatnonzero(starts)
    code, price = _runs(
        draws,
        quotes,
        ms=moments[group[first]],
        leads=row_in_group[first] == 0,
        plain=in_auction[first],
        tick=tick,
    )
    same = _repeated(draws, row_in_group, last=closing)
    run = (np.cumsum(starts) - 1)[same]
    volume = _TRADE_VOLUMES.draw(draws, count)[same]
    buyer = _buyers(draws, price[run], tick=tick)
    return SampleTrades(
        moments[group], price[run], volume, code[run], np.zeros_like(row_in_group), buyer
    )


def _runs(
    draws: Draws,
    quotes: SampleQuotes,
    *,
    ms: Ints,
    leads: npt.NDArray[np.bool_],
    plain: npt.NDArray[np.bool_],
    tick: int,
) -> tuple[Ints, Ints]:
    """Draw the code and the price that the trades of each run share.

    Args:
        leads: whether a run is the first of its millisecond, whose later runs keep its side.
        plain: whether it is an auction, all at one price.
    """
    count = len(ms)
    code = np.where(plain, 0, _with_each_code(_CODES.draw(draws, count), plain))
    out = np.where(leads, _FIRST_TICKS_OUT.draw(draws, count), _NEXT_TICKS_OUT.draw(draws, count))
    buys = draws.hits(500, count)[np.maximum.accumulate(np.where(leads, np.arange(count), 0))]
    bid, ask = _prevailing(quotes, ms)
    touch = np.where(buys == 1, ask + out * tick, bid - out * tick)
    price = np.select([plain, np.isin(code, MID_CODES)], [bid, (bid + ask) // 2], touch)
    return code, price


def _with_each_code(code: Ints, plain: npt.NDArray[np.bool_]) -> Ints:
    # A small day would hold the rare codes only by luck.
    free = np.flatnonzero(~plain)
    if len(free) >= 20 * len(CODES):
        code[free[(np.arange(len(CODES)) + 1) * len(free) // (len(CODES) + 1)]] = CODES
    return code


def _prevailing(quotes: SampleQuotes, ms: Ints) -> tuple[Ints, Ints]:
    rows = np.searchsorted(quotes.ms, ms, side="right") - 1
    return quotes.bid[rows], quotes.ask[rows]


def _repeated(draws: Draws, row_in_group: Ints, *, last: int) -> Ints:
    count = len(row_in_group)
    rows = np.arange(count)
    adjacent = (row_in_group >= 1) & (draws.hits(ADJACENT_REPEATS, count) == 1)
    nearby = (row_in_group >= 2) & (draws.hits(NEARBY_REPEATS, count) == 1)
    back = 2 + draws.below(np.clip(row_in_group - 1, 1, 4), count)
    source = rows - np.where(nearby, back, adjacent)
    if last >= 13:
        source[count - last :] = rows[count - last :]
        source[count - last : count - last + 13 : 2] = count - last
    return _followed(source)


def _followed(source: Ints) -> Ints:
    # A row that repeats a repeating row takes what that one takes.
    further = source[source]
    while not np.array_equal(source, further):
        source, further = further, further[further]
    return source


def _buyers(draws: Draws, price: Ints, *, tick: int) -> Ints:
    buyer = np.zeros_like(price)
    if len(price) >= 100:
        rows = draws.below(len(price), max(1, len(price) * 77 // 100_000))
        buyer[rows] = price[rows] + tick * (1 - 2 * draws.hits(500, len(rows)))
    return buyer


def quotes_of_day(company: SampleCompany, draws: Draws, *, opens: int, closes: int) -> SampleQuotes:
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
    volume = _QUOTE_VOLUMES.draw(draws, count) + _garbage(draws, side)
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
    return _Changes(np.array([ms, ms]), side, level + side, _QUOTE_VOLUMES.draw(draws, 2))


def _crossed(draws: Draws, count: int, *, start: int, end: int, level: int, reach: int) -> _Changes:
    side = draws.below(2, count)
    away = 2 + draws.below(reach, count)
    ticks = level + np.where(side == BID, away, -away)
    ms = draws.moments(count, start=start, end=end)
    return _Changes(ms, side, ticks, _QUOTE_VOLUMES.draw(draws, count))


def _late(draws: Draws, count: int, *, level: int) -> _Changes:
    ms = draws.moments(count - 1, start=972 * MINUTE, end=1080 * MINUTE)
    side = draws.below(2, count)
    at_end = apart(np.append(ms, 1130 * MINUTE + draws.one(1_500)))
    return _Changes(at_end, side, level + side, _QUOTE_VOLUMES.draw(draws, count))


def _carried(changes: _Changes, tick: int) -> SampleQuotes:
    rows = np.arange(len(changes), dtype=np.int64)
    bids = np.maximum.accumulate(np.where(changes.side == BID, rows, 0))
    asks = np.maximum.accumulate(np.where(changes.side == ASK, rows, -1))
    ask, ask_volume = changes.ticks[asks] * tick, changes.volume[asks]
    ask[0] = ask_volume[0] = 0
    return SampleQuotes(
        changes.ms, changes.ticks[bids] * tick, ask, changes.volume[bids], ask_volume
    )


def _distinct(quotes: SampleQuotes) -> SampleQuotes:
    columns = (quotes.ms, quotes.bid, quotes.ask, quotes.bid_volume, quotes.ask_volume)
    same = np.logical_and.reduce([np.diff(column, prepend=-1) == 0 for column in columns])
    return SampleQuotes(*columns[:4], quotes.ask_volume + same)
