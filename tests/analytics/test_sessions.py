"""Sessions and trading dates are those of the venue's clock, whatever the time of the year."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.analytics_rows import trades_frame
from support.lake_rows import trade

from k2lib import analytics
from k2lib.errors import QueryError

SYDNEY = ZoneInfo("Australia/Sydney")
# A Friday and a Monday about each change of the clocks, and the Sundays on which they change.
SUMMER, AUTUMN = date(2014, 4, 4), date(2014, 4, 7)
WINTER, SPRING = date(2014, 10, 3), date(2014, 10, 6)
BACK, FORWARD = date(2014, 4, 6), date(2014, 10, 5)
OPENINGS = {"3DP": (0, 0), "BHP": (0, 0), "CBA": (2, 15), "MWR": (4, 30), "NAB": (6, 45)}
OPENINGS |= {"FMG": (2, 15), "GPT": (4, 30), "RIO": (6, 45), "SUN": (9, 0), "ZZZ": (9, 0)}
year = timedelta(days=365) // timedelta(microseconds=1)
moments = st.integers(0, year).map(
    lambda us: datetime(2014, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
)


def sydney(day: date, clock: str) -> datetime:
    return datetime.combine(day, time.fromisoformat(clock), tzinfo=SYDNEY).astimezone(UTC)


def frame_of(*moments: datetime, symbol: str = "BHP", exchange: str = "ASX") -> pl.DataFrame:
    rows = [
        trade(n, timestamp=moment, symbol=symbol, exchange=exchange)
        for n, moment in enumerate(moments)
    ]
    return trades_frame(rows)


def session_by_loop(moment: datetime, symbol: str) -> str:
    local = moment.astimezone(SYDNEY)
    clock = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)
    clock += timedelta(microseconds=local.microsecond)
    minutes, seconds = OPENINGS[symbol]
    opens = timedelta(hours=10, minutes=minutes, seconds=seconds)
    ends = {
        timedelta(hours=7): "closed",
        opens - timedelta(seconds=15): "pre_open",
        opens + timedelta(seconds=15): "opening_auction",
        timedelta(hours=16): "continuous",
        timedelta(hours=16, minutes=10): "pre_close",
        timedelta(hours=16, minutes=12): "closing_auction",
        timedelta(hours=18, minutes=50): "after_close",
    }
    if local.weekday() >= 5:
        return "closed"
    return next((name for end, name in ends.items() if clock < end), "closed")


@given(st.lists(moments, max_size=8), st.sampled_from(sorted(OPENINGS)))
def test_sessions_equal_the_loop(moments: list[datetime], symbol: str) -> None:
    found = analytics.session(frame_of(*moments, symbol=symbol))["session"]
    assert found.to_list() == [session_by_loop(moment, symbol) for moment in moments]


@pytest.mark.slow
@given(st.lists(moments, max_size=8), st.sampled_from(sorted(OPENINGS)))
def test_continuous_trading_keeps_what_session_says(moments: list[datetime], symbol: str) -> None:
    frame = pl.concat(
        [frame_of(*moments, symbol=symbol), frame_of(*moments, exchange="BINANCE")]
    ).sample(fraction=1, shuffle=True, seed=1)
    kept = analytics.session(frame).filter(pl.col("session") == "continuous").drop("session")
    assert analytics.continuous_trading(frame).equals(kept)


@pytest.mark.parametrize("day", [SUMMER, AUTUMN, WINTER, SPRING])
@pytest.mark.parametrize("symbol", sorted(OPENINGS))
def test_each_group_opens_at_its_time_by_the_wall_clock(day: date, symbol: str) -> None:
    minutes, seconds = OPENINGS[symbol]
    opens = sydney(day, "10:00:00") + timedelta(minutes=minutes, seconds=seconds)
    around = [opens + timedelta(seconds=apart) for apart in (-15.001, -15, 14.999, 15)]
    found = analytics.session(frame_of(*around, symbol=symbol))["session"].to_list()
    assert found == ["pre_open", "opening_auction", "opening_auction", "continuous"]


@pytest.mark.parametrize("day", [SUMMER, AUTUMN, WINTER, SPRING])
def test_continuous_trading_ends_at_four_by_the_wall_clock(day: date) -> None:
    edges = [sydney(day, clock) for clock in ("15:59:59.999999", "16:00:00", "16:10", "16:12")]
    found = analytics.session(frame_of(*edges))["session"].to_list()
    assert found == ["continuous", "pre_close", "closing_auction", "after_close"]


def test_utc_times_of_the_session_move_by_an_hour_with_the_clocks() -> None:
    firsts = {SUMMER: 23, AUTUMN: 0, WINTER: 0, SPRING: 23}
    for day, hour in firsts.items():
        assert sydney(day, "10:00:15").hour == hour
        kept = analytics.continuous_trading(frame_of(sydney(day, "10:00:15")))
        assert kept.height == 1


@pytest.mark.parametrize("day", [BACK, FORWARD, SUMMER + timedelta(days=1)])
def test_weekends_are_closed(day: date) -> None:
    hours = [sydney(day, f"{hour:02}:30") for hour in range(0, 24) if hour != 2]
    assert set(analytics.session(frame_of(*hours))["session"]) == {"closed"}
    assert analytics.continuous_trading(frame_of(*hours)).is_empty()


def test_holidays_are_closed_where_they_are_told() -> None:
    good_friday = date(2014, 4, 18)
    frame = frame_of(sydney(good_friday, "12:00"))
    assert analytics.session(frame)["session"].item() == "continuous"
    assert analytics.session(frame, holidays=[good_friday])["session"].item() == "closed"
    assert analytics.continuous_trading(frame, holidays=[good_friday]).is_empty()
    with pytest.raises(QueryError, match="holidays: '2014-04-18' is no date"):
        analytics.session(frame, holidays=["2014-04-18"])  # type: ignore[list-item]


@pytest.mark.parametrize("exchange", ["BINANCE", "BINANCE_SIM", "elsewhere"])
def test_crypto_is_always_continuous(exchange: str) -> None:
    frame = frame_of(*(sydney(BACK, f"{hour:02}:00") for hour in range(24)), exchange=exchange)
    assert analytics.continuous_trading(frame).equals(frame)
    closed = analytics.continuous_trading(frame, holidays=[BACK, BACK - timedelta(days=1)])
    assert closed.equals(frame)


def test_simulated_asx_has_the_sessions_of_the_asx() -> None:
    frame = frame_of(sydney(SUMMER, "09:00"), exchange="ASX_SIM")
    assert analytics.session(frame)["session"].item() == "pre_open"


@given(st.lists(moments, max_size=8))
def test_trading_date_is_that_of_the_venue(moments: list[datetime]) -> None:
    frame = pl.concat([frame_of(*moments), frame_of(*moments, exchange="BINANCE")])
    found = analytics.trading_date(frame)["trading_date"].to_list()
    dates = [moment.astimezone(SYDNEY).date() for moment in moments]
    assert found == [*dates, *(moment.date() for moment in moments)]


def test_bars_have_sessions_by_their_start() -> None:
    frame = frame_of(sydney(SUMMER, "12:00"), sydney(SUMMER, "17:00"))
    bars = analytics.time_bars(frame, "1m")
    assert analytics.session(bars)["session"].to_list() == ["continuous", "after_close"]
    assert analytics.continuous_trading(bars).height == 1
    assert analytics.trading_date(bars)["trading_date"].to_list() == [SUMMER, SUMMER]


def test_columns_that_are_there_already_are_not_written_over() -> None:
    frame = frame_of(sydney(SUMMER, "12:00"))
    with pytest.raises(QueryError, match="frame has session already"):
        analytics.session(analytics.session(frame))
    with pytest.raises(QueryError, match="frame has trading_date already"):
        analytics.trading_date(analytics.trading_date(frame))


def test_off_market_prints_are_left_out() -> None:
    vendors = [{"venue": "X"}, {"venue": "Y"}, {}, None, {"buyer_id": "X"}]
    rows = [trade(n, vendor_data=vendor) for n, vendor in enumerate(vendors)]
    kept = analytics.on_market(trades_frame(rows))
    assert kept["message_id"].to_list() == [row["message_id"] for row in rows[1:]]
