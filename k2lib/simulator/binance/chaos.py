"""A random schedule of all the faults, the same for the same seed."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from k2lib.simulator.binance.faults import FaultScript

# What each fault is told: all are over in a few seconds.
DRAWS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
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
    """Draw when which fault happens at which host, or at all; every fault at least once.

    Returns:
        (seconds from the start, fault, options), in order of time; `OfflineExchange` takes it.
    """
    draw = random.Random(seed)
    names = list(DRAWS) + draw.choices(list(DRAWS), k=max(0, round(seconds) - len(DRAWS)))
    draw.shuffle(names)
    times = sorted(draw.uniform(0, seconds) for _ in names)
    return [
        (at_s, name, DRAWS[name](draw) | _where(draw, hosts))
        for at_s, name in zip(times, names, strict=True)
    ]


def _where(draw: random.Random, hosts: int) -> dict[str, Any]:
    host = draw.randrange(hosts + 1)
    return {} if host == hosts else {"host": host}
