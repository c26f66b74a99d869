"""A silent stream is told once, and its return once; its lag grows until then."""

from support.fake_clock import FakeClock

from k2lib.resilience.staleness import LagTracker, Watchdog


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


def tracking(clock: FakeClock, *keys: str) -> LagTracker[str]:
    return LagTracker(keys, quiet_s=1.0, clock=clock)


def test_the_lag_of_a_silent_connection_grows_from_its_newest_data_on() -> None:
    clock = FakeClock()
    lags = tracking(clock, "BTCUSDT")
    lags.note_data("BTCUSDT", 0.5)
    assert lags.grown() == []
    for silent_s in (30.0, 60.0):
        clock.advance(30)
        assert lags.grown() == [("BTCUSDT", 0.5 + silent_s)]


def test_a_connection_that_never_brought_anything_is_behind_since_it_was_tried() -> None:
    clock = FakeClock()
    lags = tracking(clock, "BTCUSDT")
    clock.advance(7)
    assert lags.grown() == [("BTCUSDT", 7.0)]


def test_a_quiet_key_is_not_behind_while_others_of_its_connection_have_data() -> None:
    clock = FakeClock()
    lags = tracking(clock, "BTCUSDT", "LUNUSDT")
    lags.note_data("LUNUSDT", 0.2)
    for _ in range(100):
        clock.advance(0.9)
        lags.note_data("BTCUSDT", 0.1)
        assert lags.grown() == []


def test_a_quiet_key_alone_is_not_behind_while_pings_are_answered() -> None:
    clock = FakeClock()
    lags = tracking(clock, "LUNUSDT")
    lags.note_data("LUNUSDT", 0.2)
    for _ in range(50):
        clock.advance(0.9)
        lags.note_proof(clock.now)
        assert lags.grown() == []


def test_the_end_of_a_silence_is_told_once() -> None:
    clock = FakeClock()
    lags = tracking(clock, "BTCUSDT", "LUNUSDT")
    lags.note_data("LUNUSDT", 0.2)
    clock.advance(60)
    assert lags.grown() == [("BTCUSDT", 60.0), ("LUNUSDT", 60.2)]
    lags.note_data("BTCUSDT", 0.1)
    assert lags.grown() == [("BTCUSDT", 0.1), ("LUNUSDT", 0.2)]
    assert lags.grown() == []


def test_an_older_proof_changes_nothing() -> None:
    clock = FakeClock()
    lags = tracking(clock, "BTCUSDT")
    lags.note_data("BTCUSDT", 0.0)
    lags.note_proof(clock.now - 100)
    clock.advance(5)
    assert lags.grown() == [("BTCUSDT", 5.0)]


def test_a_clock_that_is_behind_hides_no_silence() -> None:
    clock = FakeClock()
    lags = tracking(clock, "BTCUSDT")
    lags.note_data("BTCUSDT", -3600.0)
    clock.advance(9)
    assert lags.grown() == [("BTCUSDT", 9.0)]
