"""`k2 sink` ends cleanly on SIGTERM: what was read is committed, and told in a line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.feeding import produce
from support.kafkas import opened
from support.lake_audit import audit
from support.log_rows import many_trades, message_ids
from support.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def stored(home: Path) -> list[str]:
    found = audit(home)
    return [] if found is None else found.column()


def test_it_commits_what_was_read_and_says_what_it_did(
    tmp_path: Path, empty_kafka: dict[str, str]
) -> None:
    home = tmp_path / "home"
    names = {f"K2_{name.upper()}": value for name, value in empty_kafka.items()}
    settings = {"K2_HOME": str(home), "K2_COMMIT_INTERVAL_S": "3600", "K2_COMMIT_ROWS": "100"}
    command = [sys.executable, "-m", "k2lib", "sink", "trades_v2"]
    with (
        opened(empty_kafka, home) as kafka,
        subprocess.Popen(
            command, env={**os.environ, **names, **settings}, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        produce(kafka, many_trades(150))
        wait_until(lambda: len(stored(home)) >= 100)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    rows = stored(home)
    assert len(rows) == len(set(rows)) and set(rows) <= set(message_ids(150))
    last = out.splitlines()[-1]
    assert last.startswith(f"ended: {len(rows)} rows added to 1 tables in "), last
