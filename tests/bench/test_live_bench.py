"""The live benchmarks measure what they say, on a short run."""

import re
from pathlib import Path

import pytest

from bench.live_freshness import RATE, measure


@pytest.mark.slow
def test_freshness_is_measured_of_every_row_in_the_lake(tmp_path: Path) -> None:
    (line,) = measure(tmp_path / "home", "embedded", 3.0)
    rows = re.search(r"([\d,]+) rows", line)
    assert rows is not None
    assert int(rows[1].replace(",", "")) > RATE
