"""REST of a Binance venue: over its hosts, within its limits, one answer or one clear error.

A host that answers 418 or 429 is left alone for its `Retry-After`, or 60 s where it says none.
"""

import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx2
import msgspec
import stamina

from k2lib.errors import reason_of
from k2lib.events import OnEvent, RestFailed
from k2lib.lifecycle import Closing
from k2lib.resilience.failover import LIMITED, PAUSE_S, Hosts, judge_status
from k2lib.resilience.rate_window import RateWindow
from k2lib.resilience.time_limit import TimeLimit
from k2lib.venues.base import VenueRefusedError, VenueUnavailableError
from k2lib.venues.binance.fields import BROKEN
from k2lib.venues.binance.hosts import EXCHANGE_HEADER, exchange_of

TIMEOUT_S: Final = 10.0
TIMEOUTS: Final = (httpx2.TimeoutException, TimeoutError)
# 5,000 of the 6,000 a minute: others may share the address.
WEIGHT_A_MINUTE: Final = 5_000
USED_WEIGHT: Final = "X-MBX-USED-WEIGHT-1M"
# From here on downwards, a code is about the question; those above are about the venue's health.
QUESTION: Final = -1100


@dataclass(frozen=True)
class Reply:
    """An answer's body, who gave it, and the name it gives itself, if any."""

    body: bytes
    host: str
    exchange: str | None


class NotOfferedError(VenueUnavailableError):
    """No host of the venue that answers offers this."""


class _NextHost(Exception):
    """This host does not answer this; another may."""


class Rest(Closing):
    """Asks the venue's hosts in turn; may be used by one thread at a time.

    A host that answers 404 is not asked for that path again within `offer_again_s`; an answer may
    take `timeout_s` over all hosts, from the look-up of a host's name to the last byte: a host gets
    half of what is left, the last one all of it.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        exchange: str,
        tls: ssl.SSLContext,
        on_event: OnEvent,
        stop: threading.Event,
        breaker_rest_s: float = 30.0,
        offer_again_s: float = 60.0,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hosts = Hosts(urls, clock=clock, rest_s=breaker_rest_s)
        self._on_event = on_event
        self._exchange = exchange
        self._stop = stop
        self._name: str | None = None
        self._reasons: dict[str, str] = {}
        self._weight = RateWindow(WEIGHT_A_MINUTE, 60.0, clock=clock)
        self._offer_again_s = offer_again_s
        self._clock = clock
        self._ask_again_at: dict[tuple[str, str], float] = {}
        self._timeout_s = timeout_s
        self._limit = TimeLimit(timeout_s)
        self._client = httpx2.Client(
            timeout=timeout_s,
            verify=tls,
            headers={"X-MBX-TIME-UNIT": "MICROSECOND"},
        )

    def get(self, path: str, params: Mapping[str, Any], *, weight: int) -> Reply:
        """Return the first answer of a host.

        Raises:
            VenueUnavailableError: no host answers now.
            NotOfferedError: those that answer do not offer this path.
            VenueRefusedError: a host says no to the question; the error has its code and message.
        """
        tried: set[str] = set()
        until = time.monotonic() + self._timeout_s
        while (host := self.hosts.pick(without=self._unable(path) | tried)) is not None:
            try:
                until += self._spend(weight)
                left_s = max(self._timeout_s / 10, until - time.monotonic())
                others = self.hosts.breakers.keys() - self.hosts.banned.keys() - tried - {host}
                limit = self._limit.part(round(left_s / 2 if others else left_s, 2))
                return self._ask(host, path, params, limit)
            except _NextHost as exc:
                self._reasons[host] = str(exc)
                tried.add(host)
        if self._nobody_offers(path):
            raise NotOfferedError(f"{path} is offered by none of {', '.join(self.hosts.breakers)}")
        wait_s = self.hosts.opens_in_s()
        text = "; ".join(f"{host}: {reason}" for host, reason in self._reasons.items())
        raise VenueUnavailableError(
            f"no REST host answers ({text})", wait_s=PAUSE_S if wait_s is None else wait_s
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _nobody_offers(self, path: str) -> bool:
        left = self.hosts.breakers.keys() - self.hosts.banned.keys()
        return bool(left) and left <= self._unable(path)

    def _unable(self, path: str) -> set[str]:
        now = self._clock()
        return {
            host
            for (host, missing), until in self._ask_again_at.items()
            if missing == path and now < until
        }

    def _ask(self, host: str, path: str, params: Mapping[str, Any], limit: TimeLimit) -> Reply:
        try:
            for attempt in stamina.retry_context(
                on=self._may_retry, attempts=2, wait_initial=0.1, wait_max=0.5, timeout=None
            ):
                with attempt:
                    answer = limit.call(self._client.get, f"{host}{path}", params=dict(params))
        except (httpx2.RequestError, ssl.SSLError, TimeoutError) as exc:
            reason = _reason(exc, limit)
            self._failed(host, reason)
            raise _NextHost(reason) from exc
        self._weight.raise_to(_number(answer.headers.get(USED_WEIGHT), 0.0))
        if answer.status_code == 200:
            self._check_name(exchange_of(host, answer.headers.get(EXCHANGE_HEADER)), host)
            self.hosts.succeeded(host)
            self._reasons.pop(host, None)
            return Reply(answer.content, host, answer.headers.get(EXCHANGE_HEADER))
        raise self._refusal(host, path, answer)

    def _check_name(self, name: str, host: str) -> None:
        """All hosts of a venue are of one exchange: the first that answers says of which."""
        self._name = self._name or name
        if name != self._name:
            self.hosts.ban(host, f"this is {name}, not {self._name}")
            raise _NextHost(f"this is {name}, not {self._name}")

    def _refusal(self, host: str, path: str, answer: httpx2.Response) -> Exception:
        """Say what a status means for the host, for the path, and for the question."""
        status, text = answer.status_code, f"HTTP {answer.status_code}{_message(answer.content)}"
        verdict = judge_status(status, answer.headers.get("Retry-After"))
        if verdict.lasting:
            self.hosts.ban(host, text)
        elif status in LIMITED:
            self.hosts.answered(host)
            self.hosts.pause(host, verdict.pause_s or PAUSE_S)
        elif status == 404:
            self.hosts.answered(host)
            self._ask_again_at[host, path] = self._clock() + self._offer_again_s
        elif _code(answer.content) <= QUESTION:
            self.hosts.answered(host)
            return VenueRefusedError(f"{host}{path}: {text}")
        else:
            self._failed(host, text)
        return _NextHost(text)

    def _may_retry(self, exc: Exception) -> bool:
        """A host that did not answer in time is not asked twice: the next one may."""
        failed = isinstance(exc, httpx2.TransportError) and not isinstance(exc, TIMEOUTS)
        return failed and not self._stop.is_set()

    def _failed(self, host: str, reason: str) -> None:
        self.hosts.failed(host)
        self._on_event(RestFailed(self._name or self._exchange, host, reason))

    def _spend(self, weight: int) -> float:
        """Wait until the limit has room, and return how long that took."""
        began = time.monotonic()
        while (wait_s := self._weight.wait_s(weight)) and not self._stop.wait(wait_s):
            pass
        if self._stop.is_set():
            raise VenueUnavailableError("stopped", wait_s=0.0)
        self._weight.take(weight)
        return time.monotonic() - began


class TimeReply(msgspec.Struct):
    """The venue's clock, in the unit asked for."""

    serverTime: int


