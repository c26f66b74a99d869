"""Maintenance killed at each step of compaction, tags and expiry: rows and offsets stay."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from pyiceberg.table import Table
from support.lake_audit import Audit, audit
from support.lake_upkeep import TRADES, Clock, commit_each, ids, local, trades_table
from support.paths import SUPPORT

from k2lib.iceberg.maintenance import Maintenance
from k2lib.iceberg.manifests import plan_paths

pytestmark = pytest.mark.slow

COMMITS = ("compaction", "tags", "expiry")
# Of a compaction: the merged file, two manifests and the list of manifests.
OUTPUTS = [f"output {nth}" for nth in range(1, 5)]
STEPS = OUTPUTS + [
    f"{step} {nth}" for nth, _ in enumerate(COMMITS, 1) for step in ("before", "written", "after")
]
DAYS = 1.0
FIRST, MORE = 20, 2


@contextmanager
def killer(home: Path) -> Iterator["subprocess.Popen[str]"]:
    arguments = json.dumps({"home": str(home), "days": DAYS})
    command = [sys.executable, SUPPORT / "kill_maintenance.py", arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def kill_at(process: "subprocess.Popen[str]", step: str) -> int:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{step}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def audited(home: Path) -> Audit:
    found = audit(home)
    assert found is not None
    return found


def data_files(table: Table) -> set[str]:
    """Return the data files that lie on the disk."""
    return {str(path) for path in local(table.location()).rglob("*.parquet")}


def kept_files(table: Table) -> set[str]:
    """Return the data files that a kept snapshot needs."""
    paths = (plan_paths(table, snapshot_id=one.snapshot_id) for one in table.snapshots())
    return {str(local(path)) for some in paths for path in some}


def test_maintenance_killed_at_each_step_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    rows = FIRST
    commit_each(trades_table(tmp_path), range(rows))
    with killer(tmp_path) as process:
        for step in STEPS:
            assert kill_at(process, step) == -signal.SIGKILL, step
            found = audited(tmp_path)
            assert found.column() == ids(range(rows)), step
            assert list(found.ends().values()) == [rows], step
            commit_each(trades_table(tmp_path), range(rows, rows + MORE))
            rows += MORE
        assert kill_at(process, "never 1") == 0
    table, clock = trades_table(tmp_path), Clock()
    clock.now += timedelta(days=DAYS)
    maintenance = Maintenance(
        TRADES,
        state=tmp_path / "run" / "unreferenced.json",
        now=clock,
        orphan_age=timedelta(),  # the rows were committed by pyiceberg, under its names
    )
    clock.advance(minutes=11)
    assert maintenance.run_now(table).files_deleted > 0
    assert data_files(table) == kept_files(table)
    assert audited(tmp_path).column() == ids(range(rows))
    assert not list((tmp_path / "run").glob("compaction-*"))
