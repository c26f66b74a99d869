"""Connections that take too much or too long are dropped before they cost the others."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from support.api_edge import Edge, connected, served
from support.waiting import wait_until
from uvicorn.server import ServerState
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from k2lib import K2
from k2lib.api.options import ApiOptions
from k2lib.api.protocols import HttpProtocol, WriteWatchdog
from k2lib.settings import Settings


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with K2(Settings(home=tmp_path / "home")) as k2, served(k2) as opened:
        yield opened


def is_dropped(sock: socket.socket) -> bool:
    try:
        return sock.recv(1024) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("part", [b"X-Long: %b", b"GET /%b"])
def test_a_head_without_an_end_is_not_kept(edge: Edge, part: bytes) -> None:
    with connected(edge) as sock:
        begun = b"GET / HTTP/1.1\r\nHost: localhost\r\n" if part.startswith(b"X") else b""
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sock.sendall(begun + part.replace(b"%b", b"x" * 1000))
            for _ in range(100_000):
                sock.sendall(b"x" * ApiOptions().max_head_bytes)
    assert edge.client.get("/v1/quick").status_code == 200


def test_a_head_in_parts_is_taken(edge: Edge) -> None:
    with connected(edge) as sock:
        for byte in b"GET /v1/quick HTTP/1.1\r\nHost: localhost\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert sock.recv(1024).startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_refused_and_ended(edge: Edge) -> None:
    with connected(edge) as sock:
        sock.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert sock.recv(1024).startswith(b"HTTP/1.1 400")
        assert is_dropped(sock)


def test_who_reads_nothing_is_dropped() -> None:
    async def work() -> None:
        here, there = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=here)
        watchdog = WriteWatchdog(writer.transport, seconds=0.05)
        writer.write(b"x" * 10_000_000)
        watchdog.start()
        with there:
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        assert writer.transport.get_write_buffer_size() == 0

    asyncio.run(work())


def test_who_reads_a_little_is_not_dropped() -> None:
    async def work() -> bool:
        here, there = socket.socketpair()
        with there:
            _, writer = await asyncio.open_connection(sock=here)
            writer.write(b"x" * 10_000_000)
            WriteWatchdog(writer.transport, seconds=3600)._check(before=10_000_000)
            is_dropped = writer.transport.is_closing()
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            return is_dropped

    assert not asyncio.run(work())


def test_a_head_has_so_many_seconds_to_arrive() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(FastAPI(), log_config=None)
        protocol = HttpProtocol(config, ServerState(), {}, _loop=loop, options=ApiOptions())
        here, there = socket.socketpair()
        with there:
            began = loop.time()
            await loop.create_connection(lambda: protocol, sock=here)
            assert protocol._timer is not None
            head_s = ApiOptions().head_s
            assert began + head_s <= protocol._timer.when() <= loop.time() + head_s
            protocol.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            assert protocol._timer is not None
            protocol.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(work())


UNFINISHED = {
    "nothing": b"",
    "head": b"GET /v1/quick HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "body": b"POST /v1/quick HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{",
    "idle": b"GET /v1/quick HTTP/1.1\r\nHost: localhost\r\n\r\n",
}
GET = b"GET /v1/quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def answered(sock: socket.socket) -> bool:
    """Send a whole request, and tell whether it was answered."""
    with sock, contextlib.suppress(ConnectionError):
        sock.sendall(GET)
        return sock.recv(1024).startswith(b"HTTP/1.1 200 ")
    return False


@contextlib.contextmanager
def sending(edge: Edge, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Hold many connections of one address that have sent the same, and wait until they are."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(edge)) for _ in range(count)]
        for sock in socks:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
        yield socks


@pytest.mark.parametrize("data", UNFINISHED.values(), ids=UNFINISHED)
def test_unfinished_requests_of_one_address_leave_others_their_part(
    tmp_path: Path, data: bytes
) -> None:
    limits = {"connections": 20, "open_requests": 16, "head_s": 600.0, "body_s": 600.0}
    with (
        K2(Settings(home=tmp_path / "home")) as k2,
        served(k2, idle_s=600, **limits) as edge,
        sending(edge, data, 40),
    ):
        wait_until(lambda: not answered(connected(edge)))
        for _ in range(20):
            assert answered(connected(edge, "127.0.0.2"))


def test_a_connection_counts_no_more_when_it_ends(tmp_path: Path) -> None:
    with K2(Settings(home=tmp_path / "home")) as k2, served(k2, connections=20) as edge:
        with sending(edge, b"", 40):
            wait_until(lambda: not answered(connected(edge)))
        wait_until(lambda: answered(connected(edge)))


@pytest.mark.parametrize(
    "data",
    [
        UNFINISHED["nothing"],
        UNFINISHED["head"],
        UNFINISHED["body"].replace(b"/v1/quick", b"/health"),
        UNFINISHED["idle"],
    ],
)
@pytest.mark.parametrize("drip", [b"", b"\r\n"], ids=["silent", "dripping"])
def test_no_connection_stays_that_sends_no_whole_request(
    tmp_path: Path, data: bytes, drip: bytes
) -> None:
    limits = {"head_s": 0.3, "body_s": 0.3, "idle_s": 1}
    with (
        K2(Settings(home=tmp_path / "home")) as k2,
        served(k2, **limits) as edge,
        connected(edge) as sock,
    ):
        sock.settimeout(0.05)
        sock.sendall(data)
        wait_until(lambda: ends_while_dripping(sock, drip))


def ends_while_dripping(sock: socket.socket, drip: bytes) -> bool:
    """Send a little more, and tell whether the connection has ended."""
    try:
        sock.sendall(drip)
        return sock.recv(1024) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_streams_of_one_address_leave_others_their_part(tmp_path: Path) -> None:
    with (
        K2(Settings(home=tmp_path / "home")) as k2,
        served(k2, stream_clients=4) as edge,
        connect(edge.ws_url, proxy=None),
        connect(edge.ws_url, proxy=None),
    ):
        with pytest.raises(InvalidStatus) as refused, connect(edge.ws_url, proxy=None):
            pass
        assert refused.value.response.status_code == 503
        with connect(edge.ws_url, proxy=None, sock=connected(edge, "127.0.0.2")):
            pass
