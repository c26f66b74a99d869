"""The trades of one invented day, in the proportions of a real large company's week.

Each trade happens at the quote of its moment: ordinary ones at the bid or the ask, a tenth
between them, a few a tick beyond. A share of the rows repeats another row byte for byte.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from k2lib.simulator.asx.draws import (
    MINUTE,
    Columns,
    Company,
    Draws,
    Ints,
    Pieces,
    opening_ms,
    session_moments,
    sizes_up_to,
    tick_of,
)
from k2lib.simulator.asx.quotes import Quotes, quotes_of_day

CODES = (0, 25, 2, 27, 5, 8, 26)
MID_CODES = (25, 27, 5, 26)
ADJACENT_REPEATS, NEARBY_REPEATS = 18, 15  # per thousand rows

# How many trades share one millisecond.
_GROUP_COUNTS = (15571, 5027, 2756, 1773, 1319, 1046, 725, 620, 494, 376, 298, 219, 186, 150, 134)
_GROUPS = Pieces(
    *[(count, size, 1) for size, count in enumerate(_GROUP_COUNTS, start=1)],
    *[(368, 16, 5), (24, 21, 10)],
)
_CODE_COUNTS = (78532, 8051, 3199, 989, 544, 132, 51)
_CODES = Pieces(*((n, code, 1) for code, n in zip(CODES, _CODE_COUNTS, strict=True)))
_VOLUMES = Pieces(
    *[(46, 1, 1), (32, 2, 1), (22, 3, 1), (100, 4, 9), (50, 13, 8), (50, 20, 11), (96, 31, 21)],
    *[(92, 52, 37), (76, 88, 70), (92, 157, 79), (20, 194, 1), (48, 235, 71), (48, 305, 96)],
    *[(72, 400, 385), (50, 784, 469), (40, 1252, 2473), (9, 3724, 6277), (1, 10000, 15000)],
    *[(10, 50, 1), (10, 100, 1), (10, 200, 1), (6, 300, 1), (7, 500, 1), (6, 1000, 1)],
)
_PRINT_VOLUMES = Pieces((40, 10, 2_000), (40, 2_000, 18_000), (20, 20_000, 480_000))
_FIRST_TICKS_OUT = Pieces((945, 0, 1), (15, 1, 1), (40, -1, 1))
_NEXT_TICKS_OUT = Pieces((3, 0, 1), (1, 1, 1))

# Off-market prints, taken in turn: (from minute, minutes, code).
_BEFORE, _BY_RULE, _AFTER = (425, 115, 3), (425, 1, 1), (972, 80, 3)
_WITHIN, _CROSS = (610, 340, 3), (610, 340, 9)
_PRINTS = np.array(
    [_BEFORE, _CROSS, _AFTER, _BY_RULE, _WITHIN, _CROSS, _WITHIN, _BEFORE, _CROSS, _WITHIN, _AFTER]
)


@dataclass(frozen=True)
class Trades(Columns):
    """Trades in time order; `off_market` is 0 or 1, a `buyer` of 0 an empty field."""

    price: Ints
    volume: Ints
    code: Ints
    off_market: Ints
    buyer: Ints


def make_day(company: Company, *, seed: int, day: int) -> tuple[Trades, Quotes]:
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
    joined = Trades.join([prints, on_market])
    return joined.take(np.argsort(joined.ms, kind="stable")), quotes


def _print_count(count: int) -> int:
    return max(4, count * 145 // 100_000) if count >= 100 else 0


def _prints(draws: Draws, quotes: Quotes, count: int, *, opens: int, tick: int) -> Trades:
    start, minutes, code = _PRINTS[np.arange(count) % len(_PRINTS)].T
    ms = start * MINUTE + draws.below(minutes * MINUTE, count)
    bid, ask = _prevailing(quotes, np.maximum(ms, opens))
    middle = (bid + ask) // 2
    agreed = middle + draws.below(middle // 125, count) - middle // 250
    agreed = np.where(draws.hits(330, count), agreed, agreed // tick * tick)
    by_rule = middle * 11 // 10 // (50 * tick) * (50 * tick)
    price = np.select([code == 3, code == 9], [agreed, bid], by_rule)
    volume = _PRINT_VOLUMES.draw(draws, count)
    return Trades(ms, price, volume, code, np.ones_like(ms), np.zeros_like(ms))


def _on_market(
    draws: Draws, quotes: Quotes, count: int, *, opens: int, closes: int, tick: int
) -> Trades:
    opening, closing = min(12, count // 100), min(30, count // 100)
    sizes = sizes_up_to(count - opening - closing, _GROUPS.draw(draws, count))
    moments = np.concatenate(([opens], session_moments(draws, len(sizes), opens=opens), [closes]))
    sizes = np.concatenate(([opening], sizes, [closing]))
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(count) - (np.cumsum(sizes) - sizes)[group]
    in_auction = (group == 0) | (group == len(sizes) - 1)
    starts = (place == 0) | (~in_auction & (draws.hits(60, count) == 1))
    first = np.flatnonzero(starts)
    code, price = _runs(
        draws,
        quotes,
        ms=moments[group[first]],
        leads=place[first] == 0,
        plain=in_auction[first],
        tick=tick,
    )
    same = _repeated(draws, place, last=closing)
    run = (np.cumsum(starts) - 1)[same]
    volume = _VOLUMES.draw(draws, count)[same]
    buyer = _buyers(draws, price[run], tick=tick)
    return Trades(moments[group], price[run], volume, code[run], np.zeros_like(place), buyer)


def _runs(
    draws: Draws,
    quotes: Quotes,
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


def _prevailing(quotes: Quotes, ms: Ints) -> tuple[Ints, Ints]:
    places = np.searchsorted(quotes.ms, ms, side="right") - 1
    return quotes.bid[places], quotes.ask[places]


def _repeated(draws: Draws, place: Ints, *, last: int) -> Ints:
    count = len(place)
    rows = np.arange(count)
    adjacent = (place >= 1) & (draws.hits(ADJACENT_REPEATS, count) == 1)
    nearby = (place >= 2) & (draws.hits(NEARBY_REPEATS, count) == 1)
    back = 2 + draws.below(np.clip(place - 1, 1, 4), count)
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
