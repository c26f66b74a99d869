"""A call takes no longer than its limit, however it spends the time."""

import threading

import pytest

from k2lib.resilience.time_limit import TimeLimit

SOON_S = 0.05


def test_what_a_call_returns_comes_through() -> None:
    assert TimeLimit(60).call(divmod, 7, 2) == (3, 1)


def test_what_a_call_raises_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        TimeLimit(60).call(divmod, 7, 0)


def test_a_call_that_takes_too_long_is_given_up() -> None:
    over = threading.Event()
    with pytest.raises(TimeoutError, match=r"^no answer within 0\.05 s$"):
        TimeLimit(SOON_S).call(over.wait)
    over.set()


def test_calls_that_were_given_up_are_not_more_than_so_many() -> None:
    over, began = threading.Event(), threading.Event()
    limit = TimeLimit(SOON_S, most=1)
    with pytest.raises(TimeoutError):
        limit.call(over.wait)
    with pytest.raises(TimeoutError):
        limit.call(began.set)
    assert not began.is_set()
    over.set()
    limit.seconds = 60
    limit.call(began.set)
    assert began.is_set()
