"""A clock for what is kept from one process to the next."""

import time
from collections.abc import Callable


def steady_wall_clock(
    wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a clock that starts at the wall clock's seconds and is never set afterwards."""
    offset = wall() - steady()
    return lambda: offset + steady()
