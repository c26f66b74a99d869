"""Reads a home through the library until its input ends; then tells how often, and what failed.

Run: python -m bench.soak_reader HOME
"""

import itertools
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from bench.measure import SYMBOLS
from k2lib import K2
from k2lib.errors import K2Error

PAUSE_S = 0.2
LAST = 1_000
COUNT = "SELECT symbol, count(*) FROM trades_v2 GROUP BY symbol"


@dataclass
class Read:
    """How many questions were answered, and what the others ended with."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)

    def ask(self, question: Callable[[], object]) -> None:
        """Ask once."""
        try:
            question()
            self.answered += 1
        except K2Error as exc:
            self.failed.append(str(exc))


def questions(k2: K2, symbol: str) -> list[Callable[[], object]]:
    """Return what is asked of one symbol, in lake and tail and in the lake of a while ago."""
    now = datetime.now(UTC)
    return [
        lambda: k2.trades(symbol, last=LAST),
        lambda: k2.bars(symbol, every="1m", start=now - timedelta(minutes=5)),
        lambda: k2.bars(symbol, every="1d"),
        lambda: k2.sql(COUNT),
        lambda: k2.trades(symbol, last=LAST, as_of=int(k2.snapshots()["snapshot_id"][-1])),
    ]


def read(home: str) -> Read:
    """Ask until the input ends."""
    ended, done = threading.Event(), Read()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    with K2.open(home=home) as k2:
        for symbol in itertools.cycle(SYMBOLS):
            for question in questions(k2, symbol):
                done.ask(question)
                if ended.wait(PAUSE_S):
                    return done
    return done


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    print(json.dumps(asdict(read(sys.argv[1]))))
