"""The venues' time zones: a trading date begins and ends by the venue's own clock."""

import re
from datetime import timedelta
from typing import Final
from zoneinfo import ZoneInfo

from k2lib.errors import QueryError

UTC_ZONE: Final = ZoneInfo("UTC")
ZONES: Final = {
    "ASX": ZoneInfo("Australia/Sydney"),
    "ASX_SIM": ZoneInfo("Australia/Sydney"),
}


def zone(exchange: str) -> ZoneInfo:
    """Return the zone of a venue's trading dates: UTC for crypto, and for any unknown venue."""
    return ZONES.get(exchange, UTC_ZONE)


DAY: Final = timedelta(days=1)
MICROSECOND: Final = timedelta(microseconds=1)
UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": DAY,
}


def bar_length(every: str | timedelta) -> timedelta:
    """Return the length of a bar: whole microseconds below a day, or one day.

    Raises:
        QueryError: not a length, not positive, or over a day.
    """
    length = _parsed(every) if isinstance(every, str) else every
    if not isinstance(length, timedelta):
        raise QueryError(f"every={every!r}: give a text like 5m, or a timedelta")
    if not timedelta(0) < length <= DAY:
        raise QueryError(f"every={every}: a bar is longer than nothing and one day at most")
    return length


def _parsed(every: str) -> timedelta:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", every, re.ASCII)
    if found is None:
        raise QueryError(f"every={every!r}: give a number and s, m, h or d, for example 5m")
    return int(found[1]) * UNITS[found[2]]