class ReplySource(Protocol):
    """Whoever answers a request as `Rest` does."""

    def get(self, path: str, params: Mapping[str, Any], *, weight: int) -> Reply:
        """Return the first answer of a host."""


def clock_offset_s(rest: ReplySource, *, now: Callable[[], float] = time.time) -> float:
    """Return how far our clock is ahead of the venue's, within half of a round trip."""
    before = now()
    reply = rest.get("/api/v3/time", {}, weight=1)
    theirs_us = msgspec.json.decode(reply.body, type=TimeReply).serverTime
    return (before + now()) / 2 - theirs_us / 1e6


def ping(host: str, *, tls: ssl.SSLContext, within_s: float) -> None:
    """Ask one host, once, whether it answers.

    Raises:
        VenueUnavailableError: it does not, within the time.
    """
    limit = TimeLimit(within_s)
    try:
        answer = limit.call(httpx2.get, f"{host}/api/v3/ping", timeout=within_s, verify=tls)
    except (httpx2.TransportError, TimeoutError) as exc:
        raise VenueUnavailableError(_reason(exc, limit)) from exc
    if answer.status_code != 200:
        raise VenueUnavailableError(f"HTTP {answer.status_code}")


def _reason(exc: Exception, limit: TimeLimit) -> str:
    return limit.reason if isinstance(exc, TIMEOUTS) else reason_of(exc)


def _message(body: bytes) -> str:
    text = _object(body)
    return f", {text.get('msg')} (code {text.get('code')})" if text else ""


def _code(body: bytes) -> int:
    code = _object(body).get("code")
    return code if isinstance(code, int) else 0


def _object(body: bytes) -> dict[str, Any]:
    try:
        text = msgspec.json.decode(body)
    except BROKEN:
        return {}
    return text if isinstance(text, dict) else {}


def _number(text: str | None, otherwise: float) -> float:
    return float(text) if text is not None and text.isdecimal() else otherwise
