"""The stream client on hosts that misbehave, over ws and over wss."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import pytest
from support.fake_clock import FakeClock
from support.stream_hosts import (
    BTC,
    BTC_TRADES,
    QUICK,
    Refuse,
    Script,
    StreamHost,
    closes_1001,
    closes_at_once,
    gives_trades,
    goes_on,
    hosted,
    is_cut,
    is_reset,
    is_silent,
    sends,
    trade_frame,
    until,
)
from support.tls import Tls

from k2lib.errors import TransientError
from k2lib.events import (
    BreakerChanged,
    ConnectionLost,
    ConnectionOpened,
    ConnectionRefused,
    ConnectionRotated,
    HostBanned,
    ReconnectWaiting,
)
from k2lib.feed.connections import Inbox
from k2lib.feed.options import StreamLimits
from k2lib.feed.stream import ReconnectingStream
from k2lib.resilience.failover import Hosts
from k2lib.resilience.rate_window import RateWindow
from k2lib.venues.binance.venue import BinanceVenue

SHUTDOWN = '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770000000000}}'


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@dataclass(frozen=True)
class Net:
    """How hosts are reached: plainly, or over TLS with a test authority."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    def host(self, *scripts: Script | Refuse) -> StreamHost:
        return StreamHost(*scripts, tls=self.server)


@pytest.fixture(scope="module", params=["ws", "wss"])
def net(request: pytest.FixtureRequest) -> Net:
    if request.param == "ws":
        return Net()
    tls = Tls()
    return Net(tls.server(), tls.client())


@in_loop
async def test_trades_arrive_from_the_first_host(net: Net) -> None:
    first, second = net.host(), net.host()
    async with hosted(first, second, tls=net.client) as run:
        await until(lambda: len(run.inbox) >= 5)
        arrived = run.inbox.take(1.0, linger_s=0.0, enough=1)
    assert arrived.frames[0] == trade_frame(1).encode()
    assert set(arrived.hosts) == {first.url} and second.attempts == 0
    assert first.paths == ["/stream?timeUnit=MICROSECOND"] and first.subscribed == [BTC]
    assert run.stream.host is None


@in_loop
async def test_a_host_that_says_451_is_banned_and_the_next_is_tried_at_once(net: Net) -> None:
    first, second = net.host(Refuse(451)), net.host()
    async with hosted(first, second, tls=net.client) as run:
        [opened] = await run.reported(ConnectionOpened)
    assert opened.host == second.url and run.slept == []
    [refused] = run.named(ConnectionRefused)
    assert (refused.host, refused.status) == (first.url, 451)
    assert run.named(HostBanned) == [HostBanned("BINANCE", first.url, "HTTP 451")]


@in_loop
async def test_no_banned_host_is_asked_again(net: Net) -> None:
    first, second = net.host(Refuse(403)), net.host(sends("x", then=is_cut), gives_trades)
    async with hosted(first, second, tls=net.client) as run:
        await run.reported(ConnectionOpened, 2)
    assert (first.attempts, second.attempts) == (1, 2)


@in_loop
async def test_the_end_of_all_hosts_names_each_with_its_reason(net: Net) -> None:
    first, second = net.host(Refuse(451)), net.host(Refuse(403))
    async with hosted(first, second, tls=net.client) as run:
        with pytest.raises(TransientError, match=r"lets us in nowhere.*HTTP 451.*HTTP 403"):
            await run.task
    assert run.slept == []


@in_loop
async def test_a_host_rests_as_long_as_it_asks(net: Net) -> None:
    host = net.host(Refuse(429, {"Retry-After": "77"}), gives_trades)
    async with hosted(host, tls=net.client) as run:
        await run.reported(ConnectionOpened)
    assert sum(run.slept) == pytest.approx(77.0)
    [*_, waiting] = run.named(ReconnectWaiting)
    assert waiting.reason == "every host rests"


@in_loop
async def test_while_one_host_rests_another_is_tried_at_once(net: Net) -> None:
    first, second = net.host(Refuse(418)), net.host()
    async with hosted(first, second, tls=net.client) as run:
        [opened] = await run.reported(ConnectionOpened)
    assert opened.host == second.url and run.slept == []


@in_loop
async def test_three_refusals_open_the_breaker(net: Net) -> None:
    host = net.host(Refuse(500), Refuse(500), Refuse(500), gives_trades)
    async with hosted(host, tls=net.client) as run:
        await until(lambda: run.named(ConnectionOpened) and len(run.inbox))
        run.stream.look()
    states = [one.state for one in run.named(BreakerChanged)]
    assert states == ["open", "half_open", "closed"]
    assert sum(run.slept[2:]) == pytest.approx(30.0)


