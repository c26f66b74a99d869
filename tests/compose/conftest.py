"""What tests with containers share: one Docker engine for all of them."""

from collections.abc import Iterator

import pytest
from support.docker_engine import DockerEngine, NoEngine, open_engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """Start the engine; where there is none, end the run with its reason."""
    try:
        with open_engine(tmp_path_factory.mktemp("docker")) as started:
            yield started
    except NoEngine as error:
        pytest.exit(f"No Docker engine here: {error}", returncode=1)
