"""How old answers are: the newest trade in each, with what only Kafka has and without."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from k2lib.query.answer import CompleteTo
from k2lib.query.engine import Engine

HYBRID: Final = "lake and Kafka"
LAKE: Final = "lake alone"
# Whether an answer of this kind has the tail.
KINDS: Final = {HYBRID: True, LAKE: False}
ASKED: Final = """
    SELECT count(*) AS trades, count(DISTINCT source_sequence) AS ids,
        min(source_sequence) AS first_id, max(source_sequence) AS last_id,
        epoch_us(max(timestamp)) / 1e6 AS newest_s
    FROM trades_v2 WHERE exchange = ? AND symbol = ?"""
LOOK: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "at_s": pl.Float64,
    "answer": pl.String,
    "took_ms": pl.Float64,
    "trades": pl.Int64,
    "first_id": pl.Int64,
    "last_id": pl.Int64,
    "contiguous": pl.Boolean,
    "age_ms": pl.Float64,
    "complete_to": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class Look:
    """One answer about an instrument.

    Attributes:
        at_s: when it was there, in seconds since the epoch.
        took_ms: from the question on.
        contiguous: its ids have no hole and none is there twice: count = last - first + 1.
        age_ms: from the event time of its newest trade to `at_s`; None without a trade.
    """

    at_s: float
    answer: str
    took_ms: float
    trades: int
    first_id: int | None
    last_id: int | None
    contiguous: bool
    age_ms: float | None
    complete_to: CompleteTo


def look(
    engine: Engine,
    symbol: str,
    *,
    exchange: str,
    answer: str = HYBRID,
    clock: Callable[[], float] = time.time,
) -> Look:
    """Ask for all trades of an instrument, and see how old the newest one is by then.

    Args:
        answer: `HYBRID` or `LAKE`.
        clock: seconds since the epoch, as the venue's clock has them.
    """
    asked_s = clock()
    told = engine.run_sql(ASKED, [exchange, symbol], tail=KINDS[answer])
    at_s = clock()
    trades, ids, first_id, last_id, newest_s = told.frame.row(0)
    return Look(
        at_s=at_s,
        answer=answer,
        took_ms=(at_s - asked_s) * 1000,
        trades=trades,
        first_id=first_id,
        last_id=last_id,
        contiguous=trades == ids == (0 if first_id is None else last_id - first_id + 1),
        age_ms=None if newest_s is None else (at_s - newest_s) * 1000,
        complete_to=told.complete_to["trades_v2"],
    )


class Looks:
    """The last `length` looks at each kind of answer."""

    def __init__(self, *, length: int) -> None:
        self._looks = {answer: deque[Look](maxlen=length) for answer in KINDS}
        self._began_s: float | None = None
        self._until_s = 0.0

    def add(self, one: Look) -> None:
        """Take a look."""
        self._began_s = one.at_s if self._began_s is None else self._began_s
        self._until_s = one.at_s
        self._looks[one.answer].append(one)

    def ages(self, answer: str) -> tuple[list[float], list[float | None]]:
        """Return when one kind of answer was there, in seconds from the first on, and its ages."""
        began_s, looks = self._began_s or 0.0, self._looks[answer]
        return [one.at_s - began_s for one in looks], [one.age_ms for one in looks]

    def until_s(self) -> float:
        """Return when the newest answer was there, in seconds from the first on."""
        return self._until_s - (self._began_s or 0.0)

    def frame(self) -> pl.DataFrame:
        """Return a row a look, in order of time, with the columns of `LOOK`."""
        looks = [one for kept in self._looks.values() for one in kept]
        return pl.DataFrame([_row(one) for one in looks], schema=LOOK).sort("at_s")

    def table(self) -> pl.DataFrame:
        """Sum up each kind of answer.

        Returns:
            A row a kind: answers, contiguous (how many of them are), trades (in the newest one),
            took_ms (median), and the median and the highest age of the newest trade.
        """
        age = pl.col("age_ms")
        summed = self.frame().group_by("answer", maintain_order=True)
        return summed.agg(
            answers=pl.len().cast(pl.Int64),
            contiguous=pl.col("contiguous").sum().cast(pl.Int64),
            trades=pl.col("trades").last(),
            took_ms=pl.col("took_ms").median().round(1),
            age_median_ms=age.median().round(1),
            age_most_ms=age.max().round(1),
        ).sort("answer", descending=True)


def _row(one: Look) -> dict[str, object]:
    return {name: getattr(one, name) for name in LOOK} | {"complete_to": one.complete_to.time}
