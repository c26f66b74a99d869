"""Parts whose answers have no end, and addresses that are none: one line, in time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.broken_parts import SECRET, set_to, with_kafka
from support.ports import DrippingServer, dripping_server, silent_port
from support.waiting import wait_until

pytestmark = pytest.mark.slow
LIMIT_S = 15.0
Run = Callable[..., tuple[int, str, str]]
LINE = "03/10/2014,10:00:06.717,1.11,3667,0,,\n"
REFERENCE = (
    "company_id,symbol,company_name,ISIN,start_date,end_date\n"
    "9009,XYZ,XYZ MINING LTD,AU000000XYZ9,05/07/2008,03/31/2014\n"
)


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    """Return a file of one trade, its reference data beside it."""
    (tmp_path / "reference-data").mkdir()
    (tmp_path / "reference-data" / "company_info.csv").write_text(REFERENCE)
    path = tmp_path / "9009.csv"
    path.write_text(LINE)
    return path


@pytest.fixture
def dripping() -> Iterator[DrippingServer]:
    with dripping_server() as server:
        yield server


def last_line(err: str) -> str:
    assert "Traceback" not in err, err
    assert SECRET not in err, err
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("K2: ")]
    assert len(lines) == 1, err
    return lines[0]


@contextmanager
def loading(trades: Path, server: DrippingServer, **variables: str) -> Iterator[subprocess.Popen]:
    """Run a load until it asks a registry that never comes to an end with its answer."""
    url = set_to(K2_SCHEMA_REGISTRY_URL=f"http://127.0.0.1:{server.port}")
    ours = {"K2_HOME": str(trades.parent / "home"), **variables}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    with (
        with_kafka(trades.parent, url) as kafka,
        subprocess.Popen(
            [sys.executable, "-m", "k2lib", "load", "asx", str(trades)],
            env=kept | ours | dict(kafka),
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            wait_until(server.was_asked.is_set)
            yield process
        finally:
            process.kill()


def has_handler(process: subprocess.Popen, number: int) -> bool:
    """Say whether a process handles a signal by itself."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def test_a_registry_that_answers_byte_by_byte(
    run: Run, trades: Path, tmp_path: Path, dripping: DrippingServer
) -> None:
    url = f"http://127.0.0.1:{dripping.port}"
    with with_kafka(tmp_path, set_to(K2_SCHEMA_REGISTRY_URL=url)) as variables:
        began = time.monotonic()
        code, _, err = run("load", "asx", trades, K2_TIMEOUT_S="1", **variables)
        assert time.monotonic() - began < LIMIT_S
    assert code == 1
    assert last_line(err) == (
        f"k2: the schema registry at {url} does not answer: no answer within 1 s: "
        "start it, or correct its address"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_a_load_in_its_time(
    trades: Path, dripping: DrippingServer, number: int
) -> None:
    with loading(trades, dripping, K2_TIMEOUT_S="2") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "no answer within 2 s" in last_line(err)


def test_the_second_sigterm_ends_a_load_at_once(trades: Path, dripping: DrippingServer) -> None:
    with loading(trades, dripping, K2_TIMEOUT_S="600") as process:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not has_handler(process, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("command", [("sql", "select 1"), ("status",), ("maintain",)])
def test_a_catalog_that_answers_byte_by_byte(
    run: Run, dripping: DrippingServer, command: tuple[str, ...]
) -> None:
    address = f"127.0.0.1:{dripping.port}"
    began = time.monotonic()
    uri = f"http://user:{SECRET}@{address}"
    code, _, err = run(*command, K2_TIMEOUT_S="1", K2_CATALOG_URI=uri)
    assert time.monotonic() - began < LIMIT_S
    assert code == 1
    assert last_line(err) == (
        f"k2: the catalog at http://{address}: no answer within 1 s: "
        "start it, or correct its address"
    )


def s3_at(address: str) -> dict[str, str]:
    return {
        "K2_WAREHOUSE": "s3://bucket/lake",
        "K2_S3_ENDPOINT": address,
        "K2_S3_ACCESS_KEY_ID": "key",
        "K2_S3_SECRET_ACCESS_KEY": SECRET,
        "K2_S3_REGION": "us-east-1",
        "K2_TIMEOUT_S": "1",
    }


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_s3_that_never_answers(run: Run, trades: Path, scheme: str) -> None:
    with silent_port() as port:
        address = f"{scheme}://127.0.0.1:{port}"
        began = time.monotonic()
        code, _, err = run("load", "asx", trades, **s3_at(address))
        assert time.monotonic() - began < LIMIT_S
    assert code == 1
    assert last_line(err) == (
        f"k2: the warehouse s3://bucket/lake at {address}: no answer within 1 s: "
        "start it, or correct its address"
    )


def test_an_s3_that_answers_byte_by_byte(run: Run, trades: Path, dripping: DrippingServer) -> None:
    address = f"http://127.0.0.1:{dripping.port}"
    code, _, err = run("load", "asx", trades, **s3_at(address))
    assert code == 1
    assert f"the warehouse s3://bucket/lake at {address}: no answer within 1 s" in last_line(err)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CATALOG_URI", "http://user:hunter2@[::1", "http://[::1: that is no address: give http:"),
        ("CATALOG_URI", "HTTP://127.0.0.1:1", "the catalog at http://127.0.0.1:1: Connection refu"),
        ("CATALOG_URI", "sqlite:////x/c.db?token=hunter2", "/x/c.db: SQLite has no option token: "),
        ("CATALOG_URI", "sqlite:c.db", "the catalog at sqlite:c.db: "),
        ("SCHEMA_REGISTRY_URL", "http://user:hunter2@[::1", "=http://[::1: give http://host:port"),
        ("S3_ENDPOINT", "http://[::1", "give http://host:port or https://host:port"),
        ("KAFKA_BOOTSTRAP", ":", "K2_KAFKA_BOOTSTRAP=:: give host:port"),
        ("KAFKA_BOOTSTRAP", "localhost", "K2_KAFKA_BOOTSTRAP=localhost: give host:port"),
        (
            "KAFKA_BOOTSTRAP",
            "localhost:99999",
            "K2_KAFKA_BOOTSTRAP=localhost:99999: give host:port",
        ),
        ("HOME", "/proc/nope", "/proc/nope: No such file or directory: name a place that exists"),
        ("WAREHOUSE", "/proc/nope", "/proc/nope: No such file or directory: name a place that"),
        ("WAREHOUSE", "file://host/lake", "K2_WAREHOUSE=file://host/lake: host is no folder of th"),
    ],
)
def test_an_address_that_is_none_is_refused_with_its_remedy(
    run: Run, trades: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.chdir(trades.parent)
    before = sorted(trades.parent.iterdir())
    if name == "SCHEMA_REGISTRY_URL":
        monkeypatch.setenv("K2_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    if name == "KAFKA_BOOTSTRAP":
        monkeypatch.setenv("K2_SCHEMA_REGISTRY_URL", "mock://one")
    code, out, err = run("load", "asx", trades, **{f"K2_{name}": value})
    assert (code, out) == (1, "")
    assert says in last_line(err)
    made = {path.name for path in trades.parent.iterdir()} - {path.name for path in before}
    assert made <= {"home"}


ABANDONS = """
import atexit, sys, threading
from k2lib.__main__ import run
from k2lib.resilience.time_limit import TimeLimit

never = threading.Event()
atexit.register(never.wait)
try:
    TimeLimit(0.1).call(never.wait)
except TimeoutError:
    sys.argv = ["k2", "status"]
    run()
"""


def test_a_library_that_tries_on_does_not_hold_up_the_end(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ABANDONS],
        env=os.environ | {"K2_HOME": str(tmp_path / "none")},
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1
    assert "no home at" in last_line(ended.stderr)
