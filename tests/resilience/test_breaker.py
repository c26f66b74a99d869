"""A breaker opens after failures, rests, tries, and closes after successes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_clock import FakeClock

from k2lib.errors import RecordError
from k2lib.resilience.breaker import Breaker, Circuit, Memory, steady_wall_clock

STEP = st.one_of(
    st.sampled_from(["failed", "succeeded", "allows"]),
    st.sampled_from([0.5, 9.5, 10.0, 29.5, 30.0]),
)


def opened(clock: FakeClock) -> Breaker:
    breaker = Breaker(clock=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def half_opened(clock: FakeClock) -> Breaker:
    breaker = opened(clock)
    clock.advance(30)
    return breaker


def test_breaker_opens_after_three_failures() -> None:
    clock = FakeClock()
    breaker = Breaker(clock=clock)
    breaker.failed()
    breaker.failed()
    assert breaker.state is Circuit.CLOSED and breaker.allows() and breaker.retry_at is None
    breaker.failed()
    assert breaker.state is Circuit.OPEN and not breaker.allows() and breaker.retry_at == 1030


def test_breaker_counts_only_failures_in_a_row() -> None:
    breaker = Breaker(clock=FakeClock())
    for told in [breaker.failed, breaker.failed, breaker.succeeded] * 3:
        told()
    assert breaker.state is Circuit.CLOSED


def test_breaker_lets_one_trial_through_after_its_rest() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(29.9)
    assert not breaker.allows()
    clock.advance(0.1)
    assert breaker.state is Circuit.HALF_OPEN
    assert breaker.allows() and not breaker.allows()


def test_breaker_closes_after_two_successes() -> None:
    breaker = half_opened(FakeClock())
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state is Circuit.HALF_OPEN
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state is Circuit.CLOSED and breaker.allows() and breaker.allows()


def test_breaker_opens_again_when_a_trial_fails() -> None:
    clock = FakeClock()
    breaker = half_opened(clock)
    breaker.succeeded()
    breaker.failed()
    assert breaker.state is Circuit.OPEN and breaker.retry_at == clock.now + 30
    clock.advance(30)
    breaker.succeeded()
    assert breaker.state is Circuit.HALF_OPEN


def test_breaker_gives_up_a_trial_of_which_it_hears_nothing() -> None:
    clock = FakeClock()
    breaker = half_opened(clock)
    assert breaker.allows() and breaker.retry_at == clock.now + 30
    clock.advance(30)
    assert breaker.allows()


def test_an_open_breaker_rests_no_longer_for_late_failures() -> None:
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(20)
    breaker.failed()
    breaker.succeeded()
    assert breaker.state is Circuit.OPEN and breaker.retry_at == 1030


def test_breaker_goes_on_from_its_memory() -> None:
    clock = FakeClock()
    memory = Memory.from_json(opened(clock).memory.to_json())
    assert memory == Memory(Circuit.OPEN, failures=3, successes=0, retry_at=1030)
    again = Breaker(clock=clock, memory=memory)
    assert not again.allows()
    clock.advance(30)
    assert again.allows()


def test_a_passed_trial_is_remembered() -> None:
    clock = FakeClock()
    breaker = half_opened(clock)
    breaker.succeeded()
    again = Breaker(clock=clock, memory=breaker.memory)
    again.succeeded()
    assert again.state is Circuit.CLOSED


def test_a_memory_from_a_clock_ahead_rests_no_longer_than_a_rest() -> None:
    ahead = Memory(Circuit.OPEN, failures=3, successes=0, retry_at=9e9)
    assert Breaker(clock=FakeClock(), memory=ahead).retry_at == 1030


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "{}",
        '{"state":"ajar","failures":0,"successes":0,"retry_at":0}',
        '{"state":"open","failures":3,"successes":0,"retry_at":NaN}',
    ],
)
def test_a_text_that_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="no memory of a breaker"):
        Memory.from_json(text)


def test_the_steady_wall_clock_starts_at_the_wall_clock_and_is_never_set() -> None:
    wall, steady = FakeClock(5000), FakeClock(10)
    now = steady_wall_clock(wall, steady)
    wall.advance(-3600)
    steady.advance(7)
    assert now() == 5007


class Counted:
    """The same rules, by walking through all that was ever told."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str]] = []

    def state(self, now: float) -> str:
        opened_at = self._opened_at(now)
        if opened_at is None:
            return "closed"
        return "open" if now < opened_at + 30 else "half_open"

    def allows(self, now: float) -> bool:
        state = self.state(now)
        heard = [told for told in self.told if told[0] >= (self._opened_at(now) or 0) + 30]
        pending = bool(heard) and heard[-1][1] == "trial" and now < heard[-1][0] + 30
        if state == "half_open" and not pending:
            self.told.append((now, "trial"))
        return state == "closed" or (state == "half_open" and not pending)

    def _opened_at(self, now: float) -> float | None:
        opened_at: float | None = None
        run: list[str] = []
        for at, what in self.told:
            if what == "trial" or (opened_at is not None and at < opened_at + 30):
                continue
            run.append(what)
            if run[-3:] == ["failed"] * 3 or (opened_at is not None and what == "failed"):
                opened_at, run = at, []
            elif opened_at is not None and run[-2:] == ["succeeded"] * 2:
                opened_at, run = None, []
        return opened_at


@given(st.lists(STEP, max_size=60))
def test_breaker_agrees_with_a_count_of_all_that_was_told(steps: list[str | float]) -> None:
    clock, counted = FakeClock(), Counted()
    breaker = Breaker(clock=clock)
    for step in steps:
        if isinstance(step, float):
            clock.advance(step)
        elif step == "allows":
            assert breaker.allows() == counted.allows(clock.now)
        else:
            getattr(breaker, step)()
            counted.told.append((clock.now, step))
        assert breaker.state == counted.state(clock.now)
