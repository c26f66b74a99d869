"""Connections that take too much or too long are dropped before they cost the others."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from support.api_edge import Edge, served
from uvicorn.server import ServerState

from k2lib import K2
from k2lib.api.protocols import HEAD_TIMEOUT_S, MAX_HEAD_BYTES, HttpProtocol, WriteWatchdog
from k2lib.settings import Settings


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with K2(Settings(home=tmp_path / "home")) as k2, served(k2) as opened:
        yield opened


def connected(edge: Edge) -> socket.socket:
    host, port = edge.app.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


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
                sock.sendall(b"x" * MAX_HEAD_BYTES)
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
        protocol = HttpProtocol(config, ServerState(), {}, _loop=loop)
        here, there = socket.socketpair()
        with there:
            began = loop.time()
            await loop.create_connection(lambda: protocol, sock=here)
            assert protocol._head_timer is not None
            assert (
                began + HEAD_TIMEOUT_S
                <= protocol._head_timer.when()
                <= loop.time() + HEAD_TIMEOUT_S
            )
            protocol.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            assert protocol._head_timer is not None
            protocol.transport.abort()
            await asyncio.sleep(0)

    asyncio.run(work())
