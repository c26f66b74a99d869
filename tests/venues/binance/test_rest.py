"""REST over hosts that fail, refuse and limit: one answer, or one clear error."""

import json
import re
import threading
import time

import pytest
from support.fake_clock import FakeClock
from support.ports import dripping_server, silent_port
from support.rest_hosts import Answer, RestHost, asking, refusal, rest_of, serving

from k2lib.events import Event, RestFailed
from k2lib.resilience.breaker import Circuit
from k2lib.venues.base import VenueRefusedError, VenueUnavailableError
from k2lib.venues.binance.rest import NotOfferedError, Rest, clock_offset_s

TRADES = "/api/v3/historicalTrades"
AGGREGATES = "/api/v3/aggTrades"
USED = "X-MBX-USED-WEIGHT-1M"


def ask(rest: Rest, path: str = TRADES, weight: int = 1) -> str:
    """Return who answered."""
    return rest.get(path, {"symbol": "BTCUSDT"}, weight=weight).host


def test_the_first_host_answers_in_microseconds() -> None:
    first, second = RestHost(Answer(body=b"[1]")), RestHost()
    with asking(first, second) as rest:
        reply = rest.get(TRADES, {"symbol": "BTCUSDT", "fromId": 5}, weight=25)
    assert (reply.body, reply.host, reply.exchange) == (b"[1]", first.url, None)
    assert first.asked == [(TRADES, {"symbol": "BTCUSDT", "fromId": "5"})]
    assert first.headers[0]["X-MBX-TIME-UNIT"] == "MICROSECOND"
    assert second.asked == []


@pytest.mark.parametrize(
    "bad",
    [
        Answer(500),
        Answer(503),
        Answer(302, headers={"Location": "http://127.0.0.1:1/"}),
        Answer(429),
        Answer(418),
        Answer(403),
        Answer(451),
        Answer(404),
        Answer(400, b"<html>"),
        Answer(400, b'{"code":"\xff"}'),
        refusal(-1003),
        refusal(-1007, status=408),
        Answer(200, b"no gzip", {"Content-Encoding": "gzip"}),
        Answer(hangs_up=True),
    ],
)
def test_another_host_answers_where_one_does_not(bad: Answer) -> None:
    first, second = RestHost(bad), RestHost()
    with asking(first, second) as rest:
        assert ask(rest) == second.url


def test_nobody_at_the_address_is_told_with_a_reason() -> None:
    events: list[Event] = []
    first, second = RestHost(), RestHost(Answer(hangs_up=True))
    with asking(first) as rest:
        gone = first.url
    with asking(second, events=events) as rest, pytest.raises(VenueUnavailableError) as told:
        ask(rest)
    assert second.url in str(told.value) and gone != second.url
    assert [type(event) for event in events] == [RestFailed]
    assert len(second.asked) == 2


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_host_that_swallows_the_handshake_is_given_up_in_time(scheme: str) -> None:
    good = RestHost()
    with silent_port() as port, serving(good):
        urls = (f"{scheme}://127.0.0.1:{port}", good.url)
        events: list[Event] = []
        with rest_of(urls, events, timeout_s=2.0) as rest:
            assert ask(rest) == good.url
    assert [type(event) for event in events] == [RestFailed]


def test_a_host_that_answers_byte_by_byte_is_given_up_in_time() -> None:
    good = RestHost()
    with dripping_server() as server, serving(good):
        urls = (f"http://127.0.0.1:{server.port}", good.url)
        events: list[Event] = []
        with rest_of(urls, events, timeout_s=2.0) as rest:
            assert ask(rest) == good.url
    assert events == [RestFailed("BINANCE", urls[0], "no answer within 1 s")]


def test_hosts_that_never_answer_share_the_time_of_one_answer() -> None:
    with silent_port() as first, silent_port() as second:
        urls = [f"http://127.0.0.1:{port}" for port in (first, second)]
        with rest_of(urls, [], timeout_s=1.0) as rest, pytest.raises(VenueUnavailableError) as told:
            ask(rest)
    waits = [float(text) for text in re.findall(r"within ([\d.]+) s", str(told.value))]
    assert len(waits) == 2 and waits[0] == 0.5 and sum(waits) <= 1.0


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_venue_that_never_answers_is_asked_once_and_told(scheme: str) -> None:
    with silent_port() as port:
        url = f"{scheme}://127.0.0.1:{port}"
        with rest_of([url], [], timeout_s=0.3) as rest:
            began = time.monotonic()
            with pytest.raises(VenueUnavailableError) as told:
                ask(rest)
            assert time.monotonic() - began < 2 * 0.3
    assert str(told.value) == f"no REST host answers ({url}: no answer within 0.3 s)"


def test_three_failures_open_the_breaker_for_its_rest() -> None:
    host, clock = RestHost(Answer(500)), FakeClock()
    with asking(host, clock=clock) as rest:
        for _ in range(3):
            with pytest.raises(VenueUnavailableError, match="HTTP 500"):
                ask(rest)
        with pytest.raises(VenueUnavailableError, match=f"{host.url}: HTTP 500") as told:
            ask(rest)
        assert (len(host.asked), told.value.wait_s) == (3, 30.0)
        clock.advance(30.0)
        with pytest.raises(VenueUnavailableError, match="HTTP 500"):
            ask(rest)


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [({"Retry-After": "7"}, 7.0), ({}, 60.0), ({"Retry-After": "\u00b2"}, 60.0)],
)
@pytest.mark.parametrize("status", [429, 418])
def test_a_limited_host_rests_as_long_as_it_asks(
    status: int, headers: dict[str, str], pause_s: float
) -> None:
    host, clock = RestHost(Answer(status, headers=headers), Answer()), FakeClock()
    with asking(host, clock=clock) as rest:
        for _ in range(2):
            with pytest.raises(VenueUnavailableError) as told:
                ask(rest)
            assert told.value.wait_s == pause_s
        assert len(host.asked) == 1
        clock.advance(pause_s)
        assert ask(rest) == host.url


