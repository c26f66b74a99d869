"""What has a life: opened, used, and closed at the end of a `with` block."""

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
        """Let go of everything held; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


ENDS: Final = (signal.SIGINT, signal.SIGTERM)


class Held:
    """Whether Ctrl-C was pressed since it is held back."""

    def __init__(self) -> None:
        self._came = False

    def came(self) -> None:
        """Take note of it."""
        self._came = True

    def check(self) -> None:
        """Let it through here.

        Raises:
            KeyboardInterrupt: it was pressed, and was not let through before.
        """
        if self._came:
            self._came = False
            raise KeyboardInterrupt


@contextmanager
def interrupts_held() -> Iterator[Held]:
    """Hold Ctrl-C back, and SIGTERM where it does the same; who presses twice is obeyed at once.

    Only the main thread is ever interrupted; in another one this does nothing.
    """
    held = Held()
    before = {number: signal.getsignal(number) for number in ENDS}
    ours = {number: handler for number, handler in before.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        ours = {}

    def restore() -> None:
        for number, handler in ours.items():
            signal.signal(number, handler)

    def hold(number: int, frame: FrameType | None) -> None:
        restore()
        held.came()

    for number in ours:
        signal.signal(number, hold)
    try:
        yield held
    finally:
        restore()
