"""`k2 sink` ends cleanly on SIGTERM: what was read is committed, and told in a line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.feeding import produce
from support.kafkas import opened
from support.lake_audit import audit
from support.log_rows import many_trades, message_ids
from support.redis_server import free_port
from support.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def stored(home: Path) -> list[str]:
    found = audit(home)
    return [] if found is None else found.column()


def served(port: int, name: str) -> float:
    """Return the sum of a metric over the tables."""
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    families = text_string_to_metric_families(text)
    return sum(one.value for family in families for one in family.samples if one.name == name)


def test_it_commits_what_was_read_and_says_what_it_did(
    tmp_path: Path, empty_kafka: dict[str, str]
) -> None:
    home = tmp_path / "home"
    names = {f"K2_{name.upper()}": value for name, value in empty_kafka.items()}
    port = free_port()
    settings = {
        "K2_HOME": str(home),
        "K2_COMMIT_INTERVAL_S": "3600",
        "K2_COMMIT_ROWS": "100",
        "K2_METRICS_PORT": str(port),
    }
    command = [sys.executable, "-m", "k2lib", "sink", "trades_v2"]
    with (
        opened(empty_kafka, home) as kafka,
        subprocess.Popen(
            command, env={**os.environ, **names, **settings}, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        produce(kafka, many_trades(150))
        wait_until(lambda: len(stored(home)) >= 100)
        wait_until(lambda: served(port, "k2_sink_rows_total") >= 100)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    rows = stored(home)
    assert len(rows) == len(set(rows)) and set(rows) <= set(message_ids(150))
    last = out.splitlines()[-1]
    assert last.startswith(f"ended: {len(rows)} rows added to 1 tables in "), last