@pytest.mark.parametrize("status", [403, 451])
def test_a_host_that_bans_us_is_not_asked_again(status: int) -> None:
    host, clock = RestHost(Answer(status)), FakeClock()
    with asking(host, clock=clock) as rest:
        for _ in range(2):
            with pytest.raises(VenueUnavailableError, match=f"{host.url}: HTTP {status}"):
                ask(rest)
            clock.advance(100_000.0)
    assert len(host.asked) == 1


def test_a_path_that_a_host_does_not_have_is_remembered() -> None:
    first = RestHost(by_path={TRADES: Answer(404)})
    second = RestHost()
    with asking(first, second) as rest:
        assert [ask(rest), ask(rest)] == [second.url] * 2
        assert ask(rest, AGGREGATES) == first.url
    assert first.paths == [TRADES, AGGREGATES]


def test_what_no_host_offers_is_not_asked_for_again() -> None:
    first, second = RestHost(Answer(404)), RestHost(Answer(404))
    with asking(first, second) as rest:
        for _ in range(2):
            with pytest.raises(NotOfferedError, match=f"{TRADES} is offered by none"):
                ask(rest)
    assert len(first.asked) == len(second.asked) == 1


def test_a_path_may_be_offered_later() -> None:
    clock = FakeClock()
    host = RestHost(Answer(404), Answer(body=b"[]"))
    with asking(host, clock=clock, offer_again_s=60.0) as rest:
        with pytest.raises(NotOfferedError):
            ask(rest)
        clock.advance(59)
        with pytest.raises(NotOfferedError):
            ask(rest)
        clock.advance(1)
        assert ask(rest) == host.url
    assert len(host.asked) == 2


def test_a_host_that_is_down_may_still_offer_it() -> None:
    with (
        asking(RestHost(Answer(500)), RestHost(Answer(404))) as rest,
        pytest.raises(VenueUnavailableError),
    ):
        ask(rest)


@pytest.mark.parametrize("answer", [Answer(404), refusal(-1121)])
def test_an_answer_without_data_closes_the_breaker_of_a_host_that_is_back(answer: Answer) -> None:
    host, clock = RestHost(*[Answer(500)] * 3, answer), FakeClock()
    with asking(host, clock=clock, breaker_rest_s=30.0, offer_again_s=5.0) as rest:
        for _ in range(3):
            with pytest.raises(VenueUnavailableError):
                ask(rest)
        clock.advance(30)
        for _ in range(2):
            with pytest.raises((NotOfferedError, VenueRefusedError)):
                ask(rest)
            clock.advance(6)
        assert rest.hosts.breakers[host.url].state is Circuit.CLOSED
    assert len(host.asked) == 5


def test_a_refused_question_is_asked_of_no_other_host() -> None:
    first, second = RestHost(refusal(-1121, "Invalid symbol.")), RestHost()
    told = rf"{TRADES}: HTTP 400, Invalid symbol\. \(code -1121\)"
    with asking(first, second) as rest, pytest.raises(VenueRefusedError, match=told):
        ask(rest)
    assert second.asked == []


def waits_until_stopped(rest: Rest, stop: threading.Event, weight: int) -> bool:
    """Say whether a question of this weight waits, and ends as soon as it is to stop."""
    told: list[str] = []

    def wait() -> None:
        try:
            told.append(ask(rest, weight=weight))
        except VenueUnavailableError as exc:
            told.append(str(exc))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.1)
    waited, began = thread.is_alive(), time.monotonic()
    stop.set()
    thread.join()
    assert time.monotonic() - began < 30.0
    return waited and told == ["stopped"]


def test_the_used_weight_that_a_host_tells_is_believed() -> None:
    host, stop = RestHost(Answer(headers={USED: "4990"}), Answer()), threading.Event()
    with asking(host, clock=FakeClock(), stop=stop) as rest:
        assert ask(rest) == ask(rest, weight=10)
        assert waits_until_stopped(rest, stop, 1)
    assert len(host.asked) == 2


def test_the_weight_is_free_again_after_a_minute() -> None:
    host, clock = RestHost(Answer(headers={USED: "4990"}), Answer()), FakeClock()
    with asking(host, clock=clock) as rest:
        ask(rest)
        clock.advance(60.0)
        assert ask(rest, weight=25) == host.url


def test_a_stop_ends_the_wait_for_weight_at_once() -> None:
    host, stop = RestHost(), threading.Event()
    with asking(host, clock=FakeClock(), stop=stop) as rest:
        ask(rest, weight=5000)
        assert waits_until_stopped(rest, stop, 1)
    assert len(host.asked) == 1


def test_a_host_of_another_exchange_is_banned() -> None:
    named = {"X-K2-Exchange": "BINANCE_SIM"}
    first, second = RestHost(Answer(headers=named), Answer(500)), RestHost()
    with asking(first, second) as rest:
        assert rest.get(TRADES, {}, weight=1).exchange == "BINANCE_SIM"
        with pytest.raises(VenueUnavailableError, match="this is BINANCE, not BINANCE_SIM"):
            ask(rest)
        assert set(rest.hosts.banned) == {second.url}


def test_the_clocks_distance_is_told_in_seconds() -> None:
    body = json.dumps({"serverTime": 1_770_000_000_000_000}).encode()
    times = iter([1_770_000_001.0, 1_770_000_003.0])
    with asking(RestHost(Answer(body=body))) as rest:
        assert clock_offset_s(rest, now=lambda: next(times)) == pytest.approx(2.0)
