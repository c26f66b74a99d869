"""Context managers: objects that close themselves, interrupts deferred or kept over a block."""

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self


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
AGAIN_S: Final = 0.05


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal as Ctrl-C; from then on SIGTERM ends the process at once.

    Raises:
        KeyboardInterrupt: always.
    """
    _let_next_sigterm_end(number)
    raise KeyboardInterrupt


def _let_next_sigterm_end(number: int) -> None:
    """Without a handler it ends a process that hangs in a library too."""
    if number == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
    """Defer Ctrl-C, and SIGTERM where it does the same; a second Ctrl-C interrupts at once.

    A second SIGTERM ends the process. Only the main thread is ever interrupted; in another one
    this does nothing.
    """
    deferred, ours = DeferredInterrupt(), _handlers()

    def restore() -> None:
        for number, handler in ours.items():
            if signal.getsignal(number) is not signal.SIG_DFL:
                signal.signal(number, handler)

    def defer(number: int, frame: FrameType | None) -> None:
        restore()
        _let_next_sigterm_end(number)
        deferred.set()

    for number in ours:
        signal.signal(number, defer)
    try:
        yield deferred
    finally:
        restore()


@contextmanager
def interrupts_kept(end: Callable[[], object]) -> Iterator[None]:
    """Let Ctrl-C end a block and come out of it, whatever a library in it makes of that.

    What a handler of signals raises goes through the library's code, which may drop it and go on,
    or raise an error of its own in its place.

    Args:
        end: ends what the library does; called until the block is over, from another thread.
    """
    raised: list[BaseException] = []
    over, ours = threading.Event(), _handlers()
    ending = threading.Thread(target=_repeat, args=(end, over), daemon=True)

    def keep(number: int, frame: FrameType | None) -> None:
        try:
            ours[number](number, frame)
        except BaseException as exc:
            raised.append(exc)
            if len(raised) == 1:
                ending.start()
            raise

    for number in ours:
        signal.signal(number, keep)
    try:
        yield
    finally:
        for number, handler in ours.items():
            if signal.getsignal(number) is keep:
                signal.signal(number, handler)
        if raised:
            over.set()
            ending.join()
            raise raised[0]


def _repeat(end: Callable[[], object], over: threading.Event) -> None:
    """Again and again: what comes between two calls of a library stops neither."""
    while not over.wait(AGAIN_S):
        end()


def _handlers() -> dict[int, Callable[[int, FrameType | None], Any]]:
    """Return the handlers of interrupts; none in a thread that is never interrupted."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    return {number: handler for number, handler in handlers.items() if callable(handler)}
