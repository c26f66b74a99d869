"""A process that only reads attaches to the broker of the home's writer while that lives."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.lake_rows import rows_table, trade
from support.paths import TESTS
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import RecordError, TransientError
from k2lib.kafka.cluster import is_reachable
from k2lib.kafka.embedded import EmbeddedBroker, attach
from k2lib.schema.records import TRADE

TOPIC = "market.equities.trades.asx"
WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from support.lake_rows import rows_table, trade
from k2lib import K2
from k2lib.schema.records import TRADE
with K2.open(home=sys.argv[1], commit_interval_s=1000) as k2:
    for line in sys.stdin:
        rows = rows_table([trade(int(number)) for number in line.split()])
        k2.pipeline.produce("market.equities.trades.asx", rows, TRADE)
        k2.pipeline.flush()
        print("sent", flush=True)
"""
DEAD_PID = 2**22 - 1
LONGEST_S = 1.0


@contextmanager
def writer(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes the numbers of each line and commits only at its end."""
    command = [sys.executable, "-c", WRITER, str(home), str(TESTS)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.communicate()


def send(process: subprocess.Popen[str], *numbers: int) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(" ".join(map(str, numbers)) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "sent\n"


def numbers(k2: K2) -> list[int]:
    found = k2.sql("SELECT message_id FROM trades_v2 ORDER BY message_id")
    return [int(one[1:]) for one in found["message_id"]]


def completeness(k2: K2) -> tuple[bool, int | None, str | None]:
    told = k2.complete_to()
    return told.log, told.behind, told.reason


@pytest.mark.slow
def test_another_process_reads_what_the_writer_has_not_committed(tmp_path: Path) -> None:
    with K2.open(home=tmp_path) as k2, writer(tmp_path) as process:
        send(process, 1, 2)
        wait_until(lambda: numbers(k2) == [1, 2])
        send(process, 3)
        wait_until(lambda: numbers(k2) == [1, 2, 3])
        assert k2.sql("SELECT count(*) FROM lake.trades_v2").item() == 0
        wait_until(lambda: completeness(k2) == (True, 0, None))


@pytest.mark.slow
def test_after_the_writers_end_the_lake_is_read_and_after_its_return_its_new_log(
    tmp_path: Path,
) -> None:
    with K2.open(home=tmp_path) as k2:
        with writer(tmp_path) as process:
            send(process, 1)
            wait_until(lambda: numbers(k2) == [1])
        assert numbers(k2) == [1]
        assert not k2.complete_to().log
        with writer(tmp_path) as process:
            send(process, 1, 2)
            wait_until(lambda: numbers(k2) == [1, 2])
            wait_until(lambda: k2.complete_to().log)


@pytest.mark.slow
def test_what_a_killed_writer_had_not_committed_is_in_no_answer_and_none_waits(
    tmp_path: Path,
) -> None:
    # The machine may pause during one answer, not during every one.
    wait_until(lambda: answer_after_a_kill_s(tmp_path) < LONGEST_S)


def answer_after_a_kill_s(home: Path) -> float:
    """Kill a writer that has not committed; return how long the next answer took."""
    with K2.open(home=home) as k2, writer(home) as process:
        send(process, 1)
        wait_until(lambda: numbers(k2) == [1])
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        assert numbers(k2) == []
        took_s = time.monotonic() - began
        assert k2.complete_to().reason == "no process writes this home: the lake is all there is"
    return took_s


def test_without_a_writer_there_is_nothing_to_attach_to(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="no process writes this home"):
        attach(tmp_path)


def test_a_writer_that_died_without_a_word_is_known_by_its_pid(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    try:
        path = tmp_path / "run" / "embedded.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": DEAD_PID}))
        with pytest.raises(TransientError, match="no process writes this home"):
            attach(tmp_path)
    finally:
        broker.close()


def test_schemas_registered_after_attaching_are_known_at_once(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    try:
        source = attach(tmp_path)
        with pytest.raises(RecordError, match="no schema has the id"):
            source.schema_text(1)
        schema_id = broker.registry.register(TOPIC, TRADE)
        assert source.schema_text(schema_id) == TRADE.text
        assert source == attach(tmp_path)
        assert source.cluster == broker.cluster
    finally:
        broker.close()


@pytest.mark.parametrize(
    "bootstrap", ["127.0.0.1:1", "plaintext://127.0.0.1:1,127.0.0.1:2", "[::1]:1"]
)
def test_where_nothing_listens_is_told_at_once(bootstrap: str) -> None:
    assert not is_reachable(bootstrap)


def test_one_address_that_listens_is_enough(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    try:
        assert is_reachable(f"127.0.0.1:1,{broker.cluster.bootstrap}")
    finally:
        broker.close()


def test_a_kafka_that_is_away_delays_no_answer(tmp_path: Path) -> None:
    away = {"kafka_bootstrap": "127.0.0.1:1", "schema_registry_url": "http://127.0.0.1:1"}
    with K2.open(home=tmp_path) as k2:
        k2.pipeline.produce(TOPIC, rows_table([trade(1)]), TRADE)

    def answer_s() -> float:
        began = time.monotonic()
        with K2.open(home=tmp_path, **away) as k2:
            assert numbers(k2) == [1]
            told = completeness(k2)
        assert told == (
            False,
            None,
            "Kafka at 127.0.0.1:1 does not answer: nothing listens there: start it, or "
            "correct its address",
        )
        return time.monotonic() - began

    wait_until(lambda: answer_s() < 2 * LONGEST_S)


def test_the_writer_reads_its_own_broker(tmp_path: Path) -> None:
    with K2.open(home=tmp_path, commit_interval_s=1000) as k2:
        k2.pipeline.produce(TOPIC, rows_table([trade(1)]), TRADE)
        wait_until(lambda: numbers(k2) == [1])
        told = json.loads((tmp_path / "run" / "embedded.json").read_text())
        assert told["pid"] == os.getpid()
        wait_until(lambda: list(k2.complete_to().offsets) == [told["log"]])
