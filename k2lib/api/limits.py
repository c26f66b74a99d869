"""How much one client gets, so that the others get theirs: rates and turns."""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

from starlette.types import Scope

from k2lib.api.security import Refused

CLIENTS_KEPT: Final = 10_000
NEIGHBOURS_BITS: Final = 64
RETRY_S: Final = 1


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class Rates:
    """Token buckets, one a client: so many requests a second, and some more at once.

    Of so many clients only: the one that asked longest ago is forgotten first.
    """

    def __init__(
        self,
        rate_per_s: float,
        burst: int,
        *,
        clock: Callable[[], float],
        clients: int = CLIENTS_KEPT,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._clients = clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Take one token; return 0, or the seconds until there is one."""
        bucket = self._filled(client)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._rate_per_s
        bucket.tokens -= 1
        return 0.0

    def check(self, client: str) -> None:
        """Take one token.

        Raises:
            Refused: there is none left.
        """
        wait_s = self.take(client)
        if wait_s > 0:
            raise Refused(
                429,
                "rate",
                f"more than {self._rate_per_s:g} requests a second: "
                f"wait {max(1, math.ceil(wait_s))} s",
                headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
            )

    def _filled(self, client: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(client, _Bucket(self._burst, now))
        self._buckets.move_to_end(client)
        more = max(0.0, now - bucket.filled_at) * self._rate_per_s
        bucket.tokens, bucket.filled_at = min(self._burst, bucket.tokens + more), now
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return bucket


class Turns:
    """So many queries at a time; others wait for a while.

    A share is a name, for example of a key: all queries with it have half of the turns at most.
    In one event loop, like all of the edge.
    """

    def __init__(self, count: int, *, wait_s: float) -> None:
        self._free = count
        self._half = max(1, count // 2)
        self._wait_s = wait_s
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[tuple[str, ...], asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def begin(self, *shares: str) -> "Turn":
        """Wait for a turn.

        Raises:
            Refused: none in time.
        """
        if self._may(shares):
            self._take(shares)
        else:
            await self._wait(shares)
        return Turn(self, shares)

    def end(self, shares: tuple[str, ...]) -> None:
        """Give the turn to who waited longest of those who may have it."""
        self._free += 1
        self._held -= Counter(shares)
        for place in list(self._waiting):
            waiting, future = place
            if not future.done() and self._may(waiting):
                self._waiting.remove(place)
                self._take(waiting)
                future.set_result(None)

    async def _wait(self, shares: tuple[str, ...]) -> None:
        place = (shares, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            async with asyncio.timeout(self._wait_s):
                await place[1]
        except TimeoutError:
            if not _was_given(place[1]):
                raise busy("the server is busy with other queries") from None
        except asyncio.CancelledError:
            if _was_given(place[1]):
                self.end(shares)
            raise
        finally:
            if place in self._waiting:
                self._waiting.remove(place)

    def _may(self, shares: tuple[str, ...]) -> bool:
        return self._free > 0 and all(self._held[share] < self._half for share in shares)

    def _take(self, shares: tuple[str, ...]) -> None:
        self._free -= 1
        self._held.update(shares)


def _was_given(turn: asyncio.Future[None]) -> bool:
    """Whether a turn came in the moment in which the waiting ended."""
    return turn.done() and not turn.cancelled()


class Turn:
    """One query's turn; it ends once."""

    def __init__(self, turns: Turns, shares: tuple[str, ...]) -> None:
        self._turns = turns
        self._shares = shares
        self._is_over = False

    def end(self) -> None:
        """Let the next one begin; a second time does nothing."""
        if not self._is_over:
            self._is_over = True
            self._turns.end(self._shares)


class Open:
    """So many requests in any state at a time, of which one key has half at most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._open: Counter[str | None] = Counter()

    @contextmanager
    def one(self, key: str | None) -> Iterator[None]:
        """Count a request while it is open.

        Raises:
            Refused: there are too many.
        """
        too_many = self._open.total() >= self._count
        if too_many or (key is not None and self._open[key] >= max(1, self._count // 2)):
            raise busy("too many requests are open: read their answers, or end them")
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            self._open += Counter()


def busy(detail: str) -> Refused:
    """Return the refusal of what can be asked again soon."""
    return Refused(503, "busy", detail, headers={"Retry-After": str(RETRY_S)})


def client_of(scope: Scope) -> str:
    """Return who asks, as rates count: an address, or an IPv6 network that one subscriber has."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, NEIGHBOURS_BITS), strict=False))
