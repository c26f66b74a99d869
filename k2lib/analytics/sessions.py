"""When a venue trades: the ASX by the clock of Sydney, crypto always.

The ASX of 2014 opened its shares in five groups by the first character of the code, each at a
random moment of 30 seconds, and closed them in one auction; the hours here are of that time.
"""

from collections.abc import Collection
from datetime import date, timedelta
from typing import Final

import polars as pl

from k2lib.analytics.frames import check, refuse_columns
from k2lib.analytics.venue_time import local_time, since_midnight, trading_date_of
from k2lib.errors import QueryError
from k2lib.schema.market import is_off_market

WITH_SESSIONS: Final = ("ASX", "ASX_SIM")
PRE_OPEN: Final = timedelta(hours=7)
FIRST_OPENING: Final = timedelta(hours=10)
# Codes before C, digits too, open first; from each of these letters on, a step later.
LATER_INITIALS: Final = ("C", "G", "N", "S")
STEP: Final = timedelta(minutes=2, seconds=15)
EITHER_WAY: Final = timedelta(seconds=15)
END: Final = timedelta(hours=16)
CLOSING: Final = timedelta(hours=16, minutes=10)
CLOSED_FROM: Final = timedelta(hours=16, minutes=12)
LAST: Final = timedelta(hours=18, minutes=50)
SATURDAY: Final = 6
LOCAL: Final = pl.col("local")


def trading_date(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `trading_date`, the venue's date: Sydney's for the ASX, UTC's for crypto.

    Args:
        frame: rows with a timestamp, or bars with a start.
    Raises:
        QueryError: a column is missing, or trading_date is there already.
    """
    column = _time_column(frame)
    refuse_columns(frame, "frame", ["trading_date"])
    return frame.with_columns(trading_date=trading_date_of(frame, column))


def session(frame: pl.DataFrame, *, holidays: Collection[date] = ()) -> pl.DataFrame:
    """Add `session`, the phase of the venue's day at each row's time.

    Of the ASX, by Sydney's clock: pre_open from 07:00; opening_auction, the 30 seconds in which
    the code's group may open; continuous, from 15 seconds after the group's time (10:00:00 for
    digits, A and B; 10:02:15 for C to F; 10:04:30 for G to M; 10:06:45 for N to R; 10:09:00 for
    S to Z) until 16:00; pre_close; closing_auction, 16:10 to 16:12; after_close, until 18:50;
    else closed, as on Saturdays, Sundays and the holidays. Every other venue is continuous.

    Args:
        frame: rows with a timestamp, or bars with a start; off-market prints are not told apart.
        holidays: dates on which the ASX does not trade; none is known without it.
    Raises:
        QueryError: a column is missing, or session is there already.
    """
    column = _time_column(frame)
    refuse_columns(frame, "frame", ["session"])
    return frame.with_columns(session=_sessions(frame, column, _dates(holidays)))


def continuous_trading(frame: pl.DataFrame, *, holidays: Collection[date] = ()) -> pl.DataFrame:
    """Keep the rows of continuous trading; see `session`.

    Raises:
        QueryError: a column is missing.
    """
    column = _time_column(frame)
    return frame.filter(_sessions(frame, column, _dates(holidays)) == "continuous")


def on_market(trades: pl.DataFrame) -> pl.DataFrame:
    """Leave out the off-market prints, as `market="on"` of `k2.trades` and `k2.bars` does.

    Raises:
        QueryError: a column is missing.
    """
    check(trades, "trades", ["vendor_data"])
    return trades.filter(~is_off_market())


def trading_hours(frame: pl.DataFrame) -> tuple[pl.Expr, pl.Expr]:
    """Return when continuous trading of each row's instrument begins and ends, from midnight on.

    On Saturdays and Sundays the ASX ends as it begins. The frame has `local`, the time by the
    venue's clock.
    """
    asx = _has_sessions()
    closes = pl.when(_is_weekend()).then(_opening() + EITHER_WAY).otherwise(END)
    return (
        pl.when(asx).then(_opening() + EITHER_WAY).otherwise(timedelta(0)),
        pl.when(asx).then(closes).otherwise(timedelta(days=1)),
    )


def _sessions(frame: pl.DataFrame, column: str, holidays: list[date]) -> pl.Series:
    names = ["exchange", "symbol"]
    if not set(frame["exchange"].unique()) & set(WITH_SESSIONS):
        return pl.repeat("continuous", frame.height, dtype=pl.String, eager=True)
    # Step by step: within one expression Polars computes the same part again and again.
    rows = frame.select(*names, local=local_time(frame, column))
    rows = rows.select(*names, time=since_midnight(LOCAL), closed=_is_closed(holidays))
    rows = rows.select("closed", "time", asx=_has_sessions(), opens=_opening())
    phase = pl.when(~pl.col("asx")).then(pl.lit("continuous")).otherwise(_phase())
    return rows.select(phase).to_series()


def _phase() -> pl.Expr:
    time, opens = pl.col("time"), pl.col("opens")
    return (
        pl.when(pl.col("closed") | (time < PRE_OPEN) | (time >= LAST))
        .then(pl.lit("closed"))
        .when(time < opens - EITHER_WAY)
        .then(pl.lit("pre_open"))
        .when(time < opens + EITHER_WAY)
        .then(pl.lit("opening_auction"))
        .when(time < END)
        .then(pl.lit("continuous"))
        .when(time < CLOSING)
        .then(pl.lit("pre_close"))
        .when(time < CLOSED_FROM)
        .then(pl.lit("closing_auction"))
        .otherwise(pl.lit("after_close"))
    )


def _is_closed(holidays: list[date]) -> pl.Expr:
    return _is_weekend() | LOCAL.dt.date().is_in(pl.Series(holidays, dtype=pl.Date).implode())


def _opening() -> pl.Expr:
    later = [(pl.col("symbol") >= initial).cast(pl.Int64) for initial in LATER_INITIALS]
    group = pl.sum_horizontal(later)
    return FIRST_OPENING + group * STEP


def _has_sessions() -> pl.Expr:
    return pl.col("exchange").is_in(WITH_SESSIONS)


def _is_weekend() -> pl.Expr:
    return LOCAL.dt.weekday() >= SATURDAY


def _dates(holidays: Collection[date]) -> list[date]:
    wrong = [day for day in holidays if type(day) is not date]
    if wrong:
        raise QueryError(f"holidays: {wrong[0]!r} is no date: give datetime.date values")
    return list(holidays)


def _time_column(frame: pl.DataFrame) -> str:
    bars = isinstance(frame, pl.DataFrame) and {"start", "timestamp"} & {*frame.columns} == {
        "start"
    }
    column = "start" if bars else "timestamp"
    check(frame, "frame", [column])
    return column