@in_loop
async def test_the_wait_grows_with_each_failure(net: Net) -> None:
    host = net.host(*[Refuse(500)] * 8, gives_trades)
    async with hosted(host, tls=net.client) as run:
        await run.reported(ConnectionOpened)
    vain = [one.delay_s for one in run.named(ReconnectWaiting) if "failed" in one.reason]
    assert vain == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


@in_loop
async def test_after_any_outage_a_host_is_tried_within_30_seconds_of_its_return(net: Net) -> None:
    host = net.host(*[Refuse(503)] * 12, gives_trades)
    async with hosted(host, tls=net.client, limits=StreamLimits()) as run:
        await run.reported(ConnectionOpened)
    assert max(run.between_attempts()) <= 30.0


@in_loop
async def test_a_host_that_returns_alone_is_tried_as_soon(net: Net) -> None:
    dead, host = net.host(Refuse(503)), net.host(*[Refuse(503)] * 12, gives_trades)
    async with hosted(dead, host, tls=net.client, limits=StreamLimits()) as run:
        await run.reported(ConnectionOpened)
    assert max(run.between_attempts(host)) <= 30.0


@in_loop
async def test_a_connection_without_data_does_not_reset_the_wait(net: Net) -> None:
    host = net.host(*[closes_at_once] * 4, gives_trades)
    async with hosted(host, tls=net.client) as run:
        await until(lambda: len(run.inbox))
    vain = [one.delay_s for one in run.named(ReconnectWaiting) if "failed" in one.reason]
    assert vain == [0.5, 1.0, 2.0, 4.0]


@in_loop
async def test_data_reset_the_wait(net: Net) -> None:
    cut = sends(trade_frame(1), then=is_cut)
    host = net.host(Refuse(500), cut, Refuse(500), gives_trades)
    async with hosted(host, tls=net.client) as run:
        await run.reported(ConnectionOpened, 2)
    assert run.slept == [0.5, 0.5]


ENDS = {"cut": is_cut, "reset": is_reset, "closed": closes_1001}


@pytest.mark.parametrize("end", ENDS)
@in_loop
async def test_a_lost_connection_is_replaced_at_once(net: Net, end: str) -> None:
    first, second = net.host(sends(trade_frame(1), then=ENDS[end])), net.host()
    async with hosted(first, second, tls=net.client) as run:
        await run.reported(ConnectionOpened, 2)
        await until(lambda: len(run.inbox) > 5)
    [lost] = run.named(ConnectionLost)
    told = (
        "closed by the host (1001 going away)" if end == "closed" else "cut without a close frame"
    )
    assert (lost.host, lost.reason) == (first.url, told)
    assert run.stream.host is None and run.slept == [] and second.attempts == 1


@in_loop
async def test_at_a_shutdown_the_new_connection_comes_before_the_old_one_goes(net: Net) -> None:
    first = net.host(sends(trade_frame(1), SHUTDOWN, then=goes_on), gives_trades)
    async with hosted(first, tls=net.client) as run:
        [rotated] = await run.reported(ConnectionRotated)
        await until(lambda: len(first.open) == 1)
    assert first.most_open == 2
    assert (rotated.old, rotated.new) == (first.url, first.url)
    assert rotated.reason == "serverShutdown"
    assert run.named(ConnectionLost) == []


async def is_cut_after_the_next_attempt(host: StreamHost, ws: Any) -> None:
    await until(lambda: host.attempts > 1)
    ws.transport.abort()


async def refuses_while_another_stands(host: StreamHost, ws: Any) -> None:
    if len(host.open) == 1:
        await gives_trades(host, ws)


@in_loop
async def test_an_old_connection_that_ends_before_the_new_one_stands_is_lost(net: Net) -> None:
    first = sends(trade_frame(1), SHUTDOWN, then=is_cut_after_the_next_attempt)
    host = net.host(first, refuses_while_another_stands)
    async with hosted(host, tls=net.client) as run:
        await run.reported(ConnectionOpened, 2)
    assert len(run.named(ConnectionLost)) == 1
    assert run.named(ConnectionRotated) == []


