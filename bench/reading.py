"""Four questions to a lake of many days, through k2lib and beside it, on 10 and 100 million rows.

The ways take turns, round after round; each begins with the table as it stands, but for the hand
that knows its files. The lakes stay in build/homes: a second run need not write them again.
Run: python -m bench.reading [ROWS]
"""

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
from polars.testing import assert_frame_equal

from bench import generated_lake
from bench.measure import load_average, machine
from bench.reading_engines import (
    KINDS,
    OHLCV,
    ByHand,
    Pyiceberg,
    Question,
    ThroughK2,
    ThroughPolars,
    Way,
)
from k2lib import K2

ROWS: Final = 100_000_000
SYMBOL: Final = "ETHUSDT"
TIMES: Final = 10
ROUNDS: Final = 25
PEERS_ROUNDS: Final = 5
HAND: Final = "read_parquet by hand"
OURS: Final = ("k2lib, tail=False", "k2lib")
PEERS: Final = ("polars.scan_iceberg", "pyiceberg → Arrow")
GOAL: Final = 1.2
GROWTH: Final = 1.5


class Took(NamedTuple):
    """Milliseconds of an answer: until it was there, and of CPU, whatever else the machine does."""

    wall_ms: float
    cpu_ms: float


# Kind of question → way → each answer, or what lies in the middle of them.
Answers = dict[str, dict[str, list[Took]]]
Medians = dict[str, dict[str, Took]]


def run(build: Path, *, rows: int = ROWS) -> list[str]:
    """Measure a lake and one with a tenth of its days, and return the report's lines."""
    lines, found = [machine(), f"before: {load_average()}"], []
    for size in (rows // TIMES, rows):
        home, day = home_of(build, size), generated_lake.last_day(size)
        first, later = medians(first_answers(home, day)), medians(measure(home, day))
        found.append(later)
        lines += ["", f"{size:,} rows in {_days(size)} days; median ms", *_table(first, later)]
    return [*lines, "", *_growth(*found), f"after: {load_average()}"]


def home_of(build: Path, rows: int) -> Path:
    """Return a home whose lake has so many rows, written where it was not."""
    home = build / "homes" / f"bench-reading-{rows}"
    with K2.open(home=home) as k2:
        written = int(k2.sql("SELECT count(*) FROM lake.trades_v2")[0, 0])
    if written == 0:
        generated_lake.write(home, rows)
    elif written != rows:
        raise SystemExit(f"{home} has {written:,} rows, not {rows:,}: delete it and start again")
    return home


def measure(home: Path, day: date, *, rounds: int = ROUNDS) -> Answers:
    """Return what each way took in each round.

    Raises:
        AssertionError: the answers of two ways differ.
    """
    with ExitStack() as stack:
        ways = open_ways(stack, home)
        for question in questions(day):
            check_same({name: way.answer(question) for name, way in ways.items()})
        return {one.kind: _rounds(one, ways, rounds) for one in questions(day)}


def first_answers(home: Path, day: date) -> Answers:
    """Return what the first answer takes after a home was opened, when nothing is known yet."""
    answers: Answers = {kind: {} for kind in KINDS}
    for question in questions(day):
        for name in (HAND, *OURS):
            with ExitStack() as stack:
                way = open_ways(stack, home)[name]
                answers[question.kind][name] = [_took(way, question)]
    return answers


def questions(day: date) -> list[Question]:
    """Return one question of each kind about the last day of a lake."""
    return [Question(kind, day, SYMBOL) for kind in KINDS]


def open_ways(stack: ExitStack, home: Path) -> dict[str, Way]:
    """Open all ways to the lake of a home; the stack closes them."""
    k2 = stack.enter_context(K2.open(home=home))
    return {
        HAND: stack.enter_context(closing(ByHand(home))),
        OURS[0]: ThroughK2(k2, tail=False),
        OURS[1]: ThroughK2(k2, tail=True),
        PEERS[0]: ThroughPolars(k2),
        PEERS[1]: stack.enter_context(closing(Pyiceberg(k2))),
    }


def check_same(answers: Mapping[str, pl.DataFrame]) -> None:
    """Refuse answers of which one is empty, or differs from that by hand.

    Raises:
        AssertionError: says where they differ.
    """
    by_hand = answers[HAND]
    assert len(by_hand) > 0
    for name, frame in answers.items():
        shared = (
            [one for one in OHLCV if one in frame.columns] if name in PEERS else by_hand.columns
        )
        expected = by_hand.select(shared)
        assert_frame_equal(frame.select(shared).cast(expected.schema), expected)


def medians(answers: Answers) -> Medians:
    """Return the answer in the middle, by each of its figures."""
    return {
        kind: {
            name: Took(*map(statistics.median, zip(*some, strict=True)))
            for name, some in of_kind.items()
        }
        for kind, of_kind in answers.items()
    }


def _rounds(question: Question, ways: Mapping[str, Way], rounds: int) -> dict[str, list[Took]]:
    answers: dict[str, list[Took]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        for name in names:
            if name not in PEERS or number < PEERS_ROUNDS:
                answers[name].append(_took(ways[name], question))
        names = [*names[1:], names[0]]
    return answers


def _took(way: Way, question: Question) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    way.answer(question)
    return Took(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))


def _table(first: Medians, later: Medians) -> Iterator[str]:
    names = (HAND, *OURS, *PEERS)
    yield _row("", [*names, f"of by hand (≤ {GOAL})"])
    for kind, took in later.items():
        ours, by_hand = took[OURS[1]], took[HAND]
        yield _row(kind, [*_walls(took, names), f"{ours.wall_ms / by_hand.wall_ms:.2f}"])
        yield _row("  its CPU", [*_cpus(took, names), f"{ours.cpu_ms / by_hand.cpu_ms:.2f}"])
        yield _row("  its first answer", _walls(first[kind], (HAND, *OURS)))


def _walls(took: Mapping[str, Took], names: Sequence[str]) -> list[str]:
    return [f"{took[name].wall_ms:,.1f}" for name in names]


def _cpus(took: Mapping[str, Took], names: Sequence[str]) -> list[str]:
    return [f"{took[name].cpu_ms:,.1f}" for name in names]


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:<38}" + "".join(f"{cell:>22}" for cell in cells)


def _growth(few: Medians, many: Medians) -> Iterator[str]:
    yield _row(f"{TIMES} times the days: times as long", [HAND, *OURS, f"(goal {GROWTH})"])
    for kind, took in many.items():
        for figure, column in (("", 0), (", CPU", 1)):
            grown = (took[name][column] / few[kind][name][column] for name in (HAND, *OURS))
            yield _row(kind + figure, [f"{times:.2f}" for times in grown])


def _days(rows: int) -> int:
    return (generated_lake.last_day(rows) - generated_lake.FIRST_DAY).days + 1


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    print("\n".join(run(Path("build"), rows=chosen)))
