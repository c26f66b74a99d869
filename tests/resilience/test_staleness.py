"""A silent stream is told once, and its return once."""

from support.fake_clock import FakeClock

from k2lib.resilience.staleness import Watchdog


def watching(clock: FakeClock, *keys: str) -> Watchdog[str]:
    dog: Watchdog[str] = Watchdog(10, clock=clock)
    for key in keys:
        dog.watch(key)
    return dog


def test_a_silent_key_is_told_once_with_how_long_it_was_silent() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT", "ETHUSDT")
    clock.advance(6)
    dog.note_data("ETHUSDT")
    clock.advance(5)
    assert dog.stale() == [("BTCUSDT", 11)]
    assert dog.stale() == []
    clock.advance(5)
    assert dog.stale() == [("ETHUSDT", 10)]


def test_a_key_that_never_had_data_is_told_too() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    clock.advance(9.9)
    assert dog.stale() == []
    clock.advance(0.1)
    assert dog.stale() == [("BTCUSDT", 10)]


def test_the_return_of_a_stale_key_is_told_once() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    clock.advance(10)
    dog.stale()
    dog.note_data("BTCUSDT")
    dog.note_data("BTCUSDT")
    assert dog.resumed() == ["BTCUSDT"]
    assert dog.resumed() == []


def test_a_prolonged_key_has_the_whole_time_again_unless_it_is_told_already() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT", "ETHUSDT")
    clock.advance(6)
    dog.note_data("ETHUSDT")
    clock.advance(4)
    assert dog.stale() == [("BTCUSDT", 10)]
    dog.prolong("BTCUSDT")
    dog.prolong("ETHUSDT")
    clock.advance(9)
    assert dog.stale() == []
    clock.advance(1)
    assert dog.stale() == [("ETHUSDT", 14)]


def test_a_short_silence_is_no_return() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    clock.advance(12)
    dog.note_data("BTCUSDT")
    assert dog.stale() == [] and dog.resumed() == []


def test_a_key_can_fall_silent_again() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    for _ in range(2):
        clock.advance(10)
        assert dog.stale() == [("BTCUSDT", 10)]
        dog.note_data("BTCUSDT")
        assert dog.resumed() == ["BTCUSDT"]


def test_a_return_is_told_before_the_next_silence() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    clock.advance(10)
    dog.stale()
    dog.note_data("BTCUSDT")
    clock.advance(10)
    assert dog.stale() == []
    assert dog.resumed() == ["BTCUSDT"]
    assert dog.stale() == [("BTCUSDT", 10)]


def test_a_key_watched_anew_is_told_again_when_it_stays_silent() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    clock.advance(10)
    dog.stale()
    dog.watch("BTCUSDT")
    clock.advance(9)
    assert dog.stale() == []
    clock.advance(1)
    assert dog.stale() == [("BTCUSDT", 20)]
    dog.note_data("BTCUSDT")
    assert dog.resumed() == ["BTCUSDT"]


def test_a_forgotten_or_unknown_key_is_not_watched() -> None:
    clock = FakeClock()
    dog = watching(clock, "BTCUSDT")
    dog.forget("BTCUSDT")
    dog.note_data("BTCUSDT")
    dog.note_data("ETHUSDT")
    clock.advance(99)
    assert dog.stale() == [] and dog.resumed() == []
