"""The first steps of a home, its tables, topics and schemas, taken by ten processes at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.lake_audit import audit
from support.open_home import PROCESSES
from support.paths import SUPPORT

from k2lib.simulator import write_samples

pytestmark = pytest.mark.slow
ROWS = 60


def opened_at_once(home: Path, kafka: dict[str, str]) -> list[dict[str, Any]]:
    """Return what each process read, and what its load ended with."""
    folder = home.parent / "asx"
    write_samples(folder, companies=1, days=1, trades_per_day=ROWS)
    arguments = json.dumps({"settings": {"home": str(home), **kafka}, "folder": str(folder)})
    command = [sys.executable, SUPPORT / "open_home.py", arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def stored(home: Path) -> list[str]:
    found = audit(home)
    assert found is not None
    return found.column()


def test_of_ten_that_open_a_home_one_writes_and_all_read(tmp_path: Path) -> None:
    answers = opened_at_once(tmp_path / "home", {})
    refused = [one["error"] for one in answers if one["error"] is not None]
    assert len(answers) == PROCESSES and len(refused) < PROCESSES
    assert all("is written by process" in error for error in refused)
    ids = stored(tmp_path / "home")
    assert len(ids) == len(set(ids)) > 0
    assert {one["rows"] for one in answers if one["error"] is None} == {len(ids)}


@pytest.mark.stack
def test_ten_that_load_into_one_lake_all_work(tmp_path: Path, empty_kafka: dict[str, str]) -> None:
    answers = opened_at_once(tmp_path / "home", empty_kafka)
    ids = stored(tmp_path / "home")
    assert len(ids) == len(set(ids)) > 0
    assert answers == [{"rows": len(ids), "error": None}] * PROCESSES
