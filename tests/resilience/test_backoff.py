"""Delays double up to their cap and are shortened at random."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from k2lib.resilience.backoff import delays

DRAWN = st.floats(0, 1, exclude_max=True)


def test_delays_double_from_five_seconds_to_a_minute() -> None:
    drawn = delays(draw=lambda: 0.0)
    assert list(islice(drawn, 6)) == [5, 10, 20, 40, 60, 60]


def test_delays_never_pass_a_cap_below_the_first() -> None:
    assert list(islice(delays(5, 2, draw=lambda: 0.0), 3)) == [2, 2, 2]


@given(DRAWN)
def test_delays_are_shortened_by_up_to_the_spread(drawn: float) -> None:
    for whole, wait in zip([5, 10, 20, 40, 60], delays(draw=lambda: drawn), strict=False):
        assert 0.8 * whole <= wait <= whole


def test_delays_draw_anew_each_time() -> None:
    draws = iter([0.0, 0.5])
    assert list(islice(delays(10, 10, spread=1.0, draw=lambda: next(draws)), 2)) == [10, 5]


def test_delays_of_two_clients_differ() -> None:
    assert list(islice(delays(), 5)) != list(islice(delays(), 5))
