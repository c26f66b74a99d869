"""The trades behind the offline exchange: the same in any order of requests."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.errors import ConfigError
from k2lib.simulator.binance.columns import AggTradeColumns, TradeColumns, aggregate
from k2lib.simulator.binance.frames import FrameFormat, trade_frames
from k2lib.simulator.binance.instruments import DECIMALS, instrument
from k2lib.simulator.binance.market import Market, TradeTape
from k2lib.simulator.binance.trade_generator import BLOCK, PUBLISHED_AFTER_US, US, TradeGenerator

NOW_US = 1_767_225_600 * US
FIRST, COUNT = 10 * BLOCK - 100, 5 * BLOCK
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def generator(*, rate: float = 50.0, seed: int = 7) -> TradeGenerator:
    return TradeGenerator("BTCUSDT", rate=rate, seed=seed)


def to_rows(columns: TradeColumns | AggTradeColumns) -> list[tuple[object, ...]]:
    names = [field.name for field in dataclasses.fields(columns)]
    return list(zip(*(getattr(columns, name).tolist() for name in names), strict=True))


LONG = to_rows(generator().trades(FIRST, FIRST + COUNT))
AGG_TRADES = to_rows(generator().agg_trades(5_000, 9_000))


def open_tape(now_us: int = NOW_US, *, first_id: int | None = None) -> TradeTape:
    market = Market(["BTCUSDT"], rate=50.0, seed=7, first_id=first_id, now_us=now_us)
    return market.tapes["BTCUSDT"]


def test_the_same_seed_makes_the_same_trades_and_another_one_others() -> None:
    again, other = generator(), generator(seed=8)
    assert to_rows(again.trades(FIRST, FIRST + COUNT)) == LONG
    assert to_rows(other.trades(FIRST, FIRST + 10)) != LONG[:10]


@given(st.integers(0, COUNT), st.integers(0, 3 * BLOCK))
def test_any_range_is_a_slice_of_the_whole(begin: int, count: int) -> None:
    end = min(COUNT, begin + count)
    assert to_rows(generator().trades(FIRST + begin, FIRST + end)) == LONG[begin:end]


def test_ids_count_up_and_times_never_go_back() -> None:
    trades = generator(rate=50_000.0).trades(10**13, 10**13 + COUNT)
    assert np.all(np.diff(trades.id) == 1)
    assert np.all(np.diff(trades.time_us) >= 0)


@given(st.integers(0, COUNT - 1), st.integers(-3, 3))
def test_the_next_id_at_a_time_is_the_first_one_not_published_by_then(row: int, off: int) -> None:
    at_us = LONG[row][1] + PUBLISHED_AFTER_US + off
    next_id = generator().next_id(at_us)
    before, after = to_rows(generator().trades(next_id - 1, next_id + 1))
    assert before[1] + PUBLISHED_AFTER_US <= at_us < after[1] + PUBLISHED_AFTER_US


def test_time_brings_as_many_trades_as_the_rate_says() -> None:
    made = generator().next_id(NOW_US + 3600 * US) - generator().next_id(NOW_US)
    assert made == pytest.approx(50 * 3600, rel=0.01)


def test_trades_come_in_bursts() -> None:
    gaps = np.diff(np.unique([row[1] for row in LONG]))
    assert np.std(gaps) > 1.3 * np.mean(gaps)


def test_prices_stay_near_the_usual_one_and_move_by_little() -> None:
    hours = generator().trades(*(generator().id_at(NOW_US + hour * 3600 * US) for hour in (0, 3)))
    price = hours.ticks / 100
    assert 50_000 < price.min() < price.max() < 80_000
    assert np.abs(np.diff(np.log(price))).max() < 0.001


def test_both_sides_trade_in_runs() -> None:
    makers = np.array([row[4] for row in LONG])
    assert 0.4 < makers.mean() < 0.6
    assert np.mean(makers[1:] == makers[:-1]) > 0.6


def test_sizes_are_whole_steps_with_a_long_tail() -> None:
    steps = np.array([row[3] for row in LONG])
    assert steps.min() >= 1
    assert np.mean(steps) > 2 * np.median(steps)


def test_aggregates_cover_every_trade_once() -> None:
    trades = generator().trades(BLOCK * 9, BLOCK * 12)
    agg_trades = aggregate(trades)
    assert np.all(agg_trades.first[1:] == agg_trades.last[:-1] + 1)
    assert np.all(np.diff(agg_trades.id) == 1)
    assert agg_trades.steps.sum() == trades.steps.sum()
    assert (agg_trades.first < agg_trades.last).mean() > 0.2


def test_trades_of_an_aggregate_share_price_time_and_side() -> None:
    trades = generator().trades(BLOCK * 9, BLOCK * 12)
    same = np.diff(trades.agg_id) == 0
    for column in (trades.time_us, trades.ticks, trades.buyer_maker):
        assert np.array_equal(column[1:][same], column[:-1][same])


@given(st.integers(5_000, 8_000), st.integers(1, 700))
def test_aggregates_are_found_by_their_own_ids(first: int, count: int) -> None:
    assert (
        to_rows(generator().agg_trades(first, first + count)) == AGG_TRADES[first - 5_000 :][:count]
    )


def test_a_later_exchange_goes_on_where_the_first_one_is() -> None:
    first = open_tape()
    first.advance(NOW_US + 60 * US)
    later = open_tape(NOW_US + 60 * US)
    assert later.first_id == first.next_id
    old = to_rows(first.trades(first.first_id, first.next_id))
    assert to_rows(later.trades(first.first_id, first.next_id)) == old


def test_a_first_id_is_the_first_trade_and_has_a_past() -> None:
    tape = open_tape(first_id=5_000)
    made = tape.advance(NOW_US + 10 * US)
    assert made.id[0] == tape.truth().first_id == 5_000
    assert NOW_US <= made.time_us[0] < NOW_US + 5 * US
    past = tape.trades(0, 5_000)
    assert len(past) == 5_000
    assert past.time_us[-1] <= NOW_US
    assert len(tape.trades(-50, 0)) == 0


def test_advancing_in_any_steps_makes_the_same_trades() -> None:
    small, large = open_tape(), open_tape()
    rows = [row for ms in range(0, 2000, 7) for row in to_rows(small.advance(NOW_US + ms * 1000))]
    assert rows == to_rows(large.advance(NOW_US + 1995 * 1000))
    assert len(rows) > 30


def test_void_ids_exist_nowhere() -> None:
    tape = open_tape()
    tape.advance(NOW_US + US)
    void = set(tape.make_void(7))
    streamed = tape.advance(NOW_US + 20 * US)
    assert not void & set(streamed.id.tolist())
    assert not void & set(tape.trades(min(void) - 5, max(void) + 5).id.tolist())
    agg_trades = tape.agg_trades_of(streamed)
    inside = [
        set(range(f, last + 1)) for f, last in zip(agg_trades.first, agg_trades.last, strict=True)
    ]
    assert not void & set().union(*inside)
    assert tape.truth().void == void


def test_pages_are_full_in_spite_of_void_ids() -> None:
    tape = open_tape()
    void = tape.make_void(30)
    tape.advance(NOW_US + 20 * US)
    page = tape.trades_from(void.start - 10, 100, end=tape.next_id)
    assert page.id.tolist() == [
        *range(void.start - 10, void.start),
        *range(void.stop, void.stop + 90),
    ]
    assert len(tape.newest(1000, end=tape.next_id)) == 1000


@given(st.text(LETTERS, min_size=1, max_size=8), st.sampled_from(["USDT", "BTC", "EUR"]))
def test_invented_instruments_fit_eight_decimals(base: str, quote: str) -> None:
    if len(base + quote) < 5:
        return
    item = instrument(base + quote)
    assert item.symbol == item.base + item.quote
    assert item.price_decimals >= 0 <= item.quantity_decimals
    assert item.price_decimals + item.quantity_decimals <= DECIMALS


@pytest.mark.parametrize("symbol", ["btcusdt", "USDT", "BTCXYZ", "BTC-USDT", ""])
def test_what_cannot_be_a_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(ConfigError, match="such as BTCUSDT"):
        TradeGenerator(symbol, rate=1.0, seed=7)


@pytest.mark.parametrize("rate", [0.0, -1.0, 50_001.0, 25_001.0])
def test_a_rate_the_exchange_cannot_keep_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="trades/s"):
        Market(["BTCUSDT", "ETHUSDT"], rate=rate, seed=7, first_id=None, now_us=NOW_US)


@pytest.mark.slow
def test_fifty_thousand_trades_are_made_and_written_within_a_second_of_one_core() -> None:
    market = Market(["BTCUSDT"], rate=50_000.0, seed=7, first_id=None, now_us=NOW_US)
    form, count, began = FrameFormat("btcusdt@trade", micros=True), 0, time.thread_time()
    for tick in range(1, 201):
        for tape, trades in market.advance(NOW_US + tick * 5_000):
            count += len(trades)
            assert trade_frames(trades, tape.instrument, form)
    assert count == pytest.approx(50_000, rel=0.03)
    assert time.thread_time() - began < 1.0
