"""Feed state outside of the lake: breakers of hosts, and the latest trade of each symbol.

In memory, or also in Redis. No trade waits for Redis: a put changes memory only, and
a thread writes the newest value of each key; while Redis is away, everything goes on in memory.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import Final

import pyarrow as pa
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from k2lib.errors import ConfigError, RecordError
from k2lib.events import OnEvent, StateLost, StateRestored, log_event
from k2lib.lifecycle import Closing
from k2lib.resilience.backoff import delays
from k2lib.resilience.breaker import Memory

Value = str | dict[str, str]
# What other programs find of a symbol's latest trade.
COLUMNS: Final = ("price", "quantity", "side", "trade_id", "timestamp")

BREAKER: Final = "k2:breaker:"
LATEST: Final = "k2:latest:"
TIMEOUT_S: Final = 0.5
CLOSE_S: Final = 3.0
FAILURES: Final = (redis.RedisError, OSError, UnicodeError)
FORMS: Final = "redis://[user:password@]host:port/0, rediss:// with TLS, or unix:///path"

RECONNECT_WAITS: Final = partial(delays, 0.5, 5.0)


def latest_trade(trades: pa.Table) -> dict[str, str]:
    """Return the last of some trades as texts, numbers with all their digits."""
    last = trades.slice(trades.num_rows - 1).select(COLUMNS).to_pylist()[0]
    return {n: f"{v:f}" if isinstance(v, Decimal) else str(v) for n, v in last.items()}


class StateStore(Closing):
    """Remember breakers and latest trades in memory, until the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, Value] = {}

    def close(self) -> None:
        """Let go of nothing; what is remembered can still be read."""

    def breakers(self) -> dict[str, Memory]:
        """Return the state of each host's breaker; what cannot be read is left out."""
        found = {host: _memory(text) for host, text in self._under(BREAKER).items()}
        return {host: memory for host, memory in found.items() if memory is not None}

    def put_breaker(self, host: str, memory: Memory) -> None:
        """Remember a host's breaker."""
        self._put(BREAKER + host, memory.to_json())

    def latest(self, exchange: str) -> dict[str, dict[str, str]]:
        """Return the latest trade of each symbol of an exchange."""
        found = self._under(f"{LATEST}{exchange}:")
        return {symbol: value for symbol, value in found.items() if isinstance(value, dict)}

    def put_latest(self, exchange: str, symbol: str, values: Mapping[str, str]) -> None:
        """Remember the latest trade of a symbol; it takes the place of the one before."""
        self._put(f"{LATEST}{exchange}:{symbol}", dict(values))

    def _put(self, key: str, value: Value) -> None:
        with self._lock:
            self._values[key] = value

    def _under(self, prefix: str) -> dict[str, Value]:
        with self._lock:
            return _below(prefix, self._values)


