"""One connection: who is let in, how it subscribes, and where each frame goes."""

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
from support.ports import silent_port
from support.stream_hosts import (
    BTC_TRADES,
    Refuse,
    StreamHost,
    goes_on,
    is_silent,
    sends,
    trade_frame,
    until,
)
from support.tls import LONG_AGO, Tls

from k2lib.feed.connections import Inbox
from k2lib.venues.base import HostRefusedError, StreamSubscription
from k2lib.venues.binance.connection import BinanceConnection, open_connection

PLAIN = ssl.create_default_context()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@contextlib.asynccontextmanager
async def connected(
    host: StreamHost, inbox: Inbox | None = None, *, exchange: str = "BINANCE"
) -> AsyncIterator[BinanceConnection]:
    inbox = Inbox(100_000) if inbox is None else inbox
    async with host:
        one = await open_connection(
            host.url, exchange=exchange, tls=PLAIN, inbox=inbox, on_data=lambda: None
        )
        try:
            yield one
        finally:
            await one.close()


async def refusal_of(host: StreamHost, tls: ssl.SSLContext = PLAIN) -> HostRefusedError:
    async with host:
        with pytest.raises(HostRefusedError) as refused:
            await open_connection(
                host.url, exchange="BINANCE", tls=tls, inbox=Inbox(1), on_data=lambda: None
            )
    return refused.value


def replying(*replies: dict[str, Any]) -> Any:
    """Return a script that answers a SUBSCRIBE with these instead."""

    async def script(host: StreamHost, ws: Any) -> None:
        await ws.recv()
        for reply in replies:
            await ws.send(json.dumps(reply))
        await ws.wait_closed()

    return script


@pytest.mark.parametrize(
    ("status", "headers", "lasting", "pause_s"),
    [
        (451, {}, True, None),
        (403, {}, True, None),
        (429, {"Retry-After": "12"}, False, 12.0),
        (418, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, False, 60.0),
        (429, {}, False, 60.0),
        (503, {"Retry-After": "3"}, False, 3.0),
        (503, {}, False, None),
        (404, {}, False, None),
    ],
)
@in_loop
async def test_a_status_says_how_long_to_stay_away(
    status: int, headers: dict[str, str], lasting: bool, pause_s: float | None
) -> None:
    refused = await refusal_of(StreamHost(Refuse(status, headers)))
    assert (refused.status, refused.lasting, refused.pause_s) == (status, lasting, pause_s)
    assert str(refused) == f"HTTP {status}"


@in_loop
async def test_a_certificate_of_an_unknown_authority_is_refused_for_good() -> None:
    refused = await refusal_of(StreamHost(tls=Tls().server()))
    assert refused.lasting and "certificate" in str(refused)
    assert "unable to get local issuer certificate" in str(refused)


@in_loop
async def test_an_expired_certificate_is_refused_for_good() -> None:
    tls = Tls()
    refused = await refusal_of(StreamHost(tls=tls.server(**LONG_AGO)), tls.client())
    assert refused.lasting and str(refused) == "certificate: certificate has expired"


@in_loop
async def test_a_certificate_of_another_name_is_refused_for_good() -> None:
    tls = Tls()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.authority.issue_cert("localhost").configure_cert(context)
    refused = await refusal_of(StreamHost(tls=context), tls.client())
    assert refused.lasting and "127.0.0.1" in str(refused)


@in_loop
async def test_tls_to_a_host_without_it_may_be_tried_again() -> None:
    async with StreamHost() as host:
        with pytest.raises(HostRefusedError) as refused:
            await open_connection(
                host.url.replace("ws:", "wss:"),
                exchange="BINANCE",
                tls=PLAIN,
                inbox=Inbox(1),
                on_data=lambda: None,
            )
    assert not refused.value.lasting


@in_loop
async def test_nobody_at_the_address_may_be_tried_again() -> None:
    async with StreamHost() as host:
        url = host.url
    with pytest.raises(HostRefusedError, match="Connect") as refused:
        await open_connection(
            url, exchange="BINANCE", tls=PLAIN, inbox=Inbox(1), on_data=lambda: None
        )
    assert not refused.value.lasting


@pytest.mark.parametrize("scheme", ["wss", "ws"])
@in_loop
async def test_a_host_that_swallows_the_handshake_is_given_up_in_time(scheme: str) -> None:
    with silent_port() as port, pytest.raises(HostRefusedError, match="timed out") as refused:
        async with asyncio.timeout(60):
            await open_connection(
                f"{scheme}://127.0.0.1:{port}",
                exchange="BINANCE",
                tls=PLAIN,
                inbox=Inbox(1),
                on_data=lambda: None,
                open_s=0.1,
            )
    assert not refused.value.lasting


@pytest.mark.parametrize(
    ("said", "wanted"), [("BINANCE_SIM", "BINANCE"), (None, "BINANCE_SIM"), ("X", "BINANCE_SIM")]
)
@in_loop
async def test_a_host_of_another_exchange_is_refused_for_good(
    said: str | None, wanted: str
) -> None:
    with pytest.raises(
        HostRefusedError, match=f"this is {said or 'BINANCE'}, not {wanted}"
    ) as refused:
        async with connected(StreamHost(exchange=said), exchange=wanted):
            pass
    assert refused.value.lasting


@in_loop
async def test_a_host_may_say_that_it_is_the_wanted_exchange() -> None:
    async with connected(StreamHost(exchange="BINANCE_SIM"), exchange="BINANCE_SIM") as one:
        await one.subscribe([BTC_TRADES])


