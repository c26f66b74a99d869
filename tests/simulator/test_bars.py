"""When bars begin, and which of them an answer has."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from k2lib.simulator.binance.bars import MOST_TRADES, BarWindow, bars
from k2lib.simulator.binance.klines import INTERVALS, bar_length
from k2lib.simulator.binance.market import TradeTape
from k2lib.simulator.binance.trade_generator import US, TradeGenerator
from k2lib.simulator.binance.trade_summary import (
    PAGE,
    SummaryCache,
    SummaryStoppedError,
    TooManyTradesError,
    TradeHistory,
    TradeSummary,
)

NOW_US = int(datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()) * US


def history(rate: float, *, now_us: int = NOW_US) -> TradeHistory:
    generator = TradeGenerator("BTCUSDT", rate=rate, seed=7)
    next_id = generator.next_id(now_us)
    return TradeHistory(TradeTape(generator, next_id, next_id, now_us), SummaryCache())


def at(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / US, UTC)


@pytest.mark.parametrize(
    ("interval", "east_h", "start", "end"),
    [
        ("1s", 0, "2026-03-04T05:06:07", "2026-03-04T05:06:08"),
        ("15m", 0, "2026-03-04T05:00:00", "2026-03-04T05:15:00"),
        ("8h", 0, "2026-03-04T00:00:00", "2026-03-04T08:00:00"),
        ("1d", 0, "2026-03-04T00:00:00", "2026-03-05T00:00:00"),
        ("1d", 8, "2026-03-03T16:00:00", "2026-03-04T16:00:00"),
        ("1d", -6, "2026-03-03T06:00:00", "2026-03-04T06:00:00"),
        ("1w", 0, "2026-03-02T00:00:00", "2026-03-09T00:00:00"),
        ("1w", 8, "2026-03-01T16:00:00", "2026-03-08T16:00:00"),
        ("1M", 0, "2026-03-01T00:00:00", "2026-04-01T00:00:00"),
        ("1M", 8, "2026-02-28T16:00:00", "2026-03-31T16:00:00"),
    ],
)
def test_a_bar_begins_where_its_time_zone_has_it(
    interval: str, east_h: int, start: str, end: str
) -> None:
    length = bar_length(interval, offset_us=east_h * 3600 * US)
    begins = length.start_of(NOW_US)
    assert at(begins) == datetime.fromisoformat(f"{start}+00:00")
    assert at(length.end_of(begins)) == datetime.fromisoformat(f"{end}+00:00")


@pytest.mark.parametrize("interval", INTERVALS)
def test_bars_follow_one_another_both_ways(interval: str) -> None:
    length = bar_length(interval)
    back, forth = length.starts_back(NOW_US), None
    starts = sorted(next(back) for _ in range(30))
    forth = length.starts_from(starts[0])
    assert [next(forth) for _ in range(30)] == starts


def test_a_second_without_trades_has_the_price_before_it() -> None:
    found = bars(history(0.05), bar_length("1s"), BarWindow(1000, None, NOW_US))
    assert len(found) == 1000
    for before, bar in pairwise(found):
        if not bar.trades.count:
            assert bar.trades == TradeSummary.flat(before.trades.close)
    assert 0 < sum(bar.trades.count for bar in found) < 300


def test_bars_do_not_begin_before_the_first_trade() -> None:
    trades, month = history(0.05), bar_length("1M")
    opened = int(trades.tape.generator.trades(0, 1).time_us[0])
    found = bars(trades, month, BarWindow(3, 0, NOW_US))
    assert found[0].start_us <= opened < found[0].end_us
    assert found[0].trades.first_id == 0
    assert found == bars(trades, month, BarWindow(1000, None, found[-1].start_us))
    assert bars(trades, month, BarWindow(1000, None, opened - 90 * 86_400 * US)) == []


def test_a_window_begins_with_the_oldest_if_it_has_a_start() -> None:
    trades, length = history(1.0), bar_length("1m")
    start = NOW_US - 600 * US
    oldest = bars(trades, length, BarWindow(3, start, NOW_US))
    newest = bars(trades, length, BarWindow(3, None, NOW_US))
    assert at(oldest[0].start_us) == datetime(2026, 3, 4, 4, 57, tzinfo=UTC)
    assert at(newest[-1].start_us) == datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    assert [len(oldest), len(newest)] == [3, 3]
    assert bars(trades, length, BarWindow(3, NOW_US, NOW_US)) == []


@pytest.mark.slow
def test_a_window_ends_where_its_trades_would_be_too_many() -> None:
    trades, length = history(500.0), bar_length("1h")
    newest = bars(trades, length, BarWindow(500, None, NOW_US))
    assert 2 <= len(newest) <= 3
    assert sum(bar.trades.count for bar in newest) <= MOST_TRADES
    assert newest[-1].end_us > NOW_US


def test_a_bar_of_too_many_trades_is_refused() -> None:
    with pytest.raises(TooManyTradesError):
        bars(history(20_000.0), bar_length("1d"), BarWindow(1, None, NOW_US))


@pytest.mark.parametrize("shift", [0, 1, 500, PAGE - 1])
def test_a_summary_is_that_of_its_trades_wherever_it_is_cut(shift: int) -> None:
    trades = history(50.0)
    trades.tape.void.append(range(70_000, 70_010))
    for first, end in [(69_900 + shift, 70_100), (68_000 + shift, 75_000), (70_000, 70_010)]:
        rows = trades.tape.trades(first, end)
        summary = trades.between(first, end)
        # Again, from what is remembered.
        assert summary == trades.between(first, end)
        if not len(rows):
            before = trades.tape.trades(first - 1, first)
            assert summary == TradeSummary.flat(int(before.ticks[0]))
            continue
        prices, steps = rows.ticks.tolist(), rows.steps.tolist()
        amounts = [price * size for price, size in zip(prices, steps, strict=True)]
        bought = [not sold for sold in rows.buyer_maker.tolist()]
        assert summary == TradeSummary(
            len(rows),
            int(rows.id[0]),
            int(rows.id[-1]),
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum(steps),
            sum(amounts),
            sum(size for size, buy in zip(steps, bought, strict=True) if buy),
            sum(amount for amount, buy in zip(amounts, bought, strict=True) if buy),
        )


def test_remembered_pages_are_bounded() -> None:
    cache = SummaryCache(kept=5)
    trades = history(50.0)
    for number in range(20):
        assert cache.page(trades.tape, number)[0] == PAGE
    assert len(cache._pages) == 5


def test_nothing_is_added_up_once_the_exchange_ends() -> None:
    trades, cache = history(50.0), SummaryCache()
    cache.stop()
    with pytest.raises(SummaryStoppedError):
        TradeHistory(trades.tape, cache).between(0, 10 * PAGE)


def test_an_hour_is_the_sum_of_its_minutes() -> None:
    trades = history(5.0)
    hour = bars(trades, bar_length("1h"), BarWindow(1, None, NOW_US - 3600 * US))[0]
    window = BarWindow(60, hour.start_us, hour.end_us - 1)
    minutes = bars(trades, bar_length("1m"), window)
    assert [minutes[0].start_us, minutes[-1].end_us] == [hour.start_us, hour.end_us]
    for name in ("count", "steps", "amount", "bought_steps", "bought_amount"):
        assert sum(getattr(bar.trades, name) for bar in minutes) == getattr(hour.trades, name)
    assert timedelta(microseconds=hour.end_us - hour.start_us) == timedelta(hours=1)
