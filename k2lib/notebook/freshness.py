"""How old answers are: the age of the newest trade, read with Kafka's tail and without.

`FreshnessView` queries both several times a second, and leaves a figure once it is over.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ipywidgets
import polars as pl
from IPython.display import display
from plotly.graph_objects import FigureWidget

from k2lib.notebook.live_figure import plotly_output
from k2lib.query.answer import CompleteTo
from k2lib.query.engine import Engine

HYBRID: Final = "lake and Kafka"
LAKE: Final = "lake alone"
# By kind of answer, whether it reads the tail.
READS_TAIL: Final = {HYBRID: True, LAKE: False}
QUERY: Final = """
    SELECT count(*) AS trades, count(DISTINCT source_sequence) AS ids,
        min(source_sequence) AS first_id, max(source_sequence) AS last_id,
        epoch_us(max(timestamp)) / 1e6 AS newest_s
    FROM trades_v2 WHERE exchange = ? AND symbol = ?"""
SAMPLE_ROW: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
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
FRAME_S: Final = 0.3
WINDOW_S: Final = 60.0
SHORTEST_S: Final = 5.0
COLORS: Final = {HYBRID: "#2a9d5c", LAKE: "#f58518"}
AGES_MS: Final = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)


@dataclass(frozen=True)
class FreshnessSample:
    """One measured answer about an instrument.

    Attributes:
        at_s: when the answer was there, in seconds since the epoch.
        answer: `HYBRID` or `LAKE`.
        took_ms: duration of the query.
        contiguous: its ids have no hole and no id is there twice: count = last - first + 1.
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


def measure_freshness(
    engine: Engine,
    symbol: str,
    *,
    exchange: str,
    answer: str = HYBRID,
    clock: Callable[[], float] = time.time,
) -> FreshnessSample:
    """Query all trades of an instrument, and measure how old the newest one is by then.

    Args:
        answer: `HYBRID` or `LAKE`.
        clock: seconds since the epoch, comparable with the venue's clock.
    """
    began_s = clock()
    result = engine.run_sql(QUERY, [exchange, symbol], tail=READS_TAIL[answer])
    at_s = clock()
    trades, ids, first_id, last_id, newest_s = result.frame.row(0)
    return FreshnessSample(
        at_s=at_s,
        answer=answer,
        took_ms=(at_s - began_s) * 1000,
        trades=trades,
        first_id=first_id,
        last_id=last_id,
        contiguous=trades == ids == (0 if first_id is None else last_id - first_id + 1),
        age_ms=None if newest_s is None else (at_s - newest_s) * 1000,
        complete_to=result.complete_to["trades_v2"],
    )


class FreshnessHistory:
    """The last `length` samples of each kind of answer."""

    def __init__(self, *, length: int) -> None:
        self._samples = {answer: deque[FreshnessSample](maxlen=length) for answer in READS_TAIL}
        self._began_s: float | None = None
        self._until_s = 0.0

    def add(self, sample: FreshnessSample) -> None:
        """Add a sample."""
        self._began_s = sample.at_s if self._began_s is None else self._began_s
        self._until_s = sample.at_s
        self._samples[sample.answer].append(sample)

    def ages(self, answer: str) -> tuple[list[float], list[float | None]]:
        """Return the times of one kind of answer, in seconds since the first one, and its ages."""
        began_s, samples = self._began_s or 0.0, self._samples[answer]
        return [sample.at_s - began_s for sample in samples], [sample.age_ms for sample in samples]

    def until_s(self) -> float:
        """Return the time of the newest sample, in seconds since the first one."""
        return self._until_s - (self._began_s or 0.0)

    def frame(self) -> pl.DataFrame:
        """Return a row per sample, in order of time, with the columns of `SAMPLE_ROW`."""
        rows = [_row(sample) for samples in self._samples.values() for sample in samples]
        return pl.DataFrame(rows, schema=SAMPLE_ROW).sort("at_s")

    def table(self) -> pl.DataFrame:
        """Summarise each kind of answer.

        Returns:
            A row per kind: answer, answers, contiguous (how many of them are), trades (in the
            newest one), took_ms (median), and the median and the highest age of the newest trade.
        """
        age = pl.col("age_ms")
        by_answer = self.frame().group_by("answer", maintain_order=True)
        return by_answer.agg(
            answers=pl.len().cast(pl.Int64),
            contiguous=pl.col("contiguous").sum().cast(pl.Int64),
            trades=pl.col("trades").last(),
            took_ms=pl.col("took_ms").median().round(1),
            age_median_ms=age.median().round(1),
            age_most_ms=age.max().round(1),
        ).sort("answer", descending=True)