class RedisStateStore(StateStore):
    """Remember in Redis too, so that a later or another process knows it.

    Reading asks Redis, for 0.5 s at most a call of it; what it does not answer comes from memory.

    Args:
        waits: gives the seconds between the attempts to reach a lost Redis.
        write_every_s: how long at least between two writes.
        check_every_s: how long at most until it is noticed that Redis is away.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        on_event: OnEvent,
        waits: Callable[[], Iterator[float]],
        write_every_s: float = 0.1,
        check_every_s: float = 1.0,
    ) -> None:
        super().__init__()
        self._on_event = on_event
        self._waits = waits
        self._write_every_s = write_every_s
        self._check_every_s = check_every_s
        self._due: set[str] = set()
        self._from_redis: dict[str, Value] = {}
        self._wake, self._stopped, self._lost = (threading.Event() for _ in range(3))
        self._client = _client(redis_url, self._on_connect)
        self._thread = threading.Thread(target=self._run, name="state-redis", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is not yet in Redis, unless it is away, and let go of it."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(CLOSE_S)
        self._all_due()
        self._client.close()

    def _put(self, key: str, value: Value) -> None:
        with self._lock:
            self._values[key] = value
            self._due.add(key)
        self._wake.set()

    def _under(self, prefix: str) -> dict[str, Value]:
        with self._lock:
            unheard = set(self._due)
        if not (self._lost.is_set() or self._stopped.is_set()):
            self._hear(prefix)
        with self._lock:
            # What was due when Redis was asked may be written, and still be older in its answer.
            ours = {key: self._values[key] for key in unheard | self._due}
            return _below(prefix, self._from_redis | ours)

    def _hear(self, prefix: str) -> None:
        try:
            found = _read(self._client, prefix)
        except FAILURES:
            self._wake.set()
            return
        with self._lock:
            others = {k: value for k, value in self._from_redis.items() if not k.startswith(prefix)}
            self._from_redis = others | found

    def _run(self) -> None:
        waits = self._waits()
        while not self._stopped.is_set():
            if self._written():
                waits = self._waits()
                self._stopped.wait(self._write_every_s)
                self._wake.wait(self._check_every_s)
            else:
                self._stopped.wait(next(waits))
        if not self._lost.is_set():
            self._written()

    def _written(self) -> bool:
        self._wake.clear()
        try:
            self._write()
        except FAILURES as exc:
            self._lose(str(exc))
            return False
        if self._lost.is_set():
            self._lost.clear()
            self._on_event(StateRestored())
        return True

    def _write(self) -> None:
        self._client.ping()
        with self._lock:
            taken = {key: self._values[key] for key in self._due}
        if taken:
            _write(self._client, taken)
        with self._lock:
            # What was put in the meantime is due still.
            self._due -= {key for key, value in taken.items() if self._values[key] is value}

    def _lose(self, reason: str) -> None:
        self._all_due()
        if not self._lost.is_set():
            self._lost.set()
            self._on_event(StateLost(reason))

    def _on_connect(self, connection: redis.Connection) -> None:
        connection.on_connect()  # type: ignore[no-untyped-call]
        # The Redis at the other end may be another one, or have begun anew, empty.
        self._all_due()

    def _all_due(self) -> None:
        with self._lock:
            self._due.update(self._values)


def open_state(
    redis_url: str | None,
    *,
    on_event: OnEvent = log_event,
    waits: Callable[[], Iterator[float]] = RECONNECT_WAITS,
    write_every_s: float = 0.1,
    check_every_s: float = 1.0,
) -> StateStore:
    """Open the state in Redis, there or not, or in memory where no URL is given.

    Raises:
        ConfigError: the URL is none.
    """
    if redis_url is None:
        return StateStore()
    return RedisStateStore(
        redis_url,
        on_event=on_event,
        waits=waits,
        write_every_s=write_every_s,
        check_every_s=check_every_s,
    )


def _client(url: str, on_connect: Callable[[redis.Connection], None]) -> redis.Redis:
    try:
        client = redis.Redis.from_url(
            url,
            decode_responses=True,
            protocol=2,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=on_connect,
        )
        # Options of the URL that there are not are noticed only where a connection is made.
        client.connection_pool.make_connection()
    except (ValueError, TypeError):
        # The reason may quote a part of the password, and so would its traceback.
        raise ConfigError(f"K2_REDIS_URL is no address of a Redis; give {FORMS}") from None
    return client


def _write(client: redis.Redis, values: Mapping[str, Value]) -> None:
    with client.pipeline(transaction=True) as pipe:
        for key, value in values.items():
            pipe.delete(key)
            if isinstance(value, str):
                pipe.set(key, value)
            elif value:
                pipe.hset(key, items=[*chain.from_iterable(value.items())])
        pipe.execute()


def _read(client: redis.Redis, prefix: str) -> dict[str, Value]:
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
    keys = list(client.scan_iter(match=pattern, count=1000))
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(key) if prefix == BREAKER else pipe.hgetall(key)
        values = pipe.execute()
    return {key: value for key, value in zip(keys, values, strict=True) if value}


def _below(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    return {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }


def _memory(text: Value) -> Memory | None:
    try:
        return Memory.from_json(text) if isinstance(text, str) else None
    except RecordError:
        return None
