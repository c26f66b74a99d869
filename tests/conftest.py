"""What many tests share: ASX files to read, real services to talk to."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from support.feeding import settings_in
from support.kafkas import emptied, opened
from support.once import once
from support.paths import CACHE

from k2lib import K2
from k2lib.cli import main
from k2lib.kafka.connect import Kafka
from k2lib.ops.services import Services, down, up
from k2lib.settings import Settings
from k2lib.simulator import write_samples

ASX_SAMPLE = os.environ.get("ASX_SAMPLE")

# Of jsonschema, which comes with nbformat and checks no such address here: it would build 38
# grammars while it is imported, two seconds in each worker.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# Examples are the same in every run, and no time limit fails one on a busy machine.
hypothesis.settings.register_profile("k2", deadline=None, derandomize=True)
hypothesis.settings.load_profile("k2")
set_hypothesis_home_dir(CACHE / "hypothesis")


# The longest files begin first, so that none of them is left alone at the end.
LONGEST = (
    "test_demo.py",
    "test_chaos.py",
    "test_feed_faults.py",
    "test_seam.py",
    "test_feed_chaos.py",
    "test_services.py",
    "test_live.py",
    "test_object_store.py",
    "test_feed_restart.py",
    "test_kill.py",
    "test_queries.py",
    "test_reads.py",
    "test_docs.py",
    "test_lab.py",
)


# Seconds for a slow test, or one with real services, on a machine that is busy otherwise.
SLOW_LIMIT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, the others in their order; give slow tests more time."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if marks & {"slow", "stack"} and "timeout" not in marks:
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))


def pytest_report_header() -> str:
    """Say which ASX files this run reads."""
    if ASX_SAMPLE:
        return f"ASX sample: the files in {ASX_SAMPLE} (ASX_SAMPLE)"
    return "ASX sample: generated files; set ASX_SAMPLE=folder to test on real ones"


def pytest_collection_finish() -> None:
    """Let no later collection of garbage walk over all that was imported."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session")
def asx_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of ASX files: the one that `ASX_SAMPLE` names, else a generated one."""
    if ASX_SAMPLE:
        return Path(ASX_SAMPLE).resolve(strict=True)
    folder, _ = once(tmp_path_factory, "asx", write_samples)
    return folder


@pytest.fixture(scope="session")
def services_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home in which the real Kafka and the registry run."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def services(services_home: Path) -> Iterator[Services]:
    """Start real Kafka and the registry on free ports, once; stop them after the last test."""
    try:
        yield up(services_home, kafka_port=0, registry_port=0, jar_cache=CACHE / "java")
    finally:
        down(services_home)


@pytest.fixture(params=["embedded", pytest.param("services", marks=pytest.mark.stack)])
def kafka_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings of an empty Kafka: the embedded one, then the real one."""
    if request.param == "embedded":
        return {}
    return request.getfixturevalue("empty_kafka")


@pytest.fixture
def empty_kafka(services: Services) -> dict[str, str]:
    """Return the settings of the real Kafka, after deleting our topics."""
    return emptied(services)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return the settings of a new home."""
    return settings_in(tmp_path)


@pytest.fixture
def kafka(kafka_settings: dict[str, str], settings: Settings) -> Iterator[Kafka]:
    """Open each kind of Kafka, empty."""
    with opened(kafka_settings, settings.home) as one:
        yield one


@pytest.fixture
def k2(tmp_path: Path, kafka_settings: dict[str, str]) -> Iterator[K2]:
    """Open a new home, on each kind of Kafka."""
    with K2.open(home=tmp_path / "home", commit_interval_s=0.5, **kafka_settings) as opened:
        yield opened


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return the command line, run in this process on a home of its own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"K2_{name.upper()}", raising=False)
    monkeypatch.setenv("K2_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("K2_COMMIT_INTERVAL_S", "0.2")

    def run(*arguments: object, **variables: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["k2", *map(str, arguments)])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run
