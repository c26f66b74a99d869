"""The server of the HTTP API."""

import errno
import socket
import threading
from functools import partial
from typing import Final

import uvicorn
from fastapi import FastAPI

from k2lib.api.app import create_app
from k2lib.api.live.stream import LiveStream
from k2lib.api.options import ApiOptions
from k2lib.api.protocols import HttpProtocol, WebSocketProtocol
from k2lib.api.security import is_loopback
from k2lib.client import K2
from k2lib.errors import ConfigError, K2Error, reason_of
from k2lib.lifecycle import Closing

BACKLOG: Final = 512
SHUTDOWN_S: Final = 5
LONGEST_WAIT_S: Final = 3600.0


class ServedApp(Closing):
    """Serves an application on a listening socket, until closed."""

    def __init__(self, app: FastAPI, listening_socket: socket.socket) -> None:
        """Start; return once requests are answered."""
        self._socket = listening_socket
        self.url = _url(listening_socket)
        self._ended = threading.Event()
        self._server = _Server(app)
        self._thread = threading.Thread(target=self._run, name="k2-api", daemon=True)
        self._thread.start()
        self._server.startup_done.wait()
        if not self._server.started:
            self.close()
            raise K2Error(f"the server at {self.url} did not start: the log says why")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the server, or the given time; return whether it still runs."""
        # With Polars imported, Ctrl-C restarts a wait without a timeout; and a thread whose
        # join was interrupted counts as ended in Python.
        while not (over := self._ended.wait(LONGEST_WAIT_S if seconds is None else seconds)):
            if seconds is not None:
                break
        return not over

    def close(self) -> None:
        """End the streams and the requests, and stop listening."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended.set()
            self._server.startup_done.set()


def bind(host: str, port: int, *, options: ApiOptions) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address is not available, or is open to other machines without a key set.
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
    listening_socket = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening_socket.bind(address)
        listening_socket.listen(BACKLOG)
    except OSError as exc:
        listening_socket.close()
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"K2_API_HOST={host} is no address of this machine") from exc
        raise ConfigError(
            f"K2_API_PORT={port}: cannot listen on {host}:{port}: {exc.strerror}. "
            "End what uses it, or set another port"
        ) from exc
    return listening_socket


class _Server(uvicorn.Server):
    """Ends the live stream before it ends the other connections."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(_config(app))
        self._live_stream: LiveStream = app.state.live_stream
        self.startup_done = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.startup_done.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live_stream.end()
        await super().shutdown(sockets)


def _config(app: FastAPI) -> uvicorn.Config:
    options: ApiOptions = app.state.options
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(HttpProtocol, options=options),  # type: ignore[arg-type]
        ws=partial(WebSocketProtocol, options=options),  # type: ignore[arg-type]
        ws_max_size=options.stream_message_bytes,
        # A frame is made once for all clients: compressing it for each would cost more.
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        # Anybody can send a forwarded header: the client is the address that connects.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=options.idle_s,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def _url(listening_socket: socket.socket) -> str:
    host, port = listening_socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ApiServer(ServedApp):
    """Serves the API of a home until closed; close it before the home.

    Args:
        port: 0 takes a free one; `url` has it.
    Raises:
        ConfigError: the port is in use, or other machines reach the host and no key is set.
    """

    def __init__(
        self, k2: K2, *, host: str = "127.0.0.1", port: int = 0, options: ApiOptions | None = None
    ) -> None:
        options = ApiOptions() if options is None else options
        listening_socket = bind(host, port, options=options)
        try:
            app = create_app(k2, options=options)
        except BaseException:
            listening_socket.close()
            raise
        super().__init__(app, listening_socket)
