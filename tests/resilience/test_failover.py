"""The next host is another one at once, and none that is open, resting or banned."""

import pytest
from support.fake_clock import FakeClock

from k2lib.errors import ConfigError
from k2lib.resilience.breaker import Circuit, Memory
from k2lib.resilience.failover import Hosts

A, B, C = "wss://a:9443", "wss://a:443", "wss://c"


def fail(hosts: Hosts, url: str, times: int) -> None:
    for _ in range(times):
        hosts.failed(url)


def test_the_first_host_is_chosen_while_it_is_well() -> None:
    hosts = Hosts([A, B, C], clock=FakeClock())
    hosts.succeeded(A)
    assert [hosts.pick(), hosts.pick()] == [A, A]


def test_a_failed_host_gives_way_to_the_next_at_once() -> None:
    hosts = Hosts([A, B, C], clock=FakeClock())
    tried = []
    for _ in range(5):
        url = hosts.pick()
        assert url is not None
        tried.append((url, hosts.all_tried()))
        hosts.failed(url)
    assert tried == [(A, False), (B, False), (C, False), (A, True), (B, True)]


def test_a_success_makes_the_first_host_wanted_again() -> None:
    hosts = Hosts([A, B], clock=FakeClock())
    hosts.failed(A)
    hosts.succeeded(B)
    assert not hosts.all_tried() and hosts.pick() == A


def test_a_single_host_is_backed_off_from_its_first_failure() -> None:
    hosts = Hosts([A], clock=FakeClock())
    assert not hosts.all_tried()
    hosts.failed(A)
    assert hosts.all_tried() and hosts.pick() == A


def test_in_each_round_every_host_is_tried_before_the_next_wait() -> None:
    hosts = Hosts([A, B], clock=FakeClock())
    fail(hosts, A, 1)
    fail(hosts, B, 1)
    assert hosts.all_tried()
    hosts.begin_round()
    assert not hosts.all_tried() and hosts.pick() == A
    hosts.failed(A)
    assert not hosts.all_tried() and hosts.pick() == B


def test_an_open_host_does_not_hold_up_the_back_off() -> None:
    hosts = Hosts([A, B], clock=FakeClock())
    fail(hosts, A, 3)
    hosts.succeeded(B)
    assert hosts.pick() == B and not hosts.all_tried()
    hosts.failed(B)
    assert hosts.all_tried()


def test_no_host_is_chosen_while_all_are_open() -> None:
    clock = FakeClock()
    hosts = Hosts([A, B], clock=clock)
    fail(hosts, A, 3)
    clock.advance(10)
    fail(hosts, B, 3)
    assert hosts.pick() is None and hosts.all_tried() and hosts.opens_in_s() == 20
    clock.advance(20)
    assert hosts.opens_in_s() == 0 and hosts.pick() == A
    assert hosts.pick() is None and hosts.opens_in_s() == 10


def test_a_half_open_host_is_on_trial_only_while_no_other_is_closed() -> None:
    clock = FakeClock()
    hosts = Hosts([A, B], clock=clock)
    fail(hosts, A, 3)
    hosts.succeeded(B)
    clock.advance(30)
    assert hosts.pick() == B
    hosts.failed(B)
    assert hosts.pick() == A


def test_a_banned_host_is_never_chosen_again() -> None:
    clock = FakeClock()
    hosts = Hosts([A, B], clock=clock)
    hosts.ban(A, "HTTP 451")
    hosts.failed(B)
    clock.advance(1e6)
    assert hosts.pick() == B and hosts.all_tried() and hosts.banned == {A: "HTTP 451"}


def test_nothing_opens_once_all_are_banned() -> None:
    hosts = Hosts([A, B], clock=FakeClock())
    hosts.ban(A, "HTTP 451")
    hosts.ban(B, "HTTP 403")
    assert hosts.pick() is None and hosts.opens_in_s() is None


def test_a_host_rests_as_long_as_it_asked() -> None:
    clock = FakeClock()
    hosts = Hosts([A], clock=clock)
    hosts.pause(A, 120)
    hosts.pause(A, 5)
    assert hosts.pick() is None and hosts.opens_in_s() == 120
    clock.advance(120)
    assert hosts.pick() == A


def test_a_rest_longer_than_the_breakers_counts() -> None:
    hosts = Hosts([A, B], clock=FakeClock())
    fail(hosts, A, 3)
    hosts.pause(A, 60)
    hosts.pause(B, 90)
    assert hosts.opens_in_s() == 60


def test_each_change_of_a_breaker_is_told_once() -> None:
    clock = FakeClock()
    told: list[tuple[str, Circuit]] = []
    hosts = Hosts([A], clock=clock, on_change=lambda url, state: told.append((url, state)))
    fail(hosts, A, 4)
    clock.advance(30)
    assert hosts.opens_in_s() == 0
    hosts.pick()
    hosts.succeeded(A)
    hosts.succeeded(A)
    assert told == [(A, "open"), (A, "half_open"), (A, "closed")]


def test_hosts_go_on_from_the_memories_of_an_earlier_process() -> None:
    told: list[tuple[str, Circuit]] = []
    memories = {A: Memory(Circuit.OPEN, failures=3, successes=0, retry_at=1020)}
    hosts = Hosts(
        [A, B],
        clock=FakeClock(),
        memories=memories,
        on_change=lambda url, state: told.append((url, state)),
    )
    assert hosts.pick() == B and told == [(A, "open")]
    assert hosts.breakers[A].retry_at == 1020


def test_no_host_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="give at least one URL"):
        Hosts([], clock=FakeClock())
