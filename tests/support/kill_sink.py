"""Run a sink of trades that kills itself at one step of a commit.

Arguments, as JSON: the settings of `K2.open`, and `event` and `nth`: the step at which to die;
without an event it lives until Ctrl-C.
The step `commit_held` dies within the catalog's commit, which another connection holds up.
"""

import json
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

from k2lib import K2
from k2lib.events import BatchDone, BatchRead, CommitDone, Event, FilesWritten

HELD_S = 0.3
STEPS = {step.name: step for step in (BatchRead, FilesWritten, CommitDone, BatchDone)}


class Killer:
    """A listener that ends its process at the n-th event of a name, as a power cut would."""

    def __init__(self, home: str, *, event: str, nth: int) -> None:
        self._catalog = Path(home) / "catalog.db"
        self._is_held = event == "commit_held"
        self._event = STEPS.get("files_written" if self._is_held else event)
        self._left = nth

    def __call__(self, event: Event) -> None:
        if type(event) is not self._event:
            return
        self._left -= 1
        if self._left == 0:
            self._hold() if self._is_held else _die()

    def _hold(self) -> None:
        self._holder = sqlite3.connect(self._catalog, timeout=60, check_same_thread=False)
        self._holder.execute("begin immediate")
        threading.Timer(HELD_S, _die).start()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(settings: dict[str, Any], *, event: str, nth: int) -> None:
    """Feed the table until the step, or until Ctrl-C."""
    with K2.open(**settings) as k2:
        k2.sink(["trades_v2"], on_event=Killer(settings["home"], event=event, nth=nth))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(**json.loads(sys.argv[1]))
