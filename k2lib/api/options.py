"""Where the limits of the HTTP API are set, with its keys and the allowed origins."""

from dataclasses import dataclass
from typing import Final

GIB: Final = 1024**3


@dataclass(frozen=True)
class ApiKey:
    """A key of the API: its name for the log, and its SHA-256 in hexadecimal digits."""

    name: str
    sha256: str


@dataclass(frozen=True)
class ApiOptions:
    """The options of one server.

    Attributes:
        keys: the accepted keys; without any, only this machine is served.
        max_rows: rows of one answer.
        timeout_s: of one query.
        memory_bytes: of all queries together.
        rate_per_s, burst: requests of one client, on average and at once.
        concurrency: queries at a time; half of them at most of one key, and half of them POSTs,
            which can be heavy.
        wait_s: how long a request waits for its query to start before it is refused.
        open_requests: requests in any state at a time, those being sent included.
        max_body_bytes, max_url_bytes: of one request.
        body_s: how long a request's body may take to arrive.
        cors_origins: pages of these origins may send requests from a browser.
        stream_clients: connections of the live stream.
        stream_symbols: subscriptions of one connection.
        stream_queue_bytes: bytes queued for one connection before it is closed as too slow.
        heartbeat_s: the longest silence of the live stream.
    """

    keys: tuple[ApiKey, ...] = ()
    max_rows: int = 100_000
    timeout_s: float = 10.0
    memory_bytes: int = GIB
    rate_per_s: float = 100.0
    burst: int = 200
    concurrency: int = 8
    wait_s: float = 5.0
    open_requests: int = 128
    max_body_bytes: int = 64 * 1024
    max_url_bytes: int = 8 * 1024
    body_s: float = 10.0
    cors_origins: tuple[str, ...] = ()
    stream_clients: int = 100
    stream_symbols: int = 200
    stream_queue_bytes: int = 1024 * 1024
    heartbeat_s: float = 15.0
