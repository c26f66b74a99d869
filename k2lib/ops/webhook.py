"""The webhook: each alert POSTed as JSON, in order, and tried again while the receiver is down.

The body is version 4 of what Prometheus' Alertmanager POSTs, with one alert in `alerts`, so that
a receiver written for it works unchanged. After an answer that got lost an alert comes a second
time: recognize it by `fingerprint`, `startsAt` and `status`.
"""

import asyncio
import logging
import re
import threading
from collections import deque
from contextlib import suppress
from typing import Any, Final

import httpx2
import stamina

from k2lib.errors import ConfigError, TransientError
from k2lib.lifecycle import Closing
from k2lib.ops.firing_alerts import Alert

LOG: Final = logging.getLogger("k2lib.alerts")
HTTP_LOG: Final = logging.getLogger("httpx2")
TRY_AGAIN: Final = frozenset({408, 425, 429})
HOST: Final = re.compile(r"[\w.:-]+")


class _HideUrl(logging.Filter):
    """Keeps an address out of the log of the HTTP library, which names each one it asks."""

    def __init__(self, url: httpx2.URL) -> None:
        super().__init__()
        self._url = str(url)
        self._shown = _shown(url)

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                self._shown if str(value) == self._url else value for value in record.args
            )
        return True


class Webhook(Closing):
    """A function of an alert that returns at once; its own thread delivers.

    Args:
        url: where to POST; of it only scheme, host and port are ever shown.
        timeout_s: how long one attempt may take.
        retry_for_s: how long one alert is tried before the next.
        close_s: how long `close()` goes on trying.
        limit: how many alerts wait at most; more are dropped, counted and logged.
    Raises:
        ConfigError: it is not an http or https URL.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        retry_for_s: float = 300.0,
        close_s: float = 2.0,
        limit: int = 1000,
    ) -> None:
        self._url = _checked(url)
        self._receiver = f"the alert webhook at {_shown(self._url)}"
        self._hide_url = _HideUrl(self._url)
        HTTP_LOG.addFilter(self._hide_url)
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._close_s = close_s
        self._limit = limit
        self._queue: deque[Alert] = deque()
        self._dropped = 0
        self._lock = threading.RLock()
        self._closed = False
        # The caller's thread may have a loop of its own, as a notebook's does.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        self._posting: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many alerts were not delivered."""
        return self._dropped

    def __call__(self, alert: Alert) -> None:
        """Queue the alert; never waits."""
        with self._lock:
            if self._closed or len(self._queue) >= self._limit:
                self._drop(alert, "closed" if self._closed else f"{self._limit} are waiting")
                return
            self._queue.append(alert)
            self._loop.call_soon_threadsafe(self._arrived.set)

    def close(self) -> None:
        """Try to deliver the rest for a short time; a second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._closing.set)
        # A name that is being looked up cannot be interrupted: the thread ends by itself later.
        self._thread.join(self._close_s + self._timeout_s)
        HTTP_LOG.removeFilter(self._hide_url)

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._deliver_until_closed())

    async def _deliver_until_closed(self) -> None:
        async with httpx2.AsyncClient(timeout=self._timeout_s) as client:
            delivering = asyncio.create_task(self._deliver_all(client))
            await self._closing.wait()
            delivering.cancel()
            await asyncio.wait([delivering])
            await self._deliver_rest(client)

    async def _deliver_all(self, client: httpx2.AsyncClient) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                await self._deliver_first(client)

    async def _deliver_first(self, client: httpx2.AsyncClient) -> None:
        try:
            async for attempt in stamina.retry_context(
                on=TransientError,
                attempts=None,
                timeout=self._retry_for_s,
                wait_max=30.0,
                wait_jitter=0.1,
            ):
                with attempt:
                    # Closing cuts the wait for the next attempt short, but not an attempt: the
                    # receiver may have the alert already, and would get it twice.
                    self._posting = asyncio.create_task(self._post_first(client))
                    await asyncio.shield(self._posting)
        except (TransientError, ConfigError) as exc:
            self._drop(self._queue.popleft(), str(exc))

    async def _deliver_rest(self, client: httpx2.AsyncClient) -> None:
        try:
            async with asyncio.timeout(self._close_s):
                if self._posting is not None:
                    with suppress(TransientError, ConfigError):
                        await self._posting
                while self._queue:
                    await self._post_first(client)
        except (TimeoutError, TransientError, ConfigError) as exc:
            for alert in self._queue:
                self._drop(alert, f"closing: {exc or 'no time left'}")

    async def _post_first(self, client: httpx2.AsyncClient) -> None:
        try:
            # The client's own limit is of each read alone.
            async with asyncio.timeout(self._timeout_s):
                response = await client.post(self._url, json=body(self._queue[0]))
        except (httpx2.RequestError, TimeoutError) as exc:
            raise TransientError(f"{self._receiver} does not answer: {type(exc).__name__}") from exc
        if response.is_success:
            self._queue.popleft()
            return
        answer = f"{self._receiver} answers {response.status_code}"
        if response.is_server_error or response.status_code in TRY_AGAIN:
            raise TransientError(answer)
        raise ConfigError(f"{answer}: check K2_ALERT_WEBHOOK_URL")

    def _drop(self, alert: Alert, reason: str) -> None:
        with self._lock:
            self._dropped += 1
        LOG.error("alert %s %s not delivered: %s", alert.name, alert.subject, reason)


def body(alert: Alert) -> dict[str, Any]:
    """Return the body to POST for an alert."""
    values = alert.to_json()
    return {
        "version": "4",
        "receiver": "k2",
        "status": values["status"],
        "groupKey": f"{alert.name}/{alert.subject}",
        "truncatedAlerts": 0,
        "groupLabels": {"alertname": alert.name},
        "commonLabels": values["labels"],
        "commonAnnotations": values["annotations"],
        "externalURL": "",
        "alerts": [values],
    }


def _checked(url: str) -> httpx2.URL:
    forms = "wanted is http://host/path or https://host/path"
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        # Its text may quote a password.
        raise ConfigError(f"K2_ALERT_WEBHOOK_URL is not a URL; {forms}") from None
    if parsed.scheme in {"http", "https"} and HOST.fullmatch(parsed.host) and _has_port(parsed):
        return parsed
    value = f"={_shown(parsed)}" if parsed.host else ""
    raise ConfigError(f"K2_ALERT_WEBHOOK_URL{value}: {forms}")


def _has_port(url: httpx2.URL) -> bool:
    return url.port is None or 0 < url.port < 65536


def _shown(url: httpx2.URL) -> str:
    """Hide path and query: either may contain a token."""
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}/…"