def _row(sample: FreshnessSample) -> dict[str, object]:
    columns = {name: getattr(sample, name) for name in SAMPLE_ROW}
    return columns | {"complete_to": sample.complete_to.time}


class FreshnessView:
    """Queries an instrument's trades with Kafka's tail and without, and draws their ages.

    Args:
        frame_s: seconds from one pair of queries to the next; a pair is one frame.
        window_s: how many seconds the figure and the table keep.
        clock: seconds since the epoch, comparable with the venue's clock.
    """

    def __init__(
        self,
        engine: Engine,
        symbol: str,
        *,
        exchange: str,
        frame_s: float = FRAME_S,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._symbol = symbol
        self._exchange = exchange
        self._frame_s = frame_s
        self._window_s = window_s
        self._clock = clock
        self.history = FreshnessHistory(length=round(window_s / frame_s))
        self.figure = _figure(f"{symbol} at {exchange}")

    async def run(self, seconds: float) -> None:
        """Display the view, query and draw for so long, then leave a static figure in its place.

        It is awaited and queries in a thread, so that the kernel serves the browser meanwhile.
        """
        box = ipywidgets.VBox([self.figure])
        handle = display(box, display_id=True)  # type: ignore[no-untyped-call]
        until = time.monotonic() + seconds
        try:
            while (began := time.monotonic()) < until:
                await asyncio.to_thread(self.sample)
                self.draw()
                await asyncio.sleep(began + self._frame_s - time.monotonic())
        finally:
            if handle is not None:
                handle.update(plotly_output(self.figure), raw=True)
            box.close()

    def sample(self) -> None:
        """Measure each kind of answer once."""
        for answer in READS_TAIL:
            sample = measure_freshness(
                self._engine,
                self._symbol,
                exchange=self._exchange,
                answer=answer,
                clock=self._clock,
            )
            self.history.add(sample)

    def draw(self) -> None:
        """Bring the figure up to date, as one message to the browser."""
        until_s = self.history.until_s()
        with self.figure.batch_update():
            for trace, answer in zip(self.figure.data, READS_TAIL, strict=True):
                trace.x, trace.y = self.history.ages(answer)
            since_s = max(0.0, until_s - self._window_s)
            self.figure.layout.xaxis.range = [since_s, max(until_s, SHORTEST_S)]

    def table(self) -> pl.DataFrame:
        """Return a row per kind of answer; see `FreshnessHistory.table`."""
        return self.history.table()


def _figure(instrument: str) -> Any:
    figure = FigureWidget()
    for answer, color in COLORS.items():
        line = {"color": color, "width": 1.8}
        figure.add_scatter(mode="lines", name=answer, line=line, connectgaps=False)
    figure.update_layout(
        title=f"{instrument}: age of the newest trade in an answer",
        template="plotly_white",
        width=960,
        height=420,
        xaxis_title="seconds since the first answer",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        uirevision="live",
    )
    figure.update_yaxes(
        title="age, ms (logarithmic)",
        type="log",
        tickvals=AGES_MS,
        ticktext=[f"{age:,}" for age in AGES_MS],
    )
    return figure
