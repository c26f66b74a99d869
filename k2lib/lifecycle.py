"""Context managers: objects that close themselves, and interrupts deferred over a block."""

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupt:
    """Whether Ctrl-C was pressed while interrupts are deferred."""

    def __init__(self) -> None:
        self._is_pending = False

    def set(self) -> None:
        """Note that it was pressed."""
        self._is_pending = True

    def check(self) -> None:
        """Raise the deferred interrupt here, once.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed since the last check.
        """
        if self._is_pending:
            self._is_pending = False
            raise KeyboardInterrupt


@contextmanager
def interrupts_deferred() -> Iterator[DeferredInterrupt]:
    """Defer Ctrl-C, and SIGTERM where it does the same; a second one interrupts at once.

    Only the main thread is ever interrupted; in another one this does nothing.
    """
    deferred = DeferredInterrupt()
    before = {number: signal.getsignal(number) for number in INTERRUPTS}
    ours = {number: handler for number, handler in before.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        ours = {}

    def restore() -> None:
        for number, handler in ours.items():
            signal.signal(number, handler)

    def defer(number: int, frame: FrameType | None) -> None:
        restore()
        deferred.set()

    for number in ours:
        signal.signal(number, defer)
    try:
        yield deferred
    finally:
        restore()
