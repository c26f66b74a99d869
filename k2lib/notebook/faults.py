"""The faults of an offline exchange, on command or by script; each is told as an event."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from k2lib.events import Event, OnEvent
from k2lib.lifecycle import Closing
from k2lib.simulator import OfflineExchange

# Seconds from the beginning, the fault's name, and its options; see the module `faults`.
Script = Sequence[tuple[float, str, Mapping[str, Any]]]


class Faults(Closing):
    """Lets faults happen; a script of them plays in a thread of its own."""

    def __init__(self, exchange: OfflineExchange, *, on_event: OnEvent) -> None:
        self._exchange = exchange
        self._on_event = on_event
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def cause(self, name: str, **options: Any) -> None:
        """Let one fault happen now.

        Raises:
            ConfigError: no such fault, host, symbol or option.
        """
        self._on_event(Event("fault_caused", {"fault": name, "options": dict(options)}))
        self._exchange.fault(name, **options)

    def play(self, script: Script) -> None:
        """Begin a script, and return; a script that plays already is given up."""
        self.close()
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._play, args=(script,), name="faults", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the script, wherever it stands."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _play(self, script: Script) -> None:
        before_s = 0.0
        for at_s, name, options in sorted(script, key=lambda step: step[0]):
            if self._stop.wait(at_s - before_s):
                return
            before_s = at_s
            self.cause(name, **options)
