"""Counts the trades of a home, lake and tail, until Ctrl-C; a line for each answer.

Run: python -m bench.chaos_reader: the home is that of the settings. Ends with 3 where an answer has
a trade twice.
"""

import faulthandler
import signal
import sys
import threading
from contextlib import suppress

from k2lib import K2
from k2lib.errors import K2Error

PAUSE_S = 0.3
TWICE = 3
COUNT = "SELECT count(*), count(DISTINCT message_id) FROM trades_v2"


def main() -> int:
    """Ask for ever."""
    with K2.open() as k2:
        while not threading.Event().wait(PAUSE_S):
            try:
                rows, ids = k2.sql(COUNT).row(0)
            except K2Error as exc:
                print(f"no answer: {exc}", flush=True)
                continue
            print(f"answer: {rows} trades", flush=True)
            if rows != ids:
                print(f"{rows - ids} of {rows} trades twice", flush=True)
                return TWICE
    return 0


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    with suppress(KeyboardInterrupt):
        sys.exit(main())
