"""Seconds from the receipt of a trade until a hybrid answer has it, at 5,000 trades/s.

The exchange, the feed with its sinks, and the reader are a process each; every answer is checked
to be complete. On the embedded broker and on Kafka.
Run: python -m bench.hybrid [SECONDS] [RATE]
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.homes import kafka_in, new_home
from bench.hybrid_reader import Latencies
from bench.live_exchange import exchange
from bench.measure import SYMBOLS, load_average, machine
from k2lib import K2

SECONDS: Final = 300.0
RATE: Final = 5_000.0
COMMIT_S: Final = 2.0
GOAL_MS: Final = 150


def run(build: Path, *, seconds: float = SECONDS, rate: float = RATE) -> list[str]:
    """Measure both and return the report's lines."""
    with new_home(build, "bench-hybrid") as home:
        embedded = _measured(home, "embedded", seconds, rate)
    with new_home(build, "bench-hybrid") as home, kafka_in(home):
        kafka = _measured(home, "real Kafka", seconds, rate)
    return [
        machine(),
        f"{rate:,.0f} trades/s for {seconds:g} s, {COMMIT_S:g} s commits; "
        f"{len(SYMBOLS)} symbols in turn, each asked for its trades since the newest one seen",
        *embedded,
        *kafka,
    ]


def measure(home: Path, *, seconds: float, rate: float) -> Latencies:
    """Stream into a home, which may have services running, while another process reads.

    Raises:
        AssertionError: an answer was not complete; the reader has told why.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (
        exchange(rate, home) as one,
        K2.open(home=home, commit_interval_s=COMMIT_S, on_event=lambda event: None) as k2,
        k2.feed(SYMBOLS, venue=one.venue()) as feed,
        subprocess.Popen(_reader(home, seconds), stdout=subprocess.PIPE, text=True) as reader,
    ):
        output, _ = reader.communicate()
        assert not feed.wait(0), "the feed ended before the reader"
    assert reader.returncode == 0, "an answer was not complete, see above"
    return Latencies(**json.loads(output))


def _reader(home: Path, seconds: float) -> list[str]:
    return [sys.executable, "-m", "bench.hybrid_reader", str(home), str(seconds)]


def _measured(home: Path, mode: str, seconds: float, rate: float) -> list[str]:
    before = load_average()
    found = measure(home, seconds=seconds, rate=rate)
    return [
        f"{mode:>10}: {found.answers:,} answers, each complete, "
        f"{found.late:,} of them asked again; {found.rows:,} trades seen come; "
        f"at most {found.tail_rows:,} were only in Kafka",
        f"{'':>12}receipt to answer {_ms(found.wait_s)} (goal p99 {GOAL_MS})",
        f"{'':>12}question to answer {_ms(found.answer_s)}",
        f"{'':>12}before: {before}; after: {load_average()}",
    ]


def _ms(seconds: list[float]) -> str:
    p50, p99, worst = (1000 * one for one in seconds)
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, worst {worst:.0f} ms"


if __name__ == "__main__":
    arguments = [float(one) for one in sys.argv[1:]]
    print("\n".join(run(Path("build"), **dict(zip(("seconds", "rate"), arguments, strict=False)))))
