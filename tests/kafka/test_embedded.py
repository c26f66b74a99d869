"""The embedded broker: one writer a home, any number of readers, exact whatever ends it."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from support.lake_audit import audit
from support.log_rows import TRADES_TOPIC, many_trades, message_ids
from support.paths import SUPPORT
from support.waiting import wait_until

from k2lib import K2
from k2lib.errors import OwnerError, SchemaError
from k2lib.kafka.embedded import EmbeddedBroker
from k2lib.locks import try_lock
from k2lib.schema.records import TRADE
from k2lib.simulator import SampleSummary, write_samples

KILL_LOAD = SUPPORT / "kill_load.py"
COUNT = "select count(*) as n, count(distinct message_id) as ids from lake.trades_v2"
READER = f"""
import sys
from k2lib import K2
with K2.open(home=sys.argv[1]) as k2:
    for line in sys.stdin:
        print(*k2.sql({COUNT!r}).row(0), flush=True)
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleSummary:
    folder = tmp_path_factory.mktemp("sample")
    return write_samples(folder, companies=2, days=1, trades_per_day=3_000, quotes_per_day=600)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def trades_of(sample: SampleSummary) -> int:
    return sum(file.rows for file in sample.files if "trades" in file.path)


def k2_command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "k2lib", *arguments]
    environment = {**os.environ, "K2_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    """Fail if a command failed, or told more than which Kafka it took."""
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("K2: home ") for line in done.stderr.split("\n") if line.strip())


def load(home: Path, sample: SampleSummary) -> list[dict[str, Any]]:
    done = k2_command(home, "load", "asx", str(sample.folder), "--json")
    assert_quiet(done)
    return json.loads(done.stdout)["files"]


def counted(home: Path) -> list[dict[str, int]]:
    done = k2_command(home, "sql", COUNT, "--format", "json")
    assert_quiet(done)
    return json.loads(done.stdout)


def kill_load(home: Path, sample: SampleSummary, *, event: str, nth: int) -> int:
    arguments = {
        "settings": {"home": str(home), "commit_rows": 500},
        "folder": str(sample.folder),
        "event": event,
        "nth": nth,
    }
    return subprocess.run(
        [sys.executable, KILL_LOAD, json.dumps(arguments)], check=False
    ).returncode


def stored(home: Path) -> list[str]:
    found = audit(home)
    return found.column() if found else []


@pytest.mark.slow
def test_load_and_sql_and_a_second_load_in_processes_of_their_own_are_exact(
    home: Path, sample: SampleSummary
) -> None:
    wanted = trades_of(sample)
    assert all(file["already_there"] == 0 for file in load(home, sample))
    assert counted(home) == [{"n": wanted, "ids": wanted}]
    assert all(file["already_there"] == file["rows"] for file in load(home, sample))
    ids = stored(home)
    assert len(ids) == len(set(ids)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("event", ["files_written", "commit_held", "batch_done"])
def test_after_a_kill_in_the_middle_loading_again_is_exact(
    home: Path, sample: SampleSummary, event: str
) -> None:
    assert kill_load(home, sample, event=event, nth=4) == -signal.SIGKILL
    assert len(stored(home)) < trades_of(sample)
    with K2.open(home=home) as k2:
        k2.load_asx(sample.folder)
    ids = stored(home)
    assert len(ids) == len(set(ids)) == trades_of(sample)


def ask(reader: subprocess.Popen[str]) -> tuple[int, ...]:
    """Let the reader count once: rows, and distinct message ids."""
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write("count\n")
    reader.stdin.flush()
    return tuple(map(int, reader.stdout.readline().split()))


@pytest.mark.slow
def test_a_reader_in_another_process_sees_what_grows_and_nothing_twice(home: Path) -> None:
    pipe = subprocess.PIPE
    seen = []
    with (
        K2.open(home=home) as k2,
        subprocess.Popen(
            [sys.executable, "-c", READER, home], stdin=pipe, stdout=pipe, text=True
        ) as reader,
    ):
        for first in (0, 100, 200):
            k2.pipeline.produce(TRADES_TOPIC, many_trades(150, first=first), TRADE)
            k2.pipeline.settle()
            seen.append(ask(reader))
    assert seen == [(150, 150), (250, 250), (350, 350)]


@pytest.mark.slow
def test_a_second_writer_is_told_the_owners_pid(home: Path, sample: SampleSummary) -> None:
    with K2.open(home=home) as owner:
        owner.pipeline.flush()
        done = k2_command(home, "load", "asx", str(sample.folder))
    assert done.returncode == 1
    assert f"is written by process {os.getpid()}" in done.stderr
    assert "K2_HOME" in done.stderr


def test_the_home_is_free_again_once_its_owner_closed(home: Path) -> None:
    first = EmbeddedBroker(home)
    with pytest.raises(OwnerError, match="is written by this process: use the K2 that writes it"):
        EmbeddedBroker(home)
    first.close()
    EmbeddedBroker(home).close()


def test_readers_are_told_pid_address_and_schemas_while_the_owner_lives(home: Path) -> None:
    with K2.open(home=home) as k2:
        k2.pipeline.produce(TRADES_TOPIC, many_trades(1), TRADE)
        told = json.loads((home / "run" / "embedded.json").read_text(encoding="utf-8"))
        assert told["pid"] == os.getpid()
        assert told["bootstrap"] == k2.pipeline.cluster.bootstrap
        assert told["log"] == k2.pipeline.cluster.embedded_log
        number, guid = told["schemas"]
        assert (number, uuid.UUID(guid).version) == ("1", 4)
        assert list(told["schemas"].values()) == [TRADE.text] * 2
    assert not (home / "run" / "embedded.json").exists()


def test_sql_starts_no_broker_and_takes_no_lock(home: Path) -> None:
    with K2.open(home=home) as k2:
        assert k2.sql(COUNT).row(0) == (0, 0)
        assert not (home / "run").exists()


@pytest.mark.slow
def test_more_than_the_broker_keeps_loses_nothing(home: Path) -> None:
    rows = many_trades(60_000, symbols=("AAA",))
    with K2.open(home=home) as k2:
        k2.pipeline.produce(TRADES_TOPIC, rows, TRADE)
        k2.pipeline.settle()
    assert stored(home) == message_ids(60_000)


def produce_until_it_raises(k2: K2) -> None:
    """Produce small batches until the pipeline raises; fail if it never does."""
    firsts = iter(range(0, 1_000_000, 10))

    def produce() -> bool:
        k2.pipeline.produce(TRADES_TOPIC, many_trades(10, first=next(firsts)), TRADE)
        return False

    wait_until(produce)


def test_a_sink_that_dies_makes_the_producer_raise(home: Path) -> None:
    with (
        pytest.raises(SchemaError, match=r"market\.gaps 0:0 cannot be decoded"),
        K2.open(home=home) as k2,
    ):
        client = Producer(k2.pipeline.cluster.client())
        client.produce("market.gaps", b"no record", partition=0)
        assert client.flush(30) == 0
        produce_until_it_raises(k2)


def kafka_threads() -> int:
    """Count the threads of this process that belong to Kafka clients and brokers."""
    return sum(_name(task).startswith("rdk:") for task in Path("/proc/self/task").iterdir())


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_nothing_is_left_behind(home: Path) -> None:
    before = kafka_threads()
    with K2.open(home=home) as k2:
        k2.pipeline.produce(TRADES_TOPIC, many_trades(1_000), TRADE)
        host, port = k2.pipeline.cluster.bootstrap.split(":")
    assert not [one for one in threading.enumerate() if one.name.startswith("sink-")]
    # SQLAlchemy's handled errors keep the frames they passed until the collector comes by.
    gc.collect()
    wait_until(lambda: kafka_threads() <= before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    for name in ("writer", "sink-trades_v2"):
        lock = try_lock(home / "run" / f"{name}.lock")
        assert lock is not None
        lock.close()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_says_so_and_the_next_is_exact(
    home: Path, sample: SampleSummary, ending: signal.Signals
) -> None:
    command = [sys.executable, "-m", "k2lib", "load", "asx", str(sample.folder), "--json"]
    environment = {**os.environ, "K2_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        wait_until(lambda: child.poll() is not None or (home / "run" / "embedded.json").exists())
        child.send_signal(ending)
        _, told = child.communicate()
    # By its own signal where that comes when Python has nothing left to do but to end.
    assert child.returncode in (0, 130, -ending)
    assert "Traceback" not in told
    with K2.open(home=home) as k2:
        k2.load_asx(sample.folder)
    ids = stored(home)
    assert len(ids) == len(set(ids)) == trades_of(sample)
