"""The faults: their names and options, and which of them hold right now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from k2lib.errors import ConfigError

Options = dict[str, Any]
# Faults to come: seconds from the start, the fault, its options and `host`.
FaultScript = Sequence[tuple[float, str, Options]]

# What each fault can be told, and what it does untold. `s` is how long it lasts in seconds (None:
# until healed), `n` how many trades, frames or attempts it takes; where both are given, `n` counts.
FAULTS: Mapping[str, Options] = {
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
# What may be None although it is not so by default: for ever, or no error but silence.
_OPEN = {(name, "s") for name in FAULTS if name != "shutdown"} | {("rest_missing", "status")}


def checked(name: str, options: Options) -> Options:
    """Return the fault's options, those not given from its defaults.

    Raises:
        ConfigError: no such fault, or an option that it does not have or cannot be that.
    """
    if name not in FAULTS:
        raise ConfigError(f"no fault {name!r}; there are " + ", ".join(FAULTS))
    known = FAULTS[name]
    for option, value in options.items():
        if option not in known:
            raise ConfigError(f"fault {name!r} has no option {option!r}; it has {_named(known)}")
        open_ended = value is None and (known[option] is None or (name, option) in _OPEN)
        if not open_ended and not _fits(option, value):
            raise ConfigError(f"fault {name!r}: {option}={value!r} is not what it can be")
    return {**known, **options}


def _named(known: Options) -> str:
    return ", ".join(f"{option}={value!r}" for option, value in known.items()) or "none"


def _fits(option: str, value: object) -> bool:
    if option in _FLAGS:
        return isinstance(value, bool)
    if option == "symbol":
        return isinstance(value, str)
    kind = int if option in _WHOLE else int | float
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return value in _WITHIN[option] if option in _WITHIN else value >= 0


@dataclass
class Condition:
    """A fault that holds for a while: until a time, or for a number of uses, or until healed."""

    name: str
    options: Options
    ends_at: float | None
    left: int | None

    def over(self, now: float) -> bool:
        """Tell whether it has healed."""
        return self.left == 0 or (self.ends_at is not None and now >= self.ends_at)


@dataclass
class Conditions:
    """The conditions that hold at one host."""

    _held: list[Condition] = field(default_factory=list)

    def begin(self, name: str, options: Options, *, now: float) -> Condition:
        """Let a condition hold; with `n` given it ends by use, else after `s`."""
        lasts_s, left = options.get("s"), options.get("n")
        ends_at = None if lasts_s is None or left is not None else now + lasts_s
        held = Condition(name, options, ends_at, left)
        self._held.append(held)
        return held

    def active(self, now: float) -> list[Condition]:
        """Return what holds, and forget what has healed."""
        self._held = [held for held in self._held if not held.over(now)]
        return list(self._held)

    def find(self, name: str, *, now: float) -> Condition | None:
        """Return the newest condition of that name which holds."""
        return next((held for held in reversed(self.active(now)) if held.name == name), None)

    def use(self, name: str, *, now: float) -> Condition | None:
        """Return the condition like `find`, and take one use off its count."""
        held = self.find(name, now=now)
        if held is not None and held.left is not None:
            held.left -= 1
        return held

    def clear(self) -> None:
        """Heal everything."""
        self._held.clear()
