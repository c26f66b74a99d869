"""The HTTP API on 10 million rows: latency at 10 requests/s, and throughput beside DuckDB.

The server is a process of its own, this one asks. Every second request is for the last 1,000
trades of a symbol, the others for its bars of a day; symbol and day change from one to the next,
and no validator is sent, so that every answer is worked out.
Run: python -m bench.http [SECONDS] [ROWS]
"""

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from bench import generated_lake
from bench.measure import cpu_s, load_average, machine
from bench.reading import home_of
from bench.reading_engines import BARS, LAST, N_LAST, ByHand, Question

ROWS: Final = 10_000_000
SECONDS: Final = 60.0
RATE: Final = 10.0
CLIENTS: Final = 20
ROUNDS: Final = 3
WARM_S: Final = 3.0
OK: Final = 200
SHOWN_BYTES: Final = 200
GOAL_MS: Final = 250
GOAL_RATIO: Final = 0.6
MANY_BARS: Final = 2_000


@dataclass
class Answers:
    """What came back: seconds from when each was due, what failed, and the server's CPU."""

    seconds: list[float] = field(default_factory=list)
    n_bytes: int = 0
    failed: list[str] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of the server for each answer."""
        return 1000 * self.cpu_s / max(len(self.seconds), 1)


def run(build: Path, *, seconds: float = SECONDS, rows: int = ROWS) -> list[str]:
    """Measure on a lake of generated trades and return the report's lines."""
    home = home_of(build, rows)
    to_ask, paths = questions(rows), map(path_of, questions(rows))
    lines = [machine(), f"{rows:,} rows; before: {load_average()}"]
    with serving(home) as server:
        asyncio.run(at_rate(server.url, paths, seconds=WARM_S))
        steady = _served(server, at_rate(server.url, paths, seconds=seconds))
        rounds = []
        for _ in range(ROUNDS):
            served = _served(server, by_clients(server.url, paths, seconds=seconds / ROUNDS))
            rounds.append((served, by_threads(home, to_ask, seconds / ROUNDS)))
    lines.append(_latency(steady))
    return [*lines, *_throughput(rounds, seconds / ROUNDS), f"after: {load_average()}"]


def questions(rows: int) -> Iterator[Question]:
    """Yield questions for ever, the same ones in every run."""
    draw = random.Random(rows)
    newest = generated_lake.last_day(rows)
    for number in itertools.count():
        symbol = draw.choice(generated_lake.SYMBOLS)
        ago = timedelta(days=draw.randint(0, (newest - generated_lake.FIRST_DAY).days))
        yield Question(BARS, newest - ago, symbol) if number % 2 else Question(LAST, newest, symbol)


def path_of(question: Question) -> str:
    """Return the request for an answer."""
    if question.kind == LAST:
        return f"/v1/trades/recent?symbol={question.symbol}&limit={N_LAST}"
    span = f"start={question.day}&end={question.day + timedelta(days=1)}"
    return f"/v1/bars?symbol={question.symbol}&{span}&limit={MANY_BARS}"


@dataclass(frozen=True)
class Server:
    """Where a server is reached, and its process."""

    url: str
    pid: int


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """Run `k2 api` on a home, in a process of its own."""
    command = [sys.executable, "-m", "k2lib", "api", "--port", "0", "--quiet", "--json"]
    environment = {**os.environ, "K2_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield Server(json.loads(server.stdout.readline())["url"], server.pid)
        finally:
            server.terminate()


def _served(server: Server, asking: Coroutine[Any, Any, Answers]) -> Answers:
    before = cpu_s(server.pid)
    answers = asyncio.run(asking)
    answers.cpu_s = cpu_s(server.pid) - before
    return answers


async def at_rate(url: str, paths: Iterator[str], *, seconds: float, rate: float = RATE) -> Answers:
    """Send so many requests a second, whether answers come or not."""
    answers = Answers()
    async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as group:
        begin = time.monotonic()
        for number in range(int(seconds * rate)):
            due = begin + number / rate
            await asyncio.sleep(due - time.monotonic())
            group.create_task(_ask(session, next(paths), answers, due))
    return answers


async def by_clients(url: str, paths: Iterator[str], *, seconds: float) -> Answers:
    """Let 20 clients ask, each again when it has its answer."""
    answers = Answers()
    end = time.monotonic() + seconds

    async def client() -> None:
        async with aiohttp.ClientSession(url) as session:
            while time.monotonic() < end:
                await _ask(session, next(paths), answers, time.monotonic())

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return answers


def by_threads(home: Path, to_ask: Iterator[Question], seconds: float) -> Answers:
    """Let 20 threads of this process ask DuckDB for the same, on the right files."""
    answers, lock = Answers(), threading.Lock()
    with closing(ByHand(home)) as by_hand, ThreadPoolExecutor(CLIENTS) as pool:
        cpu, end = time.process_time(), time.monotonic() + seconds

        def client(mine: ByHand) -> None:
            while time.monotonic() < end:
                with lock:
                    question = next(to_ask)
                began = time.monotonic()
                mine.answer(question)
                answers.seconds.append(time.monotonic() - began)

        list(pool.map(client, [by_hand.cursor() for _ in range(CLIENTS)]))
        answers.cpu_s = time.process_time() - cpu
    return answers


async def _ask(session: aiohttp.ClientSession, path: str, answers: Answers, due: float) -> None:
    try:
        async with session.get(path) as reply:
            body = await reply.read()
    except (aiohttp.ClientError, TimeoutError) as exc:
        answers.failed.append(f"{path}: {exc!r}")
        return
    if reply.status != OK:
        answers.failed.append(f"{path}: {reply.status} {body[:SHOWN_BYTES]!r}")
        return
    answers.seconds.append(time.monotonic() - due)
    answers.n_bytes += len(body)


def _latency(answers: Answers) -> str:
    p50, p99, worst = (1000 * one for one in np.quantile(answers.seconds, [0.5, 0.99, 1.0]))
    return (
        f"{len(answers.seconds)} answers at {RATE:g}/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms "
        f"(goal {GOAL_MS}), worst {worst:.0f} ms; {answers.cpu_ms:.0f} ms CPU each; "
        f"{_failed(answers)}"
    )


def _throughput(rounds: Sequence[tuple[Answers, Answers]], seconds: float) -> Iterator[str]:
    for served, by_hand in rounds:
        many, few = len(served.seconds), len(by_hand.seconds)
        size_kb = served.n_bytes / max(many, 1) / 1e3
        yield (
            f"{CLIENTS} clients: {many / seconds:.1f}/s of {size_kb:,.0f} kB, "
            f"{served.cpu_ms:.0f} ms CPU each, {_failed(served)}; {CLIENTS} threads on DuckDB: "
            f"{few / seconds:.1f}/s, {by_hand.cpu_ms:.0f} ms CPU each; "
            f"ratio {many / max(few, 1):.2f} (goal {GOAL_RATIO})"
        )


def _failed(answers: Answers) -> str:
    first = f", the first: {answers.failed[0]}" if answers.failed else ""
    return f"{len(answers.failed)} failed{first}"


if __name__ == "__main__":
    arguments = dict(zip(("seconds", "rows"), map(float, sys.argv[1:]), strict=False))
    print(
        "\n".join(
            run(
                Path("build"),
                seconds=arguments.get("seconds", SECONDS),
                rows=int(arguments.get("rows", ROWS)),
            )
        )
    )
