"""Half a minute of kills, stops and network faults at random: nothing is lost, nothing is twice."""

from pathlib import Path

import pytest
from support.paths import CACHE

from bench.chaos import run

pytestmark = [pytest.mark.slow, pytest.mark.stack, pytest.mark.timeout(400)]


@pytest.mark.parametrize("seed", [1, 2])
def test_half_a_minute_of_random_faults_costs_no_record(tmp_path: Path, seed: int) -> None:
    report = run(tmp_path, seed=seed, minutes=0.5, jar_cache=CACHE / "java")
    assert report[-1].startswith("0 lost, 0 twice")
