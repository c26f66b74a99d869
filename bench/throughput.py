"""Rows per CPU-second of the whole way on real Kafka, beside the dict way and the stages alone."""

import shutil
from pathlib import Path

from confluent_kafka.admin import AdminClient

from bench.homes import kafka_in
from bench.measure import Figure, in_child, machine, median_of
from k2lib.simulator import write_samples

ROUNDS = 3
DICT_ROWS = 100_000


def run(build: Path, *, trades_per_day: int = 150_000, days: int = 6) -> list[str]:
    """Measure in rounds, one way after the other, and return the report's lines."""
    home, sample = build / "homes" / "bench", build / "samples" / "bench"
    write_samples(sample, companies=2, days=days, trades_per_day=trades_per_day, quotes_per_day=12)
    with kafka_in(home) as services:
        rounds = [_round(home, sample, services.bootstrap) for _ in range(ROUNDS)]
    return [machine(), *_report(rounds)]


def _round(home: Path, sample: Path, bootstrap: str) -> dict[str, list[Figure]]:
    _empty(home, bootstrap)
    loaded = in_child("bench.by_column", "load", str(sample), home=home)
    rows = loaded[0].rows
    ours = loaded + in_child("bench.by_column", "sink", str(rows), home=home)
    again = in_child("bench.by_column", "load", str(sample), home=home)
    again += in_child("bench.by_column", "sink", str(rows), home=home)
    stages = in_child("bench.stages", str(sample), home=home)
    _empty(home, bootstrap)
    dicts = in_child("bench.by_record", "load", str(sample), str(DICT_ROWS), home=home)
    dicts += in_child("bench.by_record", "sink", str(DICT_ROWS), home=home)
    return {"ours": ours, "again": again, "stages": stages, "dicts": dicts}


def _report(rounds: list[dict[str, list[Figure]]]) -> list[str]:
    middle = {way: _middle([one[way] for one in rounds]) for way in rounds[0]}
    cost = {way: _cost(figures) for way, figures in middle.items()}
    titles = {
        "ours": "k2lib, files → Kafka → lake",
        "again": "k2lib, the same rows a second time: every one a duplicate",
        "stages": "the stages alone",
        "dicts": "a dict per row (confluent serializers, from_pylist)",
    }
    lines = []
    for way, figures in middle.items():
        lines += [f"{titles[way]}: {cost[way]:.2f} CPU µs/row", *(f"  {one}" for one in figures)]
    return [
        *lines,
        _ratio("times the dict way (goal 10)", rounds, "dicts", "ours"),
        _ratio("of the sum of the stages (goal 0.75)", rounds, "stages", "ours"),
        _ratio("second load of the first (goal 0.5)", rounds, "ours", "again"),
    ]


def _ratio(name: str, rounds: list[dict[str, list[Figure]]], way: str, base: str) -> str:
    """Compare within each round, because the machine's speed drifts from one to the next."""
    values = sorted(_cost(one[way]) / _cost(one[base]) for one in rounds)
    rounded = ", ".join(f"{value:.2f}" for value in values)
    return f"{values[len(values) // 2]:.2f} {name}; rounds: {rounded}"


def _cost(figures: list[Figure]) -> float:
    return sum(figure.us_per_row for figure in figures)


def _middle(runs: list[list[Figure]]) -> list[Figure]:
    by_stage = zip(*runs, strict=True)
    return [median_of(list(figures), lambda figure: figure.us_per_row) for figures in by_stage]


def _empty(home: Path, bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    ours = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith("market.")]
    for done in admin.delete_topics(ours).values() if ours else ():
        done.result()
    shutil.rmtree(home / "warehouse", ignore_errors=True)
    (home / "catalog.db").unlink(missing_ok=True)


if __name__ == "__main__":
    print("\n".join(run(Path("build"))))
