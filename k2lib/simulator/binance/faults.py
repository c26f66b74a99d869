"""Faults: names and options, those active at a host, those of its streams, a random schedule."""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from k2lib.errors import ConfigError
from k2lib.simulator.binance.columns import Int64s, TradeColumns, concat_trades

FaultOptions = dict[str, Any]
# Faults to come: seconds from the start, the fault, its options and `host`.
FaultScript = Sequence[tuple[float, str, FaultOptions]]

# The options of each fault and their defaults. `s` is how long it lasts in seconds (None: until
# healed), `n` how many trades, frames or attempts it takes; where both are set, `n` counts.
FAULTS: Mapping[str, FaultOptions] = {
    "cut": {},
    "close": {"code": 1001},
    "expire": {},
    "shutdown": {"s": 2.0},
    "stall": {"s": 30.0, "new": False},
    "garbage": {"n": 7},
    "duplicate": {"n": 10, "symbol": None},
    "reorder": {"n": 10, "symbol": None},
    "skip": {"n": 10, "symbol": None},
    "void": {"n": 3, "symbol": None},
    "burst": {"s": 2.0},
    "slow": {"s": 10.0, "bytes_per_s": 2_000},
    "refuse": {
        "status": 429,
        "s": 10.0,
        "n": None,
        "retry_after_s": None,
        "ws": True,
        "rest": False,
    },
    "refused": {"s": 5.0, "cut": False},
    "rest_missing": {
        "s": 30.0,
        "n": None,
        "symbol": None,
        "from_id": None,
        "to_id": None,
        "status": 503,
        "lag_s": None,
    },
    "market_data_only": {"s": None},
    "archive_checksum": {"s": 30.0, "n": None},
    "archive_truncated": {"s": 30.0, "n": None},
    "heal": {},
}
_WHOLE = {"n", "code", "status", "from_id", "to_id", "bytes_per_s"}
_FLAGS = {"ws", "rest", "new", "cut"}
_WITHIN = {"status": range(400, 600), "code": range(1000, 5000)}
# Options that may be None although their default is not: for ever, or no error but silence.
_OPEN = {(name, "s") for name in FAULTS if name != "shutdown"} | {("rest_missing", "status")}


def complete_options(name: str, options: FaultOptions) -> FaultOptions:
    """Return the options of a fault, completed from its defaults.

    Raises:
        ConfigError: no such fault or option, or a value that the option cannot have.
    """
    if name not in FAULTS:
        raise ConfigError(f"no fault {name!r}; there are " + ", ".join(FAULTS))
    defaults = FAULTS[name]
    for option, value in options.items():
        if option not in defaults:
            raise ConfigError(f"fault {name!r} has no option {option!r}; it has {_list(defaults)}")
        open_ended = value is None and (defaults[option] is None or (name, option) in _OPEN)
        if not open_ended and not _is_valid(option, value):
            raise ConfigError(f"fault {name!r}: {option}={value!r} is not what it can be")
    return {**defaults, **options}


def _list(options: FaultOptions) -> str:
    return ", ".join(f"{option}={value!r}" for option, value in options.items()) or "none"


def _is_valid(option: str, value: object) -> bool:
    if option in _FLAGS:
        return isinstance(value, bool)
    if option == "symbol":
        return isinstance(value, str)
    kind = int if option in _WHOLE else int | float
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return value in _WITHIN[option] if option in _WITHIN else value >= 0


@dataclass
class ActiveFault:
    """A fault that lasts: until a time, for a number of uses, or until healed."""

    name: str
    options: FaultOptions
    ends_at: float | None
    uses_left: int | None

    def is_over(self, now: float) -> bool:
        """Return whether it has healed."""
        return self.uses_left == 0 or (self.ends_at is not None and now >= self.ends_at)


@dataclass
class ActiveFaults:
    """The faults that last at one host."""

    _faults: list[ActiveFault] = field(default_factory=list)

    def begin(self, name: str, options: FaultOptions, *, now: float) -> ActiveFault:
        """Begin a fault; with `n` it ends by use, else after `s`."""
        lasts_s, uses = options.get("s"), options.get("n")
        ends_at = None if lasts_s is None or uses is not None else now + lasts_s
        fault = ActiveFault(name, options, ends_at, uses)
        self._faults.append(fault)
        return fault

    def active(self, now: float) -> list[ActiveFault]:
        """Return the faults that last, and forget the healed ones."""
        self._faults = [fault for fault in self._faults if not fault.is_over(now)]
        return list(self._faults)

    def find(self, name: str, *, now: float) -> ActiveFault | None:
        """Return the newest active fault of that name."""
        return next((fault for fault in reversed(self.active(now)) if fault.name == name), None)

    def use(self, name: str, *, now: float) -> ActiveFault | None:
        """Return the fault like `find`, and take one use off its count."""
        fault = self.find(name, now=now)
        if fault is not None and fault.uses_left is not None:
            fault.uses_left -= 1
        return fault

    def clear(self) -> None:
        """Heal everything."""
        self._faults.clear()


