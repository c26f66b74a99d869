"""An application behind the edge, served on 127.0.0.1, and what it told."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from support.waiting import wait_until

from k2lib import K2
from k2lib.api.middleware import add_middleware
from k2lib.api.options import ApiKey, ApiOptions
from k2lib.api.security import JsonRoute, new_key, parse_keys
from k2lib.api.server import ServedApp, bind
from k2lib.events import Event, RequestDone


class Edge:
    """A served application whose `/v1/held` waits until it is let go."""

    def __init__(self, k2: K2, options: ApiOptions) -> None:
        self.events: list[Event] = []
        self.let_go = threading.Event()
        self.now = 0.0
        app = _app(self.let_go)
        add_middleware(
            app,
            k2=k2,
            options=options,
            on_event=self.events.append,
            clock=lambda: self.now,
        )
        self.app = ServedApp(app, bind("127.0.0.1", 0, options=options))
        self.client = httpx2.Client(base_url=self.app.url, timeout=30, trust_env=False)

    @property
    def ws_url(self) -> str:
        return self.app.url.replace("http", "ws") + "/v1/stream"

    def told(self, request_id: str) -> dict[str, Any]:
        """Wait for what is logged of a request, and return it."""
        wait_until(lambda: self._of(request_id))
        return self._of(request_id)[0].to_json()

    def _of(self, request_id: str) -> list[RequestDone]:
        done = (event for event in self.events if isinstance(event, RequestDone))
        return [event for event in done if event.request_id == request_id]

    def metric(self, line: str, **headers: str) -> float:
        """Return a metric by its name and labels; 0 where it is not there."""
        for told in self.client.get("/metrics", headers=headers).text.splitlines():
            if told.startswith(f"{line} "):
                return float(told.rpartition(" ")[2])
        return 0.0


@contextmanager
def served(k2: K2, **options: Any) -> Iterator[Edge]:
    """Serve an application with these options."""
    edge = Edge(k2, ApiOptions(**options))
    try:
        yield edge
    finally:
        edge.let_go.set()
        edge.client.close()
        edge.app.close()


def connected(edge: Edge, source: str = "127.0.0.1") -> socket.socket:
    """Open a connection to a served application, from an address of this machine."""
    host, port = edge.app.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60, source_address=(source, 0))


def made_key(name: str) -> tuple[str, tuple[ApiKey, ...]]:
    """Return a key, and the keys of a server that knows it."""
    key, entry = new_key(name)
    return key, parse_keys(entry)


def _app(let_go: threading.Event) -> FastAPI:
    app = FastAPI()
    app.router.route_class = JsonRoute

    @app.get("/v1/quick")
    async def quick() -> dict[str, bool]:
        return {"quick": True}

    @app.post("/v1/quick")
    async def taken(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/v1/held")
    def held() -> dict[str, bool]:
        return {"held": let_go.wait(30)}

    @app.get("/v1/parts")
    async def parts() -> StreamingResponse:
        return StreamingResponse(_parts(let_go), media_type="text/plain")

    @app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("the reason that stays in the log")

    return app


async def _parts(let_go: threading.Event) -> AsyncIterator[bytes]:
    yield b"first "
    deadline = time.monotonic() + 30
    while not let_go.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    yield b"last"
