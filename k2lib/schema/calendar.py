"""Times as text, and the venues' time zones: a trading date begins by the venue's own clock."""

import re
from datetime import UTC, date, datetime, time, timedelta
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


A_TIME: Final = "give a date, 2014-03-10, or a moment with its zone, 2014-03-10T01:00:00Z"
LIKE_A_TIME: Final = re.compile(r"\d{4}-?(?:\d{2}|W\d)", re.ASCII | re.IGNORECASE)
_ISO: Final = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2}|\d{8}|\d{4}-W\d{2}-\d|\d{4}W\d{3})"
    r"(?:[T ](?P<time>\d{2}(?::?\d{2}(?::?\d{2}(?:[.,](?P<fraction>\d+))?)?)?)"
    r"(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)
_END_OF_DAY: Final = re.compile(r"24(?::?00)?(?::?00)?(?:[.,]0+)?")


def parse_time(text: str) -> datetime | date:
    """Return the date, or the moment in UTC, of a text in a form of ISO 8601.

    Of a date: `2014-03-10`, `20140310`, `2014-W11-1`, `2014W111`. Of a moment: a date, `T` in
    either case or a blank, hours, minutes and seconds with or without colons, a fraction of at
    most six digits, and a zone: `Z`, `+11`, `+1100`, `+11:00`.

    Raises:
        ValueError: it is none, has no zone, or more digits than microseconds.
    """
    found = _ISO.fullmatch(text.upper())
    if found is None:
        raise ValueError(A_TIME)
    if found["time"] is not None and found["zone"] is None:
        raise ValueError(f"no time zone: {A_TIME}")
    if len(digits := found["fraction"] or "") > 6:
        raise ValueError(f"{len(digits)} digits of a second: give 6 at most, microseconds")
    try:
        day = date.fromisoformat(found["date"])
        return day if found["time"] is None else _moment(day, found["time"], found["zone"])
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"{exc}: {A_TIME}") from None


def start_of_day(day: date) -> datetime:
    """Return the first moment of a date of UTC."""
    return datetime.combine(day, time(), UTC)


def _moment(day: date, clock: str, of_zone: str) -> datetime:
    if _END_OF_DAY.fullmatch(clock):
        day, clock = day + DAY, "00"
    return datetime.fromisoformat(f"{day.isoformat()}T{clock}{of_zone}").astimezone(UTC)