@in_loop
async def test_a_connection_is_replaced_before_its_life_ends(net: Net) -> None:
    host = net.host()
    async with hosted(host, tls=net.client, limits=replace(QUICK, life_s=0.1)) as run:
        rotated = await run.reported(ConnectionRotated, 2)
    assert {one.reason for one in rotated} == {"24 hours are nearly over"}
    assert run.named(ConnectionLost) == []


@in_loop
async def test_a_stream_told_to_leave_goes_to_another_host(net: Net) -> None:
    first, second = net.host(), net.host()
    async with hosted(first, second, tls=net.client) as run:
        await run.reported(ConnectionOpened)
        run.stream.leave("BTCUSDT silent")
        [rotated] = await run.reported(ConnectionRotated)
    assert (rotated.old, rotated.new) == (first.url, second.url)
    assert rotated.reason == "BTCUSDT silent"


@in_loop
async def test_hosts_that_never_give_data_are_left_one_after_the_other(net: Net) -> None:
    first, second, third = net.host(is_silent), net.host(is_silent), net.host()
    limits = replace(QUICK, stale_s=0.05, hand_over_s=0.05)
    async with hosted(first, second, third, tls=net.client, limits=limits) as run:
        await until(lambda: run.stream.look() or len(run.inbox))
        rotated = await run.reported(ConnectionRotated, 2)
    assert [one.new for one in rotated] == [second.url, third.url]
    assert rotated[0].reason == "no data within 0.05 s"


@in_loop
async def test_a_host_that_has_nothing_to_say_is_pinged_and_answers() -> None:
    async with hosted(StreamHost(is_silent)) as run:
        assert run.stream.answered_at == float("-inf")
        await until(lambda: run.stream.answered_at > 0.0)
        assert not run.named(ConnectionLost)


@in_loop
async def test_attempts_are_limited(net: Net) -> None:
    host = net.host(*[Refuse(500)] * 2, gives_trades)
    async with hosted(host, tls=net.client, attempts=2) as run:
        await run.reported(ConnectionOpened)
    assert run.named(ReconnectWaiting)[-1].reason == "connection attempts are limited"
    assert sum(run.slept) == pytest.approx(300.0)


@in_loop
async def test_streams_that_share_the_limit_wait_for_each_other() -> None:
    async with StreamHost() as host:
        clock, urls, events = FakeClock(), (host.url,), list[Any]()
        shared = {
            "venue": BinanceVenue("BINANCE", urls, ("https://127.0.0.1:1",)),
            "hosts": Hosts(urls, clock=clock),
            "inbox": Inbox(100_000),
            "attempts": RateWindow(1, 300.0, clock=clock),
            "limits": QUICK,
            "on_event": events.append,
        }

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0.01)
            clock.advance(seconds)

        streams = [ReconnectingStream([BTC_TRADES], sleep=sleep, **shared) for _ in range(3)]
        tasks = [asyncio.create_task(one.run()) for one in streams]
        await until(lambda: len(host.open) == 3 or any(task.done() for task in tasks))
        assert not any(task.done() for task in tasks), tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_stream_holds_what_a_connection_takes() -> None:
    with pytest.raises(ValueError, match="1500 streams: a connection takes 1024"):
        ReconnectingStream(
            [BTC_TRADES] * 1500,
            venue=BinanceVenue("BINANCE", ("wss://127.0.0.1",), ("https://127.0.0.1",)),
            hosts=Hosts(["wss://127.0.0.1"], clock=FakeClock()),
            inbox=Inbox(1),
            attempts=RateWindow(1, 1.0, clock=FakeClock()),
            limits=QUICK,
            on_event=print,
        )


@in_loop
async def test_cancelling_closes_every_socket(net: Net) -> None:
    host = net.host(sends(trade_frame(1), SHUTDOWN, then=goes_on), is_silent)
    async with hosted(host, tls=net.client) as run:
        await until(lambda: len(host.open) == 2)
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
        await until(lambda: host.open == [])


@in_loop
async def test_cancelling_while_the_inbox_is_full_closes_too(net: Net) -> None:
    host = net.host()
    async with hosted(host, tls=net.client, inbox=Inbox(1)) as run:
        await until(lambda: run.inbox.waited_s > 0.01)
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)
        await until(lambda: host.open == [])


@in_loop
async def test_an_error_of_ours_ends_the_stream_and_does_not_pass_for_silence() -> None:
    class Broken:
        async def put(self, frame: bytes, host: str) -> None:
            raise RuntimeError("no disk")

    async with hosted(StreamHost(), inbox=Broken()) as run:
        with pytest.raises(RuntimeError, match="no disk"):
            await run.task
