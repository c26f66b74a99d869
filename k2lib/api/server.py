"""The server of the HTTP API."""

import socket
import threading
from typing import Final

import uvicorn
from fastapi import FastAPI

from k2lib.api.app import create_app
from k2lib.api.live.stream import Streams
from k2lib.api.options import Options
from k2lib.api.protocols import HttpProtocol, StreamProtocol
from k2lib.api.security import is_loopback
from k2lib.client import K2
from k2lib.errors import ConfigError, K2Error, reason_of
from k2lib.lifecycle import Closing

BACKLOG: Final = 512
ENDS_WITHIN_S: Final = 5
LONG_S: Final = 3600.0
LONGEST_MESSAGE: Final = 64 * 1024


class ServedApp(Closing):
    """Serves an application on a socket that listens, until closed."""

    def __init__(self, app: FastAPI, listening: socket.socket) -> None:
        """Start; return once requests are answered."""
        self._socket = listening
        self.url = _url(listening)
        self._ended = threading.Event()
        self._server = _Server(app)
        self._thread = threading.Thread(target=self._run, name="k2-api", daemon=True)
        self._thread.start()
        self._server.told.wait()
        if not self._server.started:
            self.close()
            raise K2Error(f"the server at {self.url} did not start: the log says why")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait so long, or for as long as the server runs; return whether it does."""
        # Polars has Ctrl-C restart a wait without an end; and interrupted while it joins a
        # thread, Python takes that for ended.
        while not (over := self._ended.wait(LONG_S if seconds is None else seconds)):
            if seconds is not None:
                break
        return not over

    def close(self) -> None:
        """End the streams and what is being answered, and stop listening."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()
            self._server.told.set()


def bind(host: str, port: int, *, options: Options) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the address cannot be had, or is open to other machines and no key is set.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"K2_API_HOST={host}: no such address: {reason_of(exc)}") from exc
    if not options.keys and not is_loopback(str(address[0])):
        raise ConfigError(
            f"K2_API_HOST={host} is reached from other machines: set K2_API_KEYS "
            "(`k2 api --new-key NAME` makes a key), or serve on 127.0.0.1"
        )
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as exc:
        listening.close()
        raise ConfigError(
            f"K2_API_PORT={port}: cannot listen on {host}:{port}: {exc.strerror}. "
            "End what uses it, or set another port"
        ) from exc
    return listening


class _Server(uvicorn.Server):
    """Ends the live streams by themselves before it ends connections."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(_config(app))
        self._streams: Streams = app.state.streams
        self.told = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.told.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._streams.end()
        await super().shutdown(sockets)


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws=StreamProtocol,
        ws_max_size=LONGEST_MESSAGE,
        # A frame is made once for all clients: to compress it for each would cost more.
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        # A client is who connects: what a header says of it could be anybody's word.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=ENDS_WITHIN_S,
    )


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ApiServer(ServedApp):
    """Serves the API of a home until closed, which is to be before the home is.

    Args:
        port: 0 takes a free one; `url` names it.
    Raises:
        ConfigError: the port is in use, or other machines reach the host and no key is set.
    """

    def __init__(
        self, k2: K2, *, host: str = "127.0.0.1", port: int = 0, options: Options | None = None
    ) -> None:
        options = Options() if options is None else options
        listening = bind(host, port, options=options)
        try:
            app = create_app(k2, options=options)
        except BaseException:
            listening.close()
            raise
        super().__init__(app, listening)
