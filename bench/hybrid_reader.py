"""Query new trades many times a second, as a process of its own, and check every answer.

Run: python -m bench.hybrid_reader HOME SECONDS
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.measure import SYMBOLS
from k2lib import K2
from k2lib.errors import QueryError
from k2lib.query.answer import ReadResult
from k2lib.query.request import ReadRequest

EXCHANGE = "BINANCE_SIM"
BEGUN_S = 30.0
LOOK_S = 0.1
# As often as a screen is drawn: without a pause the reader would take a core of its own.
ASK_EVERY_S = 1 / 60
ALL = (
    "SELECT symbol, count(*) AS rows, count(DISTINCT source_sequence) AS ids, "
    "max(source_sequence) - min(source_sequence) + 1 AS span FROM trades_v2 GROUP BY symbol"
)

Floats = npt.NDArray[np.float64]


@dataclass
class Latencies:
    """What a reader measured, in seconds.

    Attributes:
        answers: how many, each checked.
        late: how many said that Kafka had more, and were asked again.
        rows: how many new trades the answers had.
        wait_s: from receipt to the end of the first answer with the trade: p50, p99, worst.
        answer_s: from question to answer: p50, p99, worst.
        tail_rows: how many only Kafka had, of all symbols, at most.
    """

    answers: int
    late: int
    rows: int
    wait_s: list[float]
    answer_s: list[float]
    tail_rows: int


@dataclass
class Reader:
    """One who asks for each symbol in turn: for what there is since the newest trade seen."""

    newest: dict[str, int] = field(default_factory=dict)
    since: dict[str, datetime] = field(default_factory=dict)
    waits: list[Floats] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    tail_rows: int = 0
    late: int = 0

    def begin(self, k2: K2, symbol: str) -> None:
        """Look at the newest trade there is."""
        self._note(symbol, k2.engine.read("trades_v2", ReadRequest(symbol, EXCHANGE, last=1)))

    def ask(self, k2: K2, symbol: str) -> None:
        """Ask once; the answer begins at trades seen before, so none was left out between."""
        began = time.time()
        answer = self._whole(k2, symbol)
        done = time.time()
        ids, before = checked(answer), self.newest[symbol]
        assert ids[0] <= before <= ids[-1], f"{symbol}: {ids[0]} to {ids[-1]}, before it {before}"
        new = answer.frame.filter(pl.col("source_sequence") > before)
        self.waits.append(done - received_s(new))
        self.took.append(done - began)
        self._note(symbol, answer)

    def latencies(self) -> Latencies:
        """Return what was measured."""
        waits = np.concatenate(self.waits)
        return Latencies(
            len(self.took),
            self.late,
            len(waits),
            _figures(waits),
            _figures(self.took),
            self.tail_rows,
        )

    def _whole(self, k2: K2, symbol: str) -> ReadResult:
        """Ask until the answer says that it has all that Kafka had; the wait goes on meanwhile."""
        until = time.monotonic() + BEGUN_S
        while True:
            answer = k2.engine.read("trades_v2", ReadRequest(symbol, EXCHANGE, self.since[symbol]))
            if answer.complete_to["trades_v2"].behind == 0 or time.monotonic() > until:
                return answer
            self.late += 1

    def _note(self, symbol: str, answer: ReadResult) -> None:
        self.newest[symbol] = int(checked(answer)[-1])
        self.since[symbol] = answer.frame["timestamp"][-1]
        self.tail_rows = max(self.tail_rows, answer.complete_to["trades_v2"].tail_rows)


def checked(answer: ReadResult) -> npt.NDArray[np.int64]:
    """Return the ids of an answer.

    Raises:
        AssertionError: one is missing or there twice, or Kafka had more when it was asked.
    """
    complete_to = answer.complete_to["trades_v2"]
    assert complete_to.log and complete_to.behind == 0, complete_to.to_json()
    assert complete_to.reason is None, complete_to.to_json()
    ids = answer.frame["source_sequence"].to_numpy()
    steps = np.diff(ids)
    assert (steps == 1).all(), f"{(steps > 1).sum()} holes, {(steps < 1).sum()} duplicates"
    return ids


def received_s(rows: pl.DataFrame) -> Floats:
    """Return when each row was received, in seconds since the epoch."""
    times: Floats = rows["ingestion_timestamp"].to_physical().to_numpy() / 1e6
    return times


def read(home: str, seconds: float) -> Latencies:
    """Ask for so long, and at the end for everything."""
    reader = Reader()
    with K2.open(home=home) as k2:
        _begin(reader, k2)
        end = time.monotonic() + seconds
        for symbol in _in_turn(end):
            reader.ask(k2, symbol)
        for row in k2.sql(ALL).iter_rows(named=True):
            assert row["rows"] == row["ids"] == row["span"], row
    return reader.latencies()


def _in_turn(end: float) -> Iterator[str]:
    for symbol in itertools.cycle(SYMBOLS):
        began = time.monotonic()
        if began > end:
            return
        yield symbol
        time.sleep(max(0.0, began + ASK_EVERY_S - time.monotonic()))


def _begin(reader: Reader, k2: K2) -> None:
    """Wait until the log is read and has trades of each symbol."""
    deadline = time.monotonic() + BEGUN_S
    while True:
        try:
            for symbol in SYMBOLS:
                reader.begin(k2, symbol)
            return
        except (QueryError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)


def _figures(seconds: Floats | list[float]) -> list[float]:
    return [float(one) for one in np.quantile(seconds, [0.5, 0.99, 1.0])]


if __name__ == "__main__":
    print(json.dumps(asdict(read(sys.argv[1], float(sys.argv[2])))))