@dataclass
class StreamFault:
    """A fault of a stream, the number of trades it still takes, and those it withholds."""

    name: str
    trades_left: int
    withheld: TradeColumns | None = None


class StreamFaults:
    """Faults of one symbol's next trades at one host, one after the other."""

    def __init__(self) -> None:
        self._queue: deque[StreamFault] = deque()

    def add(self, name: str, count: int) -> None:
        """Queue a fault of the trades that follow those of the faults before it."""
        if count > 0:
            self._queue.append(StreamFault(name, count))

    def apply(self, trades: TradeColumns) -> TradeColumns:
        """Return the trades as the streams show them; the same object without a fault."""
        parts: list[TradeColumns] = []
        while self._queue and len(trades):
            fault = self._queue[0]
            count = min(fault.trades_left, len(trades))
            parts.append(_APPLY[fault.name](fault, trades.take(slice(0, count))))
            trades = trades.take(slice(count, None))
            fault.trades_left -= count
            if fault.trades_left == 0:
                self._queue.popleft()
        return concat_trades([*parts, trades]) if parts else trades

    def clear(self) -> TradeColumns | None:
        """Forget all faults; return the trades that they withheld."""
        withheld = [fault.withheld for fault in self._queue if fault.withheld is not None]
        self._queue.clear()
        return concat_trades(withheld) if withheld else None


def _skip(_fault: StreamFault, trades: TradeColumns) -> TradeColumns:
    return trades.take(slice(0, 0))


def _duplicate(_fault: StreamFault, trades: TradeColumns) -> TradeColumns:
    return trades.take(np.repeat(np.arange(len(trades)), 2))


def _reorder(fault: StreamFault, trades: TradeColumns) -> TradeColumns:
    withheld = trades if fault.withheld is None else concat_trades([fault.withheld, trades])
    if fault.trades_left > len(trades):
        fault.withheld = withheld
        return trades.take(slice(0, 0))
    fault.withheld = None
    return withheld.take(_shuffle(len(withheld)))


def _shuffle(count: int) -> Int64s:
    # The last half before the first, each backwards in pairs: no trade keeps its position.
    rows = np.arange(count, dtype=np.int64)
    halves = np.concatenate([rows[count // 2 :], rows[: count // 2]])
    halves[: count // 2] = halves[: count // 2][::-1]
    return halves


_APPLY = {"skip": _skip, "duplicate": _duplicate, "reorder": _reorder}

# Random options of each fault; all are over in a few seconds.
_RANDOM_OPTIONS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
    "cut": lambda draw: {},
    "close": lambda draw: {},
    "expire": lambda draw: {},
    "shutdown": lambda draw: {"s": draw.uniform(0.2, 1.0)},
    "stall": lambda draw: {"s": draw.uniform(0.5, 3.0)},
    "garbage": lambda draw: {"n": draw.randint(1, 9)},
    "duplicate": lambda draw: {"n": draw.randint(1, 50)},
    "reorder": lambda draw: {"n": draw.randint(2, 50)},
    "skip": lambda draw: {"n": draw.randint(1, 300)},
    "void": lambda draw: {"n": draw.randint(1, 20)},
    "burst": lambda draw: {"s": draw.uniform(0.2, 1.0)},
    "slow": lambda draw: {"s": draw.uniform(0.2, 1.0)},
    "refuse": lambda draw: {
        "s": draw.uniform(0.5, 1.5),
        "status": draw.choice([418, 429, 500, 503]),
        "retry_after_s": 1,
        "rest": draw.random() < 0.5,
    },
    "refused": lambda draw: {"s": draw.uniform(0.5, 1.5), "cut": True},
    "rest_missing": lambda draw: {"s": draw.uniform(0.5, 2.0)},
    "market_data_only": lambda draw: {"s": draw.uniform(0.5, 2.0)},
}


def chaos(seed: int, seconds: float, *, hosts: int = 1) -> FaultScript:
    """Draw a random schedule of faults at one host or all; every fault at least once.

    Returns:
        (seconds from the start, fault, options), ordered by time, for `OfflineExchange(script=)`;
        the same for the same seed.
    """
    draw = random.Random(seed)
    faults = list(_RANDOM_OPTIONS)
    names = faults + draw.choices(faults, k=max(0, round(seconds) - len(faults)))
    draw.shuffle(names)
    times = sorted(draw.uniform(0, seconds) for _ in names)
    return [
        (at_s, name, _RANDOM_OPTIONS[name](draw) | _random_host(draw, hosts))
        for at_s, name in zip(times, names, strict=True)
    ]


def _random_host(draw: random.Random, hosts: int) -> dict[str, Any]:
    host = draw.randrange(hosts + 1)
    return {} if host == hosts else {"host": host}
