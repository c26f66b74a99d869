"""Limits that keep one client from taking what the others need: rate, queries, open requests.

`options.py` has their values. They are written here because no library has them in one event loop:
a token bucket for a bounded number of clients with a clock passed in, and a queue for queries in
which no key can take more than half.
"""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

from starlette.types import Scope

from k2lib.api.security import RequestRejectedError

MAX_CLIENTS: Final = 10_000
SUBSCRIBER_PREFIX_BITS: Final = 64
RETRY_S: Final = 1


def share(limit: int) -> int:
    """Return how much of a limit one client may have, so that it cannot block the others."""
    return max(1, limit // 2)


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class RateLimiter:
    """One token bucket for each client: a number of requests a second, and a burst.

    It remembers `max_clients`; the one whose last request is the oldest is forgotten first.
    """

    def __init__(
        self,
        rate_per_s: float,
        burst: int,
        *,
        clock: Callable[[], float],
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Take one token; return 0, or the seconds until there is one."""
        bucket = self._refilled(client)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._rate_per_s
        bucket.tokens -= 1
        return 0.0

    def check(self, client: str) -> None:
        """Take one token.

        Raises:
            RequestRejectedError: 429, no token is left; `Retry-After` says when there is one.
        """
        wait_s = self.take(client)
        if wait_s > 0:
            raise RequestRejectedError(
                429,
                "rate",
                f"more than {self._rate_per_s:g} requests a second: "
                f"wait {max(1, math.ceil(wait_s))} s",
                headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
            )

    def headers(self, client: str) -> dict[str, str]:
        """Return the state of a client's bucket, as the IETF's RateLimit draft has it.

        Source: draft-ietf-httpapi-ratelimit-headers-10: quota, window, remaining, seconds to full.
        """
        tokens = self._refilled(client).tokens
        window_s = max(1, math.ceil(self._burst / self._rate_per_s))
        full_in_s = math.ceil((self._burst - tokens) / self._rate_per_s)
        return {
            "RateLimit-Policy": f'"default";q={self._burst};w={window_s}',
            "RateLimit": f'"default";r={math.floor(tokens)};t={full_in_s}',
        }

    def _refilled(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(client, _Bucket(self._burst, now))
        self._buckets.move_to_end(client)
        more = max(0.0, now - bucket.filled_at) * self._rate_per_s
        bucket.tokens, bucket.filled_at = min(self._burst, bucket.tokens + more), now
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return bucket


@dataclass
class _QueuedQuery:
    groups: tuple[str, ...]
    client: str
    ready: asyncio.Future[None]

    @property
    def has_slot(self) -> bool:
        """Whether it got its slot, be it in the moment in which it stopped waiting."""
        return self.ready.done() and not self.ready.cancelled()


class QueryLimiter:
    """A number of slots for queries; others wait in a queue for some time.

    A query belongs to groups, for example its key's: all queries of a group have half of the
    slots at most. A slot goes to the client that runs the fewest, of its queries to the one that
    waited longest. Not for several threads: it lives in the event loop of the server.
    """

    def __init__(self, slots: int, *, wait_s: float) -> None:
        self._free = slots
        self._half = share(slots)
        self._wait_s = wait_s
        self._running: Counter[str] = Counter()
        self._running_of_client: Counter[str] = Counter()
        self._queue: list[_QueuedQuery] = []

    @property
    def queued(self) -> int:
        """How many queries wait."""
        return len(self._queue)

    async def acquire(self, *groups: str, client: str = "") -> "QuerySlot":
        """Wait for a slot.

        Raises:
            RequestRejectedError: 503, none was free in time.
        """
        if self._has_slot_for(groups):
            self._take(groups, client)
        else:
            await self._wait(groups, client)
        return QuerySlot(self, groups, client=client)

    def release(self, groups: tuple[str, ...], client: str) -> None:
        """Give the slot to one of the queries that may have it."""
        self._free += 1
        self._running -= Counter(groups)
        self._running_of_client -= Counter([client])
        for query in sorted(self._queue, key=lambda one: self._running_of_client[one.client]):
            if not query.ready.done() and self._has_slot_for(query.groups):
                self._queue.remove(query)
                self._take(query.groups, query.client)
                query.ready.set_result(None)

    async def _wait(self, groups: tuple[str, ...], client: str) -> None:
        query = _QueuedQuery(groups, client, asyncio.get_running_loop().create_future())
        self._queue.append(query)
        try:
            async with asyncio.timeout(self._wait_s):
                await query.ready
        except TimeoutError:
            if not query.has_slot:
                raise busy_error("the server is busy with other queries") from None
        except asyncio.CancelledError:
            if query.has_slot:
                self.release(groups, client)
            raise
        finally:
            if query in self._queue:
                self._queue.remove(query)

    def _has_slot_for(self, groups: tuple[str, ...]) -> bool:
        return self._free > 0 and all(self._running[group] < self._half for group in groups)

    def _take(self, groups: tuple[str, ...], client: str) -> None:
        self._free -= 1
        self._running.update(groups)
        self._running_of_client[client] += 1


class QuerySlot:
    """The slot of one query."""

    def __init__(self, limiter: QueryLimiter, groups: tuple[str, ...], *, client: str) -> None:
        self._limiter = limiter
        self._groups = groups
        self._client = client
        self._is_released = False

    def release(self) -> None:
        """Let the next query start; a second call does nothing."""
        if not self._is_released:
            self._is_released = True
            self._limiter.release(self._groups, self._client)


class OpenRequestLimiter:
    """A number of requests in any state at a time; a key or an address has half at most."""

    def __init__(self, max_open: int) -> None:
        self._max_open = max_open
        self._open: Counter[str] = Counter()

    @contextmanager
    def open(self, client: str) -> Iterator[None]:
        """Count a request while it is open.

        Raises:
            RequestRejectedError: 503, too many are open.
        """
        is_full = self._open.total() >= self._max_open
        if is_full or self._open[client] >= share(self._max_open):
            raise busy_error("too many requests are open: read their answers, or end them")
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            self._open += Counter()


def busy_error(detail: str) -> RequestRejectedError:
    """Return the 503 for a request that can be sent again soon."""
    return RequestRejectedError(503, "busy", detail, headers={"Retry-After": str(RETRY_S)})


def client_network(scope: Scope) -> str:
    """Return the client that a rate counts: an address, or a subscriber's IPv6 network."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, SUBSCRIBER_PREFIX_BITS), strict=False))
