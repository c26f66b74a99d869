"""The reading benchmarks made small: what holds whatever the speed of the machine."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import generated_lake, hybrid
from bench.http import at_rate, path_of, serving
from bench.reading import check_same, open_ways, questions
from bench.reading_engines import BARS, KINDS, LAST, Question, ThroughK2
from k2lib import K2
from k2lib.query.files import FIRST_ROWS

ROWS_A_DAY = 24_000
DAYS = 36
ROWS = DAYS * ROWS_A_DAY
READ = (
    "SELECT DISTINCT path FROM duckdb_logs_parsed('FileSystem') "
    "WHERE op = 'READ' AND path LIKE '%.parquet'"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a lake of many days, a file each."""
    home = tmp_path_factory.mktemp("lake")
    generated_lake.write(home, ROWS, rows_a_day=ROWS_A_DAY, rows_a_commit=ROWS_A_DAY)
    return home


def question_of(kind: str) -> Question:
    """Return the question of a kind about the last day."""
    day = generated_lake.last_day(ROWS, rows_a_day=ROWS_A_DAY)
    return next(one for one in questions(day) if one.kind == kind)


def files_read(home: Path, question: Question) -> int:
    """Return from how many files an answer reads rows, once it knows all files' footers."""
    with K2.open(home=home) as k2:
        way = ThroughK2(k2, tail=False)
        way.answer(question)
        k2.sql("CALL enable_logging('FileSystem')")
        way.answer(question)
        return len(k2.sql(READ))


@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_answer_the_same(home: Path, kind: str) -> None:
    with ExitStack() as stack:
        ways = open_ways(stack, home)
        check_same({name: way.answer(question_of(kind)) for name, way in ways.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_reads_no_file_of_the_other_days(home: Path, kind: str) -> None:
    newest = -(-FIRST_ROWS // ROWS_A_DAY)
    assert 1 <= files_read(home, question_of(kind)) <= (newest if kind == LAST else 1)


def test_generated_lake_has_every_trade_once(home: Path) -> None:
    with K2.open(home=home) as k2:
        (counted,) = k2.sql(
            "SELECT count(*), count(DISTINCT message_id), count(DISTINCT timestamp::DATE), "
            "count(DISTINCT symbol) FROM trades_v2"
        ).rows()
    assert counted == (ROWS, ROWS, DAYS, len(generated_lake.SYMBOLS))


def test_the_server_answers_what_the_benchmark_asks(home: Path) -> None:
    paths = (path_of(question_of(kind)) for kind in (LAST, BARS))
    with serving(home) as server:
        answers = asyncio.run(at_rate(server.url, paths, seconds=1.0, rate=2.0))
    assert answers.failed == []
    assert len(answers.seconds) == 2


def test_each_hybrid_answer_is_complete(tmp_path: Path) -> None:
    found = hybrid.measure(tmp_path / "home", seconds=3.0, rate=500.0)
    assert found.answers > 1
    assert found.rows > 0
