"""How long to wait before the next attempt."""

import random
from collections.abc import Callable, Iterator


def delays(
    first: float = 5.0,
    cap: float = 60.0,
    *,
    spread: float = 0.2,
    draw: Callable[[], float] = random.random,
) -> Iterator[float]:
    """Yield the seconds to wait before each attempt: doubling up to a cap, without end.

    Args:
        first: the first delay, before it is shortened.
        cap: no delay is longer.
        spread: how much of a delay chance may take off, so that clients do not come back at once.
        draw: gives a number in [0, 1).
    """
    wait = min(first, cap)
    while True:
        yield wait * (1 - spread * draw())
        wait = min(cap, wait * 2)
