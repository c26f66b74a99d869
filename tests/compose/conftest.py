"""What tests with containers share: one Docker engine for all of them, and what they measured."""

from collections.abc import Iterator

import pytest
from support.docker_engine import DockerEngine, NoEngine, open_engine

TOLD: list[str] = []


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """Start the engine; where there is none, end the run with its reason."""
    try:
        with open_engine(tmp_path_factory.mktemp("docker")) as started:
            yield started
    except NoEngine as error:
        pytest.exit(f"No Docker engine here: {error}", returncode=1)


@pytest.fixture(scope="session")
def told() -> list[str]:
    """Return the lines that the run ends with."""
    return TOLD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    if TOLD:
        terminalreporter.section("measured")
        terminalreporter.line("\n".join(TOLD))
