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
    """The options of one server; `K2_API_<NAME>` sets each of them for `k2 api`.

    Attributes:
        keys: the accepted keys; without any, only this machine is served.
        max_rows, max_symbols: of one answer, and of the query that names them.
        timeout_s: of one query.
        memory_bytes: of all queries together.
        rate_per_s, burst: requests of one client, on average and at once.
        concurrency: queries at a time; half of them at most of one key, and half of them POSTs,
            which can be heavy.
        wait_s: how long a request waits for its query to start before it is refused.
        open_requests: requests in any state at a time, those being sent included; half of them at
            most of one key or address.
        replays: replays at a time; each holds up to a million rows while it merges what it reads.
        max_body_bytes, max_url_bytes, max_head_bytes: of one request.
        head_s, body_s: how long a request's head and body may take to arrive.
        connections: at a time, half of them at most of one address.
        idle_s: how long a connection may wait for its next request.
        write_s: how long a client may read nothing of what is sent to it.
        cors_origins: pages of these origins may send requests from a browser.
        stream_clients: connections of the live stream, half of them at most of one key or address.
        stream_symbols: subscriptions of one connection.
        stream_message_bytes: of one message of a client.
        stream_queue_bytes: bytes queued for one connection before the others wait for it.
        stream_stall_s: how long one connection whose queue is full may read nothing.
        stream_wait_s: how long the others wait for one that reads, until it has read its queue.
        heartbeat_s: the longest silence of the live stream.
    """

    keys: tuple[ApiKey, ...] = ()
    max_rows: int = 100_000
    max_symbols: int = 100
    timeout_s: float = 10.0
    memory_bytes: int = GIB
    rate_per_s: float = 100.0
    burst: int = 200
    concurrency: int = 8
    wait_s: float = 5.0
    open_requests: int = 256
    replays: int = 4
    max_body_bytes: int = 64 * 1024
    max_url_bytes: int = 8 * 1024
    max_head_bytes: int = 64 * 1024
    head_s: float = 20.0
    body_s: float = 10.0
    connections: int = 800
    idle_s: int = 5
    write_s: float = 20.0
    cors_origins: tuple[str, ...] = ()
    stream_clients: int = 200
    stream_symbols: int = 200
    stream_message_bytes: int = 64 * 1024
    stream_queue_bytes: int = 1024 * 1024
    stream_stall_s: float = 5.0
    stream_wait_s: float = 30.0
    heartbeat_s: float = 15.0