@pytest.mark.parametrize(
    "reply",
    [
        {"code": 2, "msg": "Invalid request: unknown variant"},
        {"error": {"code": 2, "msg": "Invalid request: unknown variant"}, "id": 1},
        {"error": {"code": 2, "msg": "Invalid request: unknown variant"}, "id": None},
    ],
)
@in_loop
async def test_an_error_reply_is_a_refusal_that_says_why(reply: dict[str, Any]) -> None:
    async with connected(StreamHost(replying(reply))) as one:
        with pytest.raises(HostRefusedError, match=r"Invalid request: unknown variant \(code 2\)"):
            await one.subscribe([BTC_TRADES])


@in_loop
async def test_a_strange_reply_does_not_end_the_reading() -> None:
    strange = [{"error": None, "id": 1}, {"result": None, "id": ["x"]}, {"result": []}]
    async with connected(StreamHost(replying(*strange))) as one:
        await one.subscribe([BTC_TRADES])
        assert not one.ended


@in_loop
async def test_an_end_while_subscribing_is_a_refusal() -> None:
    async def goes(host: StreamHost, ws: Any) -> None:
        await ws.recv()

    async with connected(StreamHost(goes)) as one:
        with pytest.raises(HostRefusedError, match="closed while subscribing"):
            await one.subscribe([BTC_TRADES])


@pytest.mark.slow
@in_loop
async def test_1500_streams_are_asked_for_in_few_messages_at_the_allowed_pace() -> None:
    async def replies(host: StreamHost, ws: Any) -> None:
        while True:
            await host.replies(ws)

    wanted = [StreamSubscription(f"S{number}USDT", "trade") for number in range(1500)]
    names = [f"s{number}usdt@trade" for number in range(1500)]
    host = StreamHost(replies)
    async with host, contextlib.AsyncExitStack() as stack:
        for some in (wanted[:1024], wanted[1024:]):
            one = await open_connection(
                host.url, exchange="BINANCE", tls=PLAIN, inbox=Inbox(1), on_data=lambda: None
            )
            stack.push_async_callback(one.close)
            before, began = len(host.heard), time.monotonic()
            await one.subscribe(some)
            # Five within a second, from the start: that one was heard late lets none come early.
            assert all(when - began > 0.9 for when, _ in host.heard[before:][5:])
    assert sorted(host.subscribed) == sorted(names) and len(host.heard) == 9


GARBAGE = (
    b'{"stream":"',
    b"{",
    b"\xff\xfe",
    b'"\xff"',
    b"[1,2]",
    b"17",
    b'{"e":"trade","id":5}',
    b"[" * 5000,
    b"",
)


@in_loop
async def test_what_nobody_understands_goes_to_the_inbox_as_it_is() -> None:
    inbox = Inbox(100)
    async with connected(StreamHost(sends(*GARBAGE, trade_frame(1))), inbox) as one:
        await one.subscribe([BTC_TRADES])
        await until(lambda: len(inbox) == len(GARBAGE) + 1)
        assert not one.ended and one.frames == 2
    arrived = inbox.take(1.0, linger_s=0.0, enough=1)
    assert tuple(arrived.frames) == (*GARBAGE, trade_frame(1).encode())


@pytest.mark.parametrize(
    "word",
    [
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}',
        '{"e":"serverShutdown","E":1}',
    ],
)
@in_loop
async def test_the_hosts_word_that_it_goes_is_heard_in_both_forms(word: str) -> None:
    inbox = Inbox(100)
    async with connected(StreamHost(sends(word)), inbox) as one:
        await one.subscribe([BTC_TRADES])
        assert await one.over == "serverShutdown"
        assert not one.ended and not one.has_data.is_set()
    assert len(inbox) == 0


@pytest.mark.slow
@in_loop
async def test_a_full_inbox_makes_the_host_wait_and_loses_nothing() -> None:
    # Random text, because what is alike takes hardly any room on the way.
    count, draw = 1_500, random.Random(7)
    frames = [trade_frame(number, draw.randbytes(8_000).hex()) for number in range(count)]
    inbox, host = Inbox(10), StreamHost(sends(*frames))
    async with connected(host, inbox) as one:
        await one.subscribe([BTC_TRADES])
        sent = -1
        while sent != host.sent or inbox.waited_s < 0.1:
            sent = host.sent
            await asyncio.sleep(0.05)
        assert host.sent < count and len(inbox) == 10
        came: list[bytes] = []
        while len(came) < count:
            came += inbox.take(0.0, linger_s=0.0, enough=1).frames
            await asyncio.sleep(0)
    assert came == [frame.encode() for frame in frames]


@in_loop
async def test_a_frame_over_the_limit_ends_the_connection() -> None:
    async with connected(StreamHost(sends("x" * 1_100_000))) as one:
        await one.subscribe([BTC_TRADES])
        assert await one.over
        assert one.ended


@pytest.mark.slow
@in_loop
async def test_closing_does_not_wait_long_for_a_deaf_host() -> None:
    async def deaf(host: StreamHost, ws: Any) -> None:
        await host.replies(ws)
        ws.transport.pause_reading()
        await goes_on(host, ws)

    inbox, began = Inbox(10), 0.0
    async with connected(StreamHost(deaf), inbox) as one:
        await one.subscribe([BTC_TRADES])
        await until(lambda: len(inbox) == 10)
        began = time.monotonic()
    assert time.monotonic() - began < 30.0


@in_loop
async def test_the_first_frame_of_data_is_told_once() -> None:
    told: list[int] = []
    async with StreamHost(sends(*[trade_frame(n) for n in range(5)], then=is_silent)) as host:
        one = await open_connection(
            host.url,
            exchange="BINANCE",
            tls=PLAIN,
            inbox=Inbox(10),
            on_data=lambda: told.append(1),
        )
        await one.subscribe([BTC_TRADES])
        await until(lambda: one.frames == 5)
        await one.close()
    assert told == [1] and one.has_data.is_set()
