"""Waiting for a fact without guessing how long it takes."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_QUIET = threading.Event()


def wait_until(fact: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once the fact holds; fail with its name if it does not in time."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {fact}"
        _QUIET.wait(0.02)


def first(ask: Callable[[], T], fact: Callable[[T], object]) -> T:
    """Ask until the fact holds of an answer, and return that answer."""
    answers: list[T] = []

    def holds() -> object:
        answers[:] = [ask()]
        return fact(answers[0])

    wait_until(holds)
    return answers[0]
