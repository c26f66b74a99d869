"""`k2 api`: keys are made, settings are checked, and Ctrl-C ends it cleanly."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from k2lib.api.options import ApiOptions
from k2lib.api.security import new_key
from k2lib.cli.api import api_options
from k2lib.errors import ConfigError
from k2lib.settings import read_settings

Run = Callable[..., tuple[int, str, str]]


def test_a_new_key_is_printed_with_its_entry(run: Run) -> None:
    code, out, _ = run("api", "--new-key", "alice", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["entry"] == f"alice:{hashlib.sha256(told['key'].encode()).hexdigest()}"
    _, text, _ = run("api", "--new-key", "alice")
    assert "K2_API_KEYS=alice:" in text


def test_a_name_that_is_none_is_an_error(run: Run) -> None:
    code, _, err = run("api", "--new-key", "a:b")
    assert code == 1
    assert err.startswith("k2: a key's name")


def test_without_a_home_nothing_is_served(run: Run, tmp_path: Path) -> None:
    code, _, err = run("api", "--port", 0)
    assert code == 1
    assert f"k2: no home at {tmp_path}/home" in err
    assert not (tmp_path / "home").exists()


@pytest.fixture
def empty_home(tmp_path: Path) -> None:
    """Make a home to which nothing was written yet."""
    (tmp_path / "home" / "run").mkdir(parents=True)


@pytest.mark.usefixtures("empty_home")
def test_a_port_in_use_is_an_error_of_one_line(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("api", "--port", port)
    assert code == 1
    assert f"k2: K2_API_PORT={port}: cannot listen on 127.0.0.1:{port}" in err.splitlines()[-1]


@pytest.mark.usefixtures("empty_home")
def test_others_are_not_served_without_keys(run: Run) -> None:
    code, _, err = run("api", K2_API_HOST="0.0.0.0", K2_API_PORT="0")
    assert code == 1
    assert "k2: K2_API_HOST=0.0.0.0 is reached from other machines" in err.splitlines()[-1]


@pytest.mark.usefixtures("empty_home")
def test_keys_that_are_none_are_an_error_and_not_shown(run: Run) -> None:
    code, _, err = run("api", "--port", 0, K2_API_KEYS="alice:my-secret-key")
    assert code == 1
    assert "entry 1" in err
    assert "my-secret-key" not in err


def test_settings_become_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, entry = new_key("alice")
    monkeypatch.setenv("K2_API_CONNECTIONS", "17")
    settings = read_settings(
        {"home": tmp_path, "api_keys": entry, "api_cors_origins": "http://a:1, http://b"}
    )
    options = api_options(settings)
    assert [key.name for key in options.keys] == ["alice"]
    assert options.cors_origins == ("http://a:1", "http://b")
    assert replace(options, keys=(), cors_origins=()) == ApiOptions(connections=17)
    assert entry not in repr(settings)
    with pytest.raises(ConfigError, match="K2_API_PORT"):
        read_settings({"api_port": 70_000})


@contextmanager
def served(home: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command as a person does, and give its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "k2lib", "api", "--port", "0", "--json"],
        env={**os.environ, "K2_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes its children deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "home" / "run").mkdir(parents=True)
    with served(tmp_path / "home") as (process, url):
        headers = {"X-Request-Id": "told-in-the-log"}
        answer = httpx2.get(f"{url}/ready", headers=headers, trust_env=False, timeout=30)
        assert answer.json()["status"] == "ready"
        process.send_signal(ending)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        (told,) = [line for line in lines if line["request_id"] == "told-in-the-log"]
        assert (told["event"], told["path"], told["status"]) == ("request_done", "/ready", 200)
        assert "Traceback" not in err
