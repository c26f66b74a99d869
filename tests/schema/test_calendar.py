"""A time in any form of ISO 8601 is that moment or date; what is none is refused with a remedy."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2lib.schema.calendar import parse_time

MOMENT = datetime(2026, 11, 30, 1, 2, 3, 450_000, tzinfo=UTC)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
seconds = st.timedeltas(timedelta(days=2), timedelta(days=84_000))
moments = st.builds(
    lambda since, zone: (datetime(1970, 1, 1, tzinfo=UTC) + since).astimezone(zone), seconds, zones
)


@pytest.mark.parametrize("text", ["2026-11-30", "20261130", "2026-W49-1", "2026W491", "2026-w49-1"])
def test_a_date_has_four_forms(text: str) -> None:
    assert parse_time(text) == date(2026, 11, 30)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30T01:02:03.45Z",
        "2026-11-30t01:02:03.450z",
        "2026-11-30 01:02:03.450000Z",
        "2026-11-30T01:02:03,45Z",
        "20261130T010203.45Z",
        "2026-W49-1T01:02:03.45+00:00",
        "2026-11-30T12:02:03.45+11:00",
        "2026-11-30T12:02:03.45+1100",
        "20261130T120203.45+11",
        "2026-11-29T21:32:03.45-03:30",
    ],
)
def test_a_moment_has_many_forms(text: str) -> None:
    assert parse_time(text) == MOMENT


@pytest.mark.parametrize("digits", range(1, 7))
def test_a_second_has_one_to_six_digits(digits: int) -> None:
    text = f"2026-11-30T01:02:03.{'123456'[:digits]}Z"
    assert parse_time(text) == MOMENT.replace(microsecond=int("123456"[:digits].ljust(6, "0")))


def test_seconds_and_minutes_may_be_left_out_and_a_day_may_end_at_24() -> None:
    assert parse_time("2026-11-30T01Z") == parse_time("2026-11-30T01:00Z")
    assert parse_time("2026-11-30T24:00Z") == parse_time("2026-12-01T00:00:00Z")


@given(moments)
def test_what_python_and_the_api_write_is_read_back(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == moment
    assert parse_time(f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}") == moment
    assert parse_time(moment.strftime("%Y%m%dt%H%M%S.%f%z")) == moment


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-11-30T01:02:03.123456789Z", "9 digits of a second: give 6 at most"),
        ("2026-11-30T01:02:03.0000000Z", "7 digits of a second: give 6 at most"),
        ("2026-11-30T01:02:03", "no time zone: give a date, 2014-03-10, or a moment"),
        ("2026-02-30", "day is out of range for month: give a date"),
        ("2026-11-30T25:00Z", "hour must be in 0..23: give a date"),
        ("2026-11-30T01:0203Z", "give a date, 2014-03-10, or a moment with its zone"),
        ("9999-12-31T24:00Z", "give a date, 2014-03-10, or a moment with its zone"),
        ("2026-11", "give a date"),
        ("30/11/2026", "give a date"),
        ("yesterday", "give a date"),
        ("", "give a date"),
        ("\uff12\uff10\uff12\uff16-11-30", "give a date"),
        ("2026-11-30\n", "give a date"),
    ],
)
def test_what_is_no_time_is_refused_with_what_to_give(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_time(text)
