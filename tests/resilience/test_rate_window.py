"""A window never lets more than its limit be spent within any span."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_clock import FakeClock

from k2lib.resilience.rate_window import RateWindow

LIMIT, SPAN_S = 10, 8.0
STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, LIMIT)), max_size=50)


def spent_when_free(steps: list[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    clock = FakeClock()
    window = RateWindow(LIMIT, SPAN_S, clock=clock)
    for pause, cost in steps:
        clock.advance(pause)
        while wait := window.wait_s(cost):
            clock.advance(wait)
        window.take(cost)
        yield clock.now, cost


@given(STEPS)
def test_no_span_ever_holds_more_than_the_limit(steps: list[tuple[float, int]]) -> None:
    spent = list(spent_when_free(steps))
    for begin, _ in spent:
        assert sum(cost for at, cost in spent if begin <= at < begin + SPAN_S) <= LIMIT


@given(STEPS, st.integers(1, LIMIT))
def test_a_wait_is_no_longer_than_needed(steps: list[tuple[float, int]], cost: int) -> None:
    clock = FakeClock(0.0)
    window = RateWindow(LIMIT, SPAN_S, clock=clock)
    for pause, taken in steps:
        clock.advance(round(pause))
        if not window.wait_s(taken):
            window.take(taken)
    wait = window.wait_s(cost)
    clock.advance(wait - 0.5)
    assert wait == 0 or window.wait_s(cost) == 0.5


def test_five_messages_a_second_wait_for_the_first_to_be_a_second_old() -> None:
    clock = FakeClock()
    window = RateWindow(5, 1.0, clock=clock)
    for _ in range(5):
        assert window.wait_s() == 0
        window.take()
        clock.advance(0.125)
    assert window.wait_s() == 0.375
    assert window.wait_s(2) == 0.5


def test_taking_what_does_not_fit_yet_is_an_error() -> None:
    window = RateWindow(5, 1.0, clock=FakeClock())
    window.take(5)
    with pytest.raises(ValueError, match="a cost of 1 fits in 1 s"):
        window.take()
    assert window.used == 5


def test_a_cost_over_the_limit_is_an_error_and_not_an_endless_wait() -> None:
    with pytest.raises(ValueError, match="6 never fits a limit of 5"):
        RateWindow(5, 1.0, clock=FakeClock()).wait_s(6)


def test_what_others_spent_counts_when_the_other_side_tells() -> None:
    clock = FakeClock()
    window = RateWindow(6000, 60.0, clock=clock)
    window.take(25)
    window.raise_to(5990)
    window.raise_to(100)
    assert window.used == 5990
    assert window.wait_s(25) == 60
    clock.advance(60)
    assert window.wait_s(25) == 0 and window.used == 0
