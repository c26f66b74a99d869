"""The engine and the stand-in of the base image carry a container to healthy and to its end."""

import json
import urllib.request

import pytest
from support.docker_engine import DockerEngine
from support.stand_in import python_image
from support.waiting import wait_until

# Making the base image loads some hundred packages of Debian.
pytestmark = pytest.mark.timeout(400)

SERVER = ("python3", "-m", "http.server", "8000")
HEALTH = "python3 -c 'import urllib.request; urllib.request.urlopen(\"http://127.0.0.1:8000/\")'"


def test_a_container_becomes_healthy_answers_on_the_loopback_and_leaves_nothing(
    engine: DockerEngine,
) -> None:
    image = python_image(engine)
    name = engine.docker(
        "run",
        "--detach",
        "--publish=127.0.0.1::8000",
        f"--health-cmd={HEALTH}",
        "--health-interval=1s",
        "--workdir=/etc",
        image,
        *SERVER,
    )

    def health() -> str:
        return str(json.loads(engine.docker("inspect", name))[0]["State"]["Health"]["Status"])

    wait_until(lambda: health() == "healthy")
    address = engine.docker("port", name, "8000")
    assert address.startswith("127.0.0.1:")
    with urllib.request.urlopen(f"http://{address}/debian_version", timeout=30) as answer:
        assert answer.read().startswith(b"12")

    engine.docker("rm", "--force", name)
    assert engine.docker("ps", "--all", "--quiet", f"--filter=id={name}") == ""
