"""A time limit of a whole call, for HTTP clients that limit each read alone."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
MOST_CALLS: Final = 16
_ABANDONED: Final[set[threading.Thread]] = set()


def runs_abandoned_call() -> bool:
    """Say whether an abandoned call still runs; its library may hold up the end of Python."""
    return any(thread.is_alive() for thread in _ABANDONED.copy())


class TimeLimit:
    """Runs each call in a thread of its own, and gives it up when its time is over.

    A client that limits each read waits for ever for a server that sends a byte a second, and no
    client limits the look-up of a name. A call that was given up ends with its connection; while
    `most` calls run, the next waits for its turn, in its own time.
    """

    def __init__(self, seconds: float, *, most: int = MOST_CALLS) -> None:
        self.seconds = seconds
        self._turns = threading.Semaphore(most)

    def part(self, seconds: float) -> "TimeLimit":
        """Return a limit of so many seconds of its own, whose calls take turns with these."""
        part = TimeLimit(seconds)
        part._turns = self._turns
        return part

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the call returns, or raise what it raises.

        Raises:
            TimeoutError: it did not end in time.
        """
        until = time.monotonic() + self.seconds
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work(*args, **kwargs))
            except BaseException as exc:  # noqa: BLE001 - it is raised where the call was made
                outcome.set_exception(exc)
            finally:
                self._turns.release()
                _ABANDONED.discard(thread)

        thread = threading.Thread(target=run, name="call-in-time", daemon=True)
        if self._turns.acquire(timeout=self.seconds):
            thread.start()
            wait([outcome], timeout=max(0.0, until - time.monotonic()))
        if not outcome.done():
            if thread.is_alive():
                _ABANDONED.add(thread)
            raise TimeoutError(self.reason)
        return outcome.result()

    @property
    def reason(self) -> str:
        """Why a call is given up."""
        return f"no answer within {self.seconds:g} s"
